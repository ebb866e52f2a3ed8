"""What a paper says of a result: sentences made of the settings in its sidecar, each true for every setting.

``[@key]`` stands for a citation, see ``bids_templates/references.json``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llm2bids.results.summaries import tails_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm2bids.reporting.sources import Result

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


def listed(names: Sequence[str]) -> str:
    """List names as a sentence does.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def on_analysis(result: Result) -> str:
    """Say how effects were estimated and tested."""
    own, asked = result.own, result.own["Statistics"]
    over = ""
    if asked["Inference"] == "subject":
        over = f" These effects were compared over {len(own['Subjects'])} subjects by a general linear model."
    estimated = _effect(own.get("EffectOfSubject", asked))
    confounds = list(map(str, own.get("Confounds") or own.get("EffectOfSubject", {}).get("FurtherConfounds") or []))
    beside = f", with {listed(confounds)} as confounds" if confounds else ""
    return (
        f"{estimated}, without a haemodynamic response{beside}.{_drift(own)}{over} {asked['InferenceDescription']} "
        f"{_tested(asked, tails_of(result.fields))} The units that passed are called the network of the task."
        f"{_top(asked)}"
    )


def _effect(asked: dict[str, Any]) -> str:
    """What an effect is, and under which noise."""
    if asked["Inference"] == "token":
        return (
            "Effects were estimated by a general linear model of all tokens with first-order autoregressive noise "
            "[@ar1] (nilearn [@nilearn])"
        )
    if asked.get("EffectOfPrompt") == "prompt-mean":
        return (
            "One effect per prompt was estimated by a general linear model of its tokens with independent noise, that "
            "is as their mean (nilearn [@nilearn])"
        )
    return (
        "One effect per prompt was estimated by a general linear model of its tokens with first-order autoregressive "
        "noise [@ar1] (nilearn [@nilearn])"
    )


def _drift(own: dict[str, Any]) -> str:
    """Whether slow drifts were taken out; a group does not say at which cutoff its subjects' were."""
    asked = own.get("EffectOfSubject", own["Statistics"])
    if asked.get("Drift") in (None, "none") or ("EffectOfSubject" not in own and not own.get("HighPassHz")):
        return ""
    cutoff = f" of less than {own['HighPassHz']:.3g} Hz" if own.get("HighPassHz") else ""
    return f" Drifts{cutoff} were modelled by cosines, in runs long enough to have any."


def _tested(asked: dict[str, Any], tails: str) -> str:
    """Tails, correction and level."""
    tests = f"Tests were {tails}"
    if asked["Correction"] == "none":
        return f"{tests}, at p < {asked['Alpha']:g}, not corrected for the number of units."
    drawn = f", {asked['Permutations']:,} permutations, seed {asked.get('Seed')}" if asked.get("Permutations") else ""
    corrected = f"corrected over units: {asked['CorrectionDescription']}{_CORRECTIONS.get(asked['Correction'], '')}"
    return f"{tests}, {corrected}{drawn}, level {asked['Alpha']:g}."


def _top(asked: dict[str, Any]) -> str:
    """Shares that were written without a test."""
    if not (shares := [f"{100 * share:g} %" for share in asked.get("Top", [])]):
        return ""
    return f" Beside it, the {listed(shares)} of units with the largest statistic were taken, without a test."


def on_decomposition(result: Result) -> str:
    """Say how networks without a task were found."""
    asked = result.own["Decomposition"]
    samples = "means over prompts" if asked["Samples"] == "prompt" else "single tokens"
    wanted = asked["ComponentsAsked"]
    counted = "their number by parallel analysis" if wanted == "estimate" else f"{wanted} components"
    axis = {"temporal": "independent in time, ", "spatial": "independent over units, "}[asked["Axis"]]
    axis = axis if asked["Method"] == "fastica" else ""
    raw = ", units as recorded and only centred" if asked.get("Scale") == "none" else ""
    stable = f"; stability over {asked['Resamples']} refits [@icasso]" if asked.get("Resamples") else ""
    return (
        f"Networks without a task were found by {_DECOMPOSITIONS[asked['Method']]} {_TOGETHER[asked['By']]}, with "
        f"{samples} as samples{raw}: {axis}{counted}, seed {asked.get('Seed')}{stable}; after the idea of [@liu]. "
        f"Units with a {asked['Threshold']} ({asked['Tail']} tail) are called the network of a component."
    )


def on_answer(result: Result) -> str:
    """Say how a question about networks was answered.

    Returns A sentence; empty for a question of another version.
    """
    question = str(result.fields.get("Description", "")).removeprefix("llm2bids ").removeprefix("networks ")
    say = next((say for start, say in _ANSWERS.items() if question.startswith(start)), None)
    return say(result.own["Settings"], len(result.own.get("Contrasts", {}))) if say else ""


