"""The methods section of a paper: sentences made from the settings in sidecars, with the references that they cite.

Each sentence is true for every setting. ``[@key]`` stands for a citation, see ``bids_templates/references.json``.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any, Final

from llm2bids.bids.tables import read_json
from llm2bids.bids.templates import template_json
from llm2bids.pages.frame import Panel
from llm2bids.reporting.sources import select_results
from llm2bids.results.summaries import tails_of
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
_PROGRAM: Final = "llm2bids "
_CITATION: Final = re.compile(r"\[@(\w+)\]")
_LOCALIZER_REFERENCES: Final = {
    "language": " [@fedorenko2010]",
    "syntax": " [@fedorenko2010]",
    "theoryofmind": " [@saxe]",
    "multipledemand": " [@fedorenko2013]",
}
_CORRECTIONS: Final = {"fdr": " [@fdr]", "maxt": " [@maxt]"}
_DECOMPOSITIONS: Final = {
    "fastica": "independent component analysis (FastICA [@fastica], scikit-learn)",
    "canica": "canonical independent component analysis (CanICA [@canica], nilearn [@nilearn])",
    "dictlearning": "dictionary learning [@dictlearning] (nilearn [@nilearn])",
}
_TOGETHER: Final = {
    "subject": "of all runs of a subject together",
    "group": "of all runs of all subjects together",
    "run": "run by run",
    "layer": "layer by layer",
}
_CONTROLS: Final = {
    "matched": "as many units per layer, matched in activation",
    "layer": "as many units per layer",
    "uniform": "as many units, from anywhere",
}
_KEEP: Final = "keep, others "
"""Start of a method that lesions all units but those of a mask."""


def methods_panel(sources: Sources, subject: str | None = None) -> Panel:
    """Write the methods section of the dataset or of one subject."""
    subjects = [subject] if subject else []
    labels = subjects or sources.subjects
    components, answers = select_results(sources.components, subjects), select_results(sources.answers, subjects)
    analyses = select_results(sources.analyses, subjects) if subject else sources.groups
    lesions = sources.lesions_of(subject)
    recordings = [sources.for_subject(label) for label in labels]
    sentences = [
        *(_recording(part.runs, sources.tasks) for part in recordings),
        _preparation([run for part in recordings for run in part.prepared.values()]),
        *_describe_each(analyses, describe_analysis, "Statistics"),
        *_describe_each(components, describe_decomposition, "Decomposition"),
        *_describe_each(answers, describe_answer, "Settings"),
        *_describe_each(lesions, describe_lesion, "Controls"),
        _software([run for part in recordings for run in part.runs], analyses, components, answers, lesions),
    ]
    paragraphs, references = number_citations([text for text in sentences if text])
    body = "".join(f"<p>{escape(text)}</p>" for text in paragraphs)
    reference_items = "".join(f"<li>{_link(text)}</li>" for text in references)
    note = '<p class="note">Written from the sidecars, to be pasted into a paper and read before.</p>'
    return Panel(
        "methods", "Methods", f"{note}<blockquote>{body}</blockquote><h3>References</h3><ol>{reference_items}</ol>"
    )


def number_citations(paragraphs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Number the citations in order of appearance, and list their references.

    >>> texts, references = number_citations(["A dataset [@bids].", "A test [@fdr], a dataset [@bids]."])
    >>> texts, [reference.split(",")[0] for reference in references]
    (['A dataset [1].', 'A test [2], a dataset [1].'], ['Gorgolewski KJ', 'Benjamini Y'])
    """
    references = template_json("references.json")
    keys = list(dict.fromkeys(key for text in paragraphs for key in _CITATION.findall(text)))
    texts = [_CITATION.sub(lambda match: f"[{keys.index(match[1]) + 1}]", text) for text in paragraphs]
    return texts, [references[key] for key in keys]


def _link(reference: str) -> str:
    """Make a link of the address of a reference."""
    text, _, address = reference.rpartition(" ")
    return f'{escape(text)} <a href="{escape(address)}">{escape(address)}</a>'


def _describe_each(results: Iterable[Result], write: Callable[[Result], str], key: str) -> list[str]:
    """Describe results, each sentence once: the same settings for several tasks make one sentence."""
    return list(dict.fromkeys(write(result) for result in results if key in result.metadata))


