"""How active units are before any statistics: means, variances, massive units, and a run small enough to draw.

Alone knows which units count as massive. Volumes are read scan by scan, so that memory does not grow with the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.bids.nifti import n_scans_of, read_signals
from llm2bids.errors import DatasetError
from llm2bids.preparation.scale import BASELINE, ONE_SD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.space import UnitSpace

MAX_RUNS: Final = 6
"""Most runs that are measured: more hardly change means, and each has to be decompressed."""
_OTHER_GRID: Final = "give runs of one site and geometry"
"""What to do about a run on another grid."""


@dataclass(frozen=True, slots=True, eq=False)
class Activity:
    """How active the units of a space are.

    - `space`: which voxel is which unit.
    - `runs`: file names of the runs that were measured.
    - `n_scans`: scans of all these runs.
    - `mean`, `magnitude`, `variance` (n_units,): of every unit over scans: mean, mean absolute value and variance
      (divided by the number of scans), in the units of the recording; NaN for units without a finite value.
    - `table`: one row per hookpoint: ``hookpoint``, ``block``, ``units``, ``mean``, ``magnitude`` and ``variance``
      (means over its units), ``magnitude_median`` (of units that are ever active) and ``variance_median``,
      ``largest_channel`` (the unit of the largest magnitude; -1 where no value is finite), ``largest`` (that
      magnitude), ``ratio`` (of it to the median), ``constant`` (units that do not vary), ``nonfinite`` (NaN and
      infinite values, left out).
    - `massive`: one row per massive unit, the largest ratio first: ``unit``, ``hookpoint``, ``block``, ``channel``,
      ``mean``, ``magnitude``, ``ratio``.
    """

    space: UnitSpace
    runs: tuple[str, ...]
    n_scans: int
    mean: NDArray[np.float64]
    magnitude: NDArray[np.float64]
    variance: NDArray[np.float64]
    table: pd.DataFrame
    massive: pd.DataFrame


def measure_activity(
    runs: Sequence[Path], space: UnitSpace, *, ratio: float = 100.0, least: float = 10.0, max_runs: int = MAX_RUNS
) -> Activity:
    """Measure how active every unit is, and find massive units, which decide norms, distances and global signals alone.

    Sun et al. (2024, "Massive Activations in Large Language Models", arXiv 2402.17762) call an activation massive if it
    is above 100 and about 1000 times the median of its hidden state. That is a single value at a single token. Here a
    unit is judged by its mean absolute value over scans, most of which are other tokens. So the bounds are lower:
    `ratio` times the median of its layer, and at least `least`.
    """
    if not len(runs):
        raise DatasetError("no run found, at least one needed to measure activity; record a model first")
    chosen = spread_evenly(runs, max_runs)
    moments = _RunningMoments(space.n_units)
    for run in chosen:
        for signals in read_signals(run, space, _OTHER_GRID):
            moments.add(signals)
    mean, magnitude, variance = moments.moments()
    table = _tabulate(space, moments, mean, magnitude, variance)
    massive = _find_massive(space, mean, magnitude, (ratio, least))
    return Activity(
        space, tuple(run.name for run in chosen), moments.n_scans, mean, magnitude, variance, table, massive
    )


def read_carpet(
    run: Path, space: UnitSpace, *, max_rows: int = 600, max_columns: int = 1200
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read a prepared run small enough to draw: neighbouring channels and scans are averaged.

    Each layer gets an equal share of `max_rows`, and at least one row. Returns `values` (n_rows, n_columns) in standard
    deviations of the unit, NaN where all units of a row are constant; and `layers` (n_rows,), the number of the
    hookpoint of each row, in depth order.
    """
    starts, layers = _carpet_rows(space, max_rows)
    if not (n_scans := n_scans_of(run)):
        raise DatasetError(f"{run.name} holds no scan, at least one needed; prepare the run again")
    per_column = -(-n_scans // max_columns)
    column_sums = np.zeros((-(-n_scans // per_column), len(starts)))
    n_varying, n_read = np.zeros(len(starts)), 0
    for signals in read_signals(run, space, _OTHER_GRID):
        varies = signals[0] != 0  # prep writes constant units as 0 (background) in all scans
        scores = np.where(varies, (signals - BASELINE) / ONE_SD, 0)
        columns = np.arange(n_read, n_read + len(signals)) // per_column
        n_varying = np.add.reduceat(varies.astype(float), starts)
        np.add.at(column_sums, columns, np.add.reduceat(scores, starts, axis=1, dtype=np.float64))
        n_read += len(signals)
    n_averaged = np.bincount(np.arange(n_scans) // per_column)[:, None] * np.where(n_varying > 0, n_varying, np.nan)
    return (column_sums / n_averaged).T.astype(np.float32), layers


def spread_evenly(runs: Sequence[Path], max_runs: int) -> list[Path]:
    """Choose runs at even distances, in the same order, with the first and the last where there is room.

    >>> spread_evenly(list("abcdefg"), 3), spread_evenly(["a", "b"], 3)
    (['a', 'd', 'g'], ['a', 'b'])
    """
    places = np.linspace(0, len(runs) - 1, min(len(runs), max_runs)).round().astype(int)
    return [runs[place] for place in places]


class _RunningMoments:
    """Moments of every unit over finite values, updated as scans come (Chan, Golub and LeVeque 1979)."""

    def __init__(self, n_units: int) -> None:
        self.n_scans = 0
        self.count, self.mean, self.squares, self.absolute = np.zeros((4, n_units))
        self.nonfinite = np.zeros(n_units, np.int64)
        self.least, self.most = np.full((2, n_units), [[np.inf], [-np.inf]])

    def add(self, signals: NDArray[np.float32]) -> None:
        """Add scans (n_scans, n_units)."""
        finite = np.isfinite(signals)
        values = np.where(finite, signals, 0).astype(np.float64)
        count = finite.sum(0)
        part_mean = values.sum(0) / np.maximum(count, 1)
        total = np.maximum(self.count + count, 1)
        shift = part_mean - self.mean
        self.absolute += np.abs(values).sum(0)
        self.least = np.minimum(self.least, np.where(finite, values, np.inf).min(0))
        self.most = np.maximum(self.most, np.where(finite, values, -np.inf).max(0))
        values -= part_mean
        values[~finite] = 0
        # Two sets of scans with means m1, m2: squares around the common mean = S1 + S2 + (m2 - m1)^2 n1 n2 / (n1 + n2).
        self.squares += (values**2).sum(0) + shift**2 * (self.count * count / total)
        self.mean += np.where(count > 0, shift * count / total, 0)
        self.count += count
        self.nonfinite += len(signals) - count
        self.n_scans += len(signals)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Mark units with finite values that are all the same."""
        same: NDArray[np.bool_] = (self.count > 0) & (self.least == self.most)
        return same

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Compute mean, mean absolute value and variance of every unit."""
        count = np.where(self.count > 0, self.count, np.nan)
        # Rounding errors would leave a constant unit with a tiny variance instead of none.
        variance = np.where(self.constant, 0.0, self.squares / count)
        return np.where(self.count > 0, self.mean, np.nan), self.absolute / count, variance


def _tabulate(
    space: UnitSpace,
    moments: _RunningMoments,
    mean: NDArray[np.float64],
    magnitude: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> pd.DataFrame:
    """Describe each hookpoint in a row."""
    units = (mean, magnitude, variance, moments.constant, moments.nonfinite)
    parts = zip(*(space.split(values) for values in units), strict=True)
    rows = []
    for hookpoint, block, part in zip(space.hookpoints, space.blocks, parts, strict=True):
        means, magnitudes, variances, constant, nonfinite = part
        nowhere_finite = not np.isfinite(magnitudes).any()
        channel = -1 if nowhere_finite else int(np.nanargmax(magnitudes))
        largest = np.nan if nowhere_finite else float(magnitudes[channel])
        median = _typical_magnitude(magnitudes)
        rows.append(
            {
                "hookpoint": hookpoint,
                "block": block,
                "units": len(means),
                "mean": _summarize(np.mean, means),
                "magnitude": _summarize(np.mean, magnitudes),
                "magnitude_median": median,
                "variance": _summarize(np.mean, variances),
                "variance_median": _summarize(np.median, variances),
                "largest_channel": channel,
                "largest": largest,
                "ratio": largest / median,
                "constant": int(constant.sum()),
                "nonfinite": int(nonfinite.sum()),
            }
        )
    return pd.DataFrame(rows)


def _summarize(statistic: Callable[[NDArray[np.float64]], np.floating[Any]], values: NDArray[np.float64]) -> float:
    """Compute a statistic of a layer over its units with finite values; NaN without any."""
    finite = values[np.isfinite(values)]
    return float(statistic(finite)) if finite.size else float("nan")


def _find_massive(
    space: UnitSpace, mean: NDArray[np.float64], magnitude: NDArray[np.float64], bounds: tuple[float, float]
) -> pd.DataFrame:
    """Find the units beyond both bounds."""
    medians = [_typical_magnitude(part) for part in space.split(magnitude)]
    ratios = magnitude / np.repeat(medians, space.n_channels)
    units = np.flatnonzero((ratios >= bounds[0]) & (magnitude >= bounds[1]))
    units = units[np.argsort(-ratios[units], kind="stable")]
    hookpoints, channels = space.locate(units)
    return pd.DataFrame(
        {
            "unit": units,
            "hookpoint": [space.hookpoints[number] for number in hookpoints],
            "block": [space.blocks[number] for number in hookpoints],
            "channel": channels,
            "mean": mean[units],
            "magnitude": magnitude[units],
            "ratio": ratios[units],
        }
    )


def _typical_magnitude(magnitudes: NDArray[np.float64]) -> float:
    """Compute the median of a layer without units that are never active; where most are, it would be 0."""
    return _summarize(np.median, magnitudes[magnitudes > 0])


def _carpet_rows(space: UnitSpace, max_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the first unit of every row of a carpet, and the hookpoint of the row."""
    share = max(1, max_rows // space.n_hookpoints)
    starts, layers = [], []
    for number, (first, width) in enumerate(zip(space.starts(), space.n_channels, strict=True)):
        n_rows = min(share, width)
        starts.append(first + np.arange(n_rows) * width // n_rows)
        layers.append(np.full(n_rows, number))
    return np.concatenate(starts), np.concatenate(layers)
