"""Second level: from effects of prompts (or from tokens) to maps and corrected p-values of every contrast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from llm2bids.design.matrix import check_estimable
from llm2bids.design.regressors import MEAN
from llm2bids.errors import InferenceError
from llm2bids.statistics.correction import adjust, max_t
from llm2bids.statistics.first_level import estimable_kinds, first_level
from llm2bids.statistics.linear_model import StatMaps, average_runs, estimate_contrasts, join_chunks, weight_runs
from llm2bids.statistics.samples import Prompts, Samples, describe_samples

if TYPE_CHECKING:
    from nilearn.glm.contrasts import Contrast as Estimate
    from numpy.typing import NDArray

    from llm2bids.bids.prepared import PreparedRun
    from llm2bids.design.statsmodel import Contrast
    from llm2bids.statistics.analysis import Analysis
    from llm2bids.statistics.first_level import PromptEffects


@dataclass(frozen=True, slots=True, eq=False)
class SubjectMaps:
    """Results of an analysis; dictionaries are by name of the contrast unless said otherwise.

    - `maps`: `StatMaps` over tested units.
    - `adjusted`: p-values corrected for the number of units, shape (n_tested,).
    - `designs`: design matrices, by label of the run, ``prompts``, or ``contrast-x`` where its samples have their own.
    - `dropped`: labels of the runs left out.
    - `by_run`: `StatMaps` by label of the run, if runs were analysed separately.
    - `prompts`: one row per prompt: ``run``, ``prompt``, ``stimulus``, ``trial_type``, ``n_scans``; empty if tokens
      were the samples.
    - `effects` (n_prompts, n_tested): mean effect of each prompt in standard deviations of the unit.
    - `sample_fields`: description of the samples as fields of a sidecar, if prompts were the samples.
    """

    maps: dict[str, StatMaps]
    adjusted: dict[str, NDArray[np.float64]]
    designs: dict[str, pd.DataFrame]
    dropped: dict[str, list[str]]
    by_run: dict[str, dict[str, StatMaps]] = field(default_factory=dict)
    prompts: pd.DataFrame = field(default_factory=pd.DataFrame)
    effects: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    sample_fields: dict[str, dict[str, Any]] = field(default_factory=dict)


def check(analysis: Analysis) -> None:
    """Raise if an analysis cannot be carried out, before any volume is read."""
    for contrast in analysis.contrasts:
        _check_test(contrast, analysis)
    if analysis.settings.inference == "token":
        _check_token_designs(analysis)
        return
    prompts = {}
    for run in analysis.runs:
        matrix, table = analysis.prompt_design(run)
        within = analysis.within_prompt_design(run, matrix, list(table["name"]))
        between = analysis.between_prompts_design(run, matrix[table["name"]])
        prompts[run.label] = Prompts.without_units(table, between, estimable_kinds(within, len(table)))
    if analysis.settings.inference == "run":
        _check_distinct_texts(prompts, analysis.name)
    for contrast in analysis.contrasts:
        split = analysis.split(contrast)
        runs = [run.label for run in analysis.runs_of(contrast)]
        pooled = analysis.settings.inference == "prompt"
        for labels, ending in [(runs, "")] if pooled else [([run], f"_{run}") for run in runs]:
            name = f"{analysis.name}{ending}"
            Samples.from_prompts(split, [prompts[label] for label in labels], name).check(split, name)


def estimate(analysis: Analysis) -> SubjectMaps:
    """Estimate and test all contrasts of an analysis."""
    if analysis.settings.inference == "token":
        return _test_tokens(analysis)
    return second_level(analysis, first_level(analysis))


def second_level(analysis: Analysis, first: PromptEffects) -> SubjectMaps:
    """Test all contrasts over the effects of prompts.

    Conditions are read again from the events, so that they may be permuted after the first level.
    """
    prompts = {}
    for run in analysis.runs:
        table = first.prompts[first.prompts["run"] == run.label].reset_index(drop=True)
        table = table.assign(trial_type=analysis.trial_types(run, table["prompt"]))
        design = analysis.between_prompts_design(run, first.columns[run.label])
        prompts[run.label] = Prompts(table, design, first.estimable[run.label], first.effects[run.label])
    return _test_within_runs(analysis, prompts) if analysis.settings.inference == "run" else _test(analysis, prompts)


def _test(analysis: Analysis, prompts: dict[str, Prompts]) -> SubjectMaps:
    """Test with the prompts of all runs as samples of one model."""
    maps: dict[str, StatMaps] = {}
    adjusted, dropped, sample_fields = {}, {}, {}
    pooled = Prompts.concatenate(list(prompts.values()))
    designs = {"prompts": pooled.design}
    for contrast in analysis.contrasts:
        split, runs = analysis.split(contrast), analysis.runs_of(contrast)
        samples = Samples.from_prompts(split, [prompts[run.label] for run in runs], analysis.name)
        maps |= join_chunks(estimate_contrasts(samples.effects, samples.design, [split.between], "ols"))
        adjusted[contrast.name] = (
            max_t(samples.effects, samples.design, split.between, analysis.settings)
            if analysis.settings.correction == "maxt"
            else _adjust(analysis, maps[contrast.name])
        )
        dropped[contrast.name] = _dropped(analysis, runs)
        sample_fields[contrast.name] = describe_samples([samples], split)
        if samples.n_dropped or not split.is_level:
            designs[f"contrast-{contrast.label}"] = samples.design
    return SubjectMaps(maps, adjusted, designs, dropped, {}, pooled.table, pooled.effects[MEAN], sample_fields)


def _test_tokens(analysis: Analysis) -> SubjectMaps:
    """Test with tokens as samples: one model per run, so that one run is in memory at a time, then fixed effects."""
    estimates: dict[str, list[list[Estimate]]] = {contrast.name: [] for contrast in analysis.contrasts}
    runs_of = {contrast.name: analysis.runs_of(contrast) for contrast in analysis.contrasts}
    designs = {}
    for run in analysis.runs:
        designs[run.label] = matrix = analysis.token_design(run)
        contrasts = [contrast for contrast in analysis.contrasts if run in runs_of[contrast.name]]
        for name, parts in estimate_contrasts(run.signals(analysis.tested), matrix, contrasts, "ar1").items():
            estimates[name].append(parts)
    maps = join_chunks({name: average_runs(runs) for name, runs in estimates.items()})
    by_run = {
        name: {run.label: StatMaps.from_estimates(parts) for run, parts in zip(runs_of[name], runs, strict=True)}
        for name, runs in estimates.items()
    }
    adjusted = {name: _adjust(analysis, contrast_maps) for name, contrast_maps in maps.items()}
    return SubjectMaps(maps, adjusted, designs, {name: _dropped(analysis, runs_of[name]) for name in maps}, by_run)


def _test_within_runs(analysis: Analysis, prompts: dict[str, Prompts]) -> SubjectMaps:
    """Test with prompts as samples within each run, then fixed effects over runs."""
    by_run: dict[str, dict[str, StatMaps]] = {}
    dropped, sample_fields = {}, {}
    designs = {label: run_prompts.design for label, run_prompts in prompts.items()}
    for contrast in analysis.contrasts:
        split, runs = analysis.split(contrast), analysis.runs_of(contrast)
        samples = {
            run.label: Samples.from_prompts(split, [prompts[run.label]], f"{analysis.name}_{run.label}") for run in runs
        }
        by_run[contrast.name] = {
            label: join_chunks(estimate_contrasts(run.effects, run.design, [split.between], "ols"))[contrast.name]
            for label, run in samples.items()
        }
        dropped[contrast.name] = _dropped(analysis, runs)
        sample_fields[contrast.name] = describe_samples(list(samples.values()), split)
        for label, run in samples.items():
            if run.n_dropped or not split.is_level:
                designs[f"{label}_contrast-{contrast.label}"] = run.design
    maps = {name: weight_runs(list(run_maps.values())) for name, run_maps in by_run.items()}
    adjusted = {name: _adjust(analysis, contrast_maps) for name, contrast_maps in maps.items()}
    pooled = Prompts.concatenate(list(prompts.values()))
    return SubjectMaps(maps, adjusted, designs, dropped, by_run, pooled.table, pooled.effects[MEAN], sample_fields)


def _adjust(analysis: Analysis, maps: StatMaps) -> NDArray[np.float64]:
    """Correct p-values for the number of units."""
    return adjust(maps.p(analysis.settings.tail), analysis.settings.correction)


def _dropped(analysis: Analysis, runs: list[PreparedRun]) -> list[str]:
    """Labels of the runs that are not among `runs`."""
    return [run.label for run in analysis.runs if run not in runs]


def _check_token_designs(analysis: Analysis) -> None:
    """Raise if the design over tokens of a run cannot estimate a contrast."""
    designs: dict[str, pd.DataFrame] = {}
    for contrast in analysis.contrasts:
        for run in analysis.runs_of(contrast):
            if run.label not in designs:
                designs[run.label] = analysis.token_design(run)
            matrix = designs[run.label]
            weights = contrast.matrix(list(matrix.columns))
            check_estimable(matrix, weights, f"contrast {contrast.name} in {analysis.name}_{run.label}")


def _check_distinct_texts(prompts: dict[str, Prompts], name: str) -> None:
    """Raise if runs show the same texts: fixed effects take runs as independent."""
    texts = pd.concat([run_prompts.table["stimulus"].drop_duplicates() for run_prompts in prompts.values()])
    if texts.duplicated().any():
        raise InferenceError(
            f"{name} shows {int(texts.duplicated().sum())} prompts in more than one run, so that runs are no "
            'independent samples; use inference="prompt", which takes each text once'
        )


def _check_test(contrast: Contrast, analysis: Analysis) -> None:
    """Raise if an F contrast is to be permuted, or combined over runs."""
    inference, correction = analysis.settings.inference, analysis.settings.correction
    if contrast.test == "t":
        return
    if correction == "maxt":
        raise InferenceError(
            f"permutation of F contrast {contrast.name} asked for, signs and sizes are permuted for t only; use "
            'correction="fdr" or correction="bonferroni"'
        )
    if inference == "run" or (inference == "token" and len(analysis.runs) > 1):
        raise InferenceError(
            f'F contrast {contrast.name} over several runs with inference="{inference}" asked for, which fixed effects '
            'only approximate; use inference="prompt"'
        )
