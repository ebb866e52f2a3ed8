"""Facts from sidecars and histories: the dataset, its models and tasks, the commands that made it, and further ones."""

from __future__ import annotations

import shlex
from html import escape
from typing import TYPE_CHECKING, Any, Final

from llm2bids.bids.history import read_history
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.pages.frame import Panel, card_html, table_html
from llm2bids.reporting.sources import DERIVATIVES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llm2bids.bids.history import Step
    from llm2bids.bids.runs import BoldRun
    from llm2bids.reporting.sources import Sources

_EXAMPLES: Final = 2
"""Prompts of each condition that are shown."""
_LETTERS: Final = 300
"""Characters of a prompt or an answer that are shown."""
_MAX_FILES: Final = 500
"""Most files of a command that are listed."""
_QUESTIONS: Final = {
    "overlap": "what networks share, against chance",
    "reliability": "how well they repeat",
    "identify": "which task held-out runs are of",
    "profile": "where they lie, and honest sizes of effects",
    "connectivity": "how they go together over time",
}


def dataset_panel(sources: Sources) -> Panel:
    """Describe the dataset in a card, and its subjects in a table that links to their pages."""
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
    """List subjects, one row each."""
    columns = ["subject", "model", "revision", "blocks", "parameters", "files", "scans", "space"]
    rows = []
    for label in sources.subjects:
        runs = sources.for_subject(label).runs
        metadata = runs[0].metadata
        spaces = dict.fromkeys(run.space.label for run in runs)
        n_parameters = f"{metadata.get('NumberOfParameters') or 0:,}"
        cells = [f"sub-{label}", metadata.get("Model"), metadata.get("Revision") or "-"]
        cells += [metadata.get("NumberOfBlocks", "-"), n_parameters, len(runs)]
        cells += [f"{sum(run.n_scans for run in runs):,}", ", ".join(spaces)]
        rows.append(([str(cell) for cell in cells], f"sub-{label}.html"))
    text = {"subject", "model", "revision", "space"}
    return Panel("subjects", "Subjects", table_html(columns, rows, text))


def model_panel(runs: Sequence[BoldRun]) -> Panel:
    """Describe the model and how it was run in a card, and what was recorded of it in a table."""
    sidecar, metadata = runs[0].sidecar, runs[0].metadata
    card = {
        "Model": str(metadata.get("Model", "")),
        "Revision": str(metadata.get("Revision") or ""),
        "Architecture": _joined(metadata, "Architecture", "ModelType"),
        "Blocks": str(metadata.get("NumberOfBlocks", "")),
        "Parameters": f"{metadata['NumberOfParameters']:,}" if metadata.get("NumberOfParameters") else "",
        "Weights (SHA-256)": str(metadata.get("WeightsSHA256") or ""),
        "Numbers": str(metadata.get("Dtype", "")),
        "Tokenizer": str(metadata.get("Tokenizer", "")),
        "Generation": _generation(metadata),
        "Software": str(sidecar.get("SoftwareVersions", "")),
    }
    return Panel("model", "Model", card_html(card) + _recorded(runs))


def _joined(metadata: dict[str, Any], *keys: str) -> str:
    """Join several facts in one line."""
    return ", ".join(str(metadata[key]) for key in keys if metadata.get(key))


def _generation(metadata: dict[str, Any]) -> str:
    """Describe how tokens were sampled."""
    sampling = metadata.get("Generation")
    if metadata.get("Mode") != "generate" or not sampling:
        return "texts are read, none is generated" if metadata.get("Mode") == "read" else ""
    settings = metadata.get("Settings", {})
    return (
        f"{settings.get('TokensPerPrompt')} tokens per prompt, temperature {sampling['Temperature']:g}, "
        f"top-p {sampling['TopP']:g}, top-k {sampling['TopK'] or 'off'}, seed {settings.get('Seed')}"
    )


def _recorded(runs: Sequence[BoldRun]) -> str:
    """List runs, scans and units by task and site."""
    groups: dict[tuple[str, str], list[BoldRun]] = {}
    for run in runs:
        groups.setdefault((run.entities["task"], run.entities.get("acq", "")), []).append(run)
    columns = ["task", "site", "mode", "runs", "scans", "layers", "units", "space"]
    rows = []
    for (task, site), members in groups.items():
        space = members[0].space
        scans = f"{sum(run.n_scans for run in members):,}"
        cells = [task, site, members[0].metadata.get("Mode", "-"), len(members), scans, space.n_hookpoints]
        rows.append(([*map(str, cells), f"{space.n_units:,}", space.label], None))
    return table_html(columns, rows, {"task", "site", "mode", "space"})


