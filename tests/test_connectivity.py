"""How networks go together over time: closed forms, and what the phantom planted."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from llm2bids.bids.prepared import PreparedRun
from llm2bids.bids.tables import read_json, read_tsv, write_json
from llm2bids.errors import InferenceError, LLM2BIDSError
from llm2bids.networks.connectome import (
    correlation_matrices,
    eigenvariate,
    evoked_regressors,
    exclusive_units,
    mean_correlation,
    regress_out,
    signed_mean,
)
from llm2bids.networks.functional_connectivity import NuisanceModel, connectivity, find_scans
from llm2bids.networks.network_set import find_networks
from llm2bids.plots.connectivity import draw_connectivity

if TYPE_CHECKING:
    from pathlib import Path

    from llm2bids.networks.answers import Answer

pytestmark = pytest.mark.usefixtures("blank_figures")
"""Only that of the answer that all look at is drawn, before any test."""

PAIR = ("medicalimaging", "pathology")
"""Tasks with planted shared units."""


@pytest.mark.parametrize("n_units", [3, 40])
def test_the_eigenvariate_of_rank_one_is_its_course(n_units: int) -> None:
    rng = np.random.default_rng(0)
    course, loadings = rng.normal(size=17), rng.uniform(0.5, 2, n_units)
    signs = rng.choice([-1.0, 1.0], n_units)
    found, explained = eigenvariate(np.outer(course, loadings * signs) + 5, signs)
    assert found == pytest.approx((course - course.mean()) * np.linalg.norm(loadings) / np.sqrt(n_units))
    assert explained == pytest.approx(1)
    assert np.corrcoef(found, signed_mean(np.outer(course, loadings * signs), signs))[0, 1] == pytest.approx(1)


@pytest.mark.parametrize("shape", [(30, 6), (6, 30)])
def test_the_eigenvariate_is_the_first_singular_vector(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    signals, signs = rng.normal(size=shape), np.where(np.arange(shape[1]) % 3 == 0, -1.0, 1.0)
    centred = signals - signals.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    found, explained = eigenvariate(signals, signs)
    assert np.abs(found) == pytest.approx(np.abs(left[:, 0]) * singular[0] / np.sqrt(shape[1]))
    assert explained == pytest.approx(singular[0] ** 2 / (singular**2).sum())
    assert found @ signed_mean(signals, signs) > 0
    still, nothing = eigenvariate(np.ones(shape), signs)
    assert not still.any()
    assert np.isnan(nothing)


def test_partial_correlation_of_three_has_a_closed_form() -> None:
    courses = np.random.default_rng(2).normal(size=(80, 3)) @ np.array([[1, 0.6, 0], [0, 1, -0.5], [0.3, 0, 1]])
    found, partial = correlation_matrices(courses, ["a", "b", "c"])
    r = np.corrcoef(courses.T)
    assert found == pytest.approx(r)
    for one, other, third in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        below = np.sqrt((1 - r[one, third] ** 2) * (1 - r[other, third] ** 2))
        assert partial[one, other] == pytest.approx((r[one, other] - r[one, third] * r[other, third]) / below)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda values: values[:4], "4 scans found for 3 networks"),
        (lambda values: values * [1, 0, 1], "network of task b does not vary"),
        (lambda values: values[:, [0, 1, 0]], "is a sum of others"),
        (lambda values: np.where(values == values.max(), np.nan, values), "NaN or infinity"),
    ],
)
def test_courses_that_mean_nothing_are_refused(spoil: Any, said: str) -> None:
    with pytest.raises(InferenceError, match=said):
        correlation_matrices(spoil(np.random.default_rng(3).normal(size=(30, 3))), ["a", "b", "c"])


def test_intervals_over_runs_are_those_of_fishers_z() -> None:
    r = np.array([0.9, 0.7, -0.2, 0.6])
    mean, low, high = mean_correlation(r)
    expected = ttest_1samp(np.arctanh(r), 0).confidence_interval(0.95)
    assert (float(low), float(high)) == pytest.approx((np.tanh(expected.low), np.tanh(expected.high)))
    assert float(mean) == pytest.approx(np.tanh(np.arctanh(r).mean()))
    assert np.isnan(mean_correlation(r[:1])[1])
    assert np.isnan(mean_correlation(r[:0])[0])
    assert float(mean_correlation(np.ones(3))[0]) == pytest.approx(1)


def blocks(n_blocks: int, n_tokens: int) -> pd.DataFrame:
    """Prompts of two conditions in turn, three per block."""
    kinds = np.repeat(["off", "on"] * n_blocks, 3)
    table = pd.DataFrame({"onset": np.arange(len(kinds)) * n_tokens, "duration": n_tokens, "trial_type": kinds})
    return table.assign(prompt=[str(number + 1) for number in range(len(kinds))]).astype({"onset": float})


def test_nothing_of_what_is_taken_out_is_left() -> None:
    rng = np.random.default_rng(4)
    regressors = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 6))  # collinear
    signals = rng.normal(size=(50, 7)) + regressors[:, :1] * 9
    cleared = regress_out(signals, regressors)
    assert np.abs(regressors.T @ cleared).max() < 1e-9
    assert np.linalg.matrix_rank(signals - cleared) == 4
    with pytest.raises(InferenceError, match="take out all of 4 scans"):
        regress_out(signals[:4], np.eye(4))


def test_background_has_no_evoked_response() -> None:
    events, n_tokens = blocks(4, 6), 6
    times = np.arange(len(events) * n_tokens) + 0.5
    shape = np.tile(np.linspace(0, 1, n_tokens) ** 2, len(events)) * np.repeat(
        (events["trial_type"] == "on").to_numpy(), n_tokens
    )
    own = np.random.default_rng(5).normal(size=len(times))
    design = evoked_regressors(events, times)
    assert np.abs(regress_out(shape[:, None], design.to_numpy())).max() < 1e-9
    boxcars = design[["trial_type.on", "trial_type.off"]].to_numpy()
    assert np.abs(regress_out(shape[:, None], boxcars)).max() > 0.2  # which boxcars alone would leave
    both = regress_out(np.stack([shape + own, own], axis=1), design.to_numpy())
    assert both[:, 0] == pytest.approx(both[:, 1])
    rest = evoked_regressors(events.assign(trial_type="n/a"), times)
    assert rest.shape == (len(times), n_tokens + 1)


@pytest.fixture(scope="module")
def results(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results elsewhere that know where their datasets are."""
    out = shutil.copytree(planted / "derivatives" / "glm", tmp_path_factory.mktemp("connect") / "glm")
    links = {"raw": str(planted), "prep": str(planted / "derivatives" / "llm2bids")}
    described = read_json(out / "dataset_description.json")
    write_json(out / "dataset_description.json", described | {"DatasetLinks": links})
    return out


