"""How well maps and networks repeat: intraclass correlation, agreement within against between tasks, intervals."""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from scipy.stats import t as student

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

_MANY: Final = 300
"""Sets of runs beyond which pairs are drawn, not listed."""
_ROUNDING: Final = 1e-12
"""Relative spread of numbers that are all the same."""


def icc(ratings: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the intraclass correlations ICC(2,1) and ICC(3,1).

    Parameters
    ----------
    ratings : array_like, shape (n_targets, n_raters, ...)
        What each rater (run) says of each target (task); two of each at least.

    Returns
    -------
    icc21 : ndarray, shape (...)
        Absolute agreement of single runs: runs that differ in their mean agree less.
    icc31 : ndarray, shape (...)
        Consistency of single runs: means of runs do not matter.

    Notes
    -----
    Shrout and Fleiss 1979, two-way analysis of variance. NaN where nothing varies.
    """
    values = np.asarray(ratings, float)
    n_targets, n_raters = values.shape[:2]
    mean = values.mean((0, 1))
    targets, raters = values.mean(1), values.mean(0)
    between = n_raters * ((targets - mean) ** 2).sum(0) / (n_targets - 1)
    of_raters = n_targets * ((raters - mean) ** 2).sum(0) / (n_raters - 1)
    rest = values - targets[:, None] - raters[None] + mean
    error = (rest**2).sum((0, 1)) / ((n_targets - 1) * (n_raters - 1))
    below = between + (n_raters - 1) * error
    agreed = below + n_raters * (of_raters - error) / n_targets
    varies = values.std((0, 1)) > _ROUNDING * np.abs(values).max((0, 1))
    icc21, icc31 = ((between - error) / np.where(varies & (part > 0), part, np.nan) for part in (agreed, below))
    return icc21, icc31


def rated_runs(tasks: ArrayLike, runs: ArrayLike) -> NDArray[np.int64]:
    """Arrange runs for `icc`: tasks are rated, and the runs of one name are a rater.

    Parameters
    ----------
    tasks, runs : array_like of str, shape (n_runs,)
        Task of each run, and what it is called.

    Returns
    -------
    ndarray of int, shape (n_tasks, n_raters)
        Numbers of the runs: of names that all tasks have; where there are fewer than two, of the first, second ... run
        of each task. Exchanges of tasks among runs of one name leave raters as they are.

    Examples
    --------
    >>> rated_runs(["a", "a", "a", "b", "b"], ["2", "1", "3", "2", "3"]).tolist()
    [[0, 2], [3, 4]]
    """
    labels, names = np.asarray(tasks), np.asarray(runs)
    own = [np.flatnonzero(labels == task) for task in np.unique(labels)]
    own = [numbers[np.argsort(names[numbers], kind="stable")] for numbers in own]
    common = sorted(set.intersection(*(set(names[numbers].tolist()) for numbers in own)))
    if len(common) > 1:
        own = [numbers[np.isin(names[numbers], common)] for numbers in own]
    n_raters = min(map(len, own))
    return np.stack([numbers[:n_raters] for numbers in own])


def correlations(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlate every two maps over units.

    Parameters
    ----------
    maps : ndarray, shape (n_maps, n_units)
        One row per map.

    Returns
    -------
    ndarray, shape (n_maps, n_maps)
        Pearson's correlation; NaN for a map that is constant.
    """
    scores = standardized(maps)
    found: NDArray[np.float64] = np.clip(scores @ scores.T / maps.shape[1], -1, 1)
    return found


def standardized(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale maps to mean 0 and standard deviation 1 over units.

    Parameters
    ----------
    maps : ndarray, shape (n_maps, n_units)
        One row per map.

    Returns
    -------
    ndarray, shape (n_maps, n_units)
        NaN for a map that is constant.
    """
    values = np.asarray(maps, np.float64)
    centred = values - values.mean(1, keepdims=True)
    spread = centred.std(1, keepdims=True)
    varies = spread > _ROUNDING * np.abs(values).max(1, keepdims=True)
    found: NDArray[np.float64] = np.divide(centred, spread, out=np.full(centred.shape, np.nan), where=varies)
    return found


def within_and_between(similarity: NDArray[np.float64], tasks: ArrayLike) -> tuple[float, float]:
    """Average a similarity within tasks and between them.

    Parameters
    ----------
    similarity : ndarray, shape (n_runs, n_runs)
        Symmetric; NaN is left out.
    tasks : array_like, shape (n_runs,)
        Task of each run.

    Returns
    -------
    within : float
        Mean over pairs of runs of one task.
    between : float
        Mean over pairs of runs of two tasks.

    Examples
    --------
    >>> within_and_between(np.array([[1, 0.8, 0.2], [0.8, 1, 0.4], [0.2, 0.4, 1]]), ["a", "a", "b"])
    (0.8, 0.30000000000000004)
    """
    labels = np.asarray(tasks)
    same = labels[:, None] == labels
    upper = np.triu(np.ones(same.shape, bool), 1) & ~np.isnan(similarity)
    within, between = similarity[upper & same], similarity[upper & ~same]
    return (float(within.mean()) if within.size else np.nan), (float(between.mean()) if between.size else np.nan)


def jackknife(
    statistic: Callable[[NDArray[np.int64]], float], groups: Sequence[Sequence[int]], level: float = 0.95
) -> tuple[float, float, float]:
    """Estimate a number and its interval from what leaving out each run does to it.

    Parameters
    ----------
    statistic : callable
        Makes the number of the numbers of the runs that are kept, shape (n_kept,).
    groups : sequence of sequence of int
        Runs of each task, which vary independently.
    level : float
        Coverage of the interval.

    Returns
    -------
    value : float
        With all runs.
    low, high : float
        Ends of the interval (Student's t); NaN where a task has a single run.

    Notes
    -----
    The jackknife over several samples, Efron and Tibshirani 1993, chapter 11.
    """
    everything = np.concatenate([np.asarray(group, np.int64) for group in groups])
    value = statistic(everything)
    variance, dof = 0.0, 0
    for group in groups:
        left_out = np.array([statistic(everything[everything != run]) for run in group])
        if len(group) < 2 or np.isnan(left_out).any():  # noqa: PLR2004 - one run has no spread
            return value, np.nan, np.nan
        variance += (len(group) - 1) / len(group) * ((left_out - left_out.mean()) ** 2).sum()
        dof += len(group) - 1
    half = float(student.isf((1 - level) / 2, dof) * np.sqrt(variance))
    return value, value - half, value + half


def exchanged_labels(tasks: Sequence[str], cells: Sequence[str], rng: np.random.Generator) -> NDArray[np.str_]:
    """Exchange the tasks of runs with each other within cells.

    Parameters
    ----------
    tasks, cells : sequence of str
        Task of each run, and which runs may be exchanged: those of one cell, such as the first runs of all tasks.
    rng : Generator
        Which exchange.

    Returns
    -------
    ndarray of str, shape (n_runs,)
        New tasks.
    """
    labels, places = np.array(tasks), np.array(cells)
    for cell in np.unique(places):
        members = places == cell
        labels[members] = rng.permutation(labels[members])
    return labels


def halves(n_runs: int, size: int, n_splits: int, rng: np.random.Generator) -> list[tuple[list[int], list[int]]]:
    """Draw pairs of disjoint sets of runs.

    Parameters
    ----------
    n_runs : int
        Runs there are.
    size : int
        Runs in each set, at most half of all.
    n_splits : int
        Pairs to draw where there are more.
    rng : Generator
        Which ones.

    Returns
    -------
    list of pair of list of int
        Each unordered pair at most once where all can be listed.

    Examples
    --------
    >>> halves(3, 1, 10, np.random.default_rng(0))
    [([0], [1]), ([0], [2]), ([1], [2])]
    """
    if comb(n_runs, size) > _MANY:
        orders = (rng.permutation(n_runs) for _ in range(n_splits))
        return [(sorted(order[:size].tolist()), sorted(order[size : 2 * size].tolist())) for order in orders]
    found = []
    for one in combinations(range(n_runs), size):
        rest = [run for run in range(n_runs) if run not in one]
        found += [(list(one), list(other)) for other in combinations(rest, size) if one[0] < other[0]]
    if len(found) <= n_splits:
        return found
    return [found[number] for number in sorted(rng.choice(len(found), n_splits, replace=False))]


def lengthened(reliability: float, times: float) -> float:
    """Predict the reliability of more data (Spearman and Brown).

    Parameters
    ----------
    reliability : float
        Correlation of two halves.
    times : float
        How many times as much data.

    Returns
    -------
    float
        Correlation to be expected; NaN where halves disagree, from which nothing follows.

    Examples
    --------
    >>> round(lengthened(0.5, 2), 3)
    0.667
    """
    return times * reliability / (1 + (times - 1) * reliability) if reliability >= 0 else np.nan


def quantiles_by_layer(values: NDArray[np.float64], layers: NDArray[np.int64], good: float) -> pd.DataFrame:
    """Describe the distribution of a number over the units of each layer.

    Parameters
    ----------
    values : ndarray, shape (n_units,)
        One per unit; NaN is left out.
    layers : ndarray of int, shape (n_units,)
        Layer of each unit.
    good : float
        Value from which on a unit is good.

    Returns
    -------
    DataFrame
        One row per layer: ``layer``, ``n_units``, ``good`` (share of units), ``mean``, and
        quantiles ``q05``, ``q25``, ``q50``, ``q75``, ``q95``.
    """
    rows = []
    for layer in np.unique(layers):
        own = values[(layers == layer) & ~np.isnan(values)]
        cuts = np.quantile(own, [0.05, 0.25, 0.5, 0.75, 0.95]) if own.size else np.full(5, np.nan)
        names = ("q05", "q25", "q50", "q75", "q95")
        mean, share = (own.mean(), (own >= good).mean()) if own.size else (np.nan, np.nan)
        about = {"layer": int(layer), "n_units": own.size, "good": share, "mean": mean}
        rows.append({**about, **dict(zip(names, cuts, strict=True))})
    return pd.DataFrame(rows)
