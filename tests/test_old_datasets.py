"""What version 0.1.0 wrote is read: each verb goes on from it.

``datasets/version_0_1_0.tar.xz`` is a dataset as that version wrote it: ``record`` in mode read (two tasks of two runs,
a GPT-2 of 2 blocks of 12 channels with random weights), ``prep`` and ``glm``. Its pages are left out, its figures are
one pixel each.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest
from transformers import GPT2Config, GPT2LMHeadModel

import llm2bids as lb
from llm2bids.bids.history import read_history
from llm2bids.bids.tables import read_json
from llm2bids.errors import DatasetError, RecordError
from llm2bids.model.loading import Identity, make_subject

from .families import tiny_tokenizer

if TYPE_CHECKING:
    from llm2bids.model.loading import Subject

OLD = Path(__file__).parent / "datasets" / "version_0_1_0.tar.xz"
TASKS = ("pets", "weather")
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset for tests that add to its derivatives only."""
    return unpacked(tmp_path_factory.mktemp("old"))


def unpacked(folder: Path) -> Path:
    with tarfile.open(OLD) as archive:
        archive.extractall(folder, filter="data")
    return folder / "ds"


def bolds(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.glob("sub-*/func/*_bold.*"))}


def tiny(weights: str) -> Subject:
    """A model like the one recorded; it is taken for that one if its weights have the same hash."""
    config = GPT2Config(n_layer=2, n_head=2, n_embd=12, vocab_size=30, bos_token_id=1, eos_token_id=2)
    return make_subject(GPT2LMHeadModel(config), tiny_tokenizer(), Identity("tiny", "local", weights))


def test_it_says_that_it_is_of_that_version(analysed: Path) -> None:
    (step,) = read_history(analysed)
    assert step.version == "0.1.0"
    assert step.command.startswith("llm2bids record ds --model '<Subject>'")


def test_the_validator_passes_it(analysed: Path) -> None:
    assert [validation.n_errors for validation in lb.validate(analysed)] == [0, 0, 0]


def test_what_is_prepared_and_analysed_counts_as_done(analysed: Path) -> None:
    before = read_history(analysed / "derivatives" / "glm")
    prepared = lb.prep(analysed, resume=True, **QUIET)
    results = lb.glm(analysed, resume=True, **QUIET)
    assert (len(prepared), len(results)) == (4, 2)
    assert all(result.skipped for result in (*prepared, *results))
    assert {result.task: result.n_selected for result in results} == {"pets": 17, "weather": 11}
    assert results[0].mask.n_selected == 17
    assert read_history(analysed / "derivatives" / "glm")[: len(before)] == before


def test_it_is_prepared_and_analysed_as_that_version_did(tmp_path: Path) -> None:
    old, new = unpacked(tmp_path / "old"), unpacked(tmp_path / "new")
    lb.prep(new, overwrite=True, **QUIET)
    lb.glm(new, overwrite=True, **QUIET)
    paths = sorted(old.glob("derivatives/*/sub-tiny/func/*.nii.gz"))
    assert len(paths) == 8 + 2 * 8
    for path in paths:
        one, other = (np.asarray(nib.load(file).dataobj) for file in (path, new / path.relative_to(old)))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4, err_msg=path.name)


def test_networks_are_compared(analysed: Path) -> None:
    (answer,) = lb.networks.overlap(analysed / "derivatives" / "glm", n_draws=20, overwrite=True, **QUIET)
    assert answer.tables["pairs"][["units_a", "units_b"]].to_numpy().tolist() == [[17, 11]]


def test_a_report_shows_it(analysed: Path) -> None:
    page = lb.report(analysed, overwrite=True, **QUIET).subjects["tiny"].read_text()
    assert all(task in page for task in TASKS)


def test_recording_goes_on_with_the_same_model_only(tmp_path: Path) -> None:
    root = unpacked(tmp_path)
    sidecar = next(root.glob("sub-tiny/func/*run-01_bold.json"))
    weights, before = read_json(sidecar)["Llm2bids"]["WeightsSHA256"], bolds(root)
    for task in TASKS:
        write_task(root, tmp_path / f"{task}.tsv", task)
    tasks = [tmp_path / f"{task}.tsv" for task in TASKS]
    recordings = lb.record(root, tiny(weights), tasks, mode="read", resume=True, **QUIET)
    assert [recording.skipped for recording in recordings] == [True] * 4
    assert recordings[0].signals.shape == (60, 24)
    with pytest.raises(RecordError, match=r"sub-tiny is another model already .* name another `subject`"):
        lb.record(root, tiny("0" * 64), tasks, mode="read", resume=True, **QUIET)
    with pytest.raises(DatasetError, match="exists already; go on with resume=True"):
        lb.record(root, tiny(weights), tasks, mode="read", **QUIET)
    assert bolds(root) == before


def write_task(root: Path, path: Path, task: str) -> None:
    """The task file of a recording, from the texts that lie beside it."""
    lines = ["text\ttrial_type\tblock\trun"]
    for run in (1, 2):
        prompts = read_json(root / "stimuli" / "sub-tiny" / f"sub-tiny_task-{task}_run-{run:02d}_stimuli.json")[
            "Prompts"
        ]
        lines += [f"{prompt['text']}\t{prompt['trial_type']}\t{prompt['block']}\t{run}" for prompt in prompts]
    path.write_text("\n".join([*lines, ""]))
