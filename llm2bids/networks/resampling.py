"""What chance gives, and how sure a number is: permutations of units and labels, jackknife, split halves, p-values."""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.stats import t as student

from llm2bids.networks.measures import ROUNDING, units_per_layer
from llm2bids.space.selection import largest, strength

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from llm2bids.space.selection import Tail

_LISTED_SETS: Final = 300
"""Sets of runs up to which all pairs are listed; of more, pairs are drawn."""


def shared_by_chance(
    networks: NDArray[np.bool_], layers: NDArray[np.int64], n_draws: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Count shared units when the units of every layer are permuted; each network keeps its units per layer.

    `networks` (n_networks, n_units). `layers` (n_units,): layer of each unit. Returns (n_draws, n_networks,
    n_networks): symmetric, with sizes on the diagonal.
    """
    counts, widths = units_per_layer(networks, layers), np.bincount(layers)
    n_networks = len(networks)
    drawn = np.zeros((n_draws, n_networks, n_networks), np.int64)
    for a in range(n_networks):
        drawn[:, a, a] = counts[a].sum()
        for b in range(a):
            # units of a among those of b, drawn from a layer without replacement: no permutation need be made
            shared = rng.hypergeometric(counts[a], widths - counts[a], counts[b], size=(n_draws, len(widths)))
            drawn[:, a, b] = drawn[:, b, a] = shared.sum(1)
    return drawn


def units_of_k_by_chance(networks: NDArray[np.bool_], layers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Expect how many units belong to exactly k networks when the units of every layer are permuted.

    `networks` (n_networks, n_units). `layers` (n_units,): layer of each unit. Returns (n_networks + 1,).
    """
    counts, widths = units_per_layer(networks, layers), np.bincount(layers)
    expected = np.zeros(len(networks) + 1)
    for layer, width in enumerate(widths):
        # the number of networks of a unit is a sum of independent yes or no: Poisson binomial, by convolution
        chances = np.ones(1)
        for count in counts[:, layer]:
            chances = np.convolve(chances, [1 - count / max(width, 1), count / max(width, 1)])
        expected += width * chances
    return expected


def matched_networks(
    statistics: Iterator[NDArray[np.float64]], counts: NDArray[np.int64], layers: NDArray[np.int64], tail: Tail
) -> Iterator[NDArray[np.bool_]]:
    """Make networks of maps: the strongest units of each layer, as many as a given network has there.

    `statistics`: maps (n_maps, n_units), some at a time, as from `run_statistics.relabelled`. `counts` (n_layers,):
    units per layer. `layers` (n_units,): layer of each unit. Yields networks (n_maps, n_units).
    """
    for maps in statistics:
        values = strength(maps, tail)
        networks = np.zeros(maps.shape, bool)
        for layer, count in enumerate(counts):
            members = layers == layer
            if count:
                networks[:, members] = largest(values[:, members], np.full(len(maps), count))
        yield networks


def exchanged_labels(tasks: Sequence[str], cells: Sequence[str], rng: np.random.Generator) -> NDArray[np.str_]:
    """Exchange the tasks of runs with each other within cells, such as the first runs of all tasks.

    `tasks`, `cells` (n_runs,): task and cell of each run. Returns new tasks (n_runs,).
    """
    labels, places = np.array(tasks), np.array(cells)
    for cell in np.unique(places):
        members = places == cell
        labels[members] = rng.permutation(labels[members])
    return labels


def halves(n_runs: int, size: int, n_splits: int, rng: np.random.Generator) -> list[tuple[list[int], list[int]]]:
    """Draw pairs of disjoint sets of runs, each unordered pair at most once where all can be listed.

    >>> halves(3, 1, 10, np.random.default_rng(0))
    [([0], [1]), ([0], [2]), ([1], [2])]
    """
    if comb(n_runs, size) > _LISTED_SETS:
        orders = (rng.permutation(n_runs) for _ in range(n_splits))
        return [(sorted(order[:size].tolist()), sorted(order[size : 2 * size].tolist())) for order in orders]
    pairs = []
    for first in combinations(range(n_runs), size):
        rest = [run for run in range(n_runs) if run not in first]
        pairs += [(list(first), list(second)) for second in combinations(rest, size) if first[0] < second[0]]
    if len(pairs) <= n_splits:
        return pairs
    return [pairs[number] for number in sorted(rng.choice(len(pairs), n_splits, replace=False))]


def jackknife(
    statistic: Callable[[NDArray[np.int64]], float], groups: Sequence[Sequence[int]], level: float = 0.95
) -> tuple[float, float, float]:
    """Estimate a number and its interval from leaving out each run.

    `statistic`: makes the number of the numbers of the remaining runs, shape (n_remaining,). `groups`: runs of each
    task. Returns the number and the ends of its interval; NaN where a task has a single run.
    """
    everything = np.concatenate([np.asarray(group, np.int64) for group in groups])
    value = statistic(everything)
    # jackknife over several samples (Efron and Tibshirani 1993, chapter 11): their variances add up
    variance, dof = 0.0, 0
    for group in groups:
        without = np.array([statistic(everything[everything != run]) for run in group])
        if len(group) < 2 or np.isnan(without).any():  # noqa: PLR2004 - one run has no spread
            return value, np.nan, np.nan
        variance += (len(group) - 1) / len(group) * ((without - without.mean()) ** 2).sum()
        dof += len(group) - 1
    # few runs: Student's t, not the normal distribution
    half = float(student.isf((1 - level) / 2, dof) * np.sqrt(variance))
    return value, value - half, value + half


def p_at_least(
    observed: ArrayLike, drawn: NDArray[np.floating] | NDArray[np.int64], rng: np.random.Generator | None = None
) -> NDArray[np.float64]:
    """Give the p-value of an observed number: how often chance gives as much or more (Phipson and Smyth 2010).

    `observed` (...). `drawn` (n_draws, ...): what chance gave; NaN counts as more. `rng`: breaks ties at random, for a
    p-value that is exactly uniform without an effect; without it ties count as more, so that p is too large at most.
    Returns (...): NaN where nothing was observed.
    """
    values = np.asarray(observed, float)
    n_draws = len(drawn)
    # sums of the same numbers in another order differ by rounding, and are equal
    rounding = ROUNDING * np.fmax(np.abs(values), np.fmax.reduce(np.abs(drawn), axis=0, initial=0.0))
    lower, higher = values - rounding, values + rounding
    more = ((drawn > higher) | np.isnan(drawn)).sum(0)
    equal = ((drawn >= lower) & (drawn <= higher)).sum(0)
    # the observed number is one of the permutations: (b + 1) / (m + 1), never 0
    ties = equal + 1.0 if rng is None else rng.uniform(size=np.shape(values)) * (equal + 1)
    return np.where(np.isnan(values), np.nan, (more + ties) / (n_draws + 1))


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct p-values for their number (Holm 1979: family-wise error); NaN is no test.

    >>> holm(np.array([0.01, 0.04, np.nan, 0.03])).round(3).tolist()
    [0.03, 0.06, nan, 0.06]
    """
    corrected = np.full(len(p_values), np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested])]
    # the smallest of m times m, the next times m - 1 ..., and never smaller than that of a smaller p-value
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return corrected
