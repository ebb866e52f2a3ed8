"""The commands that made what is told, as the history of every folder has them, and those that would tell more."""

from __future__ import annotations

import shlex
from html import escape
from typing import TYPE_CHECKING, Final

from llm2bids.bids.history import read_history
from llm2bids.pages.frame import Panel
from llm2bids.reporting.sources import DERIVATIVES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llm2bids.bids.history import Step
    from llm2bids.reporting.sources import Sources

_FILES: Final = 500
"""Of a command that are listed."""
_MORE: Final = {
    "overlap": "what networks share, against chance",
    "reliability": "how well they repeat",
    "identify": "which task held-out runs are of",
    "profile": "where they lie, and honest sizes of effects",
    "connectivity": "how they go together over time",
}


def commands_panel(sources: Sources) -> Panel:
    """Tell which command made which file."""
    inside = [one.path.parent for one in sources.lesions]  # each lesion keeps its own, also where folders hold several
    told = [(folder, read_history(folder)) for folder in dict.fromkeys((sources.raw, *sources.folders, *inside))]
    parts = [_folder(folder, steps, sources.raw) for folder, steps in told if steps]
    known = {folder / name for folder, steps in told for step in steps for name in step.outputs}
    within = {parent for path in known for parent in path.parents}
    silent = [_named(folder, sources.raw) for folder, _ in told if folder not in within and folder.name != "report"]
    note = f'<p class="note">No history of commands in: {escape(", ".join(silent))}.</p>' if silent else ""
    return Panel("commands", "Commands", "".join(parts) + note)


def _named(folder: Path, raw: Path) -> str:
    """A folder as seen from the dataset."""
    if folder == raw:
        return "the dataset"
    return folder.relative_to(raw).as_posix() if folder.is_relative_to(raw) else str(folder)


def _folder(folder: Path, steps: Sequence[Step], raw: Path) -> str:
    """Commands that wrote into one folder."""
    lines = []
    for step in steps:
        more = len(step.outputs) - _FILES
        files = [f"<li><code>{escape(name)}</code></li>" for name in step.outputs[:_FILES]]
        files += [f"<li>and {more} more</li>"] if more > 0 else []
        lines.append(
            f'<pre tabindex="0"><code>{escape(step.command)}</code></pre>'
            f"<details><summary>{len(step.outputs)} files, llm2bids {escape(step.version)}</summary>"
            f"<ul>{''.join(files)}</ul></details>"
        )
    return f"<h3>Into {escape(_named(folder, raw))}</h3>{''.join(lines)}"


def further_panel(sources: Sources) -> Panel | None:
    """Say what was not asked yet, and how to ask."""
    raw = shlex.quote(str(sources.raw))
    results = f"{raw}/{DERIVATIVES}"
    lines = []
    if not sources.prepared:
        lines.append((f"llm2bids prep {raw}", "carpets, and everything below"))
    if not sources.analyses:
        lines.append((f"llm2bids glm {raw} {results}/glm participant", "the network of each task"))
    else:
        home = shlex.quote(str(sources.analyses[0].root))
        asked = " ".join(one.path.name for one in sources.answers)
        several = len({one.fields["Task"] for one in sources.analyses}) > 1
        wanted = [name for name in _MORE if f"desc-{name}" not in asked and (several or name == "profile")]
        lines += [(f"llm2bids networks {name} {home}", _MORE[name]) for name in wanted]
    if not sources.components:
        lines.append((f"llm2bids ica {raw} {results}/ica", "networks without a task"))
    if not sources.lesions:
        lesion = f"llm2bids lesion {results}/lesion --model MODEL --mask MASK --text FILE"
        lines.append((lesion, "what the model cannot do without a network"))
    shown = "".join(f"<li><code>{escape(line)}</code>: {escape(text)}</li>" for line, text in lines)
    return Panel("further", "Not asked yet", f"<ul>{shown}</ul>") if lines else None
