"""Patterns of the contrasts of an analysis: which contrasts have one, and what it is fitted to."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from llm2bids.design.regressors import MEAN
from llm2bids.statistics.output import describe_contrast
from llm2bids.statistics.pattern_files import (
    AGAINST_DATASET,
    OTHERS,
    Comparison,
    write_pattern,
    write_prompt_means,
)
from llm2bids.statistics.pattern_samples import PromptMeans
from llm2bids.statistics.prompt_means import prompt_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from llm2bids.bids.prepared import PreparedRun
    from llm2bids.design.statsmodel import Contrast
    from llm2bids.results.targets import Target
    from llm2bids.statistics.analysis import Analysis

logger = logging.getLogger(__name__)


def comparison_of(analysis: Analysis, contrast: Contrast) -> Comparison | None:
    """Say which prompts a contrast compares; None if it is no t contrast between conditions.

    Conditions of positive weight against those of negative weight; slopes and bins are not levels of activity.
    """
    weights = dict(zip(contrast.columns, contrast.weights[0], strict=True))
    columns = {name: analysis.columns.get(name) for name, weight in weights.items() if weight}
    if contrast.test != "t" or any(column is None or column.kind != MEAN for column in columns.values()):
        return None
    conditions, reference = (
        tuple(column.condition for name, column in columns.items() if column and sign * weights[name] > 0)
        for sign in (1, -1)
    )
    if not conditions or not reference:
        return None
    tasks = tuple(sorted({run.volumes.entities["task"] for run in analysis.others}))
    label = contrast.label + (AGAINST_DATASET if tasks else "")
    return Comparison(label, conditions, reference, tuple(run.label for run in analysis.runs_of(contrast)), tasks)


def write_patterns(target: Target, analysis: Analysis) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """Write the patterns of all contrasts between conditions, and the raw means of prompts.

    Returns entries of the summary by name of the contrast, and the table of prompts.
    """
    comparisons = {contrast: comparison_of(analysis, contrast) for contrast in analysis.contrasts}
    sources = _sources(analysis.runs)
    prompts, others = _means(analysis.runs), _means(analysis.others) if analysis.others else None
    table = write_prompt_means(target, prompts, "prompts", sources)
    if others is not None:
        write_prompt_means(target, others, OTHERS, _sources(analysis.others))
    stimuli = [run.stimuli_metadata for run in (*analysis.runs, *analysis.others)]
    entries = {}
    for contrast, comparison in comparisons.items():
        if comparison is None:
            continue
        fields = describe_contrast(contrast)
        fields["Contrast"]["Name"] += AGAINST_DATASET if comparison.tasks else ""
        samples = comparison.samples(analysis.space, prompts, others)
        fields["RunsDropped"] = [run.label for run in analysis.runs if run.label not in comparison.runs]
        fields["Stimuli"] = [texts for number, texts in enumerate(stimuli) if texts not in stimuli[:number]]
        sources_of_both = sources + _sources(analysis.others)
        entries[contrast.name] = write_pattern(target, comparison, samples, fields, sources_of_both)
    return entries, table


def _means(runs: Sequence[PreparedRun]) -> PromptMeans:
    """Raw means of the prompts of all runs."""
    return PromptMeans.stacked([prompt_means(run) for run in runs])


def _sources(runs: Sequence[PreparedRun]) -> list[str]:
    """The recordings, as BIDS URIs."""
    return [run.recording().uri("raw") for run in runs]
