"""A recorded dataset: valid, equal to the model, the same every time, and whole whatever happens."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from bsmschema.models import BIDSStatsModel
from nilearn.glm.first_level import first_level_from_bids
from safetensors.torch import load_file, save_file

from llm2bids.bids.history import HISTORY
from llm2bids.bids.nifti import HEADER_SIZE
from llm2bids.errors import DatasetError, LLM2BIDSError, ModelError, NonFiniteError, RecordError
from llm2bids.model.loading import load_pretrained
from llm2bids.model.phantom import build_phantom
from llm2bids.model.recording import read, tokenize
from llm2bids.model.site_names import SITES
from llm2bids.model.sites import find_site
from llm2bids.recording import record
from llm2bids.space import UnitSpace
from llm2bids.validation import validate

from .families import tiny_subject

if TYPE_CHECKING:
    from llm2bids.recording import Recording

Small = tuple[Path, "list[Recording]"]
TINY: dict[str, Any] = {
    "task": "pathology",
    "runs": 1,
    "blocks": 1,
    "prompts_per_block": 2,
    "tokens": 3,
    "progress": False,
}


def contents(root: Path) -> dict[str, str]:
    """SHA-256 of every file of a dataset but the lock, and the history, which says in which folder it was made."""
    files = (path for path in root.rglob("*") if path.is_file() and ".llm2bids" not in path.parts)
    files = (path for path in files if path.name != HISTORY)
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def sidecar(bold: Path) -> dict[str, Any]:
    return json.loads(Path(str(bold).replace(".nii.gz", ".json")).read_text())


def test_two_subjects_two_sessions_five_sites_are_valid(tmp_path: Path) -> None:
    for subject in ("a", "b"):
        record(tmp_path / "ds", subject=subject, sessions=2, sites=SITES, **TINY)
    raw, truth = validate(tmp_path / "ds")
    assert (raw.n_errors, raw.n_warnings, truth.n_errors, truth.n_warnings) == (0, 0, 0, 0), (
        raw.summary() + truth.summary()
    )
    table = pd.read_csv(tmp_path / "ds" / "participants.tsv", sep="\t")
    assert table["participant_id"].tolist() == ["sub-a", "sub-b"]
    assert len(list((tmp_path / "ds").glob("sub-*/ses-*/func/*_bold.nii.gz"))) == 2 * 2 * 5


def test_reading_a_real_architecture_with_own_hookpoints_is_valid(tmp_path: Path) -> None:
    task = tmp_path / "words.tsv"
    task.write_text("text\ttrial_type\na model is shown\tplain\none word after another\tlong\nevery unit\tplain\n")
    options = {
        "task": str(task),
        "mode": "read",
        "hookpoints": ["gate=model.layers.*.mlp.gate_proj"],
        "progress": False,
    }
    block, gate = record(tmp_path / "ds", tiny_subject("llama"), subject="llama", **options)
    assert validate(tmp_path / "ds")[0].issues == ()
    assert gate.space.label == "L3C44gate"
    assert (block.n_scans, gate.n_scans) == (4 + 4 + 2, 4 + 4 + 2)


def test_volumes_are_what_the_model_did(tmp_path: Path) -> None:
    subject = build_phantom()
    *_, run = record(tmp_path / "ds", subject, mode="read", sites=["mlp", "block"], **TINY)
    shown = json.loads((tmp_path / "ds" / sidecar(run.bold)["Llm2bids"]["Stimuli"]).read_text())
    tokens = tokenize(subject, [prompt["text"] for prompt in shown["Prompts"]])
    expected = [one.signals for one in read(subject, find_site(subject.model, "block"), tokens, batch_size=8)]
    space = UnitSpace.from_json(sidecar(run.bold)["Llm2bids"]["UnitSpace"])
    np.testing.assert_array_equal(space.to_signals(nib.load(run.bold)), np.concatenate(expected))


def test_uncompressed_volumes_are_a_memory_map(tmp_path: Path) -> None:
    (packed,) = record(tmp_path / "packed", **TINY)
    (plain,) = record(tmp_path / "plain", compress=False, **TINY)
    x, y, z = plain.space.shape
    mapped = np.memmap(plain.bold, "<f4", "r", HEADER_SIZE, (plain.n_scans, z, y, x))
    np.testing.assert_array_equal(plain.space.from_volumes(mapped), packed.space.to_signals(nib.load(packed.bold)))
    assert validate(tmp_path / "plain")[0].issues == ()


def test_batch_of_1_equals_batch_of_8(tmp_path: Path) -> None:
    (one,) = record(tmp_path / "one", batch_size=1, **TINY)
    (eight,) = record(tmp_path / "eight", batch_size=8, **TINY)
    first, second = (run.space.to_signals(nib.load(run.bold)) for run in (one, eight))
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-4)


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    for name, seed in {"first": 3, "second": 3, "other": 4}.items():
        record(tmp_path / name, seed=seed, sites=["block", "head"], **TINY)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    bold = "sub-phantom/func/sub-phantom_task-pathology_acq-block_run-01_bold.nii.gz"
    assert contents(tmp_path / "first")[bold] != contents(tmp_path / "other")[bold]


def test_nilearn_loads_it(small_dataset: Small) -> None:
    root, recordings = small_dataset
    models, images, events, _ = first_level_from_bids(
        root, "medicalimaging", space_label="", derivatives_folder=".", mask_img=False, hrf_model=None
    )
    assert [(model.t_r, model.slice_time_ref) for model in models] == [(1.0, 0.5)]
    assert [nib.load(image).shape[3] for image in images[0]] == [run.n_scans for run in recordings[:2]]
    assert events[0][0]["trial_type"].tolist() == ["off", "off", "on", "on"] * 2 + ["off", "off"]


def test_events_stimuli_and_stim_tell_the_same(small_dataset: Small) -> None:
    root, (run, *_) = small_dataset
    events = pd.read_csv(str(run.bold).replace("bold.nii.gz", "events.tsv"), sep="\t")
    shown = json.loads((root / sidecar(run.bold)["Llm2bids"]["Stimuli"]).read_text())["Prompts"]
    assert events.columns.tolist() == [
        "onset",
        "duration",
        "trial_type",
        "block",
        "prompt",
        "cluster",
        "response_tokens",
    ]
    assert events["duration"].tolist() == [len(prompt["tokens"]) for prompt in shown]
    np.testing.assert_array_equal(events["onset"], np.cumsum([0, *events["duration"][:-1]]))
    with gzip.open(str(run.bold).replace("bold.nii.gz", "stim.tsv.gz"), "rt") as file:
        stim = pd.read_csv(file, sep="\t", header=None)
    assert stim.shape == (run.n_scans, 4)
    token = build_phantom().tokenizer.decode([int(stim.iloc[7, 0])])
    assert token == [text for prompt in shown for text in prompt["tokens"]][7]


def test_the_sidecar_names_the_model(small_dataset: Small) -> None:
    _, (run, *_) = small_dataset
    own = sidecar(run.bold)["Llm2bids"]
    assert own["WeightsSHA256"] == build_phantom().identity.weights_sha256
    assert (own["Model"], own["Dtype"], own["Site"]) == ("phantom", "float32", "block")
    assert own["Generation"]["Temperature"] == 1.0


def test_stats_models_are_valid(small_dataset: Small) -> None:
    root, _ = small_dataset
    paths = sorted((root / "code" / "models").glob("*_smdl.json"))
    assert [path.name for path in paths] == ["model-medicalimaging_smdl.json", "model-pathology_smdl.json"]
    for path in paths:
        model = BIDSStatsModel.model_validate_json(path.read_text())
        assert model.Nodes[0].Contrasts[0].Name == "onVsOff"


def test_shared_files_are_merged_not_replaced(tmp_path: Path) -> None:
    root = tmp_path / "ds"
    record(root, subject="a", **TINY)
    table = pd.read_csv(root / "participants.tsv", sep="\t").assign(group="patient")
    table.to_csv(root / "participants.tsv", sep="\t", index=False)
    fields = json.loads((root / "dataset_description.json").read_text()) | {"Name": "Mine"}
    (root / "dataset_description.json").write_text(json.dumps(fields))
    record(root, subject="b", **TINY)
    after = pd.read_csv(root / "participants.tsv", sep="\t", keep_default_na=False)
    assert after["group"].tolist() == ["patient", "n/a"]
    assert json.loads((root / "dataset_description.json").read_text())["Name"] == "Mine"


def test_a_nan_stops_with_its_place_and_leaves_nothing(tmp_path: Path) -> None:
    subject = tiny_subject("llama")
    with torch.no_grad():
        subject.model.model.layers[1].mlp.down_proj.weight[5] = torch.inf
    task = tmp_path / "words.tsv"
    task.write_text("text\ttrial_type\nevery unit of it\tplain\n")
    options: dict[str, Any] = {"task": str(task), "mode": "read", "progress": False, "subject": "a"}
    with pytest.raises(NonFiniteError, match=r"found at model\.layers\.1:out in scan 0 of sub-a_task-words_run-01"):
        record(tmp_path / "ds", subject, **options)
    assert contents(tmp_path / "ds") == {}
    (run,) = record(tmp_path / "ds", subject, nonfinite="zero", **options)
    assert np.isfinite(nib.load(run.bold).get_fdata()).all()
    assert sidecar(run.bold)["Llm2bids"]["NonfiniteSetToZero"] > 0


def test_overwrite_replaces_and_removes_the_other_format(tmp_path: Path) -> None:
    record(tmp_path / "ds", seed=1, **TINY)
    record(tmp_path / "ds", seed=2, compress=False, overwrite=True, **TINY)
    record(tmp_path / "fresh", seed=2, compress=False, **TINY)
    assert contents(tmp_path / "ds") == contents(tmp_path / "fresh")


def test_another_model_may_replace_all_of_a_subject_but_not_join_it(tmp_path: Path) -> None:
    record(tmp_path / "ds", build_phantom(), **TINY)
    other = build_phantom(seed=1)
    with pytest.raises(RecordError, match="another model already"):
        record(tmp_path / "ds", other, **(TINY | {"task": "archeology"}))
    record(tmp_path / "ds", other, overwrite=True, **TINY)
    table = pd.read_csv(tmp_path / "ds" / "participants.tsv", sep="\t")
    assert table["weights_sha256"].tolist() == [other.identity.weights_sha256]


RECORD = """
    import sys
    from llm2bids.recording import record
    record(sys.argv[1], task="pathology", runs=3, blocks=1, prompts_per_block=2, tokens=3, subject=sys.argv[2],
           progress=False)
