"""Time courses of networks and how they go together: signed means, eigenvariates, correlations, background."""

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
"""Relative to the largest: a singular value or spread below is 0 but for rounding."""
_ONE: Final = 1 - 1e-12
"""Correlation beyond which Fisher's z would be infinite."""


def exclusive(networks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Leave out units that belong to several networks.

    `networks` (n_networks, n_units): one row per network. Returns (n_networks, n_units): units of one network only.

    >>> exclusive(np.array([[True, True, False], [False, True, True]])).astype(int).tolist()
    [[1, 0, 0], [0, 0, 1]]
    """
    own: NDArray[np.bool_] = networks & (networks.sum(0) == 1)
    return own


def signed_mean(signals: NDArray[np.floating[Any]], signs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average units, each with the sign of its effect.

    `signals` (n_scans, n_units): units of a network. `signs` (n_units,): 1 or -1. Returns (n_scans,): in the unit of
    the signals, around a mean of 0.

    >>> signed_mean(np.array([[1.0, -3.0], [3.0, -5.0]]), np.array([1.0, -1.0])).tolist()
    [-1.0, 1.0]
    """
    course = signals @ signs.astype(signals.dtype) / len(signs)
    found: NDArray[np.float64] = np.asarray(course - course.mean(), np.float64)
    return found


def eigenvariate(signals: NDArray[np.floating[Any]], signs: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Find the course that explains most of the units of a network.

    `signals` (n_scans, n_units): units of a network. `signs` (n_units,): 1 or -1: sign of the effect of each unit.
    Returns `course` (n_scans,): first left singular vector, scaled by its singular value over the square root of the
    number of units, and turned so that it goes with the signed mean. Returns `explained` part of the variance of the
    units that it explains; NaN where nothing varies.

    As SPM extracts a region (``spm_regions``), whose sign goes with the mean of the region; here with the signed one.
    """
    turned = np.asarray(signals, np.float64) * signs
    turned = turned - turned.mean(0)
    power = float((turned**2).sum())
    if not power:
        return np.zeros(len(turned)), np.nan
    tall = turned.shape[0] > turned.shape[1]
    products = turned.T @ turned if tall else turned @ turned.T  # the smaller: a whole decomposition takes minutes
    last = len(products) - 1
    square, vectors = eigh(products, subset_by_index=[last, last])
    course = turned @ vectors[:, 0] if tall else vectors[:, 0] * np.sqrt(square[0])
    sign = -1.0 if course @ turned.sum(1) < 0 else 1.0
    return sign * course / np.sqrt(len(signs)), float(square[0] / power)


def without(signals: NDArray[np.floating[Any]], regressors: ArrayLike) -> NDArray[np.floating[Any]]:
    """Take out of signals what regressors explain (least squares).

    `signals` (n_scans, n_signals): units or courses. `regressors` (n_scans, n_regressors): may be collinear. Returns
    (n_scans, n_signals): residuals.
    """
    design = np.asarray(regressors, np.float64)
    scale = np.linalg.norm(design, axis=0)
    left, singular, _ = np.linalg.svd(design / np.where(scale > 0, scale, 1), full_matrices=False)
    basis = left[:, singular > _TINY * max(singular.max(initial=0.0), _TINY)]
    if basis.shape[1] >= len(design):
        raise InferenceError(
            f"{basis.shape[1]} regressors take out all of {len(design)} scans; record longer runs, or take out less"
        )
    basis = basis.astype(signals.dtype)
    cleared: NDArray[np.floating[Any]] = signals - basis @ (basis.T @ signals)
    return cleared


def evoked(events: pd.DataFrame, times: NDArray[np.float64]) -> pd.DataFrame:
    """Make regressors of whatever a task does to every prompt of a condition alike.

    `times` (n_scans,): middle of every scan, in seconds. Returns (n_scans, n_regressors): A boxcar per condition, a
    column per condition and place of the token in its prompt, and a constant. What is left of a signal is how prompts
    of one condition differ at the same place: background connectivity. A boxcar alone would leave the shape of the
    response, which correlates all units that have it.

    Finite impulse response, as Al-Aidroos, Said and Turk-Browne 2012 and Cole et al. 2019 advise for task runs.
    """
    matrix, prompts = prompt_design(events, times)
    own = matrix[list(prompts["name"])]
    number = token_numbers(own)
    member = own.to_numpy().argmax(1)
    kinds = prompts["trial_type"].to_numpy()[member]
    columns = {
        f"{kind}_{place}": ((kinds == kind) & (number == place)).astype(float)
        for kind in dict.fromkeys(prompts["trial_type"])
        for place in range(int(number.max()) + 1)
    }
    places = pd.DataFrame({name: column for name, column in columns.items() if column.any()}, index=range(len(times)))
    conditions = [kind for kind in dict.fromkeys(events["trial_type"]) if kind != "n/a"]
    return pd.concat([places, token_design(events, times, conditions)], axis=1)


def connect(courses: NDArray[np.float64], names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlate time courses, and with all others held constant.

    `courses` (n_scans, n_networks): one column per network. Returns `correlation` (n_networks, n_networks): pearson's.
    Returns `partial` (n_networks, n_networks): of the same empirical covariance, which is not shrunk.
    """
    n_scans, n_networks = courses.shape
    if not np.isfinite(courses).all():
        raise InferenceError("time courses with NaN or infinity found; prepare the runs again with llm2bids prep")
    if n_scans <= n_networks + 1:
        raise InferenceError(f"{n_scans} scans found for {n_networks} networks; more needed: record longer runs")
    spread = courses.std(0)
    if (still := spread <= _TINY * spread.max()).any():
        raise InferenceError(
            f"the network of task {names[int(still.argmax())]} does not vary; leave it out with --task-label, or the "
            "run with --scans"
        )
    scores = (courses - courses.mean(0)) / spread
    if np.linalg.matrix_rank(scores, tol=_TINY * np.sqrt(n_scans)) < n_networks:
        raise InferenceError(
            f"the time course of a network is a sum of others ({', '.join(names)}), so that partial correlation means "
            "nothing; leave one out with --task-label"
        )
    found = []
    for kind in ("correlation", "partial correlation"):
        measure = ConnectivityMeasure(EmpiricalCovariance(store_precision=False), kind=kind, standardize=False)
        found.append(np.clip(np.asarray(measure.fit_transform([scores])[0], np.float64), -1, 1))
    return found[0], found[1]


def over_runs(
    correlations: NDArray[np.float64], level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Average correlations over runs.

    `correlations` (n_runs, ...): one per run. Returns `mean` (...): of Fisher's z, turned back into correlations; NaN
    where there is no run. Returns `low` (...): lower end of its interval over runs (Student's t), turned back likewise;
    NaN for a single run. Returns `high` (...): upper end.

    >>> [round(float(value), 3) for value in over_runs(np.tanh([0.1, 0.2, 0.3]))]
    [0.197, -0.048, 0.421]
    """
    z = np.arctanh(np.clip(correlations, -_ONE, _ONE))
    n_runs = len(z)
    if not n_runs:
        nothing = np.full(z.shape[1:], np.nan)
        return nothing, nothing, nothing
    mean = z.mean(0)
    half = np.full(mean.shape, np.nan)
    if n_runs > 1:
        half = student.isf((1 - level) / 2, n_runs - 1) * z.std(0, ddof=1) / np.sqrt(n_runs)
    return np.tanh(mean), np.tanh(mean - half), np.tanh(mean + half)