def _drawn(settings: dict[str, Any]) -> str:
    """How often chance was drawn."""
    return f" ({settings['Draws']:,} draws)" if settings.get("Draws") else ""


def _overlap(settings: dict[str, Any], _: int) -> str:
    """Where effects of prompts are not there, conditions cannot be exchanged, and there is no p."""
    shared = (
        "The overlap of every two networks was measured by Dice [@dice] and compared with units permuted within layers"
    )
    if settings.get("NoExchangeOfConditions"):
        return f"{shared}{_drawn(settings)}."
    return (
        f"{shared} and with conditions exchanged among prompts{_drawn(settings)}; p-values of the latter were "
        "corrected after Holm [@holm]."
    )


def _reliability(settings: dict[str, Any], n_tasks: int) -> str:
    """With a single task there is nothing to compare with, and nothing to exchange."""
    within = "within and between tasks" if n_tasks > 1 else "within the task"
    exchanged = f" (tasks exchanged among runs {settings['Permutations']:,} times)" if n_tasks > 1 else ""
    return (
        f"Agreement of networks of single runs and of halves of the runs was measured {within}{exchanged}, and that of "
        "single units by the intraclass correlation [@icc]."
    )


def _identify(settings: dict[str, Any], _: int) -> str:
    """What was held out."""
    held = {"session": "a held-out session", "subject": "a held-out subject"}.get(settings["Across"], "held-out runs")
    others = {"session": "sessions", "subject": "subjects"}.get(settings["Across"], "runs")
    seen = settings.get("TextsSeen")
    shown = f"; {seen} of their {settings.get('TextsShown')} texts were in the latter too" if seen else ""
    return (
        f"The task of {held} was identified by networks of the other {others} (tasks exchanged among runs "
        f"{settings['Permutations']:,} times){shown}."
    )


def _profile(settings: dict[str, Any], _: int) -> str:
    """With one run, none is left that did not choose the units."""
    held_out = ", and effects of their units in runs that did not choose them," * (not settings.get("NotHeldOut"))
    return f"The sizes of networks over depth{held_out} were measured{_drawn(settings)}."


def _connectivity(settings: dict[str, Any], _: int) -> str:
    """What a time course is, and what was taken out of it."""
    course = {"mean": "signed means", "eigenvariate": "first eigenvariates"}.get(str(settings.get("Course")), "means")
    background = ", after what the task does to all prompts of a condition was taken out" * bool(
        settings.get("Background")
    )
    shared = "all units of each network" if settings.get("SharedUnits") else "the units that only one network has"
    return f"Time courses of networks ({course} of {shared}) were correlated run by run{background}."


def _match(settings: dict[str, Any], _: int) -> str:
    """Two sets of networks."""
    return (
        "Networks of two sets were matched one to one by intersection over union, and compared with units permuted "
        f"within layers{_drawn(settings)}."
    )


def _fingerprint(settings: dict[str, Any], _: int) -> str:
    """Two models."""
    return (
        f"The networks of two models were matched one to one by Spearman correlations of their time courses over "
        f"{settings.get('Texts')} texts that both were shown, and compared with texts permuted{_drawn(settings)}."
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


def on_lesion(result: Result) -> str:
    """Say what was done to a model."""
    own, controls = result.own, result.own["Controls"]
    ways = list(dict.fromkeys(str(one["Method"]) for one in own.get("Lesions", [])))
    ways = ways or [f"{'keep, others ' if own.get('Keep') else ''}{own['Method']}"]
    done = [
        f"all units but those of masks lesioned (method {way.removeprefix(_KEPT)})"
        if way.startswith(_KEPT)
        else f"the units of masks lesioned (method {way})"
        for way in ways
    ]
    where = "" if own.get("Positions", "all") == "all" else f", at tokens of {own['Positions']} text only"
    kind = _CONTROLS.get(controls["Kind"], controls["Kind"])
    against = (
        f" against {controls['Number']} random masks each ({kind}, seed {controls['Seed']}); percentiles have "
        "Clopper-Pearson intervals [@clopper]"
        if controls.get("Number")
        else " without random masks"
    )
    return f"The model {own.get('Model')} was scored intact and with {listed(done)}{where},{against}.{_held_out(own)}"


_KEPT: Final = "keep, others "


def _held_out(own: dict[str, Any]) -> str:
    """Whether masks were scored on what had defined them."""
    masks = own.get("Masks", [])
    if any(one.get("StimuliInScoredTexts") for one in masks):
        return " Some of what was scored had defined masks too."
    if unknown := sum(not one.get("StimuliKnown") for one in masks):
        return f" Which texts had defined them is not known of {unknown} of {len(masks)} masks."
    return " No line, document or prompt that was scored had defined a mask." * bool(masks)