"""
KILL_AFTER = """
    import os, signal
    import llm2bids.bids.nifti as nifti
    append, calls = nifti.NiftiWriter.append, []
    def dying(self, volumes):
        append(self, volumes)
        calls.append(1)
        if len(calls) == 8:  # six prompts make a run: in the middle of the second
            os.kill(os.getpid(), signal.SIGKILL)
    nifti.NiftiWriter.append = dying
"""
FILES_OF_20_KB = """
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
"""


def run_script(before: str, *args: str) -> subprocess.CompletedProcess[str]:
    script = textwrap.dedent(before) + textwrap.dedent(RECORD)
    return subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, check=False, timeout=120
    )


def record_here(root: Path, subject: str, **options: bool) -> None:
    """What the script does, in this process."""
    how: dict[str, Any] = {"runs": 3, "blocks": 1, "prompts_per_block": 2, "tokens": 3, "progress": False}
    record(root, task="pathology", subject=subject, **how, **options)


def test_after_kill_9_the_dataset_is_valid_and_resume_finishes_it(tmp_path: Path) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    assert run_script(KILL_AFTER, str(broken), "a").returncode == -signal.SIGKILL
    left = sorted(path.name for path in broken.rglob("*_bold.nii.gz") if ".llm2bids" not in path.parts)
    assert left == ["sub-a_task-pathology_acq-block_run-01_bold.nii.gz"]
    assert all(one.issues == () for one in validate(broken))
    record_here(broken, "a", resume=True)
    record_here(whole, "a")
    assert contents(broken) == contents(whole)
    assert [path.name for path in (broken / ".llm2bids").iterdir()] == ["lock"]


def test_a_full_disk_leaves_complete_runs_and_resume_finishes(tmp_path: Path) -> None:
    root = tmp_path / "ds"
    record(root, subject="a", **TINY)
    before = contents(root)
    done = run_script(FILES_OF_20_KB, str(root), "b")
    assert "could not be written" in done.stderr.splitlines()[-1]
    assert contents(root) == before
    record_here(root, "b", resume=True)
    assert all(one.issues == () for one in validate(root))


def test_two_processes_record_into_one_dataset_at_once(tmp_path: Path) -> None:
    script = textwrap.dedent(RECORD)
    both = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "ds"), name]) for name in ("a", "b")]
    assert [process.wait(120) for process in both] == [0, 0]
    assert pd.read_csv(tmp_path / "ds" / "participants.tsv", sep="\t")["participant_id"].tolist() == ["sub-a", "sub-b"]
    assert all(one.issues == () for one in validate(tmp_path / "ds"))
    assert len(list((tmp_path / "ds").glob("sub-*/func/*_bold.nii.gz"))) == 6


def test_resume_leaves_complete_runs_alone(tmp_path: Path) -> None:
    (run,) = record(tmp_path / "ds", **TINY)
    written = run.bold.stat().st_mtime_ns
    again = record(tmp_path / "ds", resume=True, **(TINY | {"runs": 2}))
    assert [(one.skipped, one.n_scans) for one in again] == [(True, 18), (False, 18)]
    assert run.bold.stat().st_mtime_ns == written


def test_a_run_that_was_complete_but_not_yet_in_place_is_moved(tmp_path: Path) -> None:
    root = tmp_path / "ds"
    record(root, **TINY)
    whole = contents(root)
    stage = root / ".llm2bids" / "sub-phantom_task-pathology_run-01"
    (stage / "sub-phantom").mkdir(parents=True)
    shutil.move(root / "sub-phantom" / "func", stage / "sub-phantom" / "func")
    (stage / "READY").touch()
    (run,) = record(root, resume=True, **TINY)
    assert run.skipped
    assert contents(root) == whole


def test_resume_records_again_what_lacks_a_file(tmp_path: Path) -> None:
    (run,) = record(tmp_path / "ds", **TINY)
    whole = contents(tmp_path / "ds")
    Path(str(run.bold).replace("bold.nii.gz", "events.tsv")).unlink()
    (again,) = record(tmp_path / "ds", resume=True, **TINY)
    assert not again.skipped
    assert contents(tmp_path / "ds") == whole


def test_resume_adds_a_site_and_leaves_the_others_alone(tmp_path: Path) -> None:
    record(tmp_path / "ds", **TINY)
    before = contents(tmp_path / "ds")
    block, head = record(tmp_path / "ds", resume=True, sites=["block", "head"], **TINY)
    assert (block.skipped, head.skipped) == (True, False)
    assert before.items() <= contents(tmp_path / "ds").items()


@pytest.mark.parametrize(
    ("first", "then", "told"),
    [
        ({}, {"sites": ["mlp"], "seed": 1}, "Seed 0, now 1"),
        ({}, {"hookpoints": ["mlp=model.layers.*.self_attn"]}, "which is a site"),
        (
            {"hookpoints": ["custom=model.layers.*.mlp.act_fn"]},
            {"hookpoints": ["custom=model.layers.*.self_attn.o_proj"], "resume": True, "runs": 2},
            "at other hookpoints",
        ),
    ],
)
def test_what_would_mix_two_recordings_is_refused(
    tmp_path: Path, first: dict[str, Any], then: dict[str, Any], told: str
) -> None:
    record(tmp_path / "ds", **(TINY | first))
    before = contents(tmp_path / "ds")
    with pytest.raises(LLM2BIDSError, match=told):
        record(tmp_path / "ds", **(TINY | then))
    assert contents(tmp_path / "ds") == before


def test_a_site_beside_one_of_another_precision_is_refused(tmp_path: Path) -> None:
    task = tmp_path / "words.tsv"
    task.write_text("text\ttrial_type\nevery unit of it\tplain\n")
    options: dict[str, Any] = {"task": str(task), "mode": "read", "progress": False, "subject": "a"}
    subject = tiny_subject("llama")
    record(tmp_path / "ds", subject, **options)
    subject.model.to(torch.bfloat16)
    with pytest.raises(RecordError, match="Dtype float32, now bfloat16"):
        record(tmp_path / "ds", subject, sites=["mlp"], **options)


def test_a_site_beside_one_during_which_the_model_said_something_else_is_refused(tmp_path: Path) -> None:
    (run,) = record(tmp_path / "ds", **TINY)
    stim = Path(str(run.bold).replace("bold.nii.gz", "stim.tsv.gz"))
    lines = gzip.decompress(stim.read_bytes()).decode().splitlines()
    stim.write_bytes(gzip.compress("\n".join(["7\t1\t1\t1", *lines[1:]]).encode()))
    with pytest.raises(RecordError, match="said something else"):
        record(tmp_path / "ds", sites=["mlp"], **TINY)


def test_overwriting_all_of_a_task_writes_what_it_shares_anew(tmp_path: Path) -> None:
    task = tmp_path / "mine.tsv"
    options: dict[str, Any] = {"task": str(task), "mode": "read", "progress": False}
    for first, second in (("a", "b"), ("c", "d")):
        task.write_text(f"text\ttrial_type\nthe radiologist\t{first}\nthe election\t{second}\n")
        record(tmp_path / "ds", overwrite=True, **options)
    events = json.loads((tmp_path / "ds" / "task-mine_events.json").read_text())
    assert list(events["trial_type"]["Levels"]) == ["c", "d"]
    model = (tmp_path / "ds" / "code" / "models" / "model-mine_smdl.json").read_text()
    assert "trial_type.c" in model
    assert "trial_type.a" not in model


def test_what_another_process_recorded_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_phantom(**_options: object) -> Any:
        record(tmp_path / "ds", build_phantom(), **TINY)
        return build_phantom()

    monkeypatch.setattr("llm2bids.model.subject.build_phantom", slow_phantom)
    with pytest.raises(DatasetError, match="by another process meanwhile"):
        record(tmp_path / "ds", "phantom", seed=1, **TINY)
    assert sidecar(next((tmp_path / "ds").rglob("*_bold.nii.gz")))["Llm2bids"]["Settings"]["Seed"] == 0


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    subject = tiny_subject("llama")
    folder = tmp_path / "model"
    subject.model.save_pretrained(folder)
    subject.tokenizer.save_pretrained(folder)
    kept = {name: value for name, value in load_file(folder / "model.safetensors").items() if "layers.1" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks \d+ of the weights.*layers\.1"):
        load_pretrained(str(folder))


def test_the_same_run_twice_at_once_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "ds", **TINY)
    from llm2bids.bids.dataset import Dataset

    with (
        Dataset(tmp_path / "ds").stage("sub-phantom_task-pathology_run-02"),
        pytest.raises(DatasetError, match="another process"),
    ):
        record(tmp_path / "ds", resume=True, **(TINY | {"runs": 2}))


def test_the_trained_model_is_recorded_validly(shared_model: str, tmp_path: Path) -> None:
    runs = record(tmp_path / "ds", shared_model, sites=SITES, **(TINY | {"task": "medicalimaging"}))
    assert [run.space.label for run in runs] == [
        "L6C384block", "L6C384attn", "L6C384mlp", "L6C1536neuron", "L6C384head",
    ]  # fmt: skip
    assert validate(tmp_path / "ds")[0].issues == ()


def test_the_phantom_on_a_task_of_ones_own_has_no_truth(tmp_path: Path) -> None:
    """A derivative without subjects is none: the validator warns of it."""
    task = tmp_path / "mine.tsv"
    task.write_text("text\ttrial_type\nOnce upon a time\tstory\nTwo plus two is\tsum\nThe dragon slept\tstory\n")
    record(tmp_path / "ds", task=task, mode="read", progress=False)
    assert [validation.summary() for validation in validate(tmp_path / "ds")] == [
        f"{tmp_path / 'ds'}: 0 errors, 0 warnings"
    ]
    assert not (tmp_path / "ds" / "derivatives").exists()
