"""What `prep` computes of one run: its scale, and the confounds of tokens, drift and spikes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from llm2bids.bids.nifti import Grid, NiftiWriter, read_scans
from llm2bids.bids.runs import BoldRun, frame_times
from llm2bids.bids.tables import write_json, write_stim
from llm2bids.design.matrix import cosines
from llm2bids.errors import DatasetError
from llm2bids.preparation.confounds import confounds, describe, log_frequencies
from llm2bids.preparation.scale import measure, rescale
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]
SPACE = UnitSpace("block", ("h.0:out", "h.1:out"), (11, 7))
SMALL_PARTS = 1000
"""Bytes of volumes at a time: three scans of `SPACE`."""


def recorded(folder: Path, signals: Array, space: UnitSpace = SPACE, t_r: float = 1.0) -> BoldRun:
    """A recording of these signals."""
    run = BoldRun(folder, folder / "sub-x" / "func" / "sub-x_task-t_acq-block_run-01_bold.nii.gz")
    run.bold.parent.mkdir(parents=True)
    with NiftiWriter(run.bold, Grid(space.shape, space.affine, t_r)) as writer:
        writer.append(space.to_volumes(signals.astype(np.float32)))
    write_json(run.beside("bold.json"), {"RepetitionTime": t_r, "Llm2bids": {"UnitSpace": space.to_json()}})
    return run


def rescaled(run: BoldRun) -> tuple[Array, Array, int]:
    """Signals after both passes, the global signal, and how many values were cut."""
    target = run.beside("bold.nii.gz", desc="preproc")
    global_signal, n_clipped = rescale(run, measure(run), target)
    return run.space.from_volumes(np.concatenate(list(read_scans(target)))), global_signal, n_clipped


@pytest.fixture
def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few scans at a time, as of a large model."""
    monkeypatch.setattr("llm2bids.bids.nifti.read_scans", lambda path, *_: read_scans(path, SMALL_PARTS))


# ---- the scale


def noise(n_scans: int, seed: int = 0) -> Array:
    """Units of very different mean and scale: among them massive activations that hardly vary."""
    rng = np.random.default_rng(seed)
    mean, sd = rng.normal(size=SPACE.n_units), 10 ** rng.uniform(-3, 3, SPACE.n_units)
    mean[:4], sd[:4] = [1e4, -1e4, 1e-6, 3e5], [1e-1, 3e-1, 1e-9, 2.0]
    return np.asarray(mean + sd * rng.normal(size=(n_scans, SPACE.n_units))).astype(np.float32)