def _software(runs: Sequence[BoldRun], *results: Sequence[Result]) -> str:
    """Name the versions of llm2bids in sidecars; the version that writes the report may be another."""
    versions = {part.removeprefix(_PROGRAM) for run in runs for part in _programs(run) if part.startswith(_PROGRAM)}
    metadata = [result.metadata for group in results for result in group]
    versions |= {str(fields["Versions"]["llm2bids"]) for fields in metadata if "Versions" in fields}
    with_version = f" {join_names(sorted(versions))}" if versions else ""
    return f"All of this was done with llm2bids{with_version}; the recordings are a BIDS dataset [@bids]."


def _programs(run: BoldRun) -> list[str]:
    """List the programs that made a recording, with their versions."""
    return str(run.sidecar.get("SoftwareVersions", "")).split("; ")


def _recording(runs: Sequence[BoldRun], all_tasks: Sequence[str]) -> str:
    """Describe the model, the modules that were recorded, and the tasks."""
    metadata = runs[0].metadata
    sites = list(dict.fromkeys(run.entities.get("acq", "") for run in runs))
    site_names = [_SITES.get(site, f"the modules of site {site}") for site in sites]
    tasks = [task for task in all_tasks if any(run.entities["task"] == task for run in runs)]
    revision = f", revision {metadata['Revision']}" if metadata.get("Revision") else ""
    blocks = f", {metadata['NumberOfBlocks']} blocks" if metadata.get("NumberOfBlocks") else ""
    size = f", {metadata['NumberOfParameters']:,} parameters" if metadata.get("NumberOfParameters") else ""
    return (
        f"The language model {metadata.get('Model')} ({metadata.get('Architecture')}{revision}{blocks}{size}, "
        f"{metadata.get('Dtype')}) was run with {_version(runs, 'torch', 'PyTorch')} [@torch] and "
        f"{_version(runs, 'transformers', 'Transformers')} [@transformers]. {_modes(runs, tasks)} "
        f"Activations of {join_names(site_names)} were recorded at {_scan_tokens(runs)}: one token is one scan "
        f"(repetition time {runs[0].t_r:g} s by convention), one unit one voxel ({join_names(_unit_counts(runs))}). "
        f"{'The task was' if len(tasks) == 1 else 'Tasks were'} {join_names(tasks)}"
        f"{_design_references(runs[0].root, tasks)}, {_run_counts(runs, tasks)}, {_scan_range(runs)} scans per run. "
        "Every prompt started from a fresh context."
    )


def _run_counts(runs: Sequence[BoldRun], tasks: Sequence[str]) -> str:
    """Count runs per task, whatever sites they were recorded at."""
    run_labels = {(run.entities["task"], run.entities.get("ses"), run.entities.get("run")) for run in runs}
    per_task = sorted(sum(task == name for name, *_ in run_labels) for task in tasks)
    count = " to ".join(map(str, dict.fromkeys([per_task[0], per_task[-1]])))
    sessions = len({session for _, session, _ in run_labels})
    each = " each" if len(tasks) > 1 else ""
    return f"{count} run{'' if count == '1' else 's'}{each}{f' in {sessions} sessions' if sessions > 1 else ''}"


def _version(runs: Sequence[BoldRun], program: str, name: str) -> str:
    """Name a program with its versions."""
    versions = dict.fromkeys(part for run in runs for part in _programs(run) if part.startswith(f"{program} "))
    return f"{name} {join_names([part.partition(' ')[2] for part in versions])}" if versions else name


def _scan_tokens(runs: Sequence[BoldRun]) -> str:
    """Say which tokens are scans."""
    modes = {str(run.metadata.get("Mode")) for run in runs}
    descriptions = {"generate": "every generated token", "read": "every token of the texts (special tokens left out)"}
    tokens = [text for mode, text in descriptions.items() if mode in modes]
    return join_names(tokens) if tokens else "every token"


def _unit_counts(runs: Sequence[BoldRun]) -> list[str]:
    """Count the units of each space."""
    spaces = {run.space.label: run.space for run in runs}
    return [
        f"{space.n_units:,} units in {space.n_hookpoints} layer{'s' * (space.n_hookpoints > 1)}, space {label}"
        for label, space in spaces.items()
    ]


def _scan_range(runs: Sequence[BoldRun]) -> str:
    """Give the range of scans per run."""
    counts = sorted({run.n_scans for run in runs})
    return " to ".join(f"{count:,}" for count in dict.fromkeys([counts[0], counts[-1]]))


