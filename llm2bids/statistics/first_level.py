"""First level: from the signals of runs to effects of every prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from llm2bids.design.regressors import MEAN
from llm2bids.statistics.linear_model import coefficients

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llm2bids.design.within_prompts import WithinPromptDesign
    from llm2bids.statistics.analysis import Analysis


@dataclass(frozen=True, slots=True, eq=False)
class PromptEffects:
    """Effects of the prompts of a subject; they do not depend on the conditions of the prompts.

    - `columns`: one column per prompt (n_scans, n_prompts), by label of the run.
    - `effects`: mean effect, slopes and bins in standard deviations of the unit (n_prompts, n_tested), by label of the
      run and by kind; NaN where they are not estimable.
    - `prompts`: one row per prompt of all runs: ``run``, ``prompt``, ``stimulus`` (equal for equal texts),
      ``trial_type``, ``n_scans``.
    - `estimable`: which slopes and bins each prompt has (n_prompts, n_kinds), by label of the run.
    """

    columns: dict[str, pd.DataFrame]
    effects: dict[str, dict[str, NDArray[np.float64]]]
    prompts: pd.DataFrame
    estimable: dict[str, pd.DataFrame]


def first_level(analysis: Analysis) -> PromptEffects:
    """Estimate the effects of every prompt.

    Mean effects come from a design without slopes and bins, so that they are the same whatever else is estimated.
    """
    columns, effects, estimable, tables = {}, {}, {}, []
    noise_model = analysis.settings.noise_model
    for run in analysis.runs:
        matrix, prompts = analysis.prompt_design(run)
        within = analysis.within_prompt_design(run, matrix, list(prompts["name"]))
        signals = run.signals(analysis.tested)
        effects[run.label] = {MEAN: coefficients(signals, matrix, len(prompts), noise_model)}
        if within is not None:
            slopes_or_bins = coefficients(signals, within.matrix, within.n_effects, noise_model)
            effects[run.label] |= within.effects_by_kind(slopes_or_bins)
        estimable[run.label] = estimable_kinds(within, len(prompts))
        columns[run.label] = matrix[prompts["name"]]
        tables.append(prompts.drop(columns="name").assign(run=run.label))
    return PromptEffects(columns, effects, pd.concat(tables, ignore_index=True), estimable)


def estimable_kinds(design: WithinPromptDesign | None, n_prompts: int) -> pd.DataFrame:
    """Which slopes and bins each prompt has, shape (n_prompts, n_kinds); no kinds without a design."""
    return pd.DataFrame(index=range(n_prompts)) if design is None else design.estimable
