"""What `glm` refuses: outputs out of place, questions without an answer, and files that are damaged."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import read_json, read_tsv, write_json, write_tsv
from llm2bids.errors import DatasetError, DesignError, InferenceError, OptionError, StatsModelError
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.statistics import glm
from llm2bids.validation import validate

from .glm_cases import (
    N_TOKENS,
    PREPARED,
    SMALL,
    analysed,
    contents,
    files_of,
    refused,
    values,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

pytestmark = pytest.mark.usefixtures("blank_figures")
"""No test here looks at a picture."""


@pytest.fixture(scope="module")
def prepared(two_sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task at two sites, two runs, prepared; do not write into it but below derivatives/NAME."""
    return Path(shutil.copytree(two_sites, tmp_path_factory.mktemp("glm") / "ds"))


@pytest.fixture
def copied(prepared: Path, tmp_path: Path) -> Path:
    """A copy to change, without results."""
    ignored = shutil.ignore_patterns("glm*", "*acq-block*")
    return Path(shutil.copytree(prepared, tmp_path / "ds", ignore=ignored))


# ---- where results may go


@pytest.mark.parametrize(
    "place", [".", "sub-phantom", "out", "derivatives", "derivatives/llm2bids", "derivatives/phantom/x"]
)
def test_the_raw_data_and_what_is_made_of_them_stay_apart(prepared: Path, place: str) -> None:
    before = contents(prepared)
    with pytest.raises(DatasetError, match="derivatives/NAME"):
        glm(prepared, prepared / place, progress=False)
    assert contents(prepared) == before


def test_a_folder_that_is_something_else_is_refused(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").touch()
    with pytest.raises(DatasetError, match="no BIDS dataset"):
        glm(prepared, tmp_path / "notes", progress=False)
    with pytest.raises(DatasetError, match="no BIDS dataset"):
        glm(tmp_path / "notes", tmp_path / "out", progress=False)
    with pytest.raises(DatasetError, match="is a derivative; give the raw dataset"):
        glm(prepared / "derivatives" / "llm2bids", tmp_path / "out", progress=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["notes", "notes.txt"]


# ---- bad input


def test_a_dataset_that_is_not_prepared_is_refused(copied: Path) -> None:
    shutil.rmtree(copied / "derivatives" / "llm2bids" / "sub-phantom")
    refused(DatasetError, "is not prepared .* run: llm2bids prep", copied)
    shutil.rmtree(copied / "derivatives" / "llm2bids")
    refused(DatasetError, "is not prepared .* run: llm2bids prep", copied)


def test_a_recording_that_is_not_prepared_is_refused(copied: Path) -> None:
    record(copied, task="archeology", sites=["mlp"], **SMALL)
    message = "sub-phantom_task-archeology_acq-mlp_run-01 is recorded but not prepared; run llm2bids prep"
    refused(DatasetError, message, copied)
    refused(DatasetError, message, copied, task_label=["archeology"])
    assert analysed(copied, "out", task_label=["pathology"]).task == "pathology"


def test_a_recording_made_anew_is_refused(copied: Path) -> None:
    record(copied, task="pathology", sites=["mlp"], seed=1, overwrite=True, **SMALL)
    refused(DatasetError, "run-01 was recorded anew, .* llm2bids prep .* with overwrite=True", copied)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"contrasts": ["mine=on - nope"]}, DesignError, "contrast mine names condition nope, .* it has on, off"),
        ({"contrasts": ["on off"]}, StatsModelError, "contrast 'on off' found"),
        ({"contrasts": ["a=on - off", "a=off - on"]}, StatsModelError, "two contrasts would be named a"),
        ({"contrasts": ["on"]}, DesignError, "contrast on over the prompts of .* cannot be estimated: columns"),
        ({"confounds": ["heart_rate"]}, DesignError, "task-pathology_acq-mlp_run-01: heart_rate .* tok_position"),
        ({"high_pass": 0.6}, DesignError, "cutoff of 0.6 Hz found, which leaves nothing"),
        ({"high_pass": 0.4}, DesignError, r"cannot be estimated: columns .*, \.\.\. are collinear"),
        ({"high_pass": 0.49, "inference": "token"}, DesignError, "run-01 has 50 scans and 52 columns: none left"),
        ({"participant_label": ["nobody"]}, DatasetError, "sub-nobody not found in .*; there are phantom"),
        ({"task_label": ["rest"]}, DatasetError, "task-rest not found"),
        ({"sites": ["head"]}, DatasetError, "acq-head not found in .*; there are mlp"),
        ({"smoothing_fwhm": 6.0}, InferenceError, "smoothing asked for, but neighbouring voxels are neighbours on the"),
        (
            {"cluster_threshold": 10},
            InferenceError,
            "clusters asked for, but neighbouring voxels are neighbours on the",
        ),
        ({"compare": "group"}, InferenceError, "asked for a single subject"),
        ({"analysis_level": "session"}, OptionError, "level 'session' found; use participant, group"),
        ({"model": "nowhere.json"}, DatasetError, r"nowhere\.json cannot be read"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    copied: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    refused(error, message, copied, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correction": "maxt"}, "permutation of F contrast any"),
        ({"inference": "run"}, 'F contrast any over several runs with inference="run"'),
        ({"inference": "token"}, 'F contrast any over several runs with inference="token"'),
    ],
)
def test_f_is_refused_where_it_is_no_f(copied: Path, options: dict[str, Any], message: str) -> None:
    path = copied / "code" / "models" / "model-pathology_smdl.json"
    fields = read_json(path)
    fields["Nodes"][0]["Contrasts"][0] |= {"Name": "any", "Weights": [[1, -1]], "Test": "F"}
    write_json(path, fields)
    refused(InferenceError, message, copied, **options)


