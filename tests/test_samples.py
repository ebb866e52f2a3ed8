"""What is a sample: a text that is shown again is none, and confounds do not make more of one."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from llm2bids.bids.runs import PREPARED
from llm2bids.bids.tables import read_json, read_tsv, write_json
from llm2bids.errors import DatasetError, DesignError, InferenceError, MaskError
from llm2bids.masks import convert_mask
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.space import UnitMask, UnitSpace
from llm2bids.statistics import glm
from llm2bids.task import builtin_prompts

if TYPE_CHECKING:
    from pathlib import Path

    from llm2bids.recording import Recording
    from llm2bids.statistics import ContrastResult

pytestmark = pytest.mark.usefixtures("blank_figures")
"""No test here looks at a picture."""


def repeated(folder: Path, runs: int) -> Path:
    """The same 24 sentences, with conditions that mean nothing, read in every run."""
    texts = [prompt.text for topic in ("chess", "cinema", "coffee") for prompt in builtin_prompts()[topic][:8]]
    kinds = np.random.default_rng(1).permutation(["a", "b"] * 12)
    task = folder / "nothing.tsv"
    task.write_text(
        "text\ttrial_type\n" + "".join(f"{text}\t{kind}\n" for text, kind in zip(texts, kinds, strict=True))
    )
    root = folder / f"ds{runs}"
    record(root, task=task, mode="read", runs=runs, progress=False)
    prep(root, progress=False)
    return root


def analyse(root: Path, out: Path, **options: Any) -> ContrastResult:
    (result,) = glm(root, out, progress=False, **options)
    return result


def test_texts_that_are_shown_again_are_no_new_samples(tmp_path: Path) -> None:
    """Eight times the same recording says no more than one: nothing is found, and p is about as large."""
    once, often = (analyse(repeated(tmp_path, runs), tmp_path / f"out{runs}", drift="none") for runs in (1, 8))
    assert (once.n_selected, often.n_selected) == (0, 0)
    metadata = read_json(often.mask_file.with_name(often.mask_file.name.replace(".nii.gz", ".json")))["Llm2bids"]
    assert (metadata["NumberOfPrompts"], metadata["NumberOfSamples"]) == (8 * 24, 24)
    table = read_tsv(next(often.mask_file.parent.glob("*_prompts.tsv")))
    assert table["stimulus"].nunique() == 24


def test_fixed_effects_over_runs_of_the_same_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match=r'shows 24 prompts in more than one run.*inference="prompt"'):
        glm(repeated(tmp_path, 2), tmp_path / "out", inference="run", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task of the phantom, two runs, prepared."""
    root = tmp_path_factory.mktemp("samples") / "ds"
    record(root, task="pathology", runs=2, tokens=12, batch_size=33, progress=False)
    prep(root, progress=False)
    return root


def test_a_confound_that_prompts_do_not_differ_in_changes_nothing(prepared: Path, tmp_path: Path) -> None:
    """Its slope over the tokens of a prompt says nothing about differences between prompts."""
    (bare,) = glm(prepared, tmp_path / "bare", progress=False)
    (with_position,) = glm(prepared, tmp_path / "position", confounds=["tok_position"], progress=False)
    assert abs(with_position.n_selected - bare.n_selected) <= 0.2 * bare.n_selected
    metadata = read_json(next((tmp_path / "position").rglob("*_glm.json")))["Llm2bids"]
    assert metadata["Confounds"] == ["tok_position"]


@pytest.mark.parametrize("name", ["tok_entropy", "tok_surprisal"])
def test_a_confound_does_not_make_units_significant(prepared: Path, tmp_path: Path, name: str) -> None:
    """It may cost power. Were its slope taken from the tokens within prompts, hundreds of units would be found."""
    (bare,) = glm(prepared, tmp_path / "bare", progress=False)
    (result,) = glm(prepared, tmp_path / "with", confounds=[name], progress=False)
    assert result.n_selected <= 1.3 * bare.n_selected