def tasks_panel(sources: Sources) -> Panel:
    """Describe each task by its conditions and by examples of prompts and answers."""
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
    """Count the prompts of each condition in the first run."""
    table = read_tsv(runs[0].beside("events.tsv"))
    counts = table.get("trial_type", table["onset"].map(lambda _: "prompts")).value_counts(sort=False)
    return ", ".join(f"{name} ({number} prompts in the first run)" for name, number in counts.items())


def _examples(raw: Path, run: BoldRun) -> str:
    """List the first prompts of each condition with the model's answers."""
    path = raw / str(run.metadata.get("Stimuli") or "no texts")
    prompts = read_json(path).get("Prompts", []) if path.is_file() else []
    counts: dict[str, int] = {}
    lines = []
    for prompt in prompts:
        condition = str(prompt.get("trial_type", ""))
        counts[condition] = counts.get(condition, 0) + 1
        if counts[condition] <= _EXAMPLES:
            answer = f" <em>{escape(_cut(prompt['response']))}</em>" if prompt.get("response") else ""
            lines.append(f"<li><strong>{escape(condition)}</strong>: {escape(_cut(prompt['text']))}{answer}</li>")
    summary = "The first prompts of each condition, and in italics what the model said"
    return f"<details><summary>{summary}</summary><ul>{''.join(lines)}</ul></details>" if lines else ""


def _cut(text: str) -> str:
    """Cut a text to a line or two."""
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"


def commands_panel(sources: Sources) -> Panel:
    """List which command wrote which file, from the history of every folder."""
    # A folder that holds several lesions has one history per lesion.
    folders = dict.fromkeys((sources.raw, *sources.folders, *(result.path.parent for result in sources.lesions)))
    histories = [(folder, read_history(folder)) for folder in folders]
    parts = [_folder(folder, steps, sources.raw) for folder, steps in histories if steps]
    files = {folder / name for folder, steps in histories for step in steps for name in step.outputs}
    within = {parent for path in files for parent in path.parents}
    silent = [
        _place(folder, sources.raw) for folder, _ in histories if folder not in within and folder.name != "report"
    ]
    note = f'<p class="note">No history of commands in: {escape(", ".join(silent))}.</p>' if silent else ""
    return Panel("commands", "Commands", "".join(parts) + note)


def _place(folder: Path, raw: Path) -> str:
    """Name a folder as seen from the dataset."""
    if folder == raw:
        return "the dataset"
    return folder.relative_to(raw).as_posix() if folder.is_relative_to(raw) else str(folder)


def _folder(folder: Path, steps: Sequence[Step], raw: Path) -> str:
    """List the commands that wrote into one folder."""
    lines = []
    for step in steps:
        more = len(step.outputs) - _MAX_FILES
        files = [f"<li><code>{escape(name)}</code></li>" for name in step.outputs[:_MAX_FILES]]
        files += [f"<li>and {more} more</li>"] if more > 0 else []
        lines.append(
            f'<pre tabindex="0"><code>{escape(step.command)}</code></pre>'
            f"<details><summary>{len(step.outputs)} files, llm2bids {escape(step.version)}</summary>"
            f"<ul>{''.join(files)}</ul></details>"
        )
    return f"<h3>Into {escape(_place(folder, raw))}</h3>{''.join(lines)}"


def further_panel(sources: Sources) -> Panel | None:
    """Suggest commands whose results are not there yet."""
    raw = shlex.quote(str(sources.raw))
    results = f"{raw}/{DERIVATIVES}"
    lines = []
    if not sources.prepared:
        lines.append((f"llm2bids prep {raw}", "carpets, and everything below"))
    if not sources.analyses:
        lines.append((f"llm2bids glm {raw} {results}/glm participant", "the network of each task"))
    else:
        home = shlex.quote(str(sources.analyses[0].root))
        answer_names = " ".join(result.path.name for result in sources.answers)
        several_tasks = len({result.fields["Task"] for result in sources.analyses}) > 1
        questions = [
            name for name in _QUESTIONS if f"desc-{name}" not in answer_names and (several_tasks or name == "profile")
        ]
        lines += [(f"llm2bids networks {name} {home}", _QUESTIONS[name]) for name in questions]
    if not sources.components:
        lines.append((f"llm2bids ica {raw} {results}/ica", "networks without a task"))
    if not sources.lesions:
        lesion = f"llm2bids lesion {results}/lesion --model MODEL --mask MASK --text FILE"
        lines.append((lesion, "what the model cannot do without a network"))
    items = "".join(f"<li><code>{escape(line)}</code>: {escape(text)}</li>" for line, text in lines)
    return Panel("further", "Not asked yet", f"<ul>{items}</ul>") if lines else None
