"""Independent components: fitted, signed, cut to networks, matched to each other and judged by how well they repeat."""

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

    from llm2bids.decomposition.reduction import Reduced
    from llm2bids.decomposition.settings import Settings
    from llm2bids.space import UnitSpace

logger = logging.getLogger(__name__)

_STARTS: Final = 5
_FIRST_STEPS: Final = 200
_STEPS: Final = 500
_TOLERANCE: Final = 1e-4
_NORMAL: Final = 0.3745672075
"""Mean of log cosh of a standard normal variable."""
_MAD: Final = 1.4826
"""Standard deviations of a normal distribution per median absolute deviation."""
_TINY: Final = 1e-12


def fit(
    reduced: Reduced,
    n_components: int,
    settings: Settings,
    seed: int,
    place: tuple[UnitSpace, NDArray[np.bool_]] | None = None,
) -> NDArray[np.float64]:
    """Decompose samples into components.

    `place` (n_all_units,): for nilearn's methods, which take images: the space and which of its units these are.
    Returns (n_components, n_units): maps, the heavier tail positive.
    """
    if settings.method != "fastica":
        if place is None:
            raise ValueError("images need a space")
        return flipped(_fit_images(reduced, n_components, settings, seed, place))
    scores = np.concatenate(reduced.scores)
    _, sizes, rotation = np.linalg.svd(scores, full_matrices=False)
    sizes, rotation = sizes[:n_components], rotation[:n_components]
    axes = rotation @ reduced.basis
    if settings.axis == "spatial":
        return flipped(_independent(axes.T, seed).T)
    white = scores @ rotation.T / sizes * np.sqrt(len(scores))
    sources = _independent(white, seed)
    mixing = sources.T @ white / len(scores)
    return flipped((mixing * (sizes / np.sqrt(len(scores)))) @ axes)


