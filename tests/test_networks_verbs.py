"""Questions about networks at the command line: what is asked wrongly is said in one line, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

from llm2bids import networks
from llm2bids.bids.tables import read_json, read_tsv, write_json, write_tsv
from llm2bids.cli import main
from llm2bids.errors import InferenceError
from llm2bids.networks.depth_profile import profile
from llm2bids.networks.identification import identify
from llm2bids.networks.repeatability import reliability
from llm2bids.networks.unit_overlap import overlap
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.statistics import glm
from llm2bids.validation import validate

from .conftest import figures_left_blank

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUICK: dict[str, list[str]] = {
    "overlap": ["--n-draws", "20"],
    "reliability": ["--n-permutations", "5", "--n-splits", "2"],
    "identify": ["--n-permutations", "5", "--no-decoder"],
    "profile": ["--n-draws", "20"],
}


@pytest.mark.parametrize("question", QUICK)
def test_an_answer_is_told_written_and_valid(
    question: str, planted_results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["networks", question, str(planted_results), *QUICK[question]]
    assert main(call) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{question}: sub-phantom, site block\n")
    assert str(planted_results / "networks") in printed
    assert main([*call, "--overwrite", "--json"]) == 0
    (described,) = json.loads(capsys.readouterr().out)
    files = {path.name for path in (planted_results / "networks").iterdir()}
    assert files == {path.rpartition("/")[2] for path in described["files"]}
    assert {f"{name}.tsv" for name in described["tables"]} == {
        name.rpartition("_")[2] for name in files if name.endswith(".tsv")
    }
    assert validate(planted_results)[0].summary().endswith("0 errors, 0 warnings")


@pytest.mark.parametrize("question", QUICK)
@pytest.mark.usefixtures("blank_figures")
def test_the_same_seed_gives_the_same_answer(question: str, planted_results: Path) -> None:
    ask: dict[str, Callable[..., Any]] = {
        "overlap": overlap,
        "reliability": reliability,
        "identify": identify,
        "profile": profile,
    }
    draws = {"n_draws": 9} if question in {"overlap", "profile"} else {"n_permutations": 9}
    answers = [ask[question](planted_results, seed=4, overwrite=True, progress=False, **draws)[0] for _ in range(2)]
    for name, table in answers[0].tables.items():
        assert table.equals(answers[1].tables[name])


def test_questions_are_functions_of_the_package() -> None:
    assert set(networks.__all__) <= set(dir(networks))
    assert {name for name in networks.__all__ if callable(getattr(networks, name))} == set(networks.__all__)
    assert networks.overlap is overlap
    with pytest.raises(AttributeError, match="has no attribute 'overlaps'"):
        networks.overlaps  # noqa: B018


def test_a_single_label_is_a_list_of_one(planted_results: Path) -> None:
    with pytest.raises(InferenceError, match=r"1 task \(pathology\).*leave out `task_label`"):
        overlap(planted_results, task_label="pathology")


@pytest.mark.usefixtures("blank_figures")
def test_an_answer_shows_itself_in_short(planted_results: Path) -> None:
    (answer,) = overlap(planted_results, task_label=["pathology", "archeology"], n_draws=9, progress=False)
    assert repr(answer).startswith("<Answer overlap: phantom, site block; tables pairs (1 rows), dice (2 rows)")
    assert "<th>dice_chance</th>" in answer._repr_html_()


@pytest.mark.usefixtures("blank_figures")
def test_an_answer_is_not_replaced_unasked(planted_results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["networks", "overlap", str(planted_results), *QUICK["overlap"]]
    assert main(call) == 0
    before = {path: path.read_bytes() for path in (planted_results / "networks").iterdir()}
    assert main(call) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (planted_results / "networks").iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["overlap", "--task-label", "pathology"], "1 task (pathology)"),
        (["overlap", "--task-label", "nosuch"], "task-nosuch not found"),
        (["overlap", "--contrasts", "offVsOn"], "contrast offVsOn not found; there are onVsOff"),
        (["overlap", "--n-draws", "0"], "0 draws asked for"),
        (["reliability", "--rule", "many"], "rule 'many' found"),
        (["reliability", "--rule", "150%"], "level 1.5 found"),
        (["reliability", "--n-permutations", "0"], "0 permutations or splits"),
        (["identify", "--thresholds", "0"], "level 0 found"),
        (["identify", "--scores", "luck"], "score 'luck' found; use mean-z"),
        (["identify", "--across", "session"], "has 1 session, 2 needed"),
        (["identify", "--across", "subject"], "has 1 subject, 2 needed"),
        (["identify", "--participant-label", "gpt2"], "sub-gpt2 not found"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(
    options: list[str], message: str, planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = planted / "derivatives" / "glm"
    assert main(["networks", options[0], str(results), *options[1:]]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (results / "networks").exists()


def test_a_folder_without_results_is_refused(tmp_path: Path, planted: Path) -> None:
    for folder in (tmp_path / "nothing", planted / "derivatives" / "llm2bids"):
        with pytest.raises(Exception, match="holds no results of single subjects"):
            overlap(folder)
    assert not (tmp_path / "nothing").exists()


def test_a_file_that_is_gone_is_named(planted_results: Path) -> None:
    gone = next(planted_results.glob("sub-*/func/*task-pathology*stat-effect_desc-prompts_statmap.nii.gz"))
    gone.unlink()
    with pytest.raises(Exception, match=gone.name):
        identify(planted_results, n_permutations=1, progress=False)


def test_a_file_that_is_truncated_is_named(planted_results: Path) -> None:
    short = next(planted_results.glob("sub-*/func/*task-pathology*stat-effect_desc-prompts_statmap.nii.gz"))
    short.write_bytes(short.read_bytes()[:2000])
    with pytest.raises(Exception, match=short.name):
        identify(planted_results, n_permutations=1, progress=False)


def test_tables_that_do_not_fit_are_refused(planted_results: Path) -> None:
    path = next(planted_results.glob("sub-*/func/*task-pathology*_prompts.tsv"))
    write_tsv(path, read_tsv(path).iloc[:-1])
    with pytest.raises(Exception, match="differ in length"):
        reliability(planted_results, n_permutations=1, progress=False)


def test_other_weights_are_refused(planted_results: Path) -> None:
    path = next(planted_results.glob("sub-*/func/*task-pathology*_glm.json"))
    fields = read_json(path)
    fields["Llm2bids"]["WeightsSHA256"] = "0" * 64
    write_json(path, fields)
    with pytest.raises(Exception, match="other weights"):
        overlap(planted_results, n_draws=1, progress=False)


@pytest.mark.usefixtures("blank_figures")
def test_an_empty_network_shares_nothing(planted_results: Path) -> None:
    path = next(planted_results.glob("sub-*/func/*task-pathology*desc-fdr05_mask.nii.gz"))
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine, image.header), path)
    (answer,) = overlap(planted_results, n_draws=50, progress=False)
    pairs = answer.tables["pairs"]
    of_task = (pairs["task_a"] == "pathology") | (pairs["task_b"] == "pathology")
    assert pairs.loc[of_task, "p"].isna().all()
    assert (pairs.loc[of_task, "dice"] == 0).all()
    assert pairs.loc[~of_task, "p"].notna().all()


@pytest.mark.usefixtures("blank_figures")
def test_tokens_as_samples_leave_p_out(planted: Path, tmp_path: Path) -> None:
    glm(planted, tmp_path / "token", inference="token", task_label=["pathology", "medicalimaging"], progress=False)
    (answer,) = overlap(tmp_path / "token", n_draws=20, progress=False)
    assert answer.tables["pairs"]["p"].isna().all()
    assert answer.tables["pairs"]["p_units"].notna().all()
    assert "took tokens for samples" in answer.settings["NoExchangeOfConditions"]
    with pytest.raises(Exception, match='inference="prompt"'):
        identify(tmp_path / "token", n_permutations=1, progress=False)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sittings of the phantom as two subjects, two tasks, two sessions of two runs, with the same texts."""
    root = tmp_path_factory.mktemp("several")
    for subject in ("base", "tuned"):
        tasks = ["pathology", "politicalscience"]
        record(
            root / "ds",
            task=tasks,
            subject=subject,
            sessions=2,
            runs=2,
            blocks=2,
            tokens=6,
            batch_size=20,
            progress=False,
        )
    prep(root / "ds", progress=False)
    with figures_left_blank():
        glm(root / "ds", root / "glm", progress=False)
    return root / "glm"


