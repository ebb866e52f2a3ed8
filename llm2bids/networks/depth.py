"""Where in a model a network lies, against chance, and how large its effects are in runs that did not choose it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import hypergeom
from scipy.stats import t as student

from llm2bids.networks.resampling import jackknife, p_at_least
from llm2bids.space.selection import strength

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from llm2bids.networks.run_statistics import Maps, RunSums
    from llm2bids.space.selection import Tail


def spread_evenly(
    n_selected: int, widths: NDArray[np.int64], level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Say how many units of each layer a network has when its units are drawn from all layers alike.

    `widths` (n_layers,): units tested in each layer. Returns `expected` (n_layers,): mean of the hypergeometric
    distribution. Returns `low` (n_layers,): lower end of its central interval. Returns `high` (n_layers,): upper end.

    >>> expected, low, high = spread_evenly(10, np.array([50, 150]))
    >>> expected.tolist(), low.tolist(), high.tolist()
    ([2.5, 7.5], [0.0, 5.0], [5.0, 10.0])
    """
    drawn = hypergeom(widths.sum(), n_selected, widths)
    return n_selected * widths / widths.sum(), drawn.ppf((1 - level) / 2), drawn.ppf((1 + level) / 2)


def p_evenly(counts: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Test each layer against an even spread that takes units for independent.

    `counts`, `widths` (n_layers,): units of the network, and units tested, in each layer. Returns (n_layers,):
    two-sided p-values: twice the smaller tail of the hypergeometric distribution.
    """
    drawn = hypergeom(widths.sum(), counts.sum(), widths)
    p: NDArray[np.float64] = np.minimum(2 * np.minimum(drawn.cdf(counts), drawn.sf(counts - 1)), 1.0)
    return p


def depth_of(weights: ArrayLike, layers: NDArray[np.int64], n_layers: int) -> NDArray[np.float64]:
    """Find the centre of mass of weights over layers.

    `weights` (..., n_units): what each unit weighs: membership, or the absolute statistic of members. `layers`
    (n_units,): number of the layer of each unit, from 0. Returns (...): 0 for the first layer, 1 for the last; NaN
    where nothing weighs anything, or there is one layer only.

    >>> float(depth_of([1, 0, 0, 3], np.array([0, 1, 2, 4]), 5))
    0.75
    """
    values = np.asarray(weights, float)
    total = values.sum(-1)
    whole = np.where((total > 0) & (n_layers > 1), total * (n_layers - 1), np.nan)
    found: NDArray[np.float64] = np.asarray(values @ layers.astype(float) / whole)
    return found


def counts_without_effect(
    statistics: Iterator[NDArray[np.float64]],
    n_selected: int,
    layers: NDArray[np.int64],
    n_layers: int,
    tail: Tail,
) -> NDArray[np.int64]:
    """Count layer by layer the strongest units of maps without effect.

    `statistics` (n_some, n_units): maps, some at a time, as from `llm2bids.networks.run_statistics.relabelled`.
    `layers` (n_units,): number of the layer of each unit, from 0. Returns (n_draws, n_layers): counts of each map;
    every row sums to `n_selected`.
    """
    found = []
    for maps in statistics:
        values = strength(maps, tail)
        cut = values.shape[1] - n_selected
        chosen = np.argpartition(values, min(cut, values.shape[1] - 1), axis=1)[:, cut:]
        found += [np.bincount(layers[own], minlength=n_layers) for own in chosen]
    return np.array(found, np.int64).reshape(len(found), n_layers)


def p_two_sided(observed: ArrayLike, drawn: NDArray[Any]) -> NDArray[np.float64]:
    """Say how often chance gives something as extreme.

    `observed` (...): what was found. `drawn` (n_draws, ...): what chance gave. Returns (...): twice the smaller of the
    two p-values of `p_at_least`, at most 1; NaN where nothing was observed.
    """
    values = np.asarray(observed, float)
    p = 2 * np.minimum(p_at_least(values, drawn), p_at_least(-values, -drawn))
    capped: NDArray[np.float64] = np.minimum(p, 1.0)
    return capped


def p_over_layers(counts: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Test all layers at once, against maps without effect.

    `counts` (n_layers,): units of the network in each layer. `drawn` (n_draws, n_layers): those of maps without effect.
    Returns (n_layers,): two-sided p-values, corrected for the number of layers: how often the most unusual layer of a
    map without effect is as unusual, in standard deviations of the counts of its layer (max statistic; Westfall and
    Young 1993).
    """
    everything = np.concatenate([counts[None], drawn]).astype(float)
    spread = everything.std(0)
    scores = np.abs(everything - everything.mean(0)) / np.where(spread > 0, spread, np.inf)
    return p_at_least(scores[0], np.repeat(scores[1:].max(1, keepdims=True), len(counts), axis=1))


def without_each(sums: RunSums) -> Maps:
    """Fit the contrast without each run, and with all.

    Returns one map per run that is left out, in order, then that of all runs.
    """
    n_runs = len(sums.powers)
    return sums.pooled(np.concatenate([~np.eye(n_runs, dtype=bool), np.ones((1, n_runs), bool)]))


def interval(values: NDArray[np.float64], reported: float) -> tuple[float, float]:
    """Give the interval of a number from what leaving out each run makes of it.

    `values` (n_runs + 1,): without each run, then with all. Returns `low` lower end of the 95 % interval
    (`llm2bids.networks.agreement.jackknife`); NaN where a value is.

    >>> [round(end, 3) for end in interval(np.array([2.5, 2.0, 1.5, 2.0]), 2.0)]  # the mean of 1, 2, 3
    [-0.484, 4.484]
    """
    n_runs = len(values) - 1

    def statistic(kept: NDArray[np.int64]) -> float:
        """The number without the run that is not kept."""
        gone = set(range(n_runs)) - set(kept.tolist())
        return float(values[gone.pop() if gone else -1])

    _, low, high = jackknife(statistic, [range(n_runs)])
    return reported - (high - low) / 2, reported + (high - low) / 2


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Networks that all runs but one chose, and their effects there and in the run left out.

    - `networks` (n_runs, n_units): chosen without each run.
    - `chosen`, `held_out` (n_runs, n_units): effect in the runs that chose, and in the run left out; both with the sign
      of the former, so that an effect that turns round counts as negative.
    """

    networks: NDArray[np.bool_]
    chosen: NDArray[np.float64]
    held_out: NDArray[np.float64]

    @classmethod
    def from_sums(cls, sums: RunSums, maps: Maps, networks: NDArray[np.bool_]) -> HeldOut:
        """Look at networks in the run that did not choose them.

        `maps`: of all runs but one each, in order, as `without_each` gives them; what follows is not looked at.
        `networks` (n_runs or more, n_units): units that these maps chose.
        """
        n_runs = len(sums.powers)
        effects = maps.effect[:n_runs]
        sign = np.sign(effects)
        own = sums.products / sums.powers[:, None]
        return cls(networks[:n_runs], effects * sign, own * sign)

    def means(self, members: NDArray[np.bool_] | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Average effects over the units of each network.

        `members` (n_units,): units to look at, such as those of one layer; all by default. Returns `chosen` (n_runs,):
        in the runs that chose; NaN where the network has no such unit. Returns `held_out` (n_runs,): in the run left
        out.
        """
        weights = self.networks if members is None else self.networks & members
        size = weights.sum(1)
        safe = np.where(size > 0, size, np.nan)
        return (self.chosen * weights).sum(1) / safe, (self.held_out * weights).sum(1) / safe


def shrinkage(chosen: float, held_out: float) -> float:
    """Say by which part effects shrink in runs that did not choose the units.

    Returns 0 where they stay as large, 1 where nothing is left; NaN where there is no effect.

    >>> shrinkage(2.0, 1.5)
    0.25
    """
    return 1 - held_out / chosen if chosen > 0 else np.nan


def mean_and_interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float, float]:
    """Average over runs, with Student's interval.

    `values` (n_runs,): naN is left out. Returns `low` lower end of the interval; NaN for a single run.

    >>> [round(number, 3) for number in mean_and_interval(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.484, 4.484]
    """
    known = values[~np.isnan(values)]
    if not known.size:
        return np.nan, np.nan, np.nan
    mean = float(known.mean())
    if known.size == 1:
        return mean, np.nan, np.nan
    half = float(student.isf((1 - level) / 2, known.size - 1) * known.std(ddof=1) / np.sqrt(known.size))
    return mean, mean - half, mean + half
