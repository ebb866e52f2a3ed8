"""`prep --fsl`: what FSL is given is the design that nilearn makes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest
from fsl.data import featanalysis, vest
from nilearn.glm.first_level import make_first_level_design_matrix

from llm2bids.bids.runs import PREPARED, BoldRun, find_runs, frame_times, read_events
from llm2bids.bids.tables import read_json, write_json
from llm2bids.errors import DatasetError, DesignError, StatsModelError
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.validation import validate

if TYPE_CHECKING:
    from pathlib import Path

    from llm2bids.recording import Recording


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of the phantom, long enough for a drift, one with a model that asks for a confound; for FSL."""
    root = tmp_path_factory.mktemp("fsl") / "ds"
    record(root, task=["medicalimaging", "pathology"], runs=1, blocks=4, tokens=12, progress=False)
    path = root / "code" / "models" / "model-pathology_smdl.json"
    model = read_json(path)
    model["Nodes"][0]["Model"]["X"].append("tok_surprisal")
    write_json(path, model)
    prep(root, fsl=True, progress=False)
    return root


def run_of(dataset: Path, task: str) -> tuple[BoldRun, Path]:
    """The first run of a task, and the folder of its design."""
    run = find_runs(dataset, tasks=[task])[0]
    return run, (dataset / PREPARED / "fsl" / "sub-phantom" / run.name).resolve()


def nilearns(run: BoldRun, dataset: Path, confounds: list[str]) -> np.ndarray:
    """Nilearn's own design matrix: conditions in order, confounds, drift; no constant."""
    prepared = find_runs(dataset / PREPARED, tasks=[run.entities["task"]], desc="preproc")[0]
    events = read_events(run.beside("events.tsv"), run.n_scans)[["onset", "duration", "trial_type"]]
    table = np.loadtxt(prepared.beside("timeseries.tsv", space=None, desc="confounds"), skiprows=1, ndmin=2)
    names = prepared.beside("timeseries.tsv", space=None, desc="confounds").read_text().splitlines()[0].split("\t")
    extra = {"add_regs": table[:, [names.index(name) for name in confounds]], "add_reg_names": confounds}
    with pytest.warns(UserWarning, match="singular"):  # conditions add up to its constant
        matrix = make_first_level_design_matrix(
            frame_times(run.n_scans, 1.0),
            events,
            hrf_model=None,
            high_pass=prepared.metadata["HighPassHz"],
            **(extra if confounds else {}),
        )
    drift = [name for name in matrix.columns if name.startswith("drift")]
    return matrix[["on", "off", *confounds, *drift]].to_numpy()


@pytest.mark.parametrize(("task", "confounds"), [("medicalimaging", []), ("pathology", ["tok_surprisal"])])
def test_design_mat_is_nilearns(dataset: Path, task: str, confounds: list[str]) -> None:
    run, folder = run_of(dataset, task)
    matrix = vest.loadVestFile(folder / "design.mat")
    np.testing.assert_allclose(matrix, nilearns(run, dataset, confounds), atol=1e-6)
    assert matrix.shape == (27 * 12, 2 + len(confounds) + 4)
    contrast = vest.loadVestFile(folder / "design.con")
    np.testing.assert_array_equal(np.ravel(contrast), [1, -1] + [0] * (matrix.shape[1] - 2))


def test_fsf_names_files_that_are_there(dataset: Path) -> None:
    run, folder = run_of(dataset, "pathology")
    settings = featanalysis.loadFsf(str(folder / "design.fsf"))
    bold = nib.load(
        settings["feat_files(1)"]
        if settings["feat_files(1)"].endswith(".gz")
        else settings["feat_files(1)"] + ".nii.gz"
    )
    assert bold.shape == (*run.space.shape, run.n_scans)
    assert int(settings["npts"]) == run.n_scans
    assert int(settings["evs_orig"]) == 1  # the other condition is the reference
    rows = np.loadtxt(settings["custom1"], ndmin=2)
    events = read_events(run.beside("events.tsv"), run.n_scans)
    np.testing.assert_array_equal(rows[:, 0], events.loc[events["trial_type"] == "on", "onset"])
    assert len(np.loadtxt(settings["confoundev_files(1)"], ndmin=2)) == run.n_scans
    period = 1 / find_runs(dataset / PREPARED, tasks=["pathology"], desc="preproc")[0].metadata["HighPassHz"]
    assert float(settings["paradigm_hp"]) == pytest.approx(period)


