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

    `ratings` (n_targets, n_raters, ...): what each rater (run) says of each target (task); two of each at least.
    Returns `icc21` (...): absolute agreement of single runs: runs that differ in their mean agree less. Returns `icc31`
    (...): consistency of single runs: means of runs do not matter.

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

    `tasks`, `runs` (n_runs,): task of each run, and what it is called. Returns (n_tasks, n_raters): numbers of the
    runs: of names that all tasks have; where there are fewer than two, of the first, second ... run of each task.
    Exchanges of tasks among runs of one name leave raters as they are.

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

    `maps` (n_maps, n_units): one row per map. Returns (n_maps, n_maps): pearson's correlation; NaN for a map that is
    constant.
    """
    scores = standardized(maps)
    found: NDArray[np.float64] = np.clip(scores @ scores.T / maps.shape[1], -1, 1)
    return found


def standardized(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale maps to mean 0 and standard deviation 1 over units.

    `maps` (n_maps, n_units): one row per map. Returns (n_maps, n_units): naN for a map that is constant.
    """
    values = np.asarray(maps, np.float64)
    centred = values - values.mean(1, keepdims=True)
    spread = centred.std(1, keepdims=True)
    varies = spread > _ROUNDING * np.abs(values).max(1, keepdims=True)
    found: NDArray[np.float64] = np.divide(centred, spread, out=np.full(centred.shape, np.nan), where=varies)
    return found


def within_and_between(similarity: NDArray[np.float64], tasks: ArrayLike) -> tuple[float, float]:
    """Average a similarity within tasks and between them.

    `similarity` (n_runs, n_runs): symmetric; NaN is left out. `tasks` (n_runs,): task of each run.

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

    `statistic`: makes the number of the numbers of the runs that are kept, shape (n_kept,). Returns `low, high` ends of
    the interval (Student's t); NaN where a task has a single run.

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

    `tasks`, `cells`: task of each run, and which runs may be exchanged: those of one cell, such as the first runs of
    all tasks. Returns (n_runs,): new tasks.
    """
    labels, places = np.array(tasks), np.array(cells)
    for cell in np.unique(places):
        members = places == cell
        labels[members] = rng.permutation(labels[members])
    return labels


def halves(n_runs: int, size: int, n_splits: int, rng: np.random.Generator) -> list[tuple[list[int], list[int]]]:
    """Draw pairs of disjoint sets of runs.

    Returns each unordered pair at most once where all can be listed.

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

    Returns correlation to be expected; NaN where halves disagree, from which nothing follows.

    >>> round(lengthened(0.5, 2), 3)
    0.667
    """
    return times * reliability / (1 + (times - 1) * reliability) if reliability >= 0 else np.nan


def quantiles_by_layer(values: NDArray[np.float64], layers: NDArray[np.int64], good: float) -> pd.DataFrame:
    """Describe the distribution of a number over the units of each layer.

    `values` (n_units,): one per unit; NaN is left out. `layers` (n_units,): layer of each unit. Returns one row per
    layer: ``layer``, ``n_units``, ``good`` (share of units), ``mean``, and quantiles ``q05``, ``q25``, ``q50``,
    ``q75``, ``q95``.
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
