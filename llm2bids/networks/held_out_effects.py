"""Effects of a network in runs that did not select its units, and intervals from leaving out each run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

from llm2bids.networks.resampling import jackknife

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llm2bids.networks.run_statistics import Maps, RunSums


def leave_one_out(sums: RunSums) -> Maps:
    """Fit the contrast without each run: one map per run that is left out, in order, then that of all runs."""
    n_runs = len(sums.powers)
    return sums.pooled(np.concatenate([~np.eye(n_runs, dtype=bool), np.ones((1, n_runs), bool)]))


def jackknife_interval(values: NDArray[np.float64], estimate: float) -> tuple[float, float]:
    """Compute the 95 % interval of an estimate from its values without each run.

    `values` (n_runs + 1,): without each run, then with all. `estimate`: where the interval is centred; the fit to all
    runs together may differ from the estimate that is reported. NaN where a value is.

    >>> [round(end, 3) for end in jackknife_interval(np.array([2.5, 2.0, 1.5, 2.0]), 2.0)]  # the mean of 1, 2, 3
    [-0.484, 4.484]
    """
    n_runs = len(values) - 1

    def statistic(runs: NDArray[np.int64]) -> float:
        """Look up the value without the run that is missing."""
        missing = set(range(n_runs)) - set(runs.tolist())
        return float(values[missing.pop() if missing else -1])

    _, low, high = jackknife(statistic, [range(n_runs)])
    return estimate - (high - low) / 2, estimate + (high - low) / 2


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutEffects:
    """Networks that all runs but one selected, and their effects in these runs and in the run left out.

    - `networks` (n_runs, n_units): units selected without each run.
    - `selecting`, `held_out` (n_runs, n_units): effect in the runs that selected, and in the run left out; both times
      the sign of the former, so that an effect that changes its sign counts as negative.
    """

    networks: NDArray[np.bool_]
    selecting: NDArray[np.float64]
    held_out: NDArray[np.float64]

    @classmethod
    def from_sums(cls, sums: RunSums, maps: Maps, networks: NDArray[np.bool_]) -> HeldOutEffects:
        """Compute the effects of networks in the run that did not select them.

        `maps`: of all runs but one each, as `leave_one_out` gives them; the last, of all runs, is not used. `networks`
        (n_runs or more, n_units): units that these maps select.
        """
        n_runs = len(sums.powers)
        effects = maps.effect[:n_runs]
        sign = np.sign(effects)
        # Least squares with one regressor: the effect in a run is x'y / x'x, all else in the design removed from both.
        run_effects = sums.products / sums.powers[:, None]
        return cls(networks[:n_runs], effects * sign, run_effects * sign)

    def means(self, members: NDArray[np.bool_] | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Average effects over the units of each network.

        `members` (n_units,): units to average, such as those of one layer; all by default. Returns `selecting` and
        `held_out`, each (n_runs,); NaN where the network has no such unit.
        """
        weights = self.networks if members is None else self.networks & members
        size = weights.sum(1)
        divisor = np.where(size > 0, size, np.nan)
        return (self.selecting * weights).sum(1) / divisor, (self.held_out * weights).sum(1) / divisor


def shrinkage(selecting: float, held_out: float) -> float:
    """Compute by which part effects shrink in runs that did not select the units.

    Returns 0 where they stay as large, 1 where nothing remains; NaN where there is no effect.

    >>> shrinkage(2.0, 1.5)
    0.25
    """
    return 1 - held_out / selecting if selecting > 0 else np.nan


def mean_and_interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float, float]:
    """Average over runs, with Student's interval.

    `values` (n_runs,): NaN is left out. Returns `mean`, `low`, `high`; the ends are NaN for a single run.

    >>> [round(number, 3) for number in mean_and_interval(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.484, 4.484]
    """
    finite = values[~np.isnan(values)]
    if not finite.size:
        return np.nan, np.nan, np.nan
    mean = float(finite.mean())
    if finite.size == 1:
        return mean, np.nan, np.nan
    half = float(student.isf((1 - level) / 2, finite.size - 1) * finite.std(ddof=1) / np.sqrt(finite.size))
    return mean, mean - half, mean + half
