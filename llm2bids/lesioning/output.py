"""The folder of a study: the log of runs that survives being killed, tables, pictures, and one sidecar."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from llm2bids.bids.provenance import generated_by, versions
from llm2bids.bids.tables import write_bytes, write_json, write_tsv
from llm2bids.errors import DatasetError
from llm2bids.lesioning.scores import SUMMARY_SCORES, dissociation
from llm2bids.plots.lesions import draw_curve, draw_dissociation
from llm2bids.plots.pictures import as_png

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import pandas as pd

    from llm2bids.lesioning.scores import StudyResults

RUNS: Final = "runs.jsonl"
"""Scores of every state of the model, added one by one."""
SIDECAR: Final = "lesion.json"
"""Written last: where it is, the rest is complete."""
_DPI: Final = 120
_LIBRARIES: Final = ("torch", "transformers", "tokenizers", "numpy", "scipy")
_FILES: Final = (
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


@dataclass(slots=True)
class RunLog:
    """Scores of the states that were scored, one line of a file each; `rows` by key."""

    path: Path
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> RunLog:
        """Read the log; a last line cut short by a kill is dropped from the file."""
        rows = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            complete = content[: content.rfind(b"\n") + 1]
            for line in complete.decode().split("\n")[:-1]:
                row = json.loads(line)
                rows[row["key"]] = row
            if len(complete) < len(content):
                with path.open("r+b") as file:
                    file.truncate(len(complete))
        except OSError as error:
            raise DatasetError(f"{path} cannot be used ({error.strerror or error}); choose another folder") from error
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise DatasetError(f"{path} is damaged in line {len(rows) + 1}; start anew with overwrite=True") from error
        return cls(path, rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row to the disk before anything else happens."""
        try:
            with self.path.open("ab") as file:
                file.write((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DatasetError(
                f"{self.path} cannot be written ({error.strerror or error}); mend that and go on with resume=True"
            ) from error
        self.rows[str(row["key"])] = dict(row)


def check_out_dir(out_dir: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise if a folder cannot be used, before any work is done."""
    if out_dir.exists() and not out_dir.is_dir():
        raise DatasetError(f"{out_dir} is a file; give a folder, new or empty")
    names = {path.name for path in out_dir.iterdir()} if out_dir.is_dir() else set()
    is_ours = bool(names & {RUNS, SIDECAR})
    if names and not is_ours:
        raise DatasetError(f"{out_dir} holds files that are no results of lesions; give an empty or new folder")
    if is_ours and not (resume or overwrite):
        results = "results" if SIDECAR in names else "results that were broken off"
        raise DatasetError(
            f"{out_dir} holds {results} already; go on with resume=True, or replace them with overwrite=True"
        )


def remove_results(out_dir: Path, *, runs: bool = True) -> None:
    """Remove earlier results, with or without the log of runs."""
    for name in _FILES:
        if runs or name != RUNS:
            (out_dir / name).unlink(missing_ok=True)


def write_results(
    out_dir: Path, results: StudyResults, metadata: Mapping[str, Any], *, with_dissociation: bool
) -> list[Path]:
    """Write tables, pictures and sidecar; returns all files, the table of scores first."""
    scores = results.scores
    tables = {"scores": results.table, "summary": results.summary, "runs": results.runs}
    if len(generations := results.generations):
        tables["generations"] = generations
    pictures = {}
    n_controls = max((len(score.controls) for score in scores), default=0)
    if with_dissociation:
        tables["dissociation"] = dissociation(scores)
        title = f"{metadata['Model']}: {metadata['Method']}"
        pictures["dissociation"] = draw_dissociation(tables["dissociation"], title, n_controls)
    curve = _kept_unions(results)
    if len(set(curve["units"])) > 1:
        pictures["keep"] = draw_curve(curve, f"{metadata['Model']}: {curve['method'].iloc[0]}")
    remove_results(out_dir, runs=False)
    files = [write_tsv(out_dir / f"{name}.tsv", table) for name, table in tables.items()]
    files += [write_bytes(out_dir / f"{name}.png", as_png(figure, dpi=_DPI)) for name, figure in pictures.items()]
    sidecar = {
        "Description": "Scores of a language model intact, lesioned, and with random units lesioned instead.",
        "GeneratedBy": generated_by(),
        "Sources": [source["File"] for key in ("Masks", "Texts", "Tasks") for source in metadata[key]],
        "Columns": _describe_columns(str(column) for table in tables.values() for column in table.columns),
        "Llm2bids": {**metadata, "Versions": versions(*_LIBRARIES)},
    }
    return [*files, write_json(out_dir / SIDECAR, sidecar), out_dir / RUNS]


def _kept_unions(results: StudyResults) -> pd.DataFrame:
    """Bits per token of the lesions that keep their units: the points of the curve."""
    names = {lesion.name for lesion in results.lesions if lesion.surgery.keep}
    table = results.table
    return table[table["mask"].isin(names) & (table["score"] == "bits_per_token")]


def _describe_columns(names: Iterable[str]) -> dict[str, str]:
    """Describe columns; those of one text or task each are named after it."""
    descriptions = {}
    for name in names:
        text, _, score = name.rpartition(".")
        if name in COLUMNS:
            descriptions[name] = COLUMNS[name]
        elif score in SUMMARY_SCORES:
            descriptions[name] = f"{score} on {text}."
    return descriptions
