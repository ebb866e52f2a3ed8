"""The methods section of a paper, written from the sidecars: what they say was done, and who is to be cited for it."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any, Final

from llm2bids import __version__
from llm2bids.bids.tables import read_json
from llm2bids.bids.templates import template_json
from llm2bids.pages import Panel
from llm2bids.report.sources import about
from llm2bids.task import localizers, on_topics
from llm2bids.task.builtin import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from llm2bids.bids.runs import BoldRun
    from llm2bids.report.sources import Result, Sources

_SITES: Final = {
    "block": "the output of each transformer block (the residual stream)",
    "attn": "the output of each attention layer",
    "mlp": "the output of each MLP",
    "neuron": "the hidden layer of each MLP",
    "head": "the attention heads, before they are mixed",
}
_TAILS: Final = {"two": "two-tailed", "positive": "one-tailed (positive)", "negative": "one-tailed (negative)"}
_CORRECTIONS: Final = {"fdr": " [@fdr]", "maxt": " [@maxt]", "bonferroni": "", "none": ""}
_DECOMPOSITIONS: Final = {
    "fastica": "independent component analysis (FastICA [@fastica], scikit-learn)",
    "canica": "canonical independent component analysis (CanICA [@canica], nilearn)",
    "dictlearning": "dictionary learning [@dictlearning] (nilearn)",
}
_CITED: Final = re.compile(r"\[@(\w+)\]")
_LOCALIZED: Final = {
    "language": " [@fedorenko2010]",
    "syntax": " [@fedorenko2010]",
    "theoryofmind": " [@saxe]",
    "multipledemand": " [@fedorenko2013]",
}


def methods_panel(sources: Sources, subject: str | None = None) -> Panel:
    """Write what was done, ready for a paper.

    Parameters
    ----------
    sources : Sources
        The dataset.
    subject : str, optional
        Whose results are told; without, what is over subjects, and their recordings.

    Returns
    -------
    Panel
        The text and its references.
    """
    own = [subject] if subject else []
    labels = own or sources.subjects
    written = [
        *(_recording(sources.of(label).runs, sources.tasks) for label in labels),
        _preparation(sources),
        *_each(about(sources.analyses, own), _analysis, "Statistics"),
        *_each([] if subject else sources.groups, _analysis, "Statistics"),
        *_each(about(sources.components, own), _decomposition, "Decomposition"),
        *_each(about(sources.answers, own), _answer, "Settings"),
        *_each(lesions_of(sources, subject), _lesion, "Lesions"),
        f"Everything was done with llm2bids {__version__}, and is a BIDS dataset [@bids].",
    ]
    paragraphs, cited = number([text for text in written if text])
    told = "".join(f"<p>{escape(text)}</p>" for text in paragraphs)
    references = "".join(f"<li>{_linked(text)}</li>" for text in cited)
    note = '<p class="note">Written from the sidecars, to be pasted into a paper and read before.</p>'
    return Panel("methods", "Methods", f"{note}<blockquote>{told}</blockquote><h3>References</h3><ol>{references}</ol>")


def number(paragraphs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Number what is cited.

    Parameters
    ----------
    paragraphs : sequence of str
        Text with ``[@key]`` for every citation.

    Returns
    -------
    list of str
        The same with numbers, in order of appearance.
    list of str
        What they stand for.

    Examples
    --------
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

    Parameters
    ----------
    sources : Sources
        The dataset.
    subject : str or None
        Its label; None for lesions of models that did not lie in the scanner.

    Returns
    -------
    list of Result
        By the hash of the weights.
    """
    labels = sources.subjects if subject is None else [subject]
    weights = {sources.of(label).runs[0].own.get("WeightsSHA256") for label in labels}
    return [one for one in sources.lesions if (one.own.get("WeightsSHA256") in weights) == (subject is not None)]


def _linked(reference: str) -> str:
    """A reference with its address as a link."""
    text, _, address = reference.rpartition(" ")
    return f'{escape(text)} <a href="{escape(address)}">{escape(address)}</a>'