@pytest.fixture
def own_results(results: Path, tmp_path: Path) -> Path:
    return shutil.copytree(results, tmp_path / "glm", ignore=shutil.ignore_patterns("networks"))


@pytest.fixture(scope="module")
def answer(results: Path) -> Answer:
    (found,) = connectivity(results, task_label=[*PAIR, "randomstrings"], progress=False)
    return found


def test_shared_units_are_left_out(answer: Answer, results: Path) -> None:
    networks = answer.tables["networks"].set_index("task")
    (found,) = find_networks(results, tasks=[*PAIR, "randomstrings"])
    own = exclusive_units(found.selected)
    assert own.sum(0).max() == 1
    assert networks.loc[found.tasks, "used"].tolist() == own.sum(1).tolist()
    assert (networks["used"] == networks["units"] - networks["shared"]).all()
    assert networks.loc[list(PAIR), "shared"].min() > 15


def test_shared_units_make_networks_go_together(answer: Answer, own_results: Path) -> None:
    (kept,) = connectivity(own_results, task_label=PAIR, scans=PAIR, shared=True, course="eigenvariate", progress=False)
    (row,) = kept.tables["pairs"].to_dict("records")
    alone = answer.tables["scans"].set_index(["scans", "task_a", "task_b"]).loc[("pathology", *PAIR)]
    assert row["correlation_low"] > 0.5 > alone["correlation"]
    assert kept.tables["networks"]["explained"].between(0.1, 1).all()
    assert row["n_elsewhere"] == 0
    assert np.isnan(row["correlation_elsewhere"])


