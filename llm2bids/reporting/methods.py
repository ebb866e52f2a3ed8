"""The methods section of a paper, written from the sidecars: what they say was done, and who is to be cited for it."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any, Final

from llm2bids.bids.tables import read_json
from llm2bids.bids.templates import template_json
from llm2bids.pages.frame import Panel
from llm2bids.reporting.sentences import listed, on_analysis, on_answer, on_decomposition, on_lesion
from llm2bids.reporting.sources import about
from llm2bids.task import localizers, on_topics
from llm2bids.task.builtin import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from llm2bids.bids.prepared import PreparedRun
    from llm2bids.bids.runs import BoldRun
    from llm2bids.reporting.sources import Result, Sources

_SITES: Final = {
    "block": "the output of each transformer block (the residual stream)",
    "attn": "the output of each attention layer",
    "mlp": "the output of each MLP",
    "neuron": "the hidden layer of each MLP",
    "head": "the attention heads, before they are mixed",
}
_OURS: Final = "llm2bids "
_CITED: Final = re.compile(r"\[@(\w+)\]")
_LOCALIZED: Final = {
    "language": " [@fedorenko2010]",
    "syntax": " [@fedorenko2010]",
    "theoryofmind": " [@saxe]",
    "multipledemand": " [@fedorenko2013]",
}


def methods_panel(sources: Sources, subject: str | None = None) -> Panel:
    """Write what was done, ready for a paper."""
    own = [subject] if subject else []
    labels = own or sources.subjects
    components, answers = about(sources.components, own), about(sources.answers, own)
    analyses = about(sources.analyses, own) if subject else sources.groups
    lesions = lesions_of(sources, subject)
    written = [
        *(_recording(sources.of(label).runs, sources.tasks) for label in labels),
        _preparation([run for label in labels for run in sources.of(label).prepared.values()]),
        *_each(analyses, on_analysis, "Statistics"),
        *_each(components, on_decomposition, "Decomposition"),
        *_each(answers, on_answer, "Settings"),
        *_each(lesions, on_lesion, "Controls"),
        _software([run for label in labels for run in sources.of(label).runs], analyses, components, answers, lesions),
    ]
    paragraphs, cited = number([text for text in written if text])
    told = "".join(f"<p>{escape(text)}</p>" for text in paragraphs)
    references = "".join(f"<li>{_linked(text)}</li>" for text in cited)
    note = '<p class="note">Written from the sidecars, to be pasted into a paper and read before.</p>'
    return Panel("methods", "Methods", f"{note}<blockquote>{told}</blockquote><h3>References</h3><ol>{references}</ol>")


def number(paragraphs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Number what is cited.

    >>> texts, cited = number(["A dataset [@bids].", "A test [@fdr], a dataset [@bids]."])
    >>> texts, [one.split(",")[0] for one in cited]
    (['A dataset [1].', 'A test [2], a dataset [1].'], ['Gorgolewski KJ', 'Benjamini Y'])
    """
    known = template_json("references.json")
    keys = list(dict.fromkeys(key for text in paragraphs for key in _CITED.findall(text)))
    texts = [_CITED.sub(lambda found: f"[{keys.index(found[1]) + 1}]", text) for text in paragraphs]
    return texts, [known[key] for key in keys]


def lesions_of(sources: Sources, subject: str | None) -> list[Result]:
    """Find the lesions of a subject's model.

    `subject`: its label; None for lesions of models that did not lie in the scanner.
    """
    labels = sources.subjects if subject is None else [subject]
    weights = {sources.of(label).runs[0].metadata.get("WeightsSHA256") for label in labels}
    return [one for one in sources.lesions if (one.own.get("WeightsSHA256") in weights) == (subject is not None)]


def _linked(reference: str) -> str:
    """A reference with its address as a link."""
    text, _, address = reference.rpartition(" ")
    return f'{escape(text)} <a href="{escape(address)}">{escape(address)}</a>'


def _each(found: Iterable[Result], write: Callable[[Result], str], key: str) -> list[str]:
    """Sentences about results, each once: the same settings for several tasks make one sentence."""
    return list(dict.fromkeys(write(one) for one in found if key in one.own))


def _software(runs: Sequence[BoldRun], *results: Sequence[Result]) -> str:
    """What it was done with: versions as sidecars have them, for the program that writes this may be another."""
    found = {part.removeprefix(_OURS) for run in runs for part in _programs(run) if part.startswith(_OURS)}
    found |= {str(one.own["Versions"]["llm2bids"]) for some in results for one in some if "Versions" in one.own}
    with_version = f" {listed(sorted(found))}" if found else ""
    return f"All of this was done with llm2bids{with_version}; the recordings are a BIDS dataset [@bids]."


def _programs(run: BoldRun) -> list[str]:
    """Programs that made a recording, with their versions."""
    return str(run.sidecar.get("SoftwareVersions", "")).split("; ")


