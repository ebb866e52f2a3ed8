"""From the runs of a subject to one set of maps per contrast, with prompts, runs or tokens as samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from llm2bids.design.matrix import check_estimable
from llm2bids.design.regressors import MEAN
from llm2bids.errors import InferenceError
from llm2bids.statistics.linear_model import (
    StatMaps,
    add_runs,
    adjust,
    contrasts_of_run,
    join,
    max_t,
    prompt_effects,
    weigh_runs,
)
from llm2bids.statistics.samples import Prompts, Samples, counts

if TYPE_CHECKING:
    from nilearn.glm.contrasts import Contrast as Estimate
    from numpy.typing import NDArray

    from llm2bids.bids.prepared import PreparedRun
    from llm2bids.design.statsmodel import Contrast
    from llm2bids.statistics.analysis import Analysis
    from llm2bids.statistics.prompt_effects import KindDesign


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What an analysis came to.

    - `maps`: `StatMaps` over tested units, by name of the contrast.
    - `adjusted`: P-values corrected for the number of units, shape (n_tested,), by name of the contrast.
    - `designs`: design matrices, by what they are of: a run, ``prompts``, or the samples of a ``contrast-x``.
    - `dropped`: labels of the runs left out, by name of the contrast.
    - `by_run`: `StatMaps` by label of the run, by name of the contrast; where runs were analysed apart.
    - `prompts`: one row per prompt: ``run``, ``prompt``, ``stimulus``, ``trial_type``, ``n_scans``; empty where tokens
      were the samples.
    - `effects` (n_prompts, n_tested): mean effect of each prompt in standard deviations of the unit.
    - `told`: what the samples were, as fields of a sidecar, by name of the contrast; where prompts were.
    """

    maps: dict[str, StatMaps]
    adjusted: dict[str, NDArray[np.float64]]
    designs: dict[str, pd.DataFrame]
    dropped: dict[str, list[str]]
    by_run: dict[str, dict[str, StatMaps]] = field(default_factory=dict)
    prompts: pd.DataFrame = field(default_factory=pd.DataFrame)
    effects: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    told: dict[str, dict[str, Any]] = field(default_factory=dict)


def check(analysis: Analysis) -> None:
    """Refuse an analysis that cannot be carried out, before any volume is read."""
    for contrast in analysis.contrasts:
        _check_test(contrast, analysis)
    if analysis.settings.inference == "token":
        _check_tokens(analysis)
        return
    prompts = {}
    for run in analysis.runs:
        matrix, table = analysis.prompt_design(run)
        more = analysis.kind_design(run, matrix, list(table["name"]))
        design = analysis.prompts_in_conditions(run, matrix[table["name"]])
        prompts[run.label] = Prompts.planned(table, design, _kept(more, len(table)))
    if analysis.settings.inference == "run":
        _check_runs_apart(prompts, analysis.name)
    for contrast in analysis.contrasts:
        weighing = analysis.weighing(contrast)
        runs = [run.label for run in analysis.runs_of(contrast)]
        together = analysis.settings.inference == "prompt"
        for labels, end in [(runs, "")] if together else [([run], f"_{run}") for run in runs]:
            name = f"{analysis.name}{end}"
            Samples.of(weighing, [prompts[label] for label in labels], name).check(weighing, name)


@dataclass(frozen=True, slots=True, eq=False)
class PromptEffects:
    """What the prompts of a subject did, whatever their conditions.

    - `columns`: one column per prompt, shape (n_scans, n_prompts), by label of the run.
    - `effects`: mean effect, slopes and bins of each prompt, in standard deviations of the unit, by label of the run
      and by kind, shape (n_prompts, n_tested); NaN where `kept` says so.
    - `prompts`: one row per prompt of all runs: ``run``, ``prompt``, ``stimulus`` (equal for equal texts),
      ``trial_type``, ``n_scans``.
    - `kept`: which prompts have which slope or bin, by label of the run, shape (n_prompts, n_kinds).
    """

    columns: dict[str, pd.DataFrame]
    effects: dict[str, dict[str, NDArray[np.float64]]]
    prompts: pd.DataFrame
    kept: dict[str, pd.DataFrame]