def test_what_is_written_is_what_was_correlated(answer: Answer) -> None:
    runs, scans = answer.tables["runs"], answer.tables["scans"]
    files = [path for path in answer.files if path.name.endswith("_timeseries.tsv")]
    assert len(files) == 24  # all tasks that are prepared, not only those with a network
    assert (
        files[0].name
        == "sub-phantom_task-archeology_acq-block_run-01_space-L6C128block_desc-connectivity_timeseries.tsv"
    )
    table = read_tsv(files[-1]).astype(float)
    own = runs[(runs["scans"] == "randomstrings") & (runs["run"] == "run-04")].set_index(["task_a", "task_b"])
    for pair, row in own.iterrows():
        assert row["correlation"] == pytest.approx(table.corr().loc[pair], abs=1e-4)
        inside = runs[(runs["scans"] == "randomstrings") & (runs["task_a"] == pair[0]) & (runs["task_b"] == pair[1])]
        mean = scans.set_index(["scans", "task_a", "task_b"]).loc[("randomstrings", *pair), "correlation"]
        assert mean == pytest.approx(mean_correlation(inside["correlation"].to_numpy())[0])
        assert row["chose"] == ("randomstrings" in pair)
    told = read_json(next(path for path in answer.files if path.name.endswith("networks.json")))
    for one in answer.tables.values():
        assert set(one.columns) <= set(told["Columns"])
    assert "not independent" in told["Llm2bids"]["Settings"]["Note"]
    assert not [name for name in told["Columns"] if name == "p"]


def test_networks_follow_their_own_task(answer: Answer, results: Path) -> None:
    (found,) = find_networks(results, tasks=["randomstrings"])
    run = find_scans(results, found, ["randomstrings"])[0]
    on = run.events.loc[run.events["trial_type"] == "on"]
    shown = np.logical_or.reduce(
        [(run.times > row.onset) & (run.times < row.onset + row.duration) for row in on.itertuples()]
    )
    course = answer.series["task-randomstrings_run-01_timeseries"]
    assert np.corrcoef(course["randomstrings"], shown)[0, 1] > 0.9
    assert abs(np.corrcoef(course["pathology"], shown)[0, 1]) < 0.3


def test_background_is_another_answer(own_results: Path) -> None:
    (found,) = connectivity(own_results, task_label=PAIR, scans=["pathology"], background=True, progress=False)
    assert found.question == "connectivitybackground"
    (networks,) = find_networks(own_results, tasks=PAIR)
    run = find_scans(own_results, networks, ["pathology"])[0]
    regressors = NuisanceModel(background=True, confounds=()).regressors(run).to_numpy()
    courses = found.series["task-pathology_run-01_timeseries"].to_numpy()
    scale = np.linalg.norm(regressors, axis=0)[:, None] * np.linalg.norm(courses, axis=0)
    assert np.abs(regressors.T @ courses / scale).max() < 1e-4  # units are float32
    connectivity(own_results, task_label=PAIR, scans=["pathology"], progress=False)
    assert all(path.exists() for path in found.files)
    with pytest.raises(LLM2BIDSError, match="exists already"):
        connectivity(own_results, task_label=PAIR, background=True)
    (fewer,) = connectivity(own_results, task_label=PAIR, scans=["archeology"], overwrite=True, progress=False)
    there = set((own_results / "networks").glob("*desc-connectivity_*"))
    assert there == set(fewer.files)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task_label": ["pathology"]}, r"1 task \(pathology\)"),
        ({"scans": ["nosuch"]}, "task-nosuch not found"),
        ({"confounds": ["nosuch*"]}, r"has no confound nosuch\*; there are tok_position"),
        ({"course": "median"}, "course 'median' found; did you mean mean[?] use mean, eigenvariate"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_volumes_are_read(
    options: dict[str, Any], said: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreparedRun, "signals", Mock(side_effect=AssertionError("read")))
    with pytest.raises(LLM2BIDSError, match=said):
        connectivity(results, overwrite=True, progress=False, **options)


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ({}, "has no DatasetLinks.raw"),
        ({"raw": "../gone", "prep": "../gone"}, "gone is not there, which .* names as raw"),
    ],
)
def test_recordings_that_are_gone_are_named(links: dict[str, str], said: str, own_results: Path) -> None:
    path = own_results / "dataset_description.json"
    write_json(path, read_json(path) | {"DatasetLinks": links})
    with pytest.raises(LLM2BIDSError, match=said):
        connectivity(own_results, progress=False)


