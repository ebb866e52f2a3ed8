"""What a dataset is, who lay in the scanner, and what was shown: the facts of the sidecars, as cards and tables."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.pages.frame import Panel, card_html, table_html

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llm2bids.bids.runs import BoldRun
    from llm2bids.reporting.sources import Sources

_EXAMPLES: Final = 2
"""Prompts of each condition that are shown."""
_LETTERS: Final = 300
"""Of a prompt or an answer that are shown."""


def dataset_panel(sources: Sources) -> Panel:
    """Tell what the dataset is.

    Returns A card and a table of subjects that leads to their pages.
    """
    path = sources.raw / "dataset_description.json"
    fields = read_json(path) if path.exists() else {}
    card = {
        "Name": str(fields.get("Name", "")),
        "BIDS version": str(fields.get("BIDSVersion", "")),
        "Licence": str(fields.get("License", "")),
        "Authors": ", ".join(map(str, fields.get("Authors", []))),
        "Subjects": ", ".join(sources.subjects),
        "Tasks": ", ".join(sources.tasks),
        "Sites": ", ".join(filter(None, sources.sites)),
        "Recorded": f"{len(sources.runs)} files of volumes, {sum(run.n_scans for run in sources.runs):,} scans",
        "Results in": ", ".join(folder.name for folder in sources.folders if folder.name != "report"),
    }
    return Panel("dataset", "Dataset", card_html(card), (_subjects(sources),))


def _subjects(sources: Sources) -> Panel:
    """Who lay in the scanner, one row each."""
    columns = ["subject", "model", "revision", "blocks", "parameters", "files", "scans", "space"]
    rows = []
    for label in sources.subjects:
        runs = sources.of(label).runs
        own = runs[0].metadata
        spaces = dict.fromkeys(run.space.label for run in runs)
        counted = f"{own.get('NumberOfParameters') or 0:,}"
        cells = [f"sub-{label}", own.get("Model"), own.get("Revision") or "-", own.get("NumberOfBlocks", "-"), counted]
        cells += [len(runs), f"{sum(run.n_scans for run in runs):,}", ", ".join(spaces)]
        rows.append(([str(cell) for cell in cells], f"sub-{label}.html"))
    text = {"subject", "model", "revision", "space"}
    return Panel("subjects", "Subjects", table_html(columns, rows, text))


def model_panel(runs: Sequence[BoldRun]) -> Panel:
    """Tell which model lay in the scanner, and how it was run.

    Returns A card, and a table of what was recorded.
    """
    sidecar, own = runs[0].sidecar, runs[0].metadata
    card = {
        "Model": str(own.get("Model", "")),
        "Revision": str(own.get("Revision") or ""),
        "Architecture": _joined(own, "Architecture", "ModelType"),
        "Blocks": str(own.get("NumberOfBlocks", "")),
        "Parameters": f"{own['NumberOfParameters']:,}" if own.get("NumberOfParameters") else "",
        "Weights (SHA-256)": str(own.get("WeightsSHA256") or ""),
        "Numbers": str(own.get("Dtype", "")),
        "Tokenizer": str(own.get("Tokenizer", "")),
        "Generation": _generation(own),
        "Software": str(sidecar.get("SoftwareVersions", "")),
    }
    return Panel("model", "Model", card_html(card) + _recorded(runs))


def _joined(own: dict[str, Any], *keys: str) -> str:
    """Several facts in one line."""
    return ", ".join(str(own[key]) for key in keys if own.get(key))


def _generation(own: dict[str, Any]) -> str:
    """How tokens were drawn."""
    drawn = own.get("Generation")
    if own.get("Mode") != "generate" or not drawn:
        return "texts are read, none is generated" if own.get("Mode") == "read" else ""
    settings = own.get("Settings", {})
    return (
        f"{settings.get('TokensPerPrompt')} tokens per prompt, temperature {drawn['Temperature']:g}, "
        f"top-p {drawn['TopP']:g}, top-k {drawn['TopK'] or 'off'}, seed {settings.get('Seed')}"
    )


def _recorded(runs: Sequence[BoldRun]) -> str:
    """Runs, scans and units by task and site."""
    groups: dict[tuple[str, str], list[BoldRun]] = {}
    for run in runs:
        groups.setdefault((run.entities["task"], run.entities.get("acq", "")), []).append(run)
    columns = ["task", "site", "mode", "runs", "scans", "layers", "units", "space"]
    rows = []
    for (task, site), own in groups.items():
        space = own[0].space
        scans = f"{sum(run.n_scans for run in own):,}"
        cells = [task, site, own[0].metadata.get("Mode", "-"), len(own), scans, space.n_hookpoints]
        rows.append(([*map(str, cells), f"{space.n_units:,}", space.label], None))
    return table_html(columns, rows, {"task", "site", "mode", "space"})


def tasks_panel(sources: Sources) -> Panel:
    """Tell what was shown.

    Returns one part per task, with conditions, and examples of prompts and answers.
    """
    parts = []
    for task in sources.tasks:
        path = sources.raw / f"task-{task}_bold.json"
        fields = read_json(path) if path.exists() else {}
        runs = [run for run in sources.runs if run.entities["task"] == task]
        card = {
            "Description": str(fields.get("TaskDescription", "")),
            "Instructions": str(fields.get("Instructions", "")),
            "Conditions": _conditions(runs),
        }
        parts.append(Panel(f"task-{task}", f"Task {task}", card_html(card) + _examples(sources.raw, runs[0])))
    return Panel("tasks", "What was shown", "", tuple(parts))


def _conditions(runs: Sequence[BoldRun]) -> str:
    """How many prompts of each condition a run has."""
    table = read_tsv(runs[0].beside("events.tsv"))
    counts = table.get("trial_type", table["onset"].map(lambda _: "prompts")).value_counts(sort=False)
    return ", ".join(f"{name} ({number} prompts in the first run)" for name, number in counts.items())


def _examples(raw: Path, run: BoldRun) -> str:
    """The first prompts of each condition, with what the model said."""
    path = raw / str(run.metadata.get("Stimuli") or "no texts")
    shown = read_json(path).get("Prompts", []) if path.is_file() else []
    seen: dict[str, int] = {}
    lines = []
    for one in shown:
        condition = str(one.get("trial_type", ""))
        seen[condition] = seen.get(condition, 0) + 1
        if seen[condition] <= _EXAMPLES:
            answer = f" <em>{escape(_cut(one['response']))}</em>" if one.get("response") else ""
            lines.append(f"<li><strong>{escape(condition)}</strong>: {escape(_cut(one['text']))}{answer}</li>")
    told = "The first prompts of each condition, and in italics what the model said"
    return f"<details><summary>{told}</summary><ul>{''.join(lines)}</ul></details>" if lines else ""


def _cut(text: str) -> str:
    """As much of a text as a line or two hold."""
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"