def first_level(analysis: Analysis) -> PromptEffects:
    """Estimate the effect of every prompt."""
    columns, effects, kept, tables = {}, {}, {}, []
    noise_model = analysis.settings.noise_model
    for run in analysis.runs:
        matrix, prompts = analysis.prompt_design(run)
        more = analysis.kind_design(run, matrix, list(prompts["name"]))
        signals = run.signals(analysis.tested)
        effects[run.label] = {MEAN: prompt_effects(signals, matrix, len(prompts), noise_model)}
        if more is not None:
            effects[run.label] |= more.spread(prompt_effects(signals, more.matrix, more.n_effects, noise_model))
        kept[run.label] = _kept(more, len(prompts))
        columns[run.label] = matrix[prompts["name"]]
        tables.append(prompts.drop(columns="name").assign(run=run.label))
    return PromptEffects(columns, effects, pd.concat(tables, ignore_index=True), kept)


def _kept(design: KindDesign | None, n_prompts: int) -> pd.DataFrame:
    """Which prompts have which kinds besides the mean effect."""
    return pd.DataFrame(index=range(n_prompts)) if design is None else design.kept


def estimate(analysis: Analysis) -> Fitted:
    """Estimate and test all contrasts of an analysis.

    Returns maps over the units that vary in every run.
    """
    if analysis.settings.inference == "token":
        return _over_tokens(analysis)
    return second_level(analysis, first_level(analysis))


def second_level(analysis: Analysis, first: PromptEffects) -> Fitted:
    """Test all contrasts over prompts.

    Returns maps over the units that vary in every run.
    """
    prompts = {}
    for run in analysis.runs:
        table = first.prompts[first.prompts["run"] == run.label].reset_index(drop=True)
        trial_types = analysis.trial_types(run, table["prompt"])
        design = analysis.prompts_in_conditions(run, first.columns[run.label])
        table = table.assign(trial_type=trial_types)
        prompts[run.label] = Prompts(table, design, first.kept[run.label], first.effects[run.label])
    return _over_runs(analysis, prompts) if analysis.settings.inference == "run" else _over_prompts(analysis, prompts)


def _over_prompts(analysis: Analysis, prompts: dict[str, Prompts]) -> Fitted:
    """Prompts of all runs as samples."""
    maps: dict[str, StatMaps] = {}
    adjusted, dropped, told = {}, {}, {}
    whole = Prompts.stacked(list(prompts.values()))
    designs = {"prompts": whole.design}
    for contrast in analysis.contrasts:
        weighing, runs = analysis.weighing(contrast), analysis.runs_of(contrast)
        samples = Samples.of(weighing, [prompts[run.label] for run in runs], analysis.name)
        maps |= join(contrasts_of_run(samples.effects, samples.design, [weighing.over], "ols"))
        adjusted[contrast.name] = (
            max_t(samples.effects, samples.design, weighing.over, analysis.settings)
            if analysis.settings.correction == "maxt"
            else _adjusted(analysis, maps[contrast.name])
        )
        dropped[contrast.name] = _left_out(analysis, runs)
        told[contrast.name] = counts([samples], weighing)
        if samples.n_dropped or not weighing.is_level:
            designs[f"contrast-{contrast.label}"] = samples.design
    return Fitted(maps, adjusted, designs, dropped, {}, whole.table, whole.effects[MEAN], told)


def _over_tokens(analysis: Analysis) -> Fitted:
    """Tokens as samples, run by run so that one is in memory at a time; runs combined as nilearn does."""
    found: dict[str, list[list[Estimate]]] = {contrast.name: [] for contrast in analysis.contrasts}
    kept = {contrast.name: analysis.runs_of(contrast) for contrast in analysis.contrasts}
    designs = {}
    for run in analysis.runs:
        designs[run.label] = matrix = analysis.token_design(run)
        asked = [contrast for contrast in analysis.contrasts if run in kept[contrast.name]]
        for name, parts in contrasts_of_run(run.signals(analysis.tested), matrix, asked, "ar1").items():
            found[name].append(parts)
    maps = join({name: add_runs(runs) for name, runs in found.items()})
    by_run = {
        name: {run.label: StatMaps.from_estimates(parts) for run, parts in zip(kept[name], runs, strict=True)}
        for name, runs in found.items()
    }
    return Fitted(
        maps,
        {name: _adjusted(analysis, one) for name, one in maps.items()},
        designs,
        {name: _left_out(analysis, runs) for name, runs in kept.items()},
        by_run,
    )


