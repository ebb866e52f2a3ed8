"""Put every unit of a run on one scale, in two passes over the volumes: mean and variance, then z scores.

The scale suits the defaults of FEAT, SPM, AFNI, melodic and nilearn's loaders: all units are positive, and far above a
background that is exactly 0. Memory does not grow with the number of scans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from llm2bids.bids.nifti import Grid, NiftiWriter, read_signals
from llm2bids.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.bids.runs import BoldRun

BASELINE: Final = 10000.0
"""Mean of every unit."""
ONE_SD: Final = 100.0
"""One standard deviation of every unit: 1 % of the baseline."""
CLIP: Final = 20.0
"""Standard deviations beyond which values are clipped."""
SPM_FLOOR: Final = 0.801
"""Share of the mean of a scan below which its values are raised: SPM drops a unit from the whole run if it is at or
below 0.8 in one scan. In a scan of average activity this is -20 standard deviations, in others it differs by 1 % at
most."""
_BYTES_AT_A_TIME: Final = 1 << 23
"""Size of the volumes read at a time, in single precision; the arithmetic needs about ten times as much memory."""
_ROUNDING: Final = 1e-3
_TINY: Final = 1e-6
"""A unit is constant up to rounding if its standard deviation is below this share of its largest value."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Mean and standard deviation of each unit over a run (n_units,), in the units of the recording.

    - `varies` (n_units,): false for units that are constant up to rounding.
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    varies: NDArray[np.bool_]
    n_scans: int


def measure(run: BoldRun) -> Moments:
    """Compute mean and standard deviation of every unit in one pass.

    Batches are merged by the update of Chan, Golub and LeVeque (1979). The textbook's mean of squares minus square of
    the mean would lose all digits in units whose mean is large compared with their standard deviation.
    """
    n_scans = 0
    mean, squares = np.zeros((2, run.space.n_units))
    least, most = np.full((2, run.space.n_units), [[np.inf], [-np.inf]])
    for signals in _signals(run):
        part = signals.astype(np.float64)
        _check_finite(run, part, n_scans)
        n_total, shift = n_scans + len(part), part.mean(0) - mean
        squares += ((part - part.mean(0)) ** 2).sum(0) + shift**2 * (n_scans * len(part) / n_total)
        mean += shift * (len(part) / n_total)
        least, most = np.minimum(least, part.min(0)), np.maximum(most, part.max(0))
        n_scans = n_total
    sd = np.sqrt(squares / n_scans)
    varies = (most > least) & (sd > _TINY * np.maximum(np.abs(least), np.abs(most)))
    if not varies.any():
        raise DatasetError(f"no unit of {run.name} varies over its {n_scans} scans; record a longer or another run")
    return Moments(mean, sd, varies, n_scans)


def rescale(run: BoldRun, moments: Moments, target: Path) -> tuple[NDArray[np.float64], int]:
    """Write the volumes of a run to `target` on the common scale, in a second pass.

    The mean of a unit becomes 10000 and one standard deviation 100. Values are clipped at 20 standard deviations, and
    raised to 0.801 times the mean of the scan. Constant units and voxels without a unit are 0. Returns the mean over
    units that vary (n_scans,), and the number of values changed by clipping.
    """
    varies = moments.varies
    global_signal, n_clipped = [], 0
    with NiftiWriter(target, Grid(run.space.shape, run.space.affine, run.t_r)) as writer:
        for signals in _signals(run):
            scores = (signals[:, varies] - moments.mean[varies]) / moments.sd[varies]
            values = _above_floor(BASELINE + ONE_SD * np.clip(scores, -CLIP, CLIP))
            n_clipped += int((np.abs(values - BASELINE - ONE_SD * scores) > _ROUNDING).sum())
            scaled = np.zeros(signals.shape, np.float32)
            scaled[:, varies] = values
            writer.append(run.space.to_volumes(scaled))
            global_signal.append(values.mean(1))
    return np.concatenate(global_signal), n_clipped


def _above_floor(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Raise values that SPM would drop; each time the mean rises a little, so it is repeated until none is left."""
    while (below := values < SPM_FLOOR * values.mean(1, keepdims=True) - _ROUNDING).any():
        values = np.where(below, SPM_FLOOR * values.mean(1, keepdims=True), values)
    return values


def _signals(run: BoldRun) -> Iterator[NDArray[np.float32]]:
    """Read the scans of a run in batches, each (n_batch, n_units)."""
    if run.n_scans < 1:
        raise DatasetError(f"{run.bold} holds no scan; record it again")
    yield from read_signals(run.bold, run.space, "record it again", _BYTES_AT_A_TIME)


def _check_finite(run: BoldRun, signals: NDArray[np.float64], n_before: int) -> None:
    """Raise on NaN or infinity, with which FSL would crash."""
    broken = ~np.isfinite(signals)
    if broken.any():
        scan, unit = map(int, np.argwhere(broken)[0])
        raise DatasetError(
            f"{signals[scan, unit]} found in {run.bold.name}, scan {n_before + scan}, unit {unit}; record it again, "
            'with nonfinite="zero" if need be'
        )