def _each(found: Iterable[Result], write: Callable[[dict[str, Any], str], str], key: str) -> list[str]:
    """Sentences about results, each once: the same settings for several tasks make one sentence."""
    told: dict[str, list[str]] = {}
    for one in found:
        name = str(one.fields.get("Task") or one.fields.get("Description") or one.fields.get("Name") or "")
        if key in one.own:
            told.setdefault(write(one.own, name), []).append(name)
    return list(told)


def _listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _recording(runs: Sequence[BoldRun], tasks: Sequence[str]) -> str:
    """Who lay in the scanner, and what was shown."""
    own = runs[0].own
    sites = list(dict.fromkeys(run.entities.get("acq", "") for run in runs))
    named = [_SITES.get(site, f"the modules of site {site}") for site in sites]
    shown = [task for task in tasks if any(run.entities["task"] == task for run in runs)]
    per_task = sorted({sum(run.entities["task"] == task for run in runs) // len(sites) for task in shown})
    counted = " to ".join(str(one) for one in dict.fromkeys([per_task[0], per_task[-1]]))
    revision = f", revision {own['Revision']}" if own.get("Revision") else ""
    blocks = f", {own['NumberOfBlocks']} blocks" if own.get("NumberOfBlocks") else ""
    size = f", {own['NumberOfParameters']:,} parameters" if own.get("NumberOfParameters") else ""
    return (
        f"The language model {own.get('Model')} ({own.get('Architecture')}{revision}{blocks}{size}, "
        f"{own.get('Dtype')}) was run with PyTorch [@torch] and Transformers [@transformers]. {_mode(own)} "
        f"Activations of {_listed(named)} were recorded at every token: one token is one scan (repetition time "
        f"{runs[0].t_r:g} s by convention), one unit one voxel ({_listed(_units(runs))}). Tasks were "
        f"{_listed(shown)}{_designed(runs[0].root, shown)}, {counted} run{'' if counted == '1' else 's'} each, "
        f"{_scans(runs)} scans per run. Every prompt started from a fresh context."
    )


def _units(runs: Sequence[BoldRun]) -> list[str]:
    """Units of each geometry."""
    spaces = {run.space.label: run.space for run in runs}
    return [f"{one.n_units:,} units in {one.n_hookpoints} layers, space {label}" for label, one in spaces.items()]


def _scans(runs: Sequence[BoldRun]) -> str:
    """Scans per run, from the fewest to the most."""
    counts = sorted({run.n_scans for run in runs})
    return " to ".join(f"{one:,}" for one in dict.fromkeys([counts[0], counts[-1]]))


def _mode(own: dict[str, Any]) -> str:
    """Whether texts were read or continued, and how."""
    drawn = own.get("Generation")
    if own.get("Mode") != "generate" or not drawn:
        return "It read texts."
    settings = own.get("Settings", {})
    how = "greedily" if not drawn["Temperature"] else f"at temperature {drawn['Temperature']:g}"
    kept = f", top-p {drawn['TopP']:g}" if drawn["TopP"] < 1 else ""
    kept += f", top-k {drawn['TopK']}" if drawn["TopK"] else ""
    how_drawn = f"drawn {how}{kept} (seed {settings.get('Seed')})"
    return f"It continued prompts by {settings.get('TokensPerPrompt')} tokens, {how_drawn}."


def _designed(raw: Path, tasks: Sequence[str]) -> str:
    """After whom built-in tasks are designed; a task of the user's own may have the same name."""
    said = {task: raw / f"task-{task}_bold.json" for task in tasks if task in {*on_topics(), *localizers()}}
    ours = [
        task for task, path in said.items() if path.exists() and read_json(path)["TaskDescription"] == describe(task)
    ]
    after = " (block designs after [@nencka])" if set(ours) & set(on_topics()) else ""
    found = [f"{task}{_LOCALIZED.get(task, '')}" for task in ours if task in localizers()]
    return after + (f" (functional localizers, as used of models by [@alkhamissi]: {_listed(found)})" if found else "")


def _preparation(sources: Sources) -> str:
    """How volumes were prepared."""
    if not sources.prepared:
        return ""
    own = next(iter(sources.prepared.values())).volumes.own
    return (
        f"Every unit was shifted to a baseline of {own.get('Baseline', 0):g} and scaled to a standard deviation of "
        f"{own.get('OneStandardDeviation', 1):g} within each run, clipped at "
        f"{own.get('ClippedAtStandardDeviations', 0):g} standard deviations; units that do not vary in a run were "
        "masked. Nothing was smoothed: neighbouring voxels are neighbours by convention only."
    )


def _analysis(own: dict[str, Any], _: str) -> str:
    """How effects were estimated and tested."""
    asked = own["Statistics"]
    per_prompt = asked.get("EffectOfPrompt") == "prompt" and asked["Inference"] != "token"
    effect = (
        "One effect per prompt was estimated by a general linear model with first-order autoregressive noise [@ar1] "
        "(nilearn [@nilearn])"
        if per_prompt
        else "Effects were estimated with nilearn [@nilearn]"
    )
    confounds = own.get("Confounds") or asked.get("FurtherConfounds") or []
    beside = f", with {_listed(list(map(str, confounds)))} as confounds" if confounds else ""
    drift = (
        f" and a {asked['Drift']} drift that leaves the design alone"
        if asked.get("Drift") not in (None, "none")
        else ""
    )
    return (
        f"{effect}, without a hemodynamic response{drift}{beside}. {asked['InferenceDescription']} Tests were "
        f"{_TAILS[asked['Tail']]}, corrected over units: {asked['CorrectionDescription']}"
        f"{_CORRECTIONS.get(asked['Correction'], '')}, level {asked['Alpha']:g}. The units that passed are "
        "called the network of the task."
    )


def _decomposition(own: dict[str, Any], _: str) -> str:
    """How networks without a task were found."""
    asked = own["Decomposition"]
    samples = "means over prompts" if asked["Samples"] == "prompt" else "tokens"
    wanted = asked["ComponentsAsked"]
    counted = "their number by parallel analysis" if wanted == "estimate" else f"{wanted} components"
    stable = f"; stability over {asked['Resamples']} refits [@icasso]" if asked.get("Resamples") else ""
    return (
        f"Networks without a task were found by {_DECOMPOSITIONS[asked['Method']]} of {samples}, {asked['Axis']}, "
        f"{counted}{stable}, after the idea of [@liu]. A unit is in the network of a component if its "
        f"{asked['Threshold']} ({asked['Tail']} tail)."
    )


_ASKED: Final = {
    "networks overlap": "The overlap of every two networks was measured by Dice [@dice] and compared "
    "with units permuted within layers and with conditions exchanged among prompts{draws}; "
    "p-values were corrected after Holm [@holm].",
    "networks reliability": "Agreement of networks of single runs, of halves and of prompts was measured within and "
    "between tasks{permutations}, and single units by the intraclass correlation [@icc].",
    "networks identify": "The task of held-out runs, blocks and prompts was identified by networks of the other runs"
    "{permutations}.",
    "networks profile": "Sizes of networks over depth, and effects of their units in runs that did not choose "
    "them, were measured.",
    "networks connectivity": "Time courses of networks were correlated run by run.",
    "networks match": "Networks of two sets were matched one to one by intersection over union, and compared with "
    "units permuted within layers{draws}.",
    "fingerprint": "The time courses of two models' networks over the same texts were compared.",
}
"""What each question about networks measures."""


def _answer(own: dict[str, Any], name: str) -> str:
    """How a question about networks was answered."""
    question = name.removeprefix("llm2bids ")
    text = next((text for key, text in _ASKED.items() if question.startswith(key)), "")
    settings = own["Settings"]
    filled = {
        "draws": f" ({settings['Draws']:,} draws)" if settings.get("Draws") else "",
        "permutations": f" (tasks exchanged among runs {settings['Permutations']:,} times)"
        if settings.get("Permutations")
        else "",
    }
    return text.format(**filled)


def _lesion(own: dict[str, Any], _: str) -> str:
    """What was done to the model."""
    controls = own["Controls"]
    against = (
        f" against {controls['Number']} random masks of as many units ({controls['Kind']}, seed {controls['Seed']}); "
        "percentiles have Clopper-Pearson intervals [@clopper]"
        if controls.get("Number")
        else ""
    )
    where = "all other units" if own.get("Keep") else "the units of a network"
    held_out = "" if own.get("AllowOverlap") else " on texts that had defined no network"
    done = f"with {where} lesioned (method {own['Method']})"
    return f"The model was scored intact and {done}{held_out},{against or ' without controls'}."