def _over_runs(analysis: Analysis, prompts: dict[str, Prompts]) -> Fitted:
    """Prompts as samples within each run, then fixed effects over runs."""
    by_run: dict[str, dict[str, StatMaps]] = {}
    told = {}
    designs = {label: one.design for label, one in prompts.items()}
    for contrast in analysis.contrasts:
        weighing = analysis.weighing(contrast)
        samples = {
            run.label: Samples.of(weighing, [prompts[run.label]], f"{analysis.name}_{run.label}")
            for run in analysis.runs_of(contrast)
        }
        by_run[contrast.name] = {
            label: join(contrasts_of_run(one.effects, one.design, [weighing.over], "ols"))[contrast.name]
            for label, one in samples.items()
        }
        told[contrast.name] = counts(list(samples.values()), weighing)
        for label, one in samples.items():
            if one.n_dropped or not weighing.is_level:
                designs[f"{label}_contrast-{contrast.label}"] = one.design
    maps = {name: weigh_runs(list(runs.values())) for name, runs in by_run.items()}
    adjusted = {name: _adjusted(analysis, one) for name, one in maps.items()}
    dropped = {contrast.name: _left_out(analysis, analysis.runs_of(contrast)) for contrast in analysis.contrasts}
    whole = Prompts.stacked(list(prompts.values()))
    return Fitted(maps, adjusted, designs, dropped, by_run, whole.table, whole.effects[MEAN], told)


def _adjusted(analysis: Analysis, maps: StatMaps) -> NDArray[np.float64]:
    """p-values corrected for the number of units."""
    return adjust(maps.p(analysis.settings.tail), analysis.settings.correction)


def _left_out(analysis: Analysis, kept: list[PreparedRun]) -> list[str]:
    """Labels of the runs that are not kept."""
    return [run.label for run in analysis.runs if run not in kept]


def _check_tokens(analysis: Analysis) -> None:
    """Refuse what the tokens of a run cannot answer."""
    designs: dict[str, pd.DataFrame] = {}
    for contrast in analysis.contrasts:
        for run in analysis.runs_of(contrast):
            if run.label not in designs:
                designs[run.label] = analysis.token_design(run)
            matrix = designs[run.label]
            what = f"contrast {contrast.name} in {analysis.name}_{run.label}"
            check_estimable(matrix, contrast.matrix(list(matrix.columns)), what)


def _check_runs_apart(prompts: dict[str, Prompts], name: str) -> None:
    """Refuse fixed effects over runs that show the same texts."""
    shown = pd.concat([one.table["stimulus"].drop_duplicates() for one in prompts.values()])
    if shown.duplicated().any():
        raise InferenceError(
            f"{name} shows {int(shown.duplicated().sum())} prompts in more than one run, so that runs are no "
            "independent samples; use --inference prompt, which takes each text once"
        )


def _check_test(contrast: Contrast, analysis: Analysis) -> None:
    """Refuse F where runs or permutations do not allow it."""
    if contrast.test == "t":
        return
    if analysis.settings.correction == "maxt":
        raise InferenceError(
            f"permutation of F contrast {contrast.name} asked for, signs and sizes are permuted for t only; use "
            "--correction fdr or bonferroni"
        )
    if analysis.settings.inference == "run" or (analysis.settings.inference == "token" and len(analysis.runs) > 1):
        raise InferenceError(
            f"F contrast {contrast.name} over several runs with --inference {analysis.settings.inference} asked for, "
            "which fixed effects only approximate; use --inference prompt"
        )
