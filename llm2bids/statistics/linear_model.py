"""Linear models over arrays of units: nilearn's estimators, some units at a time so that memory stays bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from nilearn.glm.contrasts import Contrast as Estimate
from nilearn.glm.contrasts import compute_contrast
from nilearn.glm.first_level import run_glm
from nilearn.mass_univariate import permuted_ols
from scipy.stats import false_discovery_control, norm

from llm2bids.design.matrix import full_rank, partition
from llm2bids.errors import InferenceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from llm2bids.design.statsmodel import Contrast
    from llm2bids.statistics.settings import GLMSettings

_VALUES_AT_A_TIME: Final = 1 << 23
"""Values (scans × units) in a fit: nilearn holds about ten copies in double precision."""
_TINY: Final = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class StatMaps:
    """What a contrast came to, unit by unit.

    - `effect`, `variance` (n_units,): in standard deviations of the unit, and its square. For F the root mean square of
      the whitened effects, and the variance of the noise.
    - `stat`, `z` (n_units,): the statistic, and the same as a normal deviate.
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
        """Join what nilearn estimated for some units at a time."""
        scores = [one.z_score() for one in estimates]
        effects = [np.sqrt((one.effect**2).mean(0)) if one.effect.ndim > 1 else one.effect for one in estimates]
        return cls(
            estimates[0].stat_type,
            np.concatenate(effects),
            np.concatenate([one.variance for one in estimates]),
            np.concatenate([np.ravel(one.stat_) for one in estimates]),
            np.concatenate(scores),
            float(estimates[0].dof),
        )

    def p(self, tail: str) -> NDArray[np.float64]:
        """Give p-values.

        Returns (n_units,): between 0 and 1.
        """
        if self.test == "F" or tail == "positive":
            values = norm.sf(self.z)
        else:
            values = norm.cdf(self.z) if tail == "negative" else 2 * norm.sf(np.abs(self.z))
        found: NDArray[np.float64] = np.clip(values, 0.0, 1.0)
        return found


def prompt_effects(
    signals: NDArray[Any], matrix: pd.DataFrame, n_prompts: int, noise_model: str
) -> NDArray[np.float64]:
    """Estimate the effect of every prompt of a run.

    `signals` (n_scans, n_units): the run. `matrix` (n_scans, n_regressors): design with the prompts in its first
    columns. `noise_model`: with ``"ols"`` and no confounds, an effect is the mean over the scans of the prompt. Returns
    (n_prompts, n_units): in the units of the signals.
    """
    effects = np.empty((n_prompts, signals.shape[1]))
    for part in chunks(signals.shape):
        values = signals[:, part].astype(np.float64)
        if noise_model == "ols":  # nilearn would go on to a variance, which one scan per prompt does not have
            effects[:, part] = (np.linalg.pinv(matrix.to_numpy()) @ values)[:n_prompts]
            continue
        labels, results = run_glm(values, matrix.to_numpy(), noise_model=noise_model)
        for label, result in results.items():
            effects[:, np.arange(signals.shape[1])[part][labels == label]] = result.theta[:n_prompts]
    return effects


def contrasts_of_run(
    signals: NDArray[Any], matrix: pd.DataFrame, contrasts: Sequence[Contrast], noise_model: str
) -> dict[str, list[Estimate]]:
    """Fit one run and estimate contrasts, as `FirstLevelModel` and `SecondLevelModel` do.

    With `noise_model` ``"ols"`` redundant columns are no matter; nilearn's variances are too large with them.

    `signals` (n_rows, n_units): one row per scan or prompt. `matrix` (n_rows, n_regressors): its design. Returns
    nilearn's estimates by name of the contrast, some units at a time.
    """
    estimates: dict[str, list[Estimate]] = {contrast.name: [] for contrast in contrasts}
    design, weights = matrix.to_numpy(), [contrast.matrix(list(matrix.columns)) for contrast in contrasts]
    if noise_model == "ols":
        design, weights = full_rank(design, weights)
    for part in chunks(signals.shape):
        labels, results = run_glm(signals[:, part].astype(np.float64), design, noise_model=noise_model)
        for contrast, rows in zip(contrasts, weights, strict=True):
            asked = rows[0] if contrast.test == "t" else rows
            estimates[contrast.name].append(compute_contrast(labels, results, asked, stat_type=contrast.test))
    return estimates


def add_runs(estimates: Sequence[Sequence[Estimate]]) -> list[Estimate]:
    """Combine runs by fixed effects, each with the same weight, as `FirstLevelModel` does."""
    total = list(estimates[0])
    for run in estimates[1:]:
        total = [one + other for one, other in zip(total, run, strict=True)]
    return [one * (1 / len(estimates)) for one in total]


def weigh_runs(runs: Sequence[StatMaps]) -> StatMaps:
    """Combine runs by fixed effects, each weighted by its precision, as `compute_fixed_effects` does."""
    if runs[0].test != "t":
        raise InferenceError("fixed effects over runs of an F contrast asked for; use --inference prompt")
    precision = np.array([1 / np.maximum(run.variance, _TINY**2) for run in runs])
    variance = 1 / precision.sum(0)
    effect = (precision * [run.effect for run in runs]).sum(0) * variance
    dof = sum(run.dof for run in runs)
    return StatMaps.from_estimates([Estimate(effect, variance, dof=dof, stat_type="t")])