def _modes(runs: Sequence[BoldRun], tasks: Sequence[str]) -> str:
    """Say whether texts were read or continued, task by task where that differs."""
    groups: dict[str, list[str]] = {}
    for task in tasks:
        for text in dict.fromkeys(_mode(run.metadata) for run in runs if run.entities["task"] == task):
            groups.setdefault(text, []).append(task)
    if len(groups) == 1:
        return f"It {next(iter(groups))}."
    return " ".join(f"In {join_names(labels)} it {text}." for text, labels in groups.items())


def _mode(metadata: dict[str, Any]) -> str:
    """Say whether the texts of a run were read or continued, and how."""
    sampling = metadata.get("Generation")
    if metadata.get("Mode") != "generate" or not sampling:
        return "read texts"
    settings = metadata.get("Settings", {})
    temperature = "greedily" if not sampling["Temperature"] else f"at temperature {sampling['Temperature']:g}"
    cutoffs = f", top-p {sampling['TopP']:g}" if sampling["TopP"] < 1 else ""
    cutoffs += f", top-k {sampling['TopK']}" if sampling["TopK"] else ""
    how = f"drawn {temperature}{cutoffs} (seed {settings.get('Seed')})"
    return f"continued prompts by {settings.get('TokensPerPrompt')} tokens, {how}"


def _design_references(raw: Path, tasks: Sequence[str]) -> str:
    """Cite the design of built-in tasks; a user's own task of the same name is not cited."""
    sidecars = {task: raw / f"task-{task}_bold.json" for task in tasks if task in {*on_topics(), *localizers()}}
    builtin_tasks = [
        task
        for task, path in sidecars.items()
        if path.exists() and read_json(path).get("TaskDescription") == describe(task)
    ]
    blocks = [task for task in builtin_tasks if task in on_topics()]
    which = "" if len(blocks) == len(tasks) else f"{join_names(blocks)}: " if blocks else ""
    after = f" ({which}block designs after [@nencka])" if blocks else ""
    localizer_tasks = [f"{task}{_LOCALIZER_REFERENCES.get(task, '')}" for task in builtin_tasks if task in localizers()]
    if not localizer_tasks:
        return after
    return f"{after} (functional localizers, as used of models by [@alkhamissi]: {join_names(localizer_tasks)})"


def _preparation(prepared: Sequence[PreparedRun]) -> str:
    """Describe how volumes were prepared."""
    if not prepared:
        return ""
    metadata = prepared[0].volumes.metadata
    return (
        f"Every unit was shifted to a baseline of {metadata.get('Baseline', 0):g} and scaled to a standard deviation "
        f"of {metadata.get('OneStandardDeviation', 1):g} within each run, clipped at "
        f"{metadata.get('ClippedAtStandardDeviations', 0):g} standard deviations; units that do not vary in a run were "
        "masked. Nothing was smoothed: neighbouring voxels are neighbours by convention only."
    )


