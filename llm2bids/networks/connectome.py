"""Time courses of networks, regression of nuisance signals, and correlation matrices over runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from nilearn.connectome import ConnectivityMeasure
from scipy.linalg import eigh
from scipy.stats import t as student
from sklearn.covariance import EmpiricalCovariance

from llm2bids.design.matrix import prompt_design, token_design, token_numbers
from llm2bids.errors import InferenceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

_TINY: Final = 1e-6
"""Singular values and standard deviations below this share of the largest are 0 but for rounding."""
_MAX_CORRELATION: Final = 1 - 1e-12
"""Correlation beyond which Fisher's z would be infinite."""


def exclusive_units(networks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Leave out units that belong to several networks; shape (n_networks, n_units), as `networks`.

    >>> exclusive_units(np.array([[True, True, False], [False, True, True]])).astype(int).tolist()
    [[1, 0, 0], [0, 0, 1]]
    """
    exclusive: NDArray[np.bool_] = networks & (networks.sum(0) == 1)
    return exclusive


def signed_mean(signals: NDArray[np.floating[Any]], signs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average units, each with the sign of its effect.

    `signals` (n_scans, n_units): units of a network. `signs` (n_units,): 1 or -1. Returns (n_scans,): in the unit of
    the signals, with mean 0.

    >>> signed_mean(np.array([[1.0, -3.0], [3.0, -5.0]]), np.array([1.0, -1.0])).tolist()
    [-1.0, 1.0]
    """
    mean = signals @ signs.astype(signals.dtype) / len(signs)
    course: NDArray[np.float64] = np.asarray(mean - mean.mean(), np.float64)
    return course


def eigenvariate(signals: NDArray[np.floating[Any]], signs: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Compute the time course that explains most variance of the units of a network.

    `signals` (n_scans, n_units): units of a network. `signs` (n_units,): sign of the effect of each unit, 1 or -1.
    Returns `course` (n_scans,): first left singular vector times its singular value, over the square root of the number
    of units, with the sign of the signed mean; and the share of the variance of the units that it explains, NaN if
    nothing varies.

    As SPM extracts a region (``spm_regions``), whose sign follows the mean of the region; here the signed mean.
    """
    signed = np.asarray(signals, np.float64) * signs
    signed = signed - signed.mean(0)
    power = float((signed**2).sum())
    if not power:
        return np.zeros(len(signed)), np.nan
    # The first singular vector is the last eigenvector of the smaller cross-product; a full SVD would take minutes.
    tall = signed.shape[0] > signed.shape[1]
    products = signed.T @ signed if tall else signed @ signed.T
    last = len(products) - 1
    eigenvalue, vectors = eigh(products, subset_by_index=[last, last])
    course = signed @ vectors[:, 0] if tall else vectors[:, 0] * np.sqrt(eigenvalue[0])
    sign = -1.0 if course @ signed.sum(1) < 0 else 1.0
    return sign * course / np.sqrt(len(signs)), float(eigenvalue[0] / power)


def regress_out(signals: NDArray[np.floating[Any]], regressors: ArrayLike) -> NDArray[np.floating[Any]]:
    """Remove from signals what regressors explain (least squares).

    `signals` (n_scans, n_signals): units or time courses. `regressors` (n_scans, n_regressors): may be collinear.
    Returns (n_scans, n_signals): residuals.
    """
    design = np.asarray(regressors, np.float64)
    # Columns of length 1, so that the tolerance below does not drop a regressor for the unit it is measured in.
    scale = np.linalg.norm(design, axis=0)
    vectors, singular, _ = np.linalg.svd(design / np.where(scale > 0, scale, 1), full_matrices=False)
    basis = vectors[:, singular > _TINY * max(singular.max(initial=0.0), _TINY)]
    if basis.shape[1] >= len(design):
        raise InferenceError(
            f"{basis.shape[1]} regressors take out all of {len(design)} scans; record longer runs, or take out less"
        )
    basis = basis.astype(signals.dtype)
    residuals: NDArray[np.floating[Any]] = signals - basis @ (basis.T @ signals)
    return residuals


def evoked_regressors(events: pd.DataFrame, times: NDArray[np.float64]) -> pd.DataFrame:
    """Make regressors of the mean response to the prompts of each condition.

    `times` (n_scans,): middle of every scan, in seconds. Returns (n_scans, n_regressors): a boxcar per condition, a
    column per condition and place of the token in its prompt, and a constant. Residuals are the differences between
    prompts of one condition at the same place: background connectivity.

    Finite impulse response, as Al-Aidroos, Said and Turk-Browne 2012 and Cole et al. 2019 advise for task runs.
    """
    matrix, prompts = prompt_design(events, times)
    prompt_columns = matrix[list(prompts["name"])]
    number = token_numbers(prompt_columns)
    kinds = prompts["trial_type"].to_numpy()[prompt_columns.to_numpy().argmax(1)]
    # A boxcar alone would leave the shape of the response in its prompt, which correlates all units that have it.
    columns = {
        f"{kind}_{place}": ((kinds == kind) & (number == place)).astype(float)
        for kind in dict.fromkeys(prompts["trial_type"])
        for place in range(int(number.max()) + 1)
    }
    places = pd.DataFrame({name: column for name, column in columns.items() if column.any()}, index=range(len(times)))
    conditions = [kind for kind in dict.fromkeys(events["trial_type"]) if kind != "n/a"]
    return pd.concat([places, token_design(events, times, conditions)], axis=1)


def correlation_matrices(
    courses: NDArray[np.float64], names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the correlation and partial correlation of time courses.

    `courses` (n_scans, n_networks): one column per network. `names`: of the networks, for messages. Returns
    `correlation` and `partial`, each (n_networks, n_networks); partial correlation holds all other courses constant.
    """
    n_scans, n_networks = courses.shape
    if not np.isfinite(courses).all():
        raise InferenceError("time courses with NaN or infinity found; prepare the runs again with llm2bids prep")
    if n_scans <= n_networks + 1:
        raise InferenceError(f"{n_scans} scans found for {n_networks} networks; more needed: record longer runs")
    spread = courses.std(0)
    if (constant := spread <= _TINY * spread.max()).any():
        raise InferenceError(
            f"the network of task {names[int(constant.argmax())]} does not vary; leave it out with `task_label`, or "
            "the run with `scans`"
        )
    scores = (courses - courses.mean(0)) / spread
    # Partial correlations come from the inverse of the covariance, which exists at full rank only.
    if np.linalg.matrix_rank(scores, tol=_TINY * np.sqrt(n_scans)) < n_networks:
        raise InferenceError(
            f"the time course of a network is a sum of others ({', '.join(names)}), so that partial correlation means "
            "nothing; leave one out with `task_label`"
        )
    matrices = []
    for kind in ("correlation", "partial correlation"):
        # The empirical covariance: shrinkage, nilearn's default, would pull both matrices towards 0.
        measure = ConnectivityMeasure(EmpiricalCovariance(store_precision=False), kind=kind, standardize=False)
        matrices.append(np.clip(np.asarray(measure.fit_transform([scores])[0], np.float64), -1, 1))
    return matrices[0], matrices[1]


def mean_correlation(
    correlations: NDArray[np.float64], level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Average correlations over runs.

    `correlations` (n_runs, ...): one per run. Returns `mean`, `low`, `high`, each (...): mean of Fisher's z and its
    interval over runs (Student's t), as correlations; NaN without any run, and the ends for a single run.

    >>> [round(float(value), 3) for value in mean_correlation(np.tanh([0.1, 0.2, 0.3]))]
    [0.197, -0.048, 0.421]
    """
    # Fisher's z is close to normal with a variance that does not depend on the correlation, so runs can be averaged.
    z = np.arctanh(np.clip(correlations, -_MAX_CORRELATION, _MAX_CORRELATION))
    n_runs = len(z)
    if not n_runs:
        nothing = np.full(z.shape[1:], np.nan)
        return nothing, nothing, nothing
    mean = z.mean(0)
    half = np.full(mean.shape, np.nan)
    if n_runs > 1:
        half = student.isf((1 - level) / 2, n_runs - 1) * z.std(0, ddof=1) / np.sqrt(n_runs)
    return np.tanh(mean), np.tanh(mean - half), np.tanh(mean + half)