def max_t(
    effects: NDArray[np.float64], matrix: pd.DataFrame, contrast: Contrast, settings: GLMSettings, n_jobs: int = 1
) -> NDArray[np.float64]:
    """Correct for the family of units by permuting prompts (largest statistic over units).

    `effects` (n_prompts, n_units): one row per prompt. `matrix` (n_prompts, n_regressors): their design. Returns
    (n_units,): corrected p-values.
    """
    if contrast.test != "t":
        raise InferenceError(f"permutation of F contrast {contrast.name} asked for; use --correction fdr or bonferroni")
    parts = partition(matrix, contrast.matrix(list(matrix.columns))[0])
    if flips_signs(*parts) and np.ptp(parts[0]) > _TINY * np.abs(parts[0]).max():
        return _flipped(*parts, effects, settings)
    tested, nuisance, centred = _exchangeable(*parts)
    found = permuted_ols(
        -tested if settings.tail == "negative" else tested,
        effects,
        confounding_vars=nuisance if nuisance.shape[1] else None,
        model_intercept=centred,
        n_perm=settings.n_permutations,
        two_sided_test=settings.tail == "two",
        random_state=settings.seed,
        n_jobs=n_jobs,
        output_type="dict",
    )
    n_orders = settings.n_permutations + 1
    corrected: NDArray[np.float64] = np.round(10.0 ** -found["logp_max_t"][0] * n_orders) / n_orders
    return corrected


def flips_signs(tested: NDArray[np.float64], nuisance: NDArray[np.float64]) -> bool:
    """Say what is permuted: where a mean over rows is tested, their signs, else their order.

    `tested`, `nuisance` (n_rows, 1): as `partition` makes them. Returns whether signs are flipped: an order of rows
    does not change a mean.
    """
    mean = np.ones(len(tested)) - nuisance @ nuisance.sum(0)
    return bool(abs(mean @ tested[:, 0]) > _TINY**0.5 * np.linalg.norm(tested) * len(tested) ** 0.5)


def _flipped(
    tested: NDArray[np.float64], nuisance: NDArray[np.float64], effects: NDArray[np.float64], settings: GLMSettings
) -> NDArray[np.float64]:
    """Corrected p-values by flipping signs of what the nuisance leaves (Freedman and Lane; Winkler et al. 2014).

    For a mean whose rows weigh unequally, such as that of two conditions with unequal numbers of prompts; nilearn flips
    signs only where all weigh the same.
    """
    direction = tested[:, 0] / np.linalg.norm(tested)
    dof = len(tested) - nuisance.shape[1] - 1
    left = effects - nuisance @ (nuisance.T @ effects)
    side = -1.0 if settings.tail == "negative" else 1.0

    def statistic(values: NDArray[np.float64]) -> NDArray[np.float64]:
        along = direction @ values
        noise = (values**2).sum(0) - ((nuisance.T @ values) ** 2).sum(0) - along**2
        found: NDArray[np.float64] = side * along / np.sqrt(np.maximum(noise, _TINY**2) / dof)
        return np.abs(found) if settings.tail == "two" else found

    observed = statistic(left)
    rng = np.random.default_rng(settings.seed)
    signs = rng.choice([-1.0, 1.0], (settings.n_permutations, len(tested), 1))
    largest = np.array([statistic(left * flip).max() for flip in signs])
    corrected: NDArray[np.float64] = (1 + (largest[:, None] >= observed - _TINY).sum(0)) / (len(signs) + 1)
    return corrected


def _exchangeable(
    tested: NDArray[np.float64], nuisance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Flip signs where the mean itself is tested, permute rows else; says whether nilearn is to add the constant.

    Left to itself, nilearn flips signs in any design with a column that is constant to the last bit.
    """
    if np.ptp(tested) <= _TINY * np.abs(tested).max():
        return np.full_like(tested, tested.mean()), nuisance, False
    if np.abs(nuisance @ nuisance.sum(0) - 1).max() > _TINY:
        return tested, nuisance, False
    left, singular, _ = np.linalg.svd(nuisance - nuisance.mean(0), full_matrices=False)
    return tested, left[:, singular > _TINY], True


def adjust(p_values: NDArray[np.float64], correction: str) -> NDArray[np.float64]:
    """Correct p-values for the number of units.

    `p_values` (n_units,): uncorrected. Returns (n_units,): adjusted p-values: those at most alpha are found.

    >>> adjust(np.array([0.01, 0.02, 0.5]), "bonferroni").round(2).tolist()
    [0.03, 0.06, 1.0]
    """
    if correction == "fdr":
        found: NDArray[np.float64] = false_discovery_control(p_values, method="bh")
        return found
    return np.minimum(p_values * len(p_values), 1.0) if correction == "bonferroni" else p_values


def chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut units into parts that fit into memory."""
    step = max(1, _VALUES_AT_A_TIME // max(1, shape[0]))
    for start in range(0, shape[1], step):
        yield slice(start, min(start + step, shape[1]))


def join(estimates: Mapping[str, Sequence[Estimate]]) -> dict[str, StatMaps]:
    """Join estimates of some units at a time, for every contrast."""
    return {name: StatMaps.from_estimates(parts) for name, parts in estimates.items()}
