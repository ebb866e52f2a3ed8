"""Independent components: fit, sign, threshold, assignment to each other, stability, and time courses."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from llm2bids.decomposition.settings import ROBUST_Z
from llm2bids.space import Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llm2bids.decomposition.reduction import ReducedRuns
    from llm2bids.decomposition.settings import DecompositionSettings
    from llm2bids.space import UnitSpace

logger = logging.getLogger(__name__)

_N_STARTS: Final = 5
"""Random rotations from which FastICA starts."""
_FIRST_STEPS: Final = 200
"""Iterations from each start."""
_STEPS: Final = 500
"""Further iterations from the best start."""
_TOLERANCE: Final = 1e-4
_NORMAL_LOG_COSH: Final = 0.3745672075
"""Mean of log cosh of a standard normal variable."""
_MAD: Final = 1.4826
"""Standard deviations of a normal distribution per median absolute deviation."""
_TINY: Final = 1e-12
"""Deviations below this share of the largest value are 0 but for rounding."""


def fit_components(
    reduced: ReducedRuns,
    n_components: int,
    settings: DecompositionSettings,
    seed: int,
    mask: tuple[UnitSpace, NDArray[np.bool_]] | None = None,
) -> NDArray[np.float64]:
    """Decompose samples into components.

    `mask`: for nilearn's methods, which take images: the space, and which of its units these are, shape (n_all_units,).
    Returns maps, shape (n_components, n_units), the heavier tail positive.
    """
    if settings.method != "fastica":
        if mask is None:
            raise ValueError("images need a space")
        return orient(_fit_images(reduced, n_components, settings, seed, mask))
    scores = np.concatenate(reduced.scores)
    _, sizes, rotation = np.linalg.svd(scores, full_matrices=False)
    sizes, rotation = sizes[:n_components], rotation[:n_components]
    axes = rotation @ reduced.basis
    if settings.independent_axis == "spatial":
        # Spatial ICA: principal maps are rotated until they are independent over units.
        return orient(_independent(axes.T, seed).T)
    # Temporal ICA: X = white (sizes / sqrt(n)) axes, and white = sources mixing. Sources have variance 1, so the
    # mixing matrix is their covariance with the whitened samples; the map of a component is its row, back in units.
    white = scores @ rotation.T / sizes * np.sqrt(len(scores))
    sources = _independent(white, seed)
    mixing = sources.T @ white / len(scores)
    return orient((mixing * (sizes / np.sqrt(len(scores)))) @ axes)


def _independent(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Rotate columns until they are most independent, from the best of several starts."""
    centred = values - values.mean(0)
    # Whitened here by SVD: with whiten_solver="eigh" scikit-learn 1.9 gives sources that correlate.
    white = np.linalg.svd(centred, full_matrices=False)[0] * np.sqrt(len(centred))
    white = orient(white.T).T  # a direction has no sign: starts must not depend on the one that was returned
    starts = np.random.default_rng(seed).standard_normal((_N_STARTS, white.shape[1], white.shape[1]))
    # FastICA stops in local optima; the start whose sources are furthest from normal is continued.
    candidates = [_rotate(white, start, _FIRST_STEPS)[:2] for start in starts]
    best = max(candidates, key=lambda candidate: negentropy(candidate[0]))
    sources, _, converged = _rotate(white, best[1], _STEPS)
    if not converged:
        logger.info("FastICA of %d components did not settle in %d steps", values.shape[1], _STEPS)
    return sources


