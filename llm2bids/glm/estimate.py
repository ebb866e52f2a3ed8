"""From the runs of a subject to one set of maps per contrast, with prompts, runs or tokens as samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from llm2bids.design import check_estimable
from llm2bids.errors import DesignError, InferenceError
from llm2bids.glm.fit import StatMaps, add_runs, adjust, contrasts_of_run, join, max_t, prompt_effects, weigh_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nilearn.glm.contrasts import Contrast as Estimate
    from numpy.typing import NDArray

    from llm2bids.glm.analysis import Analysis, PreparedRun
    from llm2bids.statsmodel import Contrast


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What an analysis came to.

    Parameters
    ----------
    maps : dict
        `StatMaps` over tested units, by name of the contrast.
    adjusted : dict
        P-values corrected for the number of units, shape (n_tested,), by name of the contrast.
    designs : dict
        Design matrices, by what they are of: a run, or ``prompts``.
    dropped : dict
        Labels of the runs left out, by name of the contrast.
    by_run : dict
        `StatMaps` by label of the run, by name of the contrast; where runs were analysed apart.
    prompts : DataFrame
        One row per prompt: ``run``, ``prompt``, ``stimulus``, ``trial_type``, ``n_scans``; empty where tokens
        were the samples.
    effects : ndarray, shape (n_prompts, n_tested)
        Effect of each prompt in standard deviations of the unit.
    """

    maps: dict[str, StatMaps]
    adjusted: dict[str, NDArray[np.float64]]
    designs: dict[str, pd.DataFrame]
    dropped: dict[str, list[str]]
    by_run: dict[str, dict[str, StatMaps]] = field(default_factory=dict)
    prompts: pd.DataFrame = field(default_factory=pd.DataFrame)
    effects: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))


def check(analysis: Analysis) -> None:
    """Refuse an analysis that cannot be carried out, before any volume is read.

    Parameters
    ----------
    analysis : Analysis
        What is to be estimated.

    Raises
    ------
    LLM2BIDSError
        If a condition, confound or degree of freedom is missing, or a contrast cannot be estimated.
    """
    for contrast in analysis.contrasts:
        _check_test(contrast, analysis)
    if analysis.settings.inference == "token":
        _check_tokens(analysis)
        return
    prompts = {}
    for run in analysis.runs:
        matrix, table = analysis.prompt_design(run)
        prompts[run.label] = _Prompts(table, analysis.prompts_in_conditions(run, matrix[table["name"]]))
    if analysis.settings.inference == "run":
        _check_runs_apart(prompts, analysis.name)
    for contrast in analysis.contrasts:
        runs = [run.label for run in analysis.runs_of(contrast)]
        together = analysis.settings.inference == "prompt"
        for labels, name in [(runs, "")] if together else [([run], f"_{run}") for run in runs]:
            samples = _merged([prompts[label] for label in labels])
            _check_prompts(samples.design, contrast, f"{analysis.name}{name}")


@dataclass(frozen=True, slots=True, eq=False)
class _Prompts:
    """Prompts of one or several runs, their design over conditions, and what they did (if it was estimated)."""

    table: pd.DataFrame
    design: pd.DataFrame
    effects: NDArray[np.float64] | None = None

    @property
    def estimated(self) -> NDArray[np.float64]:
        """The effects, which were estimated."""
        if self.effects is None:
            raise ValueError("no effects were estimated for these prompts")
        return self.effects


@dataclass(frozen=True, slots=True, eq=False)
class PromptEffects:
    """What the prompts of a subject did, whatever their conditions.

    Parameters
    ----------
    columns : dict
        One column per prompt, shape (n_scans, n_prompts), by label of the run.
    effects : dict
        Effect of each prompt in standard deviations of the unit, shape (n_prompts, n_tested), by label of the run.
    prompts : DataFrame
        One row per prompt of all runs: ``run``, ``prompt``, ``stimulus`` (equal for equal texts), ``trial_type``,
        ``n_scans``.
    """

    columns: dict[str, pd.DataFrame]
    effects: dict[str, NDArray[np.float64]]
    prompts: pd.DataFrame


def first_level(analysis: Analysis) -> PromptEffects:
    """Estimate the effect of every prompt.

    Parameters
    ----------
    analysis : Analysis
        What is to be estimated.

    Returns
    -------
    PromptEffects
        Over the units that vary in every run.

    Raises
    ------
    LLM2BIDSError
        If a volume cannot be read.
    """
    columns, effects, tables = {}, {}, []
    for run in analysis.runs:
        matrix, prompts = analysis.prompt_design(run)
        signals = run.signals(analysis.tested)
        effects[run.label] = prompt_effects(signals, matrix, len(prompts), analysis.settings.noise_model)
        columns[run.label] = matrix[prompts["name"]]
        tables.append(prompts.drop(columns="name").assign(run=run.label))
    return PromptEffects(columns, effects, pd.concat(tables, ignore_index=True))


def estimate(analysis: Analysis) -> Fitted:
    """Estimate and test all contrasts of an analysis.

    Parameters
    ----------
    analysis : Analysis
        What is to be estimated; passed `check`.

    Returns
    -------
    Fitted
        Maps over the units that vary in every run.

    Raises
    ------
    LLM2BIDSError
        If a volume cannot be read.
    """
    if analysis.settings.inference == "token":
        return _over_tokens(analysis)
    return second_level(analysis, first_level(analysis))


