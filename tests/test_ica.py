"""Networks without a task: sources with a known mixing come back, planted networks too, and nothing is lost on disk."""

from __future__ import annotations

import json
import logging
import shutil
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest

from llm2bids.bids.tables import read_json, read_tsv, write_json
from llm2bids.cli import main
from llm2bids.decomposition import Decomposition, ica
from llm2bids.decomposition.components import (
    assign,
    correlate_rows,
    fit_components,
    orient,
    stability,
    threshold,
    time_courses,
    z_over_units,
)
from llm2bids.decomposition.reduction import (
    MAX_DIMENSIONS,
    ReducedRuns,
    estimate_components,
    principal_axes,
    reduce_runs,
)
from llm2bids.decomposition.settings import DecompositionSettings
from llm2bids.errors import DatasetError, OptionError
from llm2bids.masks.files import load_mask
from llm2bids.model.phantom import phantom_truth
from llm2bids.networks.matching import match
from llm2bids.space import UnitSpace
from llm2bids.validation import validate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.usefixtures("blank_figures")
"""Only those of the decomposition that most look at are drawn, before any test."""

N_SOURCES, N_UNITS = 4, 260


def mixture(axis: str, n_units: int = N_UNITS) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Three runs of four sources, super-Gaussian along one axis, in little noise."""
    rng = np.random.default_rng(5)
    courses = rng.laplace(size=(3, 150, N_SOURCES)) if axis == "temporal" else rng.normal(size=(3, 150, N_SOURCES))
    maps = rng.normal(size=(N_SOURCES, n_units)) if axis == "temporal" else rng.laplace(size=(N_SOURCES, n_units))
    runs = [one @ maps + 0.05 * rng.normal(size=(150, n_units)) for one in courses]
    return [run - run.mean(0) for run in runs], maps


def reduced_of(runs: list[NDArray[np.float64]]) -> ReducedRuns:
    def blocks() -> Iterator[NDArray[np.float64]]:
        yield from runs

    return reduce_runs(blocks, principal_axes(blocks())[1])


@pytest.mark.parametrize("axis", ["temporal", "spatial"])
def test_mixed_sources_come_back(axis: str) -> None:
    runs, maps = mixture(axis)
    found = fit_components(reduced_of(runs), N_SOURCES, DecompositionSettings(axis=axis), seed=1)  # type: ignore[arg-type]
    similarity = np.abs(correlate_rows(maps, found))
    order = assign(similarity)
    assert sorted(order) == list(range(N_SOURCES))
    assert (similarity[np.arange(N_SOURCES), order] > 0.97).all()


@pytest.mark.parametrize("method", ["canica", "dictlearning"])
def test_nilearn_finds_sparse_maps(method: str) -> None:
    rng = np.random.default_rng(2)
    space = UnitSpace.uniform("block", ["h.0:out", "h.1:out"], 150)
    kept = np.ones(300, bool)
    kept[7] = False
    maps = np.zeros((3, 300))
    for number in range(3):
        maps[number, 20 + 60 * number : 60 + 60 * number] = rng.uniform(1, 2, 40)
    runs = [rng.normal(size=(80, 3)) @ maps[:, kept] + 0.1 * rng.normal(size=(80, 299)) for _ in range(2)]
    settings = DecompositionSettings(method=method, axis="spatial")  # type: ignore[arg-type]
    found = fit_components(reduced_of([run - run.mean(0) for run in runs]), 3, settings, 0, (space, kept))
    similarity = np.abs(correlate_rows(maps[:, kept], found))
    assert (similarity[np.arange(3), assign(similarity)] > 0.95).all()


def test_components_are_those_of_the_whole_however_runs_come() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(90, 6)) @ rng.normal(
        size=(6, MAX_DIMENSIONS + 20)
    )  # more units than are kept: added run by run
    runs = np.array_split(rows, 3)
    variances, basis = principal_axes(iter(runs))
    whole = np.linalg.svd(rows, full_matrices=False)
    assert len(variances) == 6
    assert variances == pytest.approx(whole[1][:6] ** 2)
    assert np.abs(basis @ whole[2][:6].T) == pytest.approx(np.eye(6), abs=1e-6)
    few, same = principal_axes(iter([run[:, :40] for run in runs]))
    assert few == pytest.approx(np.linalg.svd(rows[:, :40], compute_uv=False)[:6] ** 2)
    assert same @ same.T == pytest.approx(np.eye(6), abs=1e-6)


@pytest.mark.parametrize("n_sources", [0, 3, 7])
@pytest.mark.parametrize("n_units", [50, 150])
def test_parallel_analysis_counts_sources(n_sources: int, n_units: int) -> None:
    """With fewer units than samples, and with more."""
    rng = np.random.default_rng(3)
    maps = rng.normal(size=(n_sources, n_units))
    runs = [rng.normal(size=(60, n_sources)) @ maps + rng.normal(size=(60, n_units)) for _ in "ab"]
    runs = [run - run.mean(0) for run in runs]
    power = sum((run**2).sum(0) for run in runs)
    found = estimate_components(principal_axes(iter(runs))[0], [60, 60], np.asarray(power), np.random.default_rng(0))
    assert found == max(n_sources, 2)


def test_stability_is_one_for_the_same_and_low_for_noise() -> None:
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(5, 400))
    shuffled = [-maps[rng.permutation(5)] for _ in range(4)]
    assert stability(maps, shuffled)["stability"] == pytest.approx(1)
    assert (stability(maps, shuffled)["quality"] > 0.9).all()
    noise = stability(maps, [rng.normal(size=(5, 400)) for _ in range(4)])
    assert (noise["stability"] < 0.15).all()
    assert (np.abs(noise["quality"]) < 0.1).all()


def test_the_heavier_tail_is_positive_and_a_fixed_z_has_a_ceiling() -> None:
    maps = np.random.default_rng(0).normal(0, 0.01, (1, 768))
    maps[0, :48] -= 1
    turned = orient(maps)
    assert (turned[0, :48] > 0.9).all()
    assert z_over_units(turned, robust=False).max() < 4.1
    assert threshold(z_over_units(turned, robust=True), DecompositionSettings()).sum() == 48
    assert threshold(z_over_units(turned, robust=True), DecompositionSettings(tail="negative")).sum() == 0
    assert not z_over_units(np.ones((2, 9)), robust=True).any()
    dictionary = np.zeros((1, 100))
    dictionary[0, :5] = 3
    assert threshold(z_over_units(dictionary, robust=True), DecompositionSettings(z=3.6)).sum() == 5


def test_courses_are_the_weights_of_the_maps() -> None:
    rng = np.random.default_rng(6)
    courses, maps = rng.normal(size=(11, 3)), rng.normal(size=(3, 40))
    assert time_courses(courses @ maps, maps) == pytest.approx(courses)


@pytest.fixture(scope="module")
def found(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Decomposition:
    """All runs of the phantom, as any user would."""
    logging.getLogger("llm2bids.decomposition").setLevel(logging.ERROR)
    (one,) = ica(planted, tmp_path_factory.mktemp("ica") / "out", resamples=2, progress=False)
    return one


def test_every_planted_network_is_found(found: Decomposition) -> None:
    truth = phantom_truth(load_mask(found.mask_files[0]).space)
    best = {}
    for task, planted_mask in truth.items():
        masks = [load_mask(path).selected for path in found.mask_files]
        best[task] = max((one & planted_mask.selected).sum() / (one | planted_mask.selected).sum() for one in masks)
    assert min(best.values()) >= 0.8
    assert np.mean(list(best.values())) >= 0.9
    table = read_tsv(found.table_file).astype(float)
    assert table["stability"].iloc[:6].median() > table["stability"].iloc[6:].median() + 0.2
    assert 0 < table["explained_variance"].sum() <= 1 + 1e-6
    assert table["explained_variance"].is_monotonic_decreasing


def test_files_are_valid_and_say_where_they_come_from(found: Decomposition) -> None:
    root = found.maps_file.parents[2]
    assert validate(root)[0].summary().endswith("0 errors, 0 warnings")
    image = nib.load(found.maps_file)
    assert image.shape[3] == found.n_components == len(found.mask_files) == len(read_tsv(found.table_file))
    for path in (found.maps_file, found.mask_files[0], found.course_files[0]):
        own = read_json(path.with_name(path.name.split(".")[0] + ".json"))["Llm2bids"]
        assert own["Model"] == "phantom"
        assert own["Decomposition"]["SmoothingFWHM"] is None
        assert all(len(one["Texts"]) > 1 for one in own["Stimuli"])  # by which a lesion refuses to be scored on them
        assert {"WeightsSHA256", "UnitSpace", "Stimuli", "Versions", "Site"} <= set(own)
    assert len(found.course_files) == found.n_runs == 24
    assert read_tsv(found.course_files[0]).shape == (792, found.n_components)
    assert read_json(found.maps_file.with_name(found.maps_file.name.replace(".nii.gz", ".json")))["Sources"]


@pytest.mark.parametrize("by", ["run", "layer", "group"])
def test_what_goes_together(by: str, planted: Path, tmp_path: Path) -> None:
    task = {"task_label": ["pathology"]}
    made = ica(planted, tmp_path / "out", by=by, components=3, samples="token", axis="spatial", progress=False, **task)  # type: ignore[arg-type]
    assert len(made) == {"run": 4, "layer": 6, "group": 1}[by]
    assert {one.n_units for one in made} == ({128} if by == "layer" else {768})
    assert {one.maps_file.parent.name for one in made} == ({"group"} if by == "group" else {"func"})
    assert len({one.maps_file for one in made}) == len(made)
    assert validate(tmp_path / "out")[0].summary().endswith("0 errors, 0 warnings")
    if by == "layer":
        volumes = load_mask(made[0].mask_files[0]).space.to_signals(nib.load(made[-1].maps_file))
        assert not volumes[:, :-128].any()
        assert volumes[:, -128:].any()


def test_a_seed_gives_the_same_files_and_raw_activations_other_ones(planted: Path, tmp_path: Path) -> None:
    call = {"task_label": ["pathology"], "components": 5, "axis": "spatial", "resamples": 2, "progress": False}
    one, same = (ica(planted, tmp_path / name, seed=4, **call)[0] for name in ("a", "b"))  # type: ignore[arg-type]
    for path in sorted(one.maps_file.parent.iterdir()):
        assert path.read_bytes() == (same.maps_file.parent / path.name).read_bytes()
    (raw,) = ica(planted, tmp_path / "c", scale="none", z=3.6, seed=4, **call)  # type: ignore[arg-type]
    own = read_json(raw.mask_files[0].with_name(raw.mask_files[0].name.replace(".nii.gz", ".json")))
    assert own["Llm2bids"]["Decomposition"]["Threshold"].endswith("beyond 3.6")
    assert own["Sources"][0].startswith("bids:raw:")
    massive = nib.load(raw.maps_file).get_fdata()
    assert np.abs(massive).max() > 10  # two channels are a hundred times as large as the rest, and decide


def test_command(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = [
        "ica",
        str(planted),
        str(tmp_path / "out"),
        "--task-label",
        "pathology",
        "--components",
        "4",
        "--axis",
        "spatial",
    ]
    assert main(call) == 0
    assert "sub-phantom_acq-block" in capsys.readouterr().out
    assert main(call) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*call, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["skipped"] is True
    assert main([*call, "--seed", "1", "--resume"]) == 2
    assert "other settings" in capsys.readouterr().err
    call[call.index("4")] = "3"
    assert main([*call, "--overwrite"]) == 0
    assert len(list((tmp_path / "out" / "sub-phantom" / "func").glob("*_mask.nii.gz"))) == 3
    assert not list((tmp_path / "out").rglob("*ica04*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--components", "1"], "use 2 to 999"),
        (["--components", "4000"], "use 2 to 999"),
        (["--components", "200", "--task-label", "pathology"], "dimensions; ask for fewer"),
        (["--method", "canica", "--axis", "temporal"], "spatial by nature"),
        (["--z", "0"], "above 0"),
        (["--resamples", "-1"], "0 or more"),
        (["--task-label", "rest"], "task-rest not found"),
        (["--resume", "--overwrite"], "choose one"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    options: list[str], said: str, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ica", str(planted), str(tmp_path / "out"), *options]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_result_opens_its_files(found: Decomposition) -> None:
    space = found.masks[0].space
    assert found.maps.shape == (found.n_components, space.n_units)
    assert found.maps == pytest.approx(space.to_signals(nib.load(found.maps_file)))
    assert [mask.n_selected for mask in found.masks] == found.table["units"].tolist()
    assert found.masks[1].selected.tolist() == load_mask(found.mask_files[1]).selected.tolist()
    assert found.masks[0].provenance["Component"] == 1
    assert {len(course) for course in found.courses.values()} == {792}
    assert all("_run-" in name for name in found.courses)
    assert found.plot(2).axes
    assert repr(found) == f"<Decomposition {found.name}: {found.n_components} components, 792 samples, 768 units>"
    names = read_json(found.summary_file)["Files"]
    root = found.summary_file.parents[2]
    assert found.files == sorted([found.summary_file, *(root / name for name in names)])


def test_results_lie_in_the_dataset_if_no_folder_is_named(two_sites: Path, tmp_path: Path) -> None:
    raw = shutil.copytree(two_sites, tmp_path / "ds")
    (result,) = ica(raw, sites=["block"], components=2, progress=False)
    assert result.summary_file.is_relative_to(raw / "derivatives" / "ica")


def test_other_folders_are_refused(planted: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="another derivative"):
        ica(planted, planted / "derivatives" / "llm2bids")
    with pytest.raises(DatasetError, match="no BIDS dataset"):
        ica(tmp_path, tmp_path / "out")
    with pytest.raises(OptionError, match="method 'pca' found"):
        ica(planted, tmp_path / "out", method="pca")  # type: ignore[arg-type]
    raw = shutil.copytree(planted, tmp_path / "ds", ignore=shutil.ignore_patterns("derivatives"))
    with pytest.raises(DatasetError, match="not prepared"):
        ica(raw, tmp_path / "out")


def test_a_folder_that_began_with_an_answer_learns_where_the_recordings_are(planted: Path, tmp_path: Path) -> None:
    """And its validator which files to leave alone; what it says already stays."""
    truth = next((planted / "derivatives" / "phantom").rglob("*_mask.nii.gz"))
    match(truth, truth, out=tmp_path / "out", n_draws=9, progress=False)
    description = tmp_path / "out" / "dataset_description.json"
    write_json(description, read_json(description) | {"Name": "ours"})
    ica(planted, tmp_path / "out", task_label=["pathology"], components=2, progress=False)
    fields = read_json(description)
    assert fields["Name"] == "ours"
    assert (tmp_path / "out" / fields["DatasetLinks"]["raw"]).resolve() == planted.resolve()
    assert validate(tmp_path / "out")[0].summary().endswith("0 errors, 0 warnings")
