"""Corrected p-values for tests of many units: false discovery rate, family-wise error, permutation of the largest t."""

from __future__ import annotations

from math import factorial, prod
from typing import TYPE_CHECKING, Final

import numpy as np
from nilearn.mass_univariate import permuted_ols
from scipy.stats import false_discovery_control

from llm2bids.design.matrix import partition
from llm2bids.errors import InferenceError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from llm2bids.design.statsmodel import Contrast
    from llm2bids.statistics.settings import GLMSettings

_TINY: Final = 1e-9


def adjust(p_values: NDArray[np.float64], correction: str) -> NDArray[np.float64]:
    """Correct p-values (n_units,) for the number of units; the units at or below alpha are significant.

    ``"fdr"`` is the step-up procedure of Benjamini and Hochberg (1995, J R Stat Soc B 57:289), ``"bonferroni"``
    multiplies by the number of units.

    >>> adjust(np.array([0.01, 0.02, 0.5]), "bonferroni").round(2).tolist()
    [0.03, 0.06, 1.0]
    """
    if correction == "fdr":
        adjusted: NDArray[np.float64] = false_discovery_control(p_values, method="bh")
        return adjusted
    return np.minimum(p_values * len(p_values), 1.0) if correction == "bonferroni" else p_values


def max_t(
    effects: NDArray[np.float64], matrix: pd.DataFrame, contrast: Contrast, settings: GLMSettings, n_jobs: int = 1
) -> NDArray[np.float64]:
    """Correct p-values for the family of units by permutation of the largest statistic, shape (n_units,).

    A unit's p-value is the share of permutations whose largest statistic over all units is at least the unit's
    (Westfall and Young 1993). This controls the family-wise error whatever the correlation between units.

    `effects` (n_samples, n_units). `matrix` (n_samples, n_regressors): their design.
    """
    if contrast.test != "t":
        raise InferenceError(
            f'permutation of F contrast {contrast.name} asked for; use correction="fdr" or correction="bonferroni"'
        )
    tested, nuisance = partition(matrix, contrast.matrix(list(matrix.columns))[0])
    if flips_signs(tested, nuisance) and not _is_constant(tested):
        return _max_t_by_signs(tested, nuisance, effects, settings)
    tested, nuisance, intercept = _columns_for_nilearn(tested, nuisance)
    # nilearn permutes residuals of the nuisance, after Freedman and Lane (1983, J Bus Econ Stat 1:292).
    tables = permuted_ols(
        -tested if settings.tail == "negative" else tested,
        effects,
        confounding_vars=nuisance if nuisance.shape[1] else None,
        model_intercept=intercept,
        n_perm=settings.n_permutations,
        two_sided_test=settings.tail == "two",
        random_state=settings.seed,
        n_jobs=n_jobs,
        output_type="dict",
    )
    # p-values are multiples of 1 / (n_permutations + 1), as the data themselves count as one permutation (Phipson and
    # Smyth 2010, doi:10.2202/1544-6115.1585). Rounding to them undoes the error of nilearn's logarithms.
    n_orders = settings.n_permutations + 1
    corrected: NDArray[np.float64] = np.round(10.0 ** -tables["logp_max_t"][0] * n_orders) / n_orders
    return corrected


def flips_signs(tested: NDArray[np.float64], nuisance: NDArray[np.float64]) -> bool:
    """Whether a permutation flips the signs of samples rather than their order.

    Signs are flipped if the tested column has a mean that the nuisance does not explain, since the order of samples
    does not change a mean. Flips assume noise that is symmetric about 0, orders assume exchangeable noise (Winkler et
    al. 2014, doi:10.1016/j.neuroimage.2014.01.060).

    `tested` (n_rows, 1), `nuisance` (n_rows, n_columns): as `partition` makes them.
    """
    unexplained = np.ones(len(tested)) - nuisance @ nuisance.sum(0)  # the constant minus its projection on the nuisance
    return bool(abs(unexplained @ tested[:, 0]) > _TINY**0.5 * np.linalg.norm(tested) * len(tested) ** 0.5)


