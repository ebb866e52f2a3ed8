"""Linear models over arrays of units, by nilearn's estimators, with a bounded number of units at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from nilearn.glm.contrasts import Contrast as Estimate
from nilearn.glm.contrasts import compute_contrast
from nilearn.glm.first_level import run_glm
from scipy.stats import norm

from llm2bids.design.matrix import full_rank
from llm2bids.errors import InferenceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from llm2bids.design.statsmodel import Contrast

_MAX_VALUES: Final = 1 << 23
"""Most values (scans × units) in one fit: nilearn holds about ten copies in double precision."""
_MIN_VARIANCE: Final = 1e-18
"""Smallest variance of an effect, so that a unit without noise does not divide by 0."""


@dataclass(frozen=True, slots=True, eq=False)
class StatMaps:
    """Maps of one contrast.

    - `test`: ``"t"`` or ``"F"``.
    - `effect`, `variance` (n_units,): in standard deviations of the unit, and their square. For F: the root mean square
      of the whitened effects, and the variance of the noise.
    - `stat`, `z` (n_units,): the statistic, and the normal deviate of the same p-value.
    - `dof`: degrees of freedom of the noise.
    """

    test: str
    effect: NDArray[np.float64]
    variance: NDArray[np.float64]
    stat: NDArray[np.float64]
    z: NDArray[np.float64]
    dof: float

    @classmethod
    def from_estimates(cls, estimates: Sequence[Estimate]) -> StatMaps:
        """Join nilearn's estimates of consecutive chunks of units."""
        scores = [chunk.z_score() for chunk in estimates]  # computes `stat_` too, so it comes first
        # An F contrast has one effect per row and unit: their root mean square is one number without a sign.
        effects = [np.sqrt((chunk.effect**2).mean(0)) if chunk.effect.ndim > 1 else chunk.effect for chunk in estimates]
        return cls(
            estimates[0].stat_type,
            np.concatenate(effects),
            np.concatenate([chunk.variance for chunk in estimates]),
            np.concatenate([np.ravel(chunk.stat_) for chunk in estimates]),
            np.concatenate(scores),
            float(estimates[0].dof),
        )

    def p(self, tail: str) -> NDArray[np.float64]:
        """Uncorrected p-values, shape (n_units,).

        An F statistic is large for effects of either sign, so its test has one tail by nature.
        """
        if self.test == "F" or tail == "positive":
            values = norm.sf(self.z)
        else:
            values = norm.cdf(self.z) if tail == "negative" else 2 * norm.sf(np.abs(self.z))
        p_values: NDArray[np.float64] = np.clip(values, 0.0, 1.0)
        return p_values


def chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut the units of an array (n_rows, n_units) into slices that fit into memory."""
    step = max(1, _MAX_VALUES // max(1, shape[0]))
    for start in range(0, shape[1], step):
        yield slice(start, min(start + step, shape[1]))


def coefficients(signals: NDArray[Any], matrix: pd.DataFrame, n_columns: int, noise_model: str) -> NDArray[np.float64]:
    """Estimate the coefficients of the first columns of a design, shape (n_columns, n_units).

    With ``"ols"`` and one boxcar per prompt, a coefficient is the mean over the scans of the prompt. With ``"ar1"``
    nilearn estimates the autocorrelation of each unit by Yule-Walker from residuals of ordinary least squares, rounds
    it towards 0 to two digits, and fits whitened signals again (Worsley et al. 2002, doi:10.1006/nimg.2001.0933).

    `signals` (n_scans, n_units). `matrix` (n_scans, n_regressors).
    """
    estimates = np.empty((n_columns, signals.shape[1]))
    for units in chunks(signals.shape):
        values = signals[:, units].astype(np.float64)
        if noise_model == "ols":  # nilearn would estimate a variance too, which one scan per prompt does not have
            estimates[:, units] = (np.linalg.pinv(matrix.to_numpy()) @ values)[:n_columns]
            continue
        labels, results = run_glm(values, matrix.to_numpy(), noise_model=noise_model)
        for (
            label,
            result,
        ) in results.items():  # one result per value of the autocorrelation, with the units that have it
            estimates[:, np.arange(signals.shape[1])[units][labels == label]] = result.theta[:n_columns]
    return estimates


def estimate_contrasts(
    signals: NDArray[Any], matrix: pd.DataFrame, contrasts: Sequence[Contrast], noise_model: str
) -> dict[str, list[Estimate]]:
    """Fit one design and estimate contrasts, as nilearn's `FirstLevelModel` and `SecondLevelModel` do.

    Returns nilearn's estimates of consecutive chunks of units, by name of the contrast.

    `signals` (n_rows, n_units): one row per scan, prompt or subject. `matrix` (n_rows, n_regressors).
    """
    estimates: dict[str, list[Estimate]] = {contrast.name: [] for contrast in contrasts}
    design, weights = matrix.to_numpy(), [contrast.matrix(list(matrix.columns)) for contrast in contrasts]
    if noise_model == "ols":  # the design over samples may be rank-deficient, for which nilearn's variance is too large
        design, weights = full_rank(design, weights)
    for units in chunks(signals.shape):
        labels, results = run_glm(signals[:, units].astype(np.float64), design, noise_model=noise_model)
        for contrast, rows in zip(contrasts, weights, strict=True):
            vector_or_rows = rows[0] if contrast.test == "t" else rows
            estimate = compute_contrast(labels, results, vector_or_rows, stat_type=contrast.test)
            estimates[contrast.name].append(estimate)
    return estimates


def join_chunks(estimates: Mapping[str, Sequence[Estimate]]) -> dict[str, StatMaps]:
    """Join estimates of consecutive chunks of units, for every contrast."""
    return {name: StatMaps.from_estimates(parts) for name, parts in estimates.items()}


def average_runs(estimates: Sequence[Sequence[Estimate]]) -> list[Estimate]:
    """Combine the estimates of runs by fixed effects with equal weights, as nilearn's `FirstLevelModel` does.

    The effect is the mean over n runs, its variance the sum of variances over n², its degrees of freedom their sum.
    """
    total = list(estimates[0])
    for run in estimates[1:]:
        total = [subtotal + estimate for subtotal, estimate in zip(total, run, strict=True)]
    return [estimate * (1 / len(estimates)) for estimate in total]


def weight_runs(runs: Sequence[StatMaps]) -> StatMaps:
    """Combine runs by fixed effects with precisions as weights, as nilearn's `compute_fixed_effects` does.

    Inverse variances give the unbiased mean of least variance if the variances are known. Here they are estimated, so
    that z is somewhat too large if runs have few prompts.
    """
    if runs[0].test != "t":
        raise InferenceError('fixed effects over runs of an F contrast asked for; use inference="prompt"')
    precision = np.array([1 / np.maximum(run.variance, _MIN_VARIANCE) for run in runs])
    variance = 1 / precision.sum(0)
    effect = (precision * [run.effect for run in runs]).sum(0) * variance
    dof = sum(run.dof for run in runs)
    return StatMaps.from_estimates([Estimate(effect, variance, dof=dof, stat_type="t")])
