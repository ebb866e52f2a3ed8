"""Courses for pages: right to half a step, never over two prompts, as fine as there is room."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest

from llm2bids.bids.prepared import PreparedRun, find_prepared
from llm2bids.bids.tables import read_json, write_json
from llm2bids.errors import DatasetError
from llm2bids.preparation import prep
from llm2bids.reporting.time_courses import STEPS, read_time_courses
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.recording import Recording


@pytest.fixture(scope="module")
def root(small_dataset: tuple[Path, list[Recording]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of two runs, prompts of 5 tokens, prepared."""
    home = shutil.copytree(small_dataset[0], tmp_path_factory.mktemp("courses") / "ds")
    prep(home, progress=False)
    return home


@pytest.fixture(scope="module")
def runs(root: Path) -> list[PreparedRun]:
    return list(find_prepared(root).values())


@pytest.fixture(scope="module")
def network(runs: list[PreparedRun]) -> NDArray[np.bool_]:
    """Seven units."""
    return np.arange(runs[0].volumes.space.n_units) % 110 == 3


def volumes(run: PreparedRun) -> NDArray[np.float64]:
    """The file as nibabel reads it, in standard deviations."""
    return run.volumes.space.to_signals(nib.load(run.volumes.bold)).astype(float) / 100 - 100


def test_with_room_every_token_is_a_point(runs: list[PreparedRun], network: NDArray[np.bool_]) -> None:
    courses = read_time_courses(runs, runs[0].volumes.space, network)
    assert sorted(courses) == ["medicalimaging", "pathology"]
    task_runs = [run for run in runs if run.volumes.entities["task"] == "pathology"]
    expected = np.clip(np.concatenate([volumes(run) for run in task_runs]), -127 / STEPS, 127 / STEPS).T
    assert courses["pathology"].points.shape == expected.shape
    assert np.abs(courses["pathology"].points / STEPS - expected).max() <= 0.5 / STEPS + 1e-4
    assert courses["pathology"].description == "each point: mean of one token, runs 1 to 2"
    kinds = [prompt.trial_type for prompt in courses["pathology"].runs[0].prompts]
    assert kinds == task_runs[0].events["trial_type"].tolist()


def test_a_point_never_holds_two_prompts(runs: list[PreparedRun], network: NDArray[np.bool_]) -> None:
    space = runs[0].volumes.space
    n_bytes = sum(run.volumes.n_scans for run in runs) // 5 * 3 * space.n_units
    courses = read_time_courses(runs, space, network, int(n_bytes * 0.76))["medicalimaging"]
    signals = volumes(next(run for run in runs if run.volumes.entities["task"] == "medicalimaging"))
    assert courses.n_scans == 2
    expected = np.stack([signals[first + at : first + min(at + 2, 5)].mean(0)
                         for first in range(0, len(signals), 5) for at in (0, 2, 4)])  # fmt: skip
    points = courses.points[:, : len(expected)].T / STEPS
    assert np.abs(points - np.clip(expected, -127 / STEPS, 127 / STEPS)).max() <= 0.5 / STEPS + 1e-4


@pytest.mark.parametrize(
    ("points", "n_kept", "description"),
    [
        (5, 768, "mean of one token, runs 1 to 2"),
        (4.9, 768, "mean of 2 tokens, runs 1 to 2"),
        (2.9, 768, "mean of 4 tokens, runs 1 to 2"),
        (1.9, 768, "mean of a whole prompt, runs 1 to 2"),
        (0.9, 768, "mean of a whole prompt, run 1 of 2"),
        (0.49, 7, "mean of one token, runs 1 to 2"),
        (0.0, 0, ""),
    ],
)
def test_the_finest_that_fits_is_taken(
    runs: list[PreparedRun], network: NDArray[np.bool_], points: float, n_kept: int, description: str
) -> None:
    space = runs[0].volumes.space
    n_prompts = sum(len(run.events) for run in runs)
    for courses in read_time_courses(runs, space, network, int(points * n_prompts * space.n_units * 0.75)).values():
        assert courses.points.shape[0] == len(courses.units) == n_kept
        assert courses.description.endswith(description)
        assert n_kept != 7 or np.array_equal(courses.units, np.flatnonzero(network))


def test_what_a_byte_cannot_hold_is_cut_off(root: Path, network: NDArray[np.bool_], tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "ds")
    run = next(iter(find_prepared(copy).values()))
    sidecar = run.volumes.beside("bold.json")
    fields = read_json(sidecar)
    write_json(sidecar, fields | {"Llm2bids": fields["Llm2bids"] | {"OneStandardDeviation": 1.0}})
    run = next(iter(find_prepared(copy).values()))
    (courses,) = read_time_courses([run], run.volumes.space, network).values()
    assert (courses.points.min(), courses.points.max()) == (-127, 127)
    assert np.array_equal(courses.points == 127, volumes(run).T * 100 * STEPS >= 126.5)


def test_runs_of_another_site_are_refused(runs: list[PreparedRun], network: NDArray[np.bool_]) -> None:
    with pytest.raises(DatasetError, match="L6C128mlp needed"):
        read_time_courses(runs, UnitSpace.uniform("mlp", [f"h.{n}:out" for n in range(6)], 128), network)