def test_a_model_that_names_no_factor_or_the_intercept_is_refused(copied: Path) -> None:
    path = copied / "code" / "models" / "model-pathology_smdl.json"
    fields = read_json(path)
    node = fields["Nodes"][0]
    write_json(path, fields | {"Nodes": [node | {"Transformations": None}]})
    refused(StatsModelError, r"model pathology names trial_type\.on but no Factor", copied)
    contrast = {"Name": "mean", "ConditionList": [1, "trial_type.on"], "Weights": [1, 1], "Test": "t"}
    write_json(path, fields | {"Nodes": [node | {"Contrasts": [contrast]}]})
    refused(DesignError, "contrast mean weighs the intercept", copied)
    write_json(path, fields | {"Nodes": [node | {"Model": {"Type": "glm", "X": ["trial_type.old"]}}]})
    refused(
        DesignError, r"task-pathology_acq-mlp: trial_type\.old .* there are trial_type\.off, trial_type\.on", copied
    )
    path.unlink()
    refused(StatsModelError, "task pathology has no model .* `model`", copied)


def relabel(root: Path, run: int, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change the events of a run as if it had been recorded and prepared like that."""
    (path,) = (root / "sub-phantom" / "func").glob(f"*acq-mlp_run-0{run}_events.tsv")
    write_tsv(path, change(read_tsv(path)))
    (prepared,) = (root / PREPARED).glob(f"*acq-mlp_run-0{run}_*_bold.json")
    sidecar = read_json(prepared)
    raw = path.with_name(path.name.replace("events.tsv", "bold.json"))
    sidecar["Llm2bids"]["SourceSHA256"] = hashlib.sha256(raw.read_bytes() + path.read_bytes()).hexdigest()
    write_json(prepared, sidecar)


@pytest.mark.parametrize("inference", ["prompt", "run", "token"])
def test_a_run_without_a_condition_is_refused_or_left_out(copied: Path, inference: str) -> None:
    relabel(copied, 1, lambda table: table.replace({"trial_type": {"on": "off"}}))
    message = "run-01 has no condition on, which contrast onVsOff needs; it has off: .* drop_missing=True"
    refused(DesignError, message, copied, inference=inference)
    result = analysed(copied, "out", inference=inference, drop_missing=True)
    sidecar = read_json(result.mask_file.with_name(result.mask_file.name.replace(".nii.gz", ".json")))
    assert sidecar["Llm2bids"]["RunsDropped"] == ["run-01"]
    fields = read_json(copied / "code" / "models" / "model-pathology_smdl.json") | {"Input": {"run": [2]}}
    write_json(copied / "second_smdl.json", fields)
    alone = analysed(copied, "alone", inference=inference, model=copied / "second_smdl.json")
    np.testing.assert_allclose(values(result.z_file), values(alone.z_file), atol=1e-5)


def test_no_run_with_all_conditions_is_refused(copied: Path) -> None:
    relabel(copied, 1, lambda table: table.replace({"trial_type": {"on": "off"}}))
    relabel(copied, 2, lambda table: table.replace({"trial_type": {"off": "on"}}))
    refused(DesignError, "no run of .* has all conditions of contrast onVsOff", copied, drop_missing=True)


def test_events_outside_the_run_are_refused(copied: Path) -> None:
    relabel(copied, 2, lambda table: table.assign(duration=["99", *table["duration"][1:]]))
    refused(DatasetError, r"run-02_events\.tsv line 2: an event of 99 s at 0 s lies outside the run, .* 50 s", copied)


@pytest.mark.parametrize("inference", ["prompt", "token"])
def test_a_confound_that_is_the_task_is_refused(copied: Path, inference: str) -> None:
    for path, events in zip(
        files_of(copied, "timeseries.tsv"),
        sorted((copied / "sub-phantom" / "func").glob("*acq-mlp*events.tsv")),
        strict=True,
    ):
        on = np.repeat(read_tsv(events)["trial_type"] == "on", N_TOKENS).astype(int)
        write_tsv(path, read_tsv(path).assign(arousal=on.to_numpy()))
    message = "cannot be estimated: columns .*arousal.* are collinear; leave one out"
    refused(DesignError, message, copied, confounds=["arousal"], inference=inference)


def test_confounds_that_are_no_numbers_are_refused(copied: Path) -> None:
    path = min((copied / PREPARED).glob("*acq-mlp*timeseries.tsv"))
    write_tsv(path, read_tsv(path).assign(tok_entropy="n/a"))
    refused(DatasetError, "timeseries.tsv must hold one number per scan", copied, confounds=["tok_entropy"])


def test_a_run_of_three_scans(tmp_path: Path) -> None:
    record(tmp_path / "ds", task="pathology", **SMALL | {"blocks": 1, "prompts_per_block": 1, "tokens": 1})
    prep(tmp_path / "ds", progress=False)
    message = 'run-01 has 3 scans of 3 prompts and 3 columns: none left .* level="prompt-mean"'
    refused(DesignError, message, tmp_path / "ds", sites=[])
    result = analysed(tmp_path / "ds", "out", sites=[], level="prompt-mean")
    metadata = read_json(result.mask_file.with_name(result.mask_file.name.replace(".nii.gz", ".json")))["Llm2bids"]
    assert metadata["DegreesOfFreedom"] == 6 - 3
    refused(DesignError, "run-01 has 3 scans and 3 columns: none left", tmp_path / "ds", sites=[], inference="token")


def test_a_single_run_with_two_prompts_leaves_nothing_for_the_noise(tmp_path: Path) -> None:
    (tmp_path / "two.tsv").write_text("text\ttrial_type\na mountain\ton\na river\toff\n")
    record(tmp_path / "ds", task=str(tmp_path / "two.tsv"), tokens=5, progress=False)
    prep(tmp_path / "ds", progress=False)
    refused(
        DesignError, "2 different prompts and 2 independent columns: none left for the noise", tmp_path / "ds", sites=[]
    )


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def corrupted(path: Path) -> None:
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(bytes(packed))


def no_image(path: Path) -> None:
    path.write_bytes(b"no image")


def with_nan(path: Path) -> None:
    image = nib.load(path)
    volumes = np.asarray(image.dataobj).copy()
    volumes[2, 2, 2, 1] = np.nan
    write_image(path, nib.Nifti1Image(volumes, image.affine, image.header))


@pytest.mark.parametrize(
    ("damage", "n_jobs"), [(truncated, 1), (truncated, 2), (corrupted, 1), (no_image, 1), (with_nan, 1)]
)
def test_damaged_volumes_are_refused_and_nothing_is_written(
    copied: Path, damage: Callable[[Path], None], n_jobs: int
) -> None:
    damage(files_of(copied, "_bold.nii.gz")[1])
    refused(
        DatasetError,
        "(run-02_.*(truncated or corrupted|is no NIfTI)|NaN or infinity found in .*run-02)",
        copied,
        n_jobs=n_jobs,
    )


def test_folders_made_for_nothing_go(copied: Path, tmp_path: Path) -> None:
    truncated(files_of(copied, "_bold.nii.gz")[1])
    with pytest.raises(DatasetError, match="truncated"):
        glm(copied, tmp_path / "a" / "b", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ds"]


@pytest.mark.parametrize("damage", [truncated, no_image, Path.unlink])
def test_damaged_masks_are_refused(copied: Path, damage: Callable[[Path], None]) -> None:
    damage(files_of(copied, "_mask.nii.gz")[0])
    refused(DatasetError, r"run-01_.*_mask\.nii\.gz cannot be read .* llm2bids prep with overwrite=True", copied)


def test_what_was_complete_stays_when_a_later_analysis_fails(copied: Path) -> None:
    record(copied, task="archeology", sites=["mlp"], **SMALL)
    prep(copied, resume=True, progress=False)
    truncated(files_of(copied, "_bold.nii.gz")[-1])
    out = copied / "derivatives" / "out"
    with pytest.raises(DatasetError, match=r"task-pathology.*truncated"):
        glm(copied, out, progress=False)
    assert {path.name.split("_task-")[1].split("_")[0] for path in (out / "sub-phantom" / "func").iterdir()} == {
        "archeology"
    }
    assert "Task archeology" in (out / "sub-phantom.html").read_text()
    assert [path.name for path in (out / ".llm2bids").iterdir()] == ["lock"]
    assert not [validation.summary() for validation in validate(out) if validation.issues]


def test_a_failed_replacement_leaves_the_old_results(copied: Path) -> None:
    analysed(copied, "out")
    before = contents(copied / "derivatives" / "out")
    truncated(files_of(copied, "_bold.nii.gz")[1])
    with pytest.raises(DatasetError, match="truncated"):
        analysed(copied, "out", overwrite=True, alpha=0.01)
    assert contents(copied / "derivatives" / "out") == before
