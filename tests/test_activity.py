"""What units do before statistics, against numpy on the whole array."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from llm2bids.bids.nifti import Grid, NiftiWriter, read_scans
from llm2bids.bids.runs import find_runs
from llm2bids.errors import DatasetError
from llm2bids.model.phantom import build_phantom
from llm2bids.reporting.activity import measure_activity, read_carpet, spread_evenly
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llm2bids.recording import Recording

SPACE = UnitSpace("mlp", ("h.0:out", "h.1:out", "h.2:out"), (30, 44, 36))


def write(path: Path, signals: NDArray[np.float32], space: UnitSpace = SPACE) -> Path:
    with NiftiWriter(path, Grid(space.shape, space.affine)) as writer:
        writer.append(space.to_volumes(signals.astype(np.float32)))
    return path


def some_signals(n_scans: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n_scans, SPACE.n_units)) * 2 + rng.normal(size=SPACE.n_units)).astype(np.float32)


@pytest.fixture
def few_scans_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    part = 7 * 4 * int(np.prod(SPACE.shape))
    monkeypatch.setattr("llm2bids.bids.nifti.read_scans", lambda path, *_: read_scans(path, part))


@pytest.mark.usefixtures("few_scans_at_a_time")
def test_moments_are_those_of_all_scans(tmp_path: Path) -> None:
    parts = [some_signals(23, 1) + 5000, some_signals(16, 2) + 5000]
    signals_of_all = np.concatenate(parts).astype(float)
    activity = measure_activity([write(tmp_path / f"{n}_bold.nii.gz", part) for n, part in enumerate(parts)], SPACE)
    np.testing.assert_allclose(activity.mean, signals_of_all.mean(0), rtol=1e-12)
    np.testing.assert_allclose(activity.variance, signals_of_all.var(0), rtol=1e-9)
    np.testing.assert_allclose(activity.magnitude, np.abs(signals_of_all).mean(0), rtol=1e-12)
    assert activity.n_scans == 39
    assert activity.runs == ("0_bold.nii.gz", "1_bold.nii.gz")


def test_every_layer_has_a_row(tmp_path: Path) -> None:
    signals = some_signals(20, 3)
    signals[:, 30 + 7] = -40
    activity = measure_activity([write(tmp_path / "a_bold.nii", signals)], SPACE).table
    magnitude = np.abs(signals.astype(float)).mean(0)
    assert list(activity["hookpoint"]) == list(SPACE.hookpoints)
    assert list(activity["units"]) == [30, 44, 36]
    np.testing.assert_allclose(activity["mean"], [part.mean() for part in SPACE.split(signals.astype(float))])
    np.testing.assert_allclose(activity["magnitude_median"], [np.median(part) for part in SPACE.split(magnitude)])
    np.testing.assert_allclose(
        activity["variance"], [part.var(0).mean() for part in SPACE.split(signals.astype(float))]
    )
    row = activity.iloc[1]
    assert (row["largest_channel"], row["largest"], row["constant"]) == (7, 40, 1)
    assert row["ratio"] == pytest.approx(40 / row["magnitude_median"])


def test_massive_units_are_those_planted(tmp_path: Path) -> None:
    signals = some_signals(20, 4)
    signals[:, 5] = 900
    signals[:, 30 + 40] = -3000
    signals[:, 99] = 60  # large, but not massive
    run = write(tmp_path / "a_bold.nii.gz", signals)
    activity = measure_activity([run], SPACE).massive
    assert activity[["unit", "hookpoint", "block", "channel"]].to_numpy().tolist() == [
        [70, "h.1:out", 1, 40],
        [5, "h.0:out", 0, 5],
    ]
    assert list(activity["mean"]) == [-3000, 900]
    assert list(measure_activity([run], SPACE, ratio=10).massive["unit"]) == [70, 5, 99]
    assert list(measure_activity([run], SPACE, least=1000).massive["unit"]) == [70]


def test_a_small_scale_alone_makes_nothing_massive(tmp_path: Path) -> None:
    signals = some_signals(20, 5) / 1000
    signals[:, 5] = 5
    assert measure_activity([write(tmp_path / "a_bold.nii", signals)], SPACE).massive.empty


def test_layers_in_which_most_units_are_silent(tmp_path: Path) -> None:
    signals = some_signals(20, 6)
    signals[:, 30:74] = 0
    signals[:, [31, 32, 33]] = 1
    signals[:, 40] = 500
    activity = measure_activity([write(tmp_path / "a_bold.nii", signals)], SPACE)
    assert list(activity.massive["unit"]) == [40]
    assert activity.massive["ratio"].iloc[0] == 500
    assert activity.table["constant"].tolist() == [0, 44, 0]


def test_what_is_not_finite_is_left_out_and_counted(tmp_path: Path) -> None:
    signals = some_signals(20, 7)
    signals[3, 8], signals[5, 8], signals[:, 80] = np.nan, np.inf, np.nan
    activity = measure_activity([write(tmp_path / "a_bold.nii", signals)], SPACE)
    finite = np.delete(signals[:, 8].astype(float), [3, 5])
    assert activity.mean[8] == pytest.approx(finite.mean())
    assert activity.variance[8] == pytest.approx(finite.var())
    assert np.flatnonzero(np.isnan(activity.mean)).tolist() == [80]
    assert activity.table["nonfinite"].tolist() == [2, 0, 20]
    assert activity.table.notna().all(axis=None)
    signals[:, :30] = np.nan
    first = measure_activity([write(tmp_path / "b_bold.nii", signals)], SPACE).table.iloc[0]
    assert first["largest_channel"] == -1
    assert np.isnan(first["magnitude"])


def test_constant_units_have_no_variance(tmp_path: Path) -> None:
    signals = np.tile(np.linspace(0.1, 0.7, SPACE.n_units), (20, 1))
    activity = measure_activity([write(tmp_path / "a_bold.nii", signals)], SPACE)
    assert (activity.variance == 0).all()
    assert activity.table["constant"].tolist() == list(SPACE.n_channels)


def test_the_massive_channels_of_the_phantom_are_found(small_dataset: tuple[Path, list[Recording]]) -> None:
    run = find_runs(small_dataset[0])[0]
    activity = measure_activity([run.bold], run.space)
    first_token = build_phantom().model.get_input_embeddings().weight[1].detach().numpy()
    channels = np.flatnonzero(first_token)  # it holds nothing else
    assert len(channels) == 2
    assert {*zip(activity.massive["block"], activity.massive["channel"], strict=True)} == {
        (block, channel) for block in range(6) for channel in channels
    }
    assert set(activity.table["largest_channel"]) == {channels[0]}


def test_of_many_runs_some_are_measured(tmp_path: Path) -> None:
    runs = [write(tmp_path / f"run-{n}_bold.nii", np.full((2, SPACE.n_units), float(n))) for n in range(7)]
    activity = measure_activity(runs, SPACE, max_runs=3)
    assert activity.runs == ("run-0_bold.nii", "run-3_bold.nii", "run-6_bold.nii")
    np.testing.assert_allclose(activity.mean, 3)
    assert len(measure_activity(runs, SPACE).runs) == 6
    assert spread_evenly(runs[:4], 6) == runs[:4]


def test_runs_that_cannot_be_measured_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no run found, at least one needed"):
        measure_activity([], SPACE)
    run = write(tmp_path / "a_bold.nii", some_signals(3, 8))
    other_space = UnitSpace.uniform("mlp", ("h.0:out",), 30)
    for read in (lambda: measure_activity([run], other_space), lambda: read_carpet(run, other_space)):
        with pytest.raises(DatasetError, match=r"a_bold.nii has .* needed for L1C30mlp"):
            read()
    with pytest.raises(DatasetError, match="holds no scan"):
        read_carpet(write(tmp_path / "b_bold.nii", np.zeros((0, SPACE.n_units))), SPACE)


# ---- carpet


def prepared(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isnan(scores), 0, 10000 + 100 * scores)


@pytest.mark.usefixtures("few_scans_at_a_time")
def test_a_carpet_that_fits_is_the_run(tmp_path: Path) -> None:
    scores = np.random.default_rng(9).normal(size=(23, SPACE.n_units))
    scores[:, [0, 50]] = np.nan  # constant units
    values, layers = read_carpet(write(tmp_path / "a_bold.nii.gz", prepared(scores)), SPACE)
    np.testing.assert_allclose(values, scores.T, atol=1e-4)
    assert values.dtype == np.float32
    assert layers.tolist() == [0] * 30 + [1] * 44 + [2] * 36


@pytest.mark.usefixtures("few_scans_at_a_time")
def test_a_larger_carpet_is_averaged_within_layers_and_over_neighbouring_scans(tmp_path: Path) -> None:
    scores = np.random.default_rng(10).normal(size=(23, SPACE.n_units))
    scores[:, 3] = np.nan
    run = write(tmp_path / "a_bold.nii.gz", prepared(scores))
    values, layers = read_carpet(run, SPACE, max_rows=30, max_columns=8)
    assert values.shape == (30, 8)  # 3 scans each, the last 2
    assert np.bincount(layers).tolist() == [10, 10, 10]
    assert values[1, 0] == pytest.approx(np.mean(scores[:3, 4:6]), abs=1e-4)  # channels 3 to 5, of which 3 is constant
    assert values[29, 7] == pytest.approx(np.mean(scores[21:, 106:]), abs=1e-4)  # the last 4 channels
    assert values[10, 2] == pytest.approx(np.mean(scores[6:9, 30:34]), abs=1e-4)


def test_a_carpet_has_a_row_for_every_layer(tmp_path: Path) -> None:
    scores = np.random.default_rng(11).normal(size=(5, SPACE.n_units))
    values, layers = read_carpet(write(tmp_path / "a_bold.nii", prepared(scores)), SPACE, max_rows=2)
    assert layers.tolist() == [0, 1, 2]
    np.testing.assert_allclose(values[1], scores[:, 30:74].mean(1), atol=1e-4)