def _recording(runs: Sequence[BoldRun], tasks: Sequence[str]) -> str:
    """Who lay in the scanner, and what was shown."""
    own = runs[0].metadata
    sites = list(dict.fromkeys(run.entities.get("acq", "") for run in runs))
    named = [_SITES.get(site, f"the modules of site {site}") for site in sites]
    shown = [task for task in tasks if any(run.entities["task"] == task for run in runs)]
    revision = f", revision {own['Revision']}" if own.get("Revision") else ""
    blocks = f", {own['NumberOfBlocks']} blocks" if own.get("NumberOfBlocks") else ""
    size = f", {own['NumberOfParameters']:,} parameters" if own.get("NumberOfParameters") else ""
    return (
        f"The language model {own.get('Model')} ({own.get('Architecture')}{revision}{blocks}{size}, "
        f"{own.get('Dtype')}) was run with {_version(runs, 'torch', 'PyTorch')} [@torch] and "
        f"{_version(runs, 'transformers', 'Transformers')} [@transformers]. {_modes(runs, shown)} "
        f"Activations of {listed(named)} were recorded at {_scanned(runs)}: one token is one scan (repetition time "
        f"{runs[0].t_r:g} s by convention), one unit one voxel ({listed(_units(runs))}). "
        f"{'The task was' if len(shown) == 1 else 'Tasks were'} {listed(shown)}{_designed(runs[0].root, shown)}, "
        f"{_counted(runs, shown)}, {_scans(runs)} scans per run. Every prompt started from a fresh context."
    )


def _counted(runs: Sequence[BoldRun], shown: Sequence[str]) -> str:
    """Runs per task, whatever sites they were recorded at."""
    held = {(run.entities["task"], run.entities.get("ses"), run.entities.get("run")) for run in runs}
    per_task = sorted(sum(task == one for one, *_ in held) for task in shown)
    counted = " to ".join(str(one) for one in dict.fromkeys([per_task[0], per_task[-1]]))
    sessions = len({session for _, session, _ in held})
    each = " each" if len(shown) > 1 else ""
    return f"{counted} run{'' if counted == '1' else 's'}{each}{f' in {sessions} sessions' if sessions > 1 else ''}"


def _version(runs: Sequence[BoldRun], program: str, name: str) -> str:
    """A program and its versions."""
    found = dict.fromkeys(part for run in runs for part in _programs(run) if part.startswith(f"{program} "))
    return f"{name} {listed([part.partition(' ')[2] for part in found])}" if found else name


def _scanned(runs: Sequence[BoldRun]) -> str:
    """Which tokens are scans."""
    modes = {str(run.metadata.get("Mode")) for run in runs}
    told = {"generate": "every generated token", "read": "every token of the texts (special tokens left out)"}
    return listed([text for mode, text in told.items() if mode in modes]) if modes & set(told) else "every token"


def _units(runs: Sequence[BoldRun]) -> list[str]:
    """Units of each geometry."""
    spaces = {run.space.label: run.space for run in runs}
    return [
        f"{one.n_units:,} units in {one.n_hookpoints} layer{'s' * (one.n_hookpoints > 1)}, space {label}"
        for label, one in spaces.items()
    ]


def _scans(runs: Sequence[BoldRun]) -> str:
    """Scans per run, from the fewest to the most."""
    counts = sorted({run.n_scans for run in runs})
    return " to ".join(f"{one:,}" for one in dict.fromkeys([counts[0], counts[-1]]))


def _modes(runs: Sequence[BoldRun], shown: Sequence[str]) -> str:
    """Whether texts were read or continued, task by task where that differs."""
    tasks: dict[str, list[str]] = {}
    for task in shown:
        for text in dict.fromkeys(_mode(run.metadata) for run in runs if run.entities["task"] == task):
            tasks.setdefault(text, []).append(task)
    if len(tasks) == 1:
        return f"It {next(iter(tasks))}."
    return " ".join(f"In {listed(own)} it {text}." for text, own in tasks.items())


def _mode(own: dict[str, Any]) -> str:
    """Whether texts of a run were read or continued, and how."""
    drawn = own.get("Generation")
    if own.get("Mode") != "generate" or not drawn:
        return "read texts"
    settings = own.get("Settings", {})
    how = "greedily" if not drawn["Temperature"] else f"at temperature {drawn['Temperature']:g}"
    kept = f", top-p {drawn['TopP']:g}" if drawn["TopP"] < 1 else ""
    kept += f", top-k {drawn['TopK']}" if drawn["TopK"] else ""
    how_drawn = f"drawn {how}{kept} (seed {settings.get('Seed')})"
    return f"continued prompts by {settings.get('TokensPerPrompt')} tokens, {how_drawn}"


def _designed(raw: Path, tasks: Sequence[str]) -> str:
    """After whom built-in tasks are designed; a task of the user's own may have the same name."""
    said = {task: raw / f"task-{task}_bold.json" for task in tasks if task in {*on_topics(), *localizers()}}
    ours = [
        task
        for task, path in said.items()
        if path.exists() and read_json(path).get("TaskDescription") == describe(task)
    ]
    blocks = [task for task in ours if task in on_topics()]
    which = "" if len(blocks) == len(tasks) else f"{listed(blocks)}: " if blocks else ""
    after = f" ({which}block designs after [@nencka])" if blocks else ""
    found = [f"{task}{_LOCALIZED.get(task, '')}" for task in ours if task in localizers()]
    return after + (f" (functional localizers, as used of models by [@alkhamissi]: {listed(found)})" if found else "")


def _preparation(prepared: Sequence[PreparedRun]) -> str:
    """How volumes were prepared."""
    if not prepared:
        return ""
    own = prepared[0].volumes.metadata
    return (
        f"Every unit was shifted to a baseline of {own.get('Baseline', 0):g} and scaled to a standard deviation of "
        f"{own.get('OneStandardDeviation', 1):g} within each run, clipped at "
        f"{own.get('ClippedAtStandardDeviations', 0):g} standard deviations; units that do not vary in a run were "
        "masked. Nothing was smoothed: neighbouring voxels are neighbours by convention only."
    )