def test_a_wildcard_of_no_confound_is_refused(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(DesignError, match=r"run-01 has no confound tokk_\*; there are tok_position"):
        glm(prepared, tmp_path / "out", confounds=["tokk_*"], progress=False)


def test_a_negative_seed_is_refused(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match="seed -3 found"):
        glm(prepared, tmp_path / "out", correction="maxt", seed=-3, progress=False)


def test_resume_makes_missing_maps_anew(prepared: Path, tmp_path: Path) -> None:
    (result,) = glm(prepared, tmp_path / "out", progress=False)
    content = result.mask_file.read_bytes()
    result.mask_file.unlink()
    (again,) = glm(prepared, tmp_path / "out", resume=True, progress=False)
    assert not again.skipped
    assert result.mask_file.read_bytes() == content


def test_volumes_without_a_recording_are_refused(prepared: Path, tmp_path: Path) -> None:
    root = tmp_path / "ds"
    shutil.copytree(prepared, root)
    for path in root.glob("sub-phantom/func/*_run-02_*"):
        path.unlink()
    with pytest.raises(DatasetError, match="run-02 is prepared but no longer recorded"):
        glm(root, tmp_path / "out", progress=False)


def test_maps_of_runs_lie_in_the_folder_of_their_session(tmp_path: Path) -> None:
    root = tmp_path / "ds"
    record(root, task="pathology", runs=1, sessions=2, blocks=2, tokens=12, progress=False)
    prep(root, progress=False)
    glm(root, tmp_path / "out", inference="token", progress=False)
    maps = sorted((tmp_path / "out").rglob("*_ses-*_stat-z_statmap.nii.gz"))
    assert [path.parent.relative_to(tmp_path / "out").as_posix() for path in maps] == [
        "sub-phantom/ses-01/func",
        "sub-phantom/ses-02/func",
    ]
    glm(root, tmp_path / "out", inference="prompt", overwrite=True, progress=False)
    assert not list((tmp_path / "out").rglob("*_ses-*"))


def test_rest_beside_a_task_is_left_out_with_a_warning(
    small_dataset: tuple[Path, list[Recording]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "ds"
    shutil.copytree(small_dataset[0], root)
    record(root, task="rest", runs=1, blocks=1, tokens=5, progress=False)
    prep(root, progress=False)
    assert {result.task for result in glm(root, tmp_path / "out", progress=False)} == {"medicalimaging", "pathology"}
    assert "task rest" in caplog.text


def test_a_prompt_of_one_token_at_the_first_position_can_be_analysed(tmp_path: Path) -> None:
    """Its spike is the prompt itself and would explain it away."""
    task = tmp_path / "words.tsv"
    words = ["stone", "river", "house", "cloud", "horse", "table"]
    rows = [f"{word}\t{kind}\n" for word, kind in zip(words, "ababab", strict=True)]
    task.write_text(
        "text\ttrial_type\n" + "".join(rows) + "a long sentence of some words\ta\nanother of more words yet\tb\n"
    )
    root = tmp_path / "ds"
    record(root, task=task, mode="read", progress=False)
    for path in root.glob("sub-*/func/*_stim.tsv.gz"):
        table = pd.read_csv(path, sep="\t", header=None)
        table[1] -= 1  # as of a model that begins a text with its first token
        table.to_csv(path, sep="\t", header=False, index=False, na_rep="n/a")
    prep(root, progress=False)
    assert analyse(root, tmp_path / "out", level="prompt-mean", drift="none").n_tested > 700


@pytest.mark.parametrize("name", ["dataset_description.json", "sub-x_bold.nii.gz", "model.safetensors"])
def test_overwrite_replaces_masks_only(tmp_path: Path, name: str) -> None:
    space = UnitSpace.uniform("mlp", ["h.0:out", "h.1:out"], 9)
    mask = UnitMask.from_units(space, [3])
    write_json(tmp_path / "mask.json", mask.to_json())
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(MaskError, match="is no mask of ours, and is not replaced"):
        convert_mask(tmp_path / "mask.json", tmp_path / name, overwrite=True)
    assert (tmp_path / name).read_bytes() == b"precious"


def test_prep_that_fails_leaves_no_derivative(small_dataset: tuple[Path, list[Recording]], tmp_path: Path) -> None:
    root = tmp_path / "ds"
    shutil.copytree(small_dataset[0], root)
    for path in root.glob("sub-*/func/*_bold.nii.gz"):
        path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DatasetError, match="truncated or corrupted"):
        prep(root, progress=False)
    assert not (root / PREPARED).exists()
