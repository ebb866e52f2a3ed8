"""How scores of lesions lie on disk: tables, pictures, and one sidecar that says how they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llm2bids.bids.provenance import generated_by, versions
from llm2bids.bids.tables import write_bytes, write_json, write_tsv
from llm2bids.errors import DatasetError
from llm2bids.lesioning.scores import dissociation
from llm2bids.lesioning.tables import SHOWN
from llm2bids.plots.lesions import draw_curve, draw_dissociation
from llm2bids.plots.pictures import as_png

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import pandas as pd

    from llm2bids.lesioning.tables import Results

RUNS: Final = "runs.jsonl"
"""Scores of every state of the model, as they come."""
SIDECAR: Final = "lesion.json"
"""Written last: where it is, the rest is whole."""
_DPI: Final = 120
"""Of pictures, which are small."""
_LIBRARIES: Final = ("torch", "transformers", "tokenizers", "numpy", "scipy")
_OURS: Final = (
    RUNS,
    SIDECAR,
    "scores.tsv",
    "summary.tsv",
    "runs.tsv",
    "generations.tsv",
    "dissociation.tsv",
    "dissociation.png",
    "keep.png",
)
COLUMNS: Final = {
    "mask": "Name of the mask, or of a union of masks: mask 10 lesions the first ten together, keep 64 all units but "
    "those of the first 64.",
    "units": "Units that the mask chooses.",
    "method": "What was done to its units; with keep, to all others.",
    "text": "Text or task file that was scored.",
    "score": "perplexity; bits_per_token (its logarithm to base 2); bits_per_byte; kl (divergence of next-token "
    "predictions from the intact model's, bits per token); accuracy (right answers among all items); accuracy_parsed "
    "(among items for which an answer was found); parse_failures (share of items for which none was found).",
    "before": "Of the intact model.",
    "after": "Of the lesioned model.",
    "change": "After minus before; in dissociation.tsv of bits_per_token.",
    "control": "Kind of random masks: matched (as many per hookpoint and activation), layer (per hookpoint), uniform.",
    "controls": "Number of random masks.",
    "control_mean": "Mean after the same was done to random masks; of perplexity the geometric mean.",
    "control_low": "2.5 % quantile over random masks.",
    "control_high": "97.5 % quantile over random masks.",
    "control_change": "Mean change by random masks.",
    "percentile": "Percentage of random masks that did less harm.",
    "percentile_low": "Lower end of the 95 % interval of the percentile (Clopper and Pearson).",
    "percentile_high": "Upper end of it.",
    "p_harm": "(1 + random masks that did as much harm) / (1 + random masks).",
    "run": "intact, lesion, or the number of the random mask.",
    "value": "The score.",
    "condition": "State of the model: intact, a lesion, or random masks instead of it (means as control_mean).",
    "networks": "Masks in the union.",
    "share": "Units of the mask among all units of its site.",
    "activation": "Mean absolute activation of the units, over what was scored or --reference.",
    "runs": "Random masks averaged; else 1.",
    "prompt": "What was continued.",
    "intact": "What the intact model said.",
    "lesioned": "What the lesioned model said.",
}
"""What each column means."""


def check_out(out_dir: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder before any work is done."""
    if resume and overwrite:
        raise DatasetError("both --resume and --overwrite asked for; choose one")
    if out_dir.exists() and not out_dir.is_dir():
        raise DatasetError(f"{out_dir} is a file; give a folder, new or empty")
    there = {path.name for path in out_dir.iterdir()} if out_dir.is_dir() else set()
    ours = there & {RUNS, SIDECAR}
    if there and not ours:
        raise DatasetError(f"{out_dir} holds files that are no results of lesions; give an empty or new folder")
    if ours and not (resume or overwrite):
        found = "results" if SIDECAR in there else "results that were broken off"
        raise DatasetError(f"{out_dir} holds {found} already; go on with --resume, or replace them with --overwrite")


def forget(out_dir: Path, *, runs: bool = True) -> None:
    """Remove earlier results."""
    for name in _OURS:
        if runs or name != RUNS:
            (out_dir / name).unlink(missing_ok=True)


def write_results(out_dir: Path, results: Results, told: Mapping[str, Any], *, dissociating: bool) -> list[Path]:
    """Write tables, pictures and sidecar."""
    scores = results.scores
    tables = {"scores": results.table, "summary": results.summary, "runs": results.runs}
    if len(generations := results.generations):
        tables["generations"] = generations
    pictures = {}
    n_controls = max((len(one.controls) for one in scores), default=0)
    title = f"{told['Model']}: {told['Method']}"
    if dissociating:
        tables["dissociation"] = dissociation(scores)
        pictures["dissociation"] = draw_dissociation(tables["dissociation"], title, n_controls)
    kept = _kept(results)
    if len(set(kept["units"])) > 1:
        pictures["keep"] = draw_curve(kept, f"{told['Model']}: {kept['method'].iloc[0]}")
    forget(out_dir, runs=False)
    files = [write_tsv(out_dir / f"{name}.tsv", one) for name, one in tables.items()]
    files += [write_bytes(out_dir / f"{name}.png", as_png(figure, dpi=_DPI)) for name, figure in pictures.items()]
    sidecar = {
        "Description": "Scores of a language model intact, lesioned, and with random units lesioned instead.",
        "GeneratedBy": generated_by(),
        "Sources": [one["File"] for key in ("Masks", "Texts", "Tasks") for one in told[key]],
        "Columns": _columns(str(column) for one in tables.values() for column in one.columns),
        "Llm2bids": {**told, "Versions": versions(*_LIBRARIES)},
    }
    return [*files, write_json(out_dir / SIDECAR, sidecar), out_dir / RUNS]


def _kept(results: Results) -> pd.DataFrame:
    """Scores of lesions that keep units, as far as they can be drawn."""
    names = {one.name for one in results.lesions if one.surgery.keep}
    table = results.table
    return table[table["mask"].isin(names) & (table["score"] == "bits_per_token")]


def _columns(used: Iterable[str]) -> dict[str, str]:
    """What columns mean; those of one text or task each are named after it."""
    found = {}
    for name in used:
        text, _, score = name.rpartition(".")
        if name in COLUMNS:
            found[name] = COLUMNS[name]
        elif score in SHOWN:
            found[name] = f"{score} on {text}."
    return found