def _rotate(
    white: NDArray[np.float64], start: NDArray[np.float64], n_steps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Run FastICA from one start; return sources, rotation, and whether it converged."""
    estimator = FastICA(whiten=False, w_init=start, max_iter=n_steps, tol=_TOLERANCE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sources = estimator.fit_transform(white)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return sources, estimator.components_, converged


def negentropy(sources: NDArray[np.float64]) -> float:
    """Measure how far from normal sources are: the objective of FastICA.

    `sources` (n_samples, n_components): of variance 1. Returns the sum over components of the squared difference of the
    mean log cosh from that of a normal variable (Hyvärinen and Oja 2000, Neural Networks 13).
    """
    return float(((np.log(np.cosh(sources)).mean(0) - _NORMAL_LOG_COSH) ** 2).sum())


def _fit_images(
    reduced: ReducedRuns,
    n_components: int,
    settings: DecompositionSettings,
    seed: int,
    mask: tuple[UnitSpace, NDArray[np.bool_]],
) -> NDArray[np.float64]:
    """Decompose by nilearn: in our mask, without smoothing, and with nothing standardized or detrended again."""
    from nilearn.decomposition import CanICA, DictLearning  # noqa: PLC0415 - takes seconds to import

    space, units = mask
    common: dict[str, Any] = {
        "n_components": n_components,
        "mask": space.to_image(units),
        "smoothing_fwhm": None,
        "standardize": False,
        "detrend": False,
        "random_state": seed,
        "n_jobs": 1,
    }
    estimator = CanICA(threshold=None, n_init=3, **common) if settings.method == "canica" else DictLearning(**common)
    images = []
    for rows in reduced.by_subject:  # an image is a subject to CanICA, which looks for what subjects have in common
        _, sizes, rotation = np.linalg.svd(rows, full_matrices=False)
        # The principal maps times their singular values have the cross-products of all samples, in far fewer volumes.
        volumes = np.zeros((len(sizes), space.n_units), np.float32)
        volumes[:, units] = sizes[:, None] * (rotation @ reduced.basis)
        images.append(space.to_image(volumes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nilearn about images without a time axis of their own
        estimator.fit(images)
    maps = np.asarray(estimator.components_, np.float32)
    volumes = space.to_signals(estimator.masker_.inverse_transform(maps))  # from voxels to units
    return np.asarray(volumes[:, np.flatnonzero(units)], np.float64)


def orient(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give maps (n_components, n_units) the sign that makes their heavier tail positive; ICA leaves it open."""
    centred = maps - maps.mean(1, keepdims=True)
    signs = np.where((centred**3).sum(1) < 0, -1.0, 1.0)  # the sign of the skewness
    oriented: NDArray[np.float64] = maps * signs[:, None]
    return oriented


def z_over_units(maps: NDArray[np.float64], *, robust: bool) -> NDArray[np.float64]:
    """Scale maps (n_components, n_units) to z over units; 0 for a constant map.

    `robust`: by median and median absolute deviation, which a small network does not shift; else by mean and standard
    deviation, which limits z to ``sqrt((1 - p) / p)`` for a network that is a share p of all units: 3.9 for 6 %.

    >>> network = np.array([[1.0, 0.01, -0.01, 0.02, -0.02, 0.0, 0.01, -0.01, 0.02, -0.02]])
    >>> [round(float(z_over_units(network, robust=robust).max()), 1) for robust in (False, True)]
    [3.0, 44.7]
    """
    if not robust:
        centre, spread = maps.mean(1, keepdims=True), maps.std(1, keepdims=True)
    else:
        centre = np.median(maps, 1, keepdims=True)
        spread = _MAD * np.median(np.abs(maps - centre), 1, keepdims=True)
        # More than half of the units are equal, as the zeros of dictionaries are: their median deviation is 0.
        degenerate = spread <= _TINY * np.abs(maps).max(1, keepdims=True)
        spread = np.where(degenerate, maps.std(1, keepdims=True), spread)
    z: NDArray[np.float64] = np.divide(maps - centre, spread, out=np.zeros_like(maps), where=spread > 0)
    return z


def threshold(z: NDArray[np.float64], settings: DecompositionSettings) -> NDArray[np.bool_]:
    """Select the units of networks: those beyond the bound, in maps `z` (n_components, n_units) of `z_over_units`."""
    bound = ROBUST_Z if settings.z is None else settings.z
    return Selection(bound, settings.tail).select(z)


def correlate_rows(maps_a: NDArray[np.float64], maps_b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlate every two rows of two sets, shape (n_a, n_b): Pearson's r; 0 with a constant row."""
    unit_a, unit_b = (_unit_rows(maps - maps.mean(1, keepdims=True)) for maps in (maps_a, maps_b))
    correlations: NDArray[np.float64] = unit_a @ unit_b.T
    return correlations


def _unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale rows to length 1; rows of zeros stay."""
    lengths = np.sqrt((rows**2).sum(1, keepdims=True))
    scaled: NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return scaled


def assign(similarity: NDArray[np.float64]) -> NDArray[np.int64]:
    """Assign rows to columns one to one such that the sum of similarities is the largest.

    `similarity` (n_rows, n_columns): finite. Returns (n_rows,): column of each row; -1 if there are too few columns.

    >>> assign(np.array([[0.9, 0.8], [0.8, 0.1]])).tolist()
    [1, 0]
    """
    assigned = np.full(len(similarity), -1)
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    assigned[rows] = columns
    return assigned


def stability(maps: NDArray[np.float64], refits: Sequence[NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Measure how well components repeat.

    `maps`, `refits` (n_components, n_units): components, and those of other starts and other runs, matched to them one
    to one by absolute correlation. Returns, each (n_components,): ``stability``, mean absolute correlation between all
    fits of a component; ``quality``, that less the mean absolute correlation with all other components, the index of
    ICASSO (Himberg et al. 2004, NeuroImage 22), which matches by clustering instead.
    """
    matched = [maps, *(refit[assign(np.abs(correlate_rows(maps, refit)))] for refit in refits)]
    stacked = np.stack(matched, axis=1)  # component, fit, unit
    n_components, n_fits, n_units = stacked.shape
    rows = stacked.reshape(-1, n_units)
    similarity = np.abs(correlate_rows(rows, rows)).reshape(n_components, n_fits, n_components, n_fits)
    same = np.einsum("afag->afg", similarity)  # fits of one component
    # A fit correlates perfectly with itself, which says nothing: the diagonal is left out.
    within = (same.sum((1, 2)) - np.trace(same, axis1=1, axis2=2)) / (n_fits * (n_fits - 1))
    different = similarity.sum((1, 3)).sum(1) - same.sum((1, 2))
    between = different / max(n_fits**2 * (n_components - 1), 1)
    return {"stability": within, "quality": within - between}


def time_courses(signals: NDArray[np.floating[Any]], maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Regress scans (n_scans, n_units) on all maps (n_components, n_units) together: the first step of dual regression.

    Returns the weights of the maps in every scan, shape (n_scans, n_components).
    """
    courses: NDArray[np.float64] = np.asarray(signals, np.float64) @ np.linalg.pinv(maps)
    return courses