def second_level(analysis: Analysis, first: PromptEffects) -> Fitted:
    """Test all contrasts over prompts.

    Parameters
    ----------
    analysis : Analysis
        What is to be estimated, with prompts or runs as samples.
    first : PromptEffects
        Effects of its prompts.

    Returns
    -------
    Fitted
        Maps over the units that vary in every run.
    """
    prompts = {}
    for run in analysis.runs:
        table = first.prompts[first.prompts["run"] == run.label].reset_index(drop=True)
        kinds = analysis.kinds(run, table["prompt"])
        design = analysis.prompts_in_conditions(run, first.columns[run.label])
        prompts[run.label] = _Prompts(table.assign(trial_type=kinds), design, first.effects[run.label])
    if analysis.settings.inference == "run":
        return _over_runs(analysis, prompts)
    maps: dict[str, StatMaps] = {}
    adjusted, dropped = {}, {}
    for contrast in analysis.contrasts:
        runs = analysis.runs_of(contrast)
        samples = _merged([prompts[run.label] for run in runs])
        maps |= join(contrasts_of_run(samples.estimated, samples.design, [contrast], "ols"))
        adjusted[contrast.name] = (
            max_t(samples.estimated, samples.design, contrast, analysis.settings)
            if analysis.settings.correction == "maxt"
            else _adjusted(analysis, maps[contrast.name])
        )
        dropped[contrast.name] = _left_out(analysis, runs)
    whole = _stacked(list(prompts.values()))
    return Fitted(maps, adjusted, {"prompts": whole.design}, dropped, {}, whole.table, whole.estimated)


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


def _over_runs(analysis: Analysis, prompts: dict[str, _Prompts]) -> Fitted:
    """Prompts as samples within each run, then fixed effects over runs."""
    by_run: dict[str, dict[str, StatMaps]] = {}
    for contrast in analysis.contrasts:
        samples = {run.label: _merged([prompts[run.label]]) for run in analysis.runs_of(contrast)}
        by_run[contrast.name] = {
            label: join(contrasts_of_run(one.estimated, one.design, [contrast], "ols"))[contrast.name]
            for label, one in samples.items()
        }
    maps = {name: weigh_runs(list(runs.values())) for name, runs in by_run.items()}
    adjusted = {name: _adjusted(analysis, one) for name, one in maps.items()}
    dropped = {contrast.name: _left_out(analysis, analysis.runs_of(contrast)) for contrast in analysis.contrasts}
    whole, designs = _stacked(list(prompts.values())), {label: one.design for label, one in prompts.items()}
    return Fitted(maps, adjusted, designs, dropped, by_run, whole.table, whole.estimated)


def _adjusted(analysis: Analysis, maps: StatMaps) -> NDArray[np.float64]:
    """p-values corrected for the number of units."""
    return adjust(maps.p(analysis.settings.tail), analysis.settings.correction)


def _left_out(analysis: Analysis, kept: list[PreparedRun]) -> list[str]:
    """Labels of the runs that are not kept."""
    return [run.label for run in analysis.runs if run not in kept]


def _stacked(runs: Sequence[_Prompts]) -> _Prompts:
    """Prompts of several runs below each other; columns that a run does not have are 0 there."""
    design = pd.concat([run.design for run in runs], ignore_index=True).fillna(0.0)
    effects = None if runs[0].effects is None else np.concatenate([run.estimated for run in runs])
    return _Prompts(pd.concat([run.table for run in runs], ignore_index=True), design, effects)


def _merged(runs: Sequence[_Prompts]) -> _Prompts:
    """The samples of a test: a text that was shown again is no new one, so what it did is averaged."""
    whole = _stacked(runs)
    groups = whole.table.groupby(["stimulus", "trial_type"], sort=False).ngroup().to_numpy()
    if groups.max() + 1 == len(groups):
        return whole
    weights = np.equal.outer(np.arange(groups.max() + 1), groups).astype(float)
    weights /= weights.sum(1, keepdims=True)
    first = whole.table.groupby(groups).first()
    design = pd.DataFrame(weights @ whole.design.to_numpy(), columns=whole.design.columns)
    return _Prompts(first, design, None if whole.effects is None else weights @ whole.estimated)


def _check_tokens(analysis: Analysis) -> None:
    """Refuse what the tokens of a run cannot answer."""
    for contrast in analysis.contrasts:
        for run in analysis.runs_of(contrast):
            matrix = analysis.token_design(run)
            what = f"contrast {contrast.name} in {analysis.name}_{run.label}"
            check_estimable(matrix, contrast.matrix(list(matrix.columns)), what)


def _check_runs_apart(prompts: dict[str, _Prompts], name: str) -> None:
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


def _check_prompts(matrix: pd.DataFrame, contrast: Contrast, name: str) -> None:
    """Refuse designs over prompts that cannot answer a contrast."""
    check_estimable(
        matrix, contrast.matrix(list(matrix.columns)), f"contrast {contrast.name} over the prompts of {name}"
    )
    rank = int(np.linalg.matrix_rank(matrix.to_numpy()))
    if len(matrix) <= rank:
        raise DesignError(
            f"{name} has {len(matrix)} different prompts and {rank} independent columns: none left for the noise; "
            "record more prompts, or leave out the drift with --drift none"
        )