def _independent(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Rotate columns until they are as independent as they become, from the best of several starts."""
    centred = values - values.mean(0)
    # Whitened here by SVD: with whiten_solver="eigh" scikit-learn 1.9 gives sources that correlate.
    white = np.linalg.svd(centred, full_matrices=False)[0] * np.sqrt(len(centred))
    white = flipped(white.T).T  # a direction has no sign: starts must not depend on the one that was returned
    draws = np.random.default_rng(seed).standard_normal((_STARTS, white.shape[1], white.shape[1]))
    tried = [_rotate(white, start, _FIRST_STEPS)[:2] for start in draws]
    best = max(tried, key=lambda one: negentropy(one[0]))
    found, _, settled = _rotate(white, best[1], _STEPS)
    if not settled:
        logger.info("FastICA of %d components did not settle in %d steps", values.shape[1], _STEPS)
    return found


def _rotate(
    white: NDArray[np.float64], start: NDArray[np.float64], n_steps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """FastICA from one start: sources, rotation, and whether it settled."""
    estimator = FastICA(whiten=False, w_init=start, max_iter=n_steps, tol=_TOLERANCE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sources = estimator.fit_transform(white)
    settled = not any(issubclass(one.category, ConvergenceWarning) for one in caught)
    return sources, estimator.components_, settled


def negentropy(sources: NDArray[np.float64]) -> float:
    """Say how far from normal sources are: what FastICA makes large, and by which starts are compared.

    `sources` (n_samples, n_components): of variance 1. Returns sum over components of the squared difference of the
    mean log cosh from that of a normal variable (Hyvärinen and Oja 2000, Neural Networks 13).
    """
    return float(((np.log(np.cosh(sources)).mean(0) - _NORMAL) ** 2).sum())


def _fit_images(
    reduced: Reduced, n_components: int, settings: Settings, seed: int, place: tuple[UnitSpace, NDArray[np.bool_]]
) -> NDArray[np.float64]:
    """Let nilearn decompose: our mask, no smoothing, nothing standardized or detrended again."""
    from nilearn.decomposition import CanICA, DictLearning  # noqa: PLC0415 - takes seconds to import

    space, kept = place
    common: dict[str, Any] = {
        "n_components": n_components,
        "mask": space.to_image(kept),
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
        spread = np.zeros((len(sizes), space.n_units), np.float32)
        spread[:, kept] = sizes[:, None] * (rotation @ reduced.basis)
        images.append(space.to_image(spread))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nilearn about images without a time axis of their own
        estimator.fit(images)
    found: NDArray[np.float64] = np.asarray(estimator.components_, np.float64)
    order = np.flatnonzero(kept.reshape(-1))
    whole = space.to_signals(estimator.masker_.inverse_transform(found.astype(np.float32)))
    return np.asarray(whole[:, order], np.float64)


def flipped(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn maps such that their heavier tail is positive: ICA knows no sign.

    `maps` (n_components, n_units): as fitted. Returns (n_components, n_units): with a third central moment of 0 or
    more.
    """
    centred = maps - maps.mean(1, keepdims=True)
    signs = np.where((centred**3).sum(1) < 0, -1.0, 1.0)
    turned: NDArray[np.float64] = maps * signs[:, None]
    return turned


def over_units(maps: NDArray[np.float64], *, robust: bool) -> NDArray[np.float64]:
    """Turn maps into z over units.

    `maps` (n_components, n_units): as fitted. `robust`: by median and median absolute deviation, which a network does
    not move while it is small; else by mean and standard deviation, which caps z at ``sqrt((1 - p) / p)`` for a network
    that is a share p of all units: 3.9 for 6 %. Returns (n_components, n_units): z; 0 for a constant map.

    >>> network = np.array([[1.0, 0.01, -0.01, 0.02, -0.02, 0.0, 0.01, -0.01, 0.02, -0.02]])
    >>> [round(float(over_units(network, robust=robust).max()), 1) for robust in (False, True)]
    [3.0, 44.7]
    """
    if not robust:
        centre, spread = maps.mean(1, keepdims=True), maps.std(1, keepdims=True)
    else:
        centre = np.median(maps, 1, keepdims=True)
        spread = _MAD * np.median(np.abs(maps - centre), 1, keepdims=True)
        absent = spread <= _TINY * np.abs(maps).max(1, keepdims=True)  # most units are 0, as in dictionaries
        spread = np.where(absent, maps.std(1, keepdims=True), spread)
    z: NDArray[np.float64] = np.divide(maps - centre, spread, out=np.zeros_like(maps), where=spread > 0)
    return z


def cut(z: NDArray[np.float64], settings: Settings) -> NDArray[np.bool_]:
    """Choose the units of networks.

    `z` (n_components, n_units): what `over_units` gave. Returns (n_components, n_units): units beyond the bound.
    """
    bound = ROBUST_Z if settings.z is None else settings.z
    return Selection(bound, settings.tail).select(z)


def correlate(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlate the rows of two sets.

    Returns (n_one, n_other): pearson's r; 0 with a constant map.
    """
    unit = [_normed(maps - maps.mean(1, keepdims=True)) for maps in (one, other)]
    found: NDArray[np.float64] = unit[0] @ unit[1].T
    return found


def _normed(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1, or 0."""
    lengths = np.sqrt((rows**2).sum(1, keepdims=True))
    found: NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return found


def assign(similarity: NDArray[np.float64]) -> NDArray[np.int64]:
    """Give each row a column of its own such that the sum of similarities is the largest.

    `similarity` (n_rows, n_columns): finite. Returns (n_rows,): column of each row; -1 where columns have run out.

    >>> assign(np.array([[0.9, 0.8], [0.8, 0.1]])).tolist()
    [1, 0]
    """
    chosen = np.full(len(similarity), -1)
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    chosen[rows] = columns
    return chosen


def stability(maps: NDArray[np.float64], refits: Sequence[NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Say how well components repeat.

    `maps` (n_components, n_units): components. `refits` (n_components, n_units): the same, of other starts and other
    runs; matched to the components one to one by absolute correlation. Returns (n_components,): ``stability``: mean
    absolute correlation between all refits of a component, itself included, 1 where all are the same. ``quality``: that
    less the mean absolute correlation with all other components, the index of ICASSO (Himberg et al. 2004, NeuroImage
    22), which matches by clustering instead.
    """
    matched = [maps]
    for other in refits:
        similarity = np.abs(correlate(maps, other))
        matched.append(other[assign(similarity)])
    stacked = np.stack(matched, axis=1)  # component, fit, unit
    n_components, n_fits, n_units = stacked.shape
    every = np.abs(correlate(*[stacked.reshape(-1, n_units)] * 2)).reshape(n_components, n_fits, n_components, n_fits)
    own = np.einsum("afag->afg", every)
    within = (own.sum((1, 2)) - np.trace(own, axis1=1, axis2=2)) / (n_fits * (n_fits - 1))
    others = every.sum((1, 3)).sum(1) - own.sum((1, 2))
    between = others / max(n_fits**2 * (n_components - 1), 1)
    return {"stability": within, "quality": within - between}


def courses_of(signals: NDArray[np.floating[Any]], maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Regress scans on maps: what each network does over time, the others held apart.

    `signals` (n_scans, n_units): of one run. `maps` (n_components, n_units): components. Returns (n_scans,
    n_components): weights of the maps in every scan (first step of dual regression).
    """
    found: NDArray[np.float64] = np.asarray(signals, np.float64) @ np.linalg.pinv(maps)
    return found