@pytest.mark.usefixtures("in_small_parts")
@pytest.mark.parametrize("n_scans", [2, 3, 4, 40])
def test_moments_of_parts_are_those_of_the_whole(tmp_path: Path, n_scans: int) -> None:
    signals = noise(n_scans)
    moments = measure(recorded(tmp_path, signals))
    np.testing.assert_allclose(moments.mean, signals.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(moments.sd, signals.std(0, dtype=np.float64), rtol=1e-7)
    assert (moments.n_scans, moments.varies.all()) == (n_scans, True)


@pytest.mark.usefixtures("in_small_parts")
def test_every_unit_gets_one_baseline_and_one_standard_deviation(tmp_path: Path) -> None:
    signals = noise(200)
    scaled, global_signal, n_clipped = rescaled(recorded(tmp_path, signals))
    np.testing.assert_allclose(scaled.mean(0, dtype=np.float64), 10000, atol=1e-3)
    np.testing.assert_allclose(scaled.std(0, dtype=np.float64), 100, atol=1e-3)
    scores = (signals - signals.mean(0, dtype=np.float64)) / signals.std(0, dtype=np.float64)
    np.testing.assert_allclose(scaled, 10000 + 100 * scores, atol=1e-3)
    np.testing.assert_allclose(global_signal, 10000 + 100 * scores.mean(1), atol=1e-3)
    assert n_clipped == 0


def test_a_unit_that_switches_lies_one_standard_deviation_off_the_baseline(tmp_path: Path) -> None:
    switching = np.where(np.arange(20) % 2, 5.0, -3.0)[:, np.newaxis] * np.ones(SPACE.n_units)
    scaled, global_signal, _ = rescaled(recorded(tmp_path, switching))
    assert np.array_equal(scaled, np.where(switching > 0, 10100, 9900))
    assert np.array_equal(global_signal, scaled[:, 0])


@pytest.mark.usefixtures("in_small_parts")
def test_outliers_are_cut_and_counted(tmp_path: Path) -> None:
    n_scans = 500  # a single spike lies sqrt(n_scans - 1) = 22.3 standard deviations off
    signals = np.zeros((n_scans, SPACE.n_units))
    signals[:, 0] = np.arange(n_scans) % 2
    signals[7, 1], signals[499, 2] = 1e-20, -3e30
    signals[:2, 3] = 1  # 15.8 standard deviations: not cut
    scaled, _, n_clipped = rescaled(recorded(tmp_path, signals))
    assert (scaled[7, 1], scaled[499, 2], n_clipped) == (12000, 8000, 2)
    np.testing.assert_allclose(scaled[[0, 7], [1, 2]], [10000 - 100 / 499**0.5, 10000 + 100 / 499**0.5])
    np.testing.assert_allclose(scaled[:3, 3], [*[10000 + 100 * 249**0.5] * 2, 10000 - 100 / 249**0.5])


def test_no_value_falls_so_far_below_its_scan_that_spm_drops_the_unit(tmp_path: Path) -> None:
    signals = np.zeros((500, SPACE.n_units))
    signals[7] = [*[1] * (SPACE.n_units - 1), -1]  # all 22.3 standard deviations off, one of them downwards
    scaled, global_signal, n_clipped = rescaled(recorded(tmp_path, signals))
    lifted = 0.801 * 17 * 12000 / (18 - 0.801)  # 0.801 times the mean, which it takes part in
    np.testing.assert_allclose(scaled[7], [*[12000] * 17, lifted], atol=0.01)
    np.testing.assert_allclose(global_signal[7], (17 * 12000 + lifted) / 18, atol=0.01)
    assert (n_clipped, bool((scaled > 0.8 * scaled.mean(1, keepdims=True)).all())) == (18, True)


@pytest.mark.usefixtures("in_small_parts")
def test_constant_units_become_background(tmp_path: Path) -> None:
    signals = noise(40)
    ulp = np.spacing(np.float32(1e4))
    signals[:, 3], signals[:, 9], signals[:, 12] = 0.1, 0.0, 1e4
    signals[::3, 12] += ulp  # constant but for rounding
    signals[:, 13] = 1e4
    signals[::3, 13] += 100 * ulp
    run = recorded(tmp_path, signals)
    moments = measure(run)
    assert np.flatnonzero(~moments.varies).tolist() == [3, 9, 12]
    scaled, global_signal, _ = rescaled(run)
    assert np.flatnonzero((scaled == 0).all(0)).tolist() == [3, 9, 12]
    varying = scaled[:, moments.varies]
    assert varying.min() > 8000
    np.testing.assert_allclose(global_signal, varying.mean(1, dtype=np.float64), atol=1e-3)


def test_no_voxel_without_a_unit_is_touched(tmp_path: Path) -> None:
    run = recorded(tmp_path, noise(5))
    rescale(run, measure(run), run.beside("bold.nii.gz", desc="preproc"))
    image = nib.load(run.beside("bold.nii.gz", desc="preproc"))
    held = SPACE.mask_image().get_fdata() > 0
    assert (image.get_fdata()[~held] == 0).all()
    assert (~held).mean() > 0.025
    assert image.get_data_dtype() == np.float32


@pytest.mark.usefixtures("in_small_parts")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_by_scan_and_unit(tmp_path: Path, value: float) -> None:
    signals = noise(10)
    signals[8, 15] = value
    with pytest.raises(DatasetError, match=f"^{value} found in sub-x.*, scan 8, unit 15; record it again"):
        measure(recorded(tmp_path, signals))


@pytest.mark.parametrize("n_scans", [1, 6])
def test_a_run_in_which_nothing_varies_is_refused(tmp_path: Path, n_scans: int) -> None:
    with pytest.raises(DatasetError, match=f"no unit of sub-x_task-t_acq-block_run-01 varies over its {n_scans} scans"):
        measure(recorded(tmp_path, np.full((n_scans, SPACE.n_units), 0.1)))


def test_a_run_without_scans_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no scan; record it again"):
        measure(recorded(tmp_path, np.zeros((0, SPACE.n_units))))


def test_memory_does_not_grow_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm2bids.bids.nifti.read_scans", lambda path, *_: read_scans(path, 1 << 20))
    space = UnitSpace.uniform("block", [f"h.{n}:out" for n in range(16)], 1024)
    peaks = []
    for n_scans in (100, 400):
        run = recorded(tmp_path / str(n_scans), np.tile(np.eye(2, space.n_units), (n_scans // 2, 1)), space)
        tracemalloc.start()
        measure(run)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


# ---- tokens, drift and spikes


def with_tokens(folder: Path, tokens: pd.DataFrame, n_scans: int | None = None) -> BoldRun:
    """A recording of these tokens."""
    run = recorded(folder, noise(len(tokens) if n_scans is None else n_scans), t_r=2.0)
    write_json(folder / "task-t_stim.json", {"Columns": list(tokens)})
    write_stim(run.beside("stim.tsv.gz"), tokens)
    return run


def tokens_of(n_scans: int = 6) -> pd.DataFrame:
    """What a recording tells of its tokens."""
    return pd.DataFrame(
        {
            "token_id": [5, 7, 5, 9, 9, 9][:n_scans],
            "position": [0, 1, 2, 0, 1, 2][:n_scans],
            "surprisal": [np.nan, 2.0, np.inf, np.nan, 4.0, 9.0][:n_scans],
            "entropy": [np.nan] * n_scans,
        }
    )


def test_confounds_are_finite_and_in_closed_form(tmp_path: Path) -> None:
    run = with_tokens(tmp_path, tokens_of())
    frequencies = log_frequencies([run])
    assert frequencies == pytest.approx({5: np.log10(1 / 3), 7: np.log10(1 / 6), 9: np.log10(1 / 2)})
    table = confounds(run, frequencies, np.arange(6.0), 1 / 12)
    shared = np.array([1 / 3, 1 / 6, 1 / 3, 1 / 2, 1 / 2, 1 / 2])
    expected = {
        "tok_position": [0, 1, 2, 0, 1, 2],
        "tok_surprisal": [5, 2, 5, 5, 4, 9],
        "tok_entropy": [0.0] * 6,
        "tok_log_frequency": np.log10(shared).tolist(),
        "global_signal": list(range(6)),
        **cosines(frame_times(6, 2.0), 1 / 12).to_dict("list"),
        "non_steady_state_outlier00": [1, 0, 0, 0, 0, 0],
        "non_steady_state_outlier01": [0, 0, 0, 1, 0, 0],
    }
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected), check_dtype=False)
    assert {name for name in table if name.startswith("cosine")} == {"cosine00", "cosine01"}
    texts = describe(table, 1 / 12)
    assert list(texts) == list(table)
    assert texts["cosine01"]["CutoffHz"] == 1 / 12


@pytest.mark.parametrize(
    ("change", "n_scans", "telling"),
    [
        (lambda table: table.iloc[:5], 6, "has 5 rows, sub-x.* 6 scans; record it again"),
        (lambda table: table.assign(token_id=[1, 2, None, 4, 5, 6]), 6, "holds a token_id that is no number"),
        (lambda table: table.assign(position=[*"01201x"]), 6, "holds a position that is no number"),
        (lambda table: table.assign(entropy="high"), 6, "holds a entropy that is no number"),
        (lambda table: table.drop(columns="entropy"), 6, "task-t_stim.json names no token columns"),
        (lambda table: table.iloc[:0], 6, "has 0 rows|cannot be read"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], n_scans: int, telling: str
) -> None:
    run = with_tokens(tmp_path, change(tokens_of()), n_scans)
    with pytest.raises(DatasetError, match=telling):
        log_frequencies([run])