def join_names(names: Sequence[str]) -> str:
    """List names as in a sentence.

    >>> join_names(["a"]), join_names(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def describe_analysis(result: Result) -> str:
    """Describe how effects were estimated and tested."""
    metadata, settings = result.metadata, result.metadata["Statistics"]
    over = ""
    if settings["Inference"] == "subject":
        over = f" These effects were compared over {len(metadata['Subjects'])} subjects by a general linear model."
    estimation = _effect(metadata.get("EffectOfSubject", settings))
    of_subject = metadata.get("EffectOfSubject", {})
    confounds = [str(name) for name in metadata.get("Confounds") or of_subject.get("FurtherConfounds") or []]
    beside = f", with {join_names(confounds)} as confounds" if confounds else ""
    return (
        f"{estimation}, without a haemodynamic response{beside}.{_drift(metadata)}{over} "
        f"{settings['InferenceDescription']} {_test(settings, tails_of(result.fields))} The units that passed are "
        f"called the network of the task.{_top(settings)}"
    )


def _effect(settings: dict[str, Any]) -> str:
    """Describe what an effect is, and the noise model."""
    if settings["Inference"] == "token":
        return (
            "Effects were estimated by a general linear model of all tokens with first-order autoregressive noise "
            "[@ar1] (nilearn [@nilearn])"
        )
    if settings.get("EffectOfPrompt") == "prompt-mean":
        return (
            "One effect per prompt was estimated by a general linear model of its tokens with independent noise, that "
            "is as their mean (nilearn [@nilearn])"
        )
    return (
        "One effect per prompt was estimated by a general linear model of its tokens with first-order autoregressive "
        "noise [@ar1] (nilearn [@nilearn])"
    )


def _drift(metadata: dict[str, Any]) -> str:
    """Say whether slow drifts were modelled; a group does not record the cutoff of its subjects."""
    settings = metadata.get("EffectOfSubject", metadata["Statistics"])
    if settings.get("Drift") in (None, "none"):
        return ""
    if "EffectOfSubject" not in metadata and not metadata.get("HighPassHz"):
        return ""
    cutoff = f" of less than {metadata['HighPassHz']:.3g} Hz" if metadata.get("HighPassHz") else ""
    return f" Drifts{cutoff} were modelled by cosines, in runs long enough to have any."


def _test(settings: dict[str, Any], tails: str) -> str:
    """Describe tails, correction and level."""
    tests = f"Tests were {tails}"
    if settings["Correction"] == "none":
        return f"{tests}, at p < {settings['Alpha']:g}, not corrected for the number of units."
    reference = _CORRECTIONS.get(settings["Correction"], "")
    correction = f"corrected over units: {settings['CorrectionDescription']}{reference}"
    if settings.get("Permutations"):
        correction += f", {settings['Permutations']:,} permutations, seed {settings.get('Seed')}"
    return f"{tests}, {correction}, level {settings['Alpha']:g}."


def _top(settings: dict[str, Any]) -> str:
    """Describe shares of units that were taken without a test."""
    if not (shares := [f"{100 * share:g} %" for share in settings.get("Top", [])]):
        return ""
    return f" Beside it, the {join_names(shares)} of units with the largest statistic were taken, without a test."


def describe_decomposition(result: Result) -> str:
    """Describe how networks without a task were found."""
    settings = result.metadata["Decomposition"]
    samples = "means over prompts" if settings["Samples"] == "prompt" else "single tokens"
    n_components = settings["ComponentsAsked"]
    count = "their number by parallel analysis" if n_components == "estimate" else f"{n_components} components"
    axis = {"temporal": "independent in time, ", "spatial": "independent over units, "}[settings["Axis"]]
    axis = axis if settings["Method"] == "fastica" else ""
    raw = ", units as recorded and only centred" if settings.get("Scale") == "none" else ""
    stability = f"; stability over {settings['Resamples']} refits [@icasso]" if settings.get("Resamples") else ""
    return (
        f"Networks without a task were found by {_DECOMPOSITIONS[settings['Method']]} {_TOGETHER[settings['By']]}, "
        f"with {samples} as samples{raw}: {axis}{count}, seed {settings.get('Seed')}{stability}; after the idea of "
        f"[@liu]. Units with a {settings['Threshold']} ({settings['Tail']} tail) are called the network of a component."
    )


def describe_answer(result: Result) -> str:
    """Describe how a question about networks was answered; empty for a question of another version."""
    question = str(result.fields.get("Description", "")).removeprefix("llm2bids ").removeprefix("networks ")
    say = next((say for start, say in _ANSWERS.items() if question.startswith(start)), None)
    return say(result.metadata["Settings"], len(result.metadata.get("Contrasts", {}))) if say else ""


def _draws(settings: dict[str, Any]) -> str:
    """Say how often chance was drawn."""
    return f" ({settings['Draws']:,} draws)" if settings.get("Draws") else ""


def _overlap(settings: dict[str, Any], _: int) -> str:
    """Describe how overlap was compared with chance; without effects of prompts, conditions cannot be exchanged."""
    measurement = (
        "The overlap of every two networks was measured by Dice [@dice] and compared with units permuted within layers"
    )
    if settings.get("NoExchangeOfConditions"):
        return f"{measurement}{_draws(settings)}."
    return (
        f"{measurement} and with conditions exchanged among prompts{_draws(settings)}; p-values of the latter were "
        "corrected after Holm [@holm]."
    )


def _reliability(settings: dict[str, Any], n_tasks: int) -> str:
    """Describe how agreement was measured; a single task has none to compare with."""
    within = "within and between tasks" if n_tasks > 1 else "within the task"
    permutations = f" (tasks exchanged among runs {settings['Permutations']:,} times)" if n_tasks > 1 else ""
    return (
        f"Agreement of networks of single runs and of halves of the runs was measured {within}{permutations}, and that "
        "of single units by the intraclass correlation [@icc]."
    )


def _identify(settings: dict[str, Any], _: int) -> str:
    """Describe what was held out and how it was identified."""
    unit = {"session": "a held-out session", "subject": "a held-out subject"}.get(settings["Across"], "held-out runs")
    others = {"session": "sessions", "subject": "subjects"}.get(settings["Across"], "runs")
    seen = settings.get("TextsSeen")
    repeated = f"; {seen} of their {settings.get('TextsShown')} texts were in the latter too" if seen else ""
    return (
        f"The task of {unit} was identified by networks of the other {others} (tasks exchanged among runs "
        f"{settings['Permutations']:,} times){repeated}."
    )


def _profile(settings: dict[str, Any], _: int) -> str:
    """Describe what was measured over depth; with one run, no effect can be held out."""
    held_out = ", and effects of their units in runs that did not choose them," * (not settings.get("NotHeldOut"))
    return f"The sizes of networks over depth{held_out} were measured{_draws(settings)}."


def _connectivity(settings: dict[str, Any], _: int) -> str:
    """Describe time courses and what was removed from them."""
    course = {"mean": "signed means", "eigenvariate": "first eigenvariates"}.get(str(settings.get("Course")), "means")
    background = ", after what the task does to all prompts of a condition was taken out" * bool(
        settings.get("Background")
    )
    units = "all units of each network" if settings.get("SharedUnits") else "the units that only one network has"
    return f"Time courses of networks ({course} of {units}) were correlated run by run{background}."


def _match(settings: dict[str, Any], _: int) -> str:
    """Describe how two sets of networks were matched."""
    return (
        "Networks of two sets were matched one to one by intersection over union, and compared with units permuted "
        f"within layers{_draws(settings)}."
    )


def _fingerprint(settings: dict[str, Any], _: int) -> str:
    """Describe how the networks of two models were matched."""
    return (
        f"The networks of two models were matched one to one by Spearman correlations of their time courses over "
        f"{settings.get('Texts')} texts that both were shown, and compared with texts permuted{_draws(settings)}."
    )


_ANSWERS: Final = {
    "overlap": _overlap,
    "reliability": _reliability,
    "identify": _identify,
    "profile": _profile,
    "connectivity": _connectivity,
    "match": _match,
    "fingerprint": _fingerprint,
}
"""What each question about networks measures, by the start of its name."""


def describe_lesion(result: Result) -> str:
    """Describe what was lesioned, and what it was compared with."""
    metadata, controls = result.metadata, result.metadata["Controls"]
    methods = list(dict.fromkeys(str(lesion["Method"]) for lesion in metadata.get("Lesions", [])))
    methods = methods or [f"{_KEEP if metadata.get('Keep') else ''}{metadata['Method']}"]
    lesions = [
        f"all units but those of masks lesioned (method {method.removeprefix(_KEEP)})"
        if method.startswith(_KEEP)
        else f"the units of masks lesioned (method {method})"
        for method in methods
    ]
    where = "" if metadata.get("Positions", "all") == "all" else f", at tokens of {metadata['Positions']} text only"
    kind = _CONTROLS.get(controls["Kind"], controls["Kind"])
    against = (
        f" against {controls['Number']} random masks each ({kind}, seed {controls['Seed']}); percentiles have "
        "Clopper-Pearson intervals [@clopper]"
        if controls.get("Number")
        else " without random masks"
    )
    sentence = f"The model {metadata.get('Model')} was scored intact and with {join_names(lesions)}{where},{against}."
    return f"{sentence}{_held_out(metadata)}"


def _held_out(metadata: dict[str, Any]) -> str:
    """Say whether masks were scored on texts that had defined them."""
    masks = metadata.get("Masks", [])
    if any(mask.get("StimuliInScoredTexts") for mask in masks):
        return " Some of what was scored had defined masks too."
    if unknown := sum(not mask.get("StimuliKnown") for mask in masks):
        return f" Which texts had defined them is not known of {unknown} of {len(masks)} masks."
    return " No line, document or prompt that was scored had defined a mask." * bool(masks)