@pytest.mark.usefixtures("blank_figures")
def test_tasks_are_told_across_subjects(several: Path, tmp_path: Path) -> None:
    results = shutil.copytree(several, tmp_path / "glm")
    with pytest.raises(Exception, match="allow_overlap=True"):
        identify(results, across="subject", n_permutations=1, progress=False)
    (answer,) = identify(results, across="subject", allow_overlap=True, n_permutations=20, progress=False)
    assert (answer.tables["summary"].query("level == 'run'")["accuracy"] == 1).all()
    assert set(answer.tables["predictions"]["subject"]) == {"base", "tuned"}
    assert sorted(answer.tables["folds"]["held_out"].unique()) == ["base", "tuned"]
    assert all("sub-" not in path.name and "desc-identifysubject_" in path.name for path in answer.files)
    assert answer.settings["TextsSeen"] > 0


@pytest.mark.usefixtures("blank_figures")
def test_tasks_are_told_across_sessions(several: Path, tmp_path: Path) -> None:
    results = shutil.copytree(several, tmp_path / "glm")
    answers = identify(results, across="session", allow_overlap=True, n_permutations=20, progress=False)
    assert [answer.subject for answer in answers] == ["base", "tuned"]
    for answer in answers:
        assert sorted(answer.tables["folds"]["held_out"].unique()) == ["01", "02"]
        assert (answer.tables["summary"].query("level == 'run'")["accuracy"] == 1).all()
    assert len(overlap(results, n_draws=9, progress=False)) == 2
    assert len(reliability(results, n_permutations=3, n_splits=2, progress=False)) == 2
