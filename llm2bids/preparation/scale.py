"""Two passes over the volumes of a run: what each unit does on average, then every unit on one scale, in flat memory.

The scale is what the defaults of FEAT, SPM, AFNI, melodic and nilearn's loaders need: all units positive, far above a
background that is exactly 0.
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
"""Standard deviations beyond which values are cut."""
SPM_FLOOR: Final = 0.801
"""Share of the mean of a scan below which its values are cut: SPM drops, for the whole run, units that are once at or
below 0.8. This is -20 standard deviations in a scan of average activity, and no more than 1 % off it in others."""
_BYTES_AT_A_TIME: Final = 1 << 23
"""Of volumes in single precision; the arithmetic holds about ten times as much."""
_ROUNDING: Final = 1e-3
_TINY: Final = 1e-6
"""Standard deviation, relative to the largest value, below which a unit is constant but for rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """What each unit does over a run.

    - `mean`, `sd` (n_units,): in the units of the recording.
    - `varies` (n_units,): false for units that are constant but for rounding.
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    varies: NDArray[np.bool_]
    n_scans: int


def measure(run: BoldRun) -> Moments:
    """Take mean and standard deviation of every unit in one pass."""
    n_scans = 0
    mean, squares = np.zeros((2, run.space.n_units))
    least, most = np.full((2, run.space.n_units), [[np.inf], [-np.inf]])
    for signals in _signals(run):
        part = signals.astype(np.float64)
        _check_finite(run, part, n_scans)
        n_both, shift = n_scans + len(part), part.mean(0) - mean
        squares += ((part - part.mean(0)) ** 2).sum(0) + shift**2 * (n_scans * len(part) / n_both)
        mean += shift * (len(part) / n_both)
        least, most = np.minimum(least, part.min(0)), np.maximum(most, part.max(0))
        n_scans = n_both
    sd = np.sqrt(squares / n_scans)
    varies = (most > least) & (sd > _TINY * np.maximum(np.abs(least), np.abs(most)))
    if not varies.any():
        raise DatasetError(f"no unit of {run.name} varies over its {n_scans} scans; record a longer or another run")
    return Moments(mean, sd, varies, n_scans)


def rescale(run: BoldRun, moments: Moments, target: Path) -> tuple[NDArray[np.float64], int]:
    """Write the volumes of a run on the common scale, in a second pass.

    `target`: file to write: baseline 10000, one standard deviation 100, clipped at 20 and at 0.801 times the mean of
    the scan; 0 where no unit is or it is constant. Returns `global_signal` (n_scans,): mean over units that vary.
    """
    kept = moments.varies
    global_signal, n_clipped = [], 0
    with NiftiWriter(target, Grid(run.space.shape, run.space.affine, run.t_r)) as writer:
        for signals in _signals(run):
            scores = (signals[:, kept] - moments.mean[kept]) / moments.sd[kept]
            values = _above_floor(BASELINE + ONE_SD * np.clip(scores, -CLIP, CLIP))
            n_clipped += int((np.abs(values - BASELINE - ONE_SD * scores) > _ROUNDING).sum())
            scaled = np.zeros(signals.shape, np.float32)
            scaled[:, kept] = values
            writer.append(run.space.to_volumes(scaled))
            global_signal.append(values.mean(1))
    return np.concatenate(global_signal), n_clipped


def _above_floor(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lift what SPM would drop; lifting raises the mean a little, hence the repetition, which converges."""
    while (below := values < SPM_FLOOR * values.mean(1, keepdims=True) - _ROUNDING).any():
        values = np.where(below, SPM_FLOOR * values.mean(1, keepdims=True), values)
    return values


def _signals(run: BoldRun) -> Iterator[NDArray[np.float32]]:
    """The scans of a run, some at a time, shape (n, n_units)."""
    if run.n_scans < 1:
        raise DatasetError(f"{run.bold} holds no scan; record it again")
    yield from read_signals(run.bold, run.space, "record it again", _BYTES_AT_A_TIME)


def _check_finite(run: BoldRun, signals: NDArray[np.float64], n_before: int) -> None:
    """Refuse NaN and infinity, which FSL answers with a crash."""
    broken = ~np.isfinite(signals)
    if broken.any():
        scan, unit = (int(place) for place in np.argwhere(broken)[0])
        raise DatasetError(
            f"{signals[scan, unit]} found in {run.bold.name}, scan {n_before + scan}, unit {unit}; record it again, "
            "with --nonfinite zero if need be"
        )