def test_other_weights_and_new_recordings_are_refused(own_results: Path, planted: Path, tmp_path: Path) -> None:
    prepared = shutil.copytree(planted / "derivatives" / "llm2bids", tmp_path / "prep")
    path = own_results / "dataset_description.json"
    write_json(path, read_json(path) | {"DatasetLinks": {"raw": str(planted), "prep": str(prepared)}})
    sidecar = next(prepared.glob("sub-*/func/*task-pathology*run-01*preproc_bold.json"))
    fields = read_json(sidecar)
    for key, said in (("WeightsSHA256", "other weights"), ("SourceSHA256", "recorded anew")):
        write_json(sidecar, fields | {"Llm2bids": fields["Llm2bids"] | {key: "0"}})
        with pytest.raises(LLM2BIDSError, match=said):
            connectivity(own_results, overwrite=True, progress=False)
        connectivity(own_results, task_label=PAIR, scans=["archeology"], overwrite=True, progress=False)


def test_networks_without_units_of_their_own_are_named(own_results: Path, caplog: pytest.LogCaptureFixture) -> None:
    masks = {
        task: next(own_results.glob(f"sub-*/func/*task-{task}_*fdr05_mask.nii.gz")) for task in (*PAIR, "randomstrings")
    }
    shutil.copy(masks["pathology"], masks["medicalimaging"])
    with pytest.raises(LLM2BIDSError, match=r"0 network of .* with units of its own .* connectivity needs 2"):
        connectivity(own_results, task_label=PAIR, progress=False)
    with pytest.raises(LLM2BIDSError, match=r"1 network of .* none of task medicalimaging, pathology"):
        connectivity(own_results, task_label=[*PAIR, "randomstrings"], progress=False)
    tasks = [*PAIR, "randomstrings", "politicalscience"]
    (found,) = connectivity(own_results, task_label=tasks, scans=["archeology"], progress=False)
    assert found.tables["networks"]["task"].tolist() == ["politicalscience", "randomstrings"]
    assert "task medicalimaging, pathology" in caplog.text


@pytest.mark.parametrize("conditions", [["n/a"], ["on", "off"], [f"c{number}" for number in range(16)]])
def test_the_figure_holds_twelve_tasks(conditions: list[str]) -> None:
    rng = np.random.default_rng(6)
    tasks = [f"ratherlongtask{number}" for number in range(12)]
    mean = np.corrcoef(rng.normal(size=(12, 30)))
    events = pd.DataFrame({"onset": np.arange(0.0, 90, 5), "duration": 5.0})
    events["trial_type"] = [conditions[number % len(conditions)] for number in range(len(events))]
    networks = pd.DataFrame({"task": tasks, "units": 9000, "used": 4000})
    means = dict.fromkeys(("correlation", "partial"), (mean, mean - 0.1, mean + 0.1))
    figure = draw_connectivity(networks, means, ("a run", rng.normal(size=(90, 12)), events, 1.0), "told")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    assert len(boxes) == 12 * 11
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[place + 1 :])
