"""What other programs take for brain by default, on volumes of the scale that ``prep`` writes.

Each rule is written from its program's documentation or source, as short as it can be said. Images are
``(x, y, z, n_scans)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest

from llm2bids.bids.nifti import Grid, NiftiWriter
from llm2bids.bids.runs import BoldRun
from llm2bids.bids.tables import write_json
from llm2bids.preparation.scale import BASELINE, CLIP, ONE_SD, Moments, rescale
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Rule = Callable[[NDArray[np.float64]], NDArray[np.bool_]]

N_SCANS = 40
SPACES = [
    UnitSpace.uniform("block", [f"h.{n}:out" for n in range(n_hookpoints)], n_channels)
    for n_hookpoints, n_channels in [(6, 128), (12, 768), (1, 3), (2, 131)]
]


def feat(image: NDArray[np.float64]) -> NDArray[np.bool_]:
    """FEAT 6: every sample reaches 10 % of the robust range (2nd to 98th percentile of the whole file)."""
    low, high = np.percentile(image, [2, 98], method="lower")
    kept = image >= low + 0.1 * (high - low)
    return np.asarray(np.where(kept, image, 0).min(-1) > 0)


def film(image: NDArray[np.float64]) -> NDArray[np.bool_]:
    """film_gls with ``--thr 0``, its default: the mean is above 0, and the voxel varies."""
    return np.asarray((image.mean(-1) > 0) & (image.var(-1) > 1e-10))


def melodic(image: NDArray[np.float64]) -> NDArray[np.bool_]:
    """``melodic --nobet``: the mean exceeds 1 % of its range over voxels."""
    mean = image.mean(-1)
    return np.asarray(mean > mean.min() + 0.01 * (mean.max() - mean.min()))


def spm(image: NDArray[np.float64]) -> NDArray[np.bool_]:
    """SPM12 (spm_global, spm_spm): each sample exceeds 0.8 x the mean of voxels above an eighth of the scan's mean."""
    scans = np.moveaxis(image, -1, 0)
    kept = np.ones(image.shape[:-1], dtype=bool)
    for scan in scans:
        kept &= scan > 0.8 * scan[scan > scan.mean() / 8].mean()
    return np.asarray(kept & np.ptp(image, axis=-1).astype(bool))


def scaled(space: UnitSpace, scores: NDArray[np.float64], one_sd: float) -> NDArray[np.float64]:
    """Volumes of units whose baseline is 10000, on a background of 0."""
    return np.asarray(space.to_image((BASELINE + one_sd * scores).astype(np.float32)).dataobj, dtype=np.float64)


def heavy_tailed(space: UnitSpace, clip: float) -> NDArray[np.float64]:
    """Scores of which many lie at the clip: every unit, and one scan of all units together."""
    scores = np.random.default_rng(0).standard_t(2, (N_SCANS, space.n_units)) * 3
    scores[np.arange(space.n_units) % N_SCANS, np.arange(space.n_units)] = -clip
    scores[3] = -clip
    scores[5] = clip
    return np.asarray(np.clip(scores, -clip, clip))


def worst(space: UnitSpace, clip: float) -> NDArray[np.float64]:
    """Each unit at the lower clip in a scan where all others are at the upper."""
    scores = np.random.default_rng(0).uniform(-1, 1, (N_SCANS, space.n_units))
    low = np.arange(space.n_units) % N_SCANS
    scores[:] = clip
    scores[low, np.arange(space.n_units)] = -clip
    return scores


def units(space: UnitSpace) -> NDArray[np.bool_]:
    """Where the units are."""
    return np.asarray(space.to_image(np.ones(space.n_units, np.float32)).dataobj) > 0


def prepared(space: UnitSpace, scores: NDArray[np.float64], folder: Path) -> NDArray[np.float64]:
    """What ``prep`` writes of a recording whose units have these scores."""
    raw = folder / "sub-x_task-t_bold.nii.gz"
    with NiftiWriter(raw, Grid(space.shape, space.affine)) as writer:
        writer.append(space.to_volumes(scores.astype(np.float32)))
    write_json(folder / "sub-x_task-t_bold.json", {"RepetitionTime": 1.0, "Llm2bids": {"UnitSpace": space.to_json()}})
    run = BoldRun(folder, raw)
    ones = np.ones(space.n_units)
    rescale(run, Moments(0 * ones, ones, ones > 0, len(scores)), folder / "out.nii")
    return np.asarray(nib.load(folder / "out.nii").dataobj, dtype=np.float64)


@pytest.mark.parametrize("rule", [feat, film, melodic, spm])
@pytest.mark.parametrize("make", [heavy_tailed, worst])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.label)
def test_defaults_keep_every_unit_and_no_background(
    space: UnitSpace, make: Callable[[UnitSpace, float], NDArray[np.float64]], rule: Rule, tmp_path: Path
) -> None:
    image = prepared(space, make(space, 2 * CLIP), tmp_path)
    np.testing.assert_array_equal(rule(image), units(space))
    assert image.max() <= BASELINE + CLIP * ONE_SD


@pytest.mark.parametrize("rule", [feat, film, melodic, spm])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.label)
def test_defaults_lose_units_of_recordings_as_they_are(space: UnitSpace, rule: Rule) -> None:
    rng = np.random.default_rng(0)
    means = np.where(np.arange(space.n_units) % 2, 3, -3)
    signals = (rng.standard_normal((N_SCANS, space.n_units)) + means).astype(np.float32)
    found = rule(np.asarray(space.to_image(signals).dataobj, dtype=np.float64))
    assert (units(space) & ~found).sum() >= (1 if rule is melodic else space.n_units // 3)


@pytest.mark.parametrize("space", [space for space in SPACES if space.n_units > 3], ids=lambda space: space.label)
def test_spm_would_lose_units_without_a_floor_that_follows_the_scan(space: UnitSpace) -> None:
    found = spm(scaled(space, worst(space, 20), 100))
    assert not found.any()


@pytest.mark.parametrize(("others", "kept"), [(-0.5, True), (0.5, False)])
def test_a_sample_of_8000_passes_spm_only_where_the_scan_lies_below_the_baseline(others: float, *, kept: bool) -> None:
    """0.8 x 10000 is 8000 and SPM's comparison is strict: the sign of the scan's mean decides."""
    space = SPACES[0]
    scores = np.random.default_rng(0).uniform(-1, 1, (N_SCANS, space.n_units))
    scores[7] = others
    scores[7, 11] = -20
    lost = units(space) & ~spm(scaled(space, scores, 100))
    assert lost.sum() == (0 if kept else 1)


def test_background_of_less_than_two_percent_would_lose_units_in_feat() -> None:
    """Why a space keeps 2.5 % of its box empty: else the floor of the robust range is a unit's value, not 0."""
    space = SPACES[1]
    image = scaled(space, heavy_tailed(space, 20), 100)
    without = image[:, :, space.n_empty : -space.n_empty]
    assert feat(image)[units(space)].all()
    assert not feat(without).all()