def test_feats_single_column_asks_what_two_columns_ask(dataset: Path) -> None:
    """FEAT demeans: the contrast of the EV that is left equals on - off of the whole design."""
    run, folder = run_of(dataset, "medicalimaging")
    matrix = vest.loadVestFile(folder / "design.mat")
    signal = np.random.default_rng(0).standard_normal(run.n_scans)
    two = np.linalg.lstsq(matrix, signal, rcond=None)[0][:2] @ [1, -1]
    demeaned = np.delete(matrix, 1, axis=1) - np.delete(matrix, 1, axis=1).mean(0)
    slope = np.linalg.lstsq(demeaned, signal - signal.mean(), rcond=None)[0][0]
    assert slope == pytest.approx(two)


def test_the_derivative_is_valid(dataset: Path) -> None:
    for validation in validate(dataset):
        assert validation.summary() == f"{validation.root}: 0 errors, 0 warnings"


def test_resume_adds_designs_that_were_not_asked_for_before(
    small_dataset: tuple[Path, list[Recording]], tmp_path: Path
) -> None:
    root = tmp_path / "ds"
    shutil.copytree(small_dataset[0], root)
    prep(root, task_label=["pathology"], progress=False)
    prep(root, task_label=["pathology"], fsl=True, resume=True, progress=False)
    assert len(list(root.glob("derivatives/llm2bids/fsl/sub-phantom/*/design.fsf"))) == 2


def test_a_task_without_conditions_has_no_design(tmp_path: Path) -> None:
    record(tmp_path / "ds", task="rest", runs=1, blocks=1, prompts_per_block=1, tokens=3, progress=False)
    with pytest.raises(StatsModelError, match=r"task rest has no code/models/model-rest_smdl\.json.*`task_label`"):
        prep(tmp_path / "ds", fsl=True, progress=False)
    assert not (tmp_path / "ds" / "derivatives" / "llm2bids").exists()


def test_a_folder_that_feat_cannot_take_is_refused(small_dataset: tuple[Path, list[Recording]], tmp_path: Path) -> None:
    root = tmp_path / "my data"
    shutil.copytree(small_dataset[0], root)
    with pytest.raises(DatasetError, match="FEAT cannot take"):
        prep(root, fsl=True, progress=False)
    assert not list(root.glob("derivatives/llm2bids/sub-*"))


def test_the_models_own_cutoff_and_missing_conditions(
    small_dataset: tuple[Path, list[Recording]], tmp_path: Path
) -> None:
    root = tmp_path / "ds"
    shutil.copytree(small_dataset[0], root)
    path = root / "code" / "models" / "model-pathology_smdl.json"
    model = read_json(path)
    model["Nodes"][0]["Model"]["Options"] = {"HighPassFilterCutoffHz": 0.01}
    model["Nodes"][0]["Model"]["X"].append("trial_type.third")
    write_json(path, model)
    prep(root, task_label=["pathology"], fsl=True, progress=False)
    settings = featanalysis.loadFsf(str(run_of(root, "pathology")[1] / "design.fsf"))
    assert float(settings["paradigm_hp"]) == pytest.approx(100)
    model["Nodes"][0]["Model"]["X"].append("tok_surprisal")
    write_json(path, model)
    with pytest.raises(DatasetError, match=r"has designs of another model of the task.*overwrite=True"):
        prep(root, task_label=["pathology"], fsl=True, resume=True, progress=False)
    model["Nodes"][0]["Contrasts"][0]["ConditionList"][1] = "trial_type.third"
    write_json(path, model)
    with pytest.raises(DesignError, match=r"run-01 has trial_type.off, trial_type.on, too little"):
        prep(root, task_label=["pathology"], fsl=True, overwrite=True, progress=False)


def test_a_model_whose_columns_fsl_is_not_given_is_refused(dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "ds"
    shutil.copytree(dataset, root, ignore=shutil.ignore_patterns("derivatives"))
    path = root / "code" / "models" / "model-pathology_smdl.json"
    model = read_json(path)
    product = {"Name": "Product", "Input": ["trial_type.on", "tok_surprisal"], "Output": ["on_x_surprisal"]}
    model["Nodes"][0]["Transformations"]["Instructions"].append(product)
    write_json(path, model)
    with pytest.raises(
        DesignError, match="model pathology uses Product, which the files for FSL do not hold; leave out"
    ):
        prep(root, task_label=["pathology"], fsl=True, progress=False)