def n_distinct_permutations(tested: NDArray[np.float64], nuisance: NDArray[np.float64], *, two_tailed: bool) -> int:
    """Number of permutations with distinct statistics.

    n samples have 2^n patterns of signs, or n! orders divided by the orders of samples with equal rows. A two-tailed
    test cannot tell a permutation from its mirror image, if there is one, which halves the number.

    `tested` (n_rows, 1), `nuisance` (n_rows, n_columns): as `partition` makes them.
    """
    n_rows = len(tested)
    if flips_signs(tested, nuisance):
        return 1 << (n_rows - two_tailed)
    rows = np.hstack([tested, nuisance])
    _, counts = np.unique((rows / np.abs(rows).max()).round(9), axis=0, return_counts=True)
    orders = factorial(n_rows) // prod(map(factorial, counts.tolist()))
    mirrored = two_tailed and np.allclose(np.sort(tested[:, 0]), np.sort(-tested[:, 0]))
    return orders // 2 if mirrored else orders


def _max_t_by_signs(
    tested: NDArray[np.float64], nuisance: NDArray[np.float64], effects: NDArray[np.float64], settings: GLMSettings
) -> NDArray[np.float64]:
    """Corrected p-values by flipping the signs of the residuals of the nuisance, shape (n_units,).

    This is the scheme of Freedman and Lane with sign flips (Winkler et al. 2014). It serves for means whose samples
    weigh unequally, as that of two conditions with unequal numbers of prompts; nilearn flips signs only if all samples
    weigh the same.
    """
    direction = tested[:, 0] / np.linalg.norm(tested)
    dof = len(tested) - nuisance.shape[1] - 1
    residuals = effects - nuisance @ (nuisance.T @ effects)
    side = -1.0 if settings.tail == "negative" else 1.0

    def statistic(values: NDArray[np.float64]) -> NDArray[np.float64]:
        # t of the tested column. Tested column and nuisance are orthonormal, so sums of squares add up: what the whole
        # design does not explain is the total minus the squared projections on its columns.
        projection = direction @ values
        noise = (values**2).sum(0) - ((nuisance.T @ values) ** 2).sum(0) - projection**2
        t: NDArray[np.float64] = side * projection / np.sqrt(np.maximum(noise, _TINY**2) / dof)
        return np.abs(t) if settings.tail == "two" else t

    observed = statistic(residuals)
    rng = np.random.default_rng(settings.seed)
    signs = rng.choice([-1.0, 1.0], (settings.n_permutations, len(tested), 1))
    largest = np.array([statistic(residuals * flips).max() for flips in signs])
    # The data themselves count as one permutation; a tie up to rounding counts as reached.
    corrected: NDArray[np.float64] = (1 + (largest[:, None] >= observed - _TINY).sum(0)) / (len(signs) + 1)
    return corrected


def _columns_for_nilearn(
    tested: NDArray[np.float64], nuisance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Tested column and nuisance as nilearn needs them, and whether nilearn is to add the constant.

    nilearn flips signs if some column is constant to the last bit, and permutes rows otherwise. A constant tested
    column is therefore made exactly constant. A constant among the nuisance is taken out and left to nilearn.
    """
    if _is_constant(tested):
        return np.full_like(tested, tested.mean()), nuisance, False
    if np.abs(nuisance @ nuisance.sum(0) - 1).max() > _TINY:  # the nuisance does not span the constant
        return tested, nuisance, False
    basis, singular, _ = np.linalg.svd(nuisance - nuisance.mean(0), full_matrices=False)
    return tested, basis[:, singular > _TINY], True


def _is_constant(column: NDArray[np.float64]) -> bool:
    """Whether a column is constant up to rounding."""
    return bool(np.ptp(column) <= _TINY * np.abs(column).max())
