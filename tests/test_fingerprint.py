"""Two models on one set of texts: how alike their networks run does not depend on names and sizes of units."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from llm2bids.bids.tables import read_tsv
from llm2bids.cli import main
from llm2bids.decomposition import ica
from llm2bids.decomposition.components import fit_components, time_courses
from llm2bids.decomposition.reduction import principal_axes, reduce_runs
from llm2bids.decomposition.run_groups import find_run_groups
from llm2bids.decomposition.settings import DecompositionSettings
from llm2bids.errors import DatasetError, InferenceError
from llm2bids.networks.answers import Answer
from llm2bids.networks.fingerprinting import (
    ModelCourses,
    choose_level,
    compare_models,
    fingerprint,
    read_model_courses,
    score_pairs,
    spearman,
)
from llm2bids.preparation import prep
from llm2bids.validation import validate

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

QUIET = np.random.default_rng


def made(
    seed: int, n_networks: int = 3, *, reads: bool = True, n_texts: int = 12, like: ModelCourses | None = None
) -> ModelCourses:
    """Random courses over texts of 9 tokens; `like` another model but for order, sign and a monotone scale."""
    rng = np.random.default_rng(seed)
    names = tuple(f"ica{number:02d}" for number in range(n_networks))
    if like is not None:
        texts = {name: np.cbrt(-2 * own[:, ::-1]) for name, own in like.texts.items()}
        return ModelCourses("copy", "copy", names, texts, reads)
    return ModelCourses("one", "one", names, {f"t{n}": rng.normal(size=(9, n_networks)) for n in range(n_texts)}, reads)


def test_spearman_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 20, 3))
    other[:5] = 0  # ties
    expected = [[spearmanr(one[:, a], other[:, b]).statistic for b in range(3)] for a in range(3)]
    assert spearman([one], [other], "token")(np.arange(1)) == pytest.approx(np.array(expected))
    assert spearman([one, one], [other, -other], "token")(np.arange(2)) == pytest.approx(np.zeros((3, 3)))
    assert spearman([one], [np.ones((25, 2))], "token")(np.arange(1)).tolist() == [[0, 0]] * 3


def test_texts_in_another_order_are_correlated_as_if_they_had_come_so() -> None:
    """Ranks are made once, and every order must meet those of its own texts, cut to the shorter."""
    rng = np.random.default_rng(1)
    one, other = ([rng.normal(size=(n_tokens, 2)) for n_tokens in (6, 8, 5, 9)] for _ in "ab")
    order = np.array([2, 0, 3, 1])
    pairs = [(mine, other[text]) for mine, text in zip(one, order, strict=True)]
    cut = [(mine[: len(theirs)], theirs[: len(mine)]) for mine, theirs in pairs]
    tokens = [[[spearmanr(mine[:, a], theirs[:, b]).statistic for b in (0, 1)] for a in (0, 1)] for mine, theirs in cut]
    assert spearman(one, other, "token")(order) == pytest.approx(np.mean(tokens, axis=0))
    means, permuted = (np.array([own.mean(0) for own in part]) for part in (one, [other[text] for text in order]))
    prompts = [[spearmanr(means[:, a], permuted[:, b]).statistic for b in (0, 1)] for a in (0, 1)]
    assert spearman(one, other, "prompt")(order) == pytest.approx(np.array(prompts))


@pytest.mark.parametrize("level", ["prompt", "token"])
def test_a_copy_scores_one_and_a_stranger_no_more_than_chance(level: str) -> None:
    one = made(1)
    copy = replace(made(1, like=one), texts={name: -3 * own[:, ::-1] for name, own in one.texts.items()})
    score = compare_models(one, copy, level, 200, np.random.default_rng(0)).tables["score"].iloc[0]  # type: ignore[arg-type]
    assert score["score"] == pytest.approx(1)
    assert score["strong"] == 3
    assert score["score_p"] < 0.01
    matches = compare_models(one, copy, level, 2, np.random.default_rng(0)).tables["matches"]  # type: ignore[arg-type]
    assert sorted(zip(matches["network_a"], matches["network_b"], strict=True)) == [
        ("ica00", "ica02"),
        ("ica01", "ica01"),
        ("ica02", "ica00"),
    ]
    stranger = compare_models(one, made(2), level, 200, np.random.default_rng(0)).tables["score"].iloc[0]  # type: ignore[arg-type]
    assert stranger["score_p"] > 0.05


def test_p_is_uniform_where_models_have_nothing_in_common() -> None:
    p_values = [
        compare_models(made(2 * n), made(2 * n + 1), "prompt", 39, np.random.default_rng(n)).tables["score"]["score_p"][
            0
        ]
        for n in range(40)
    ]
    assert 0.3 < np.mean(p_values) < 0.7
    assert np.mean(np.array(p_values) <= 0.1) <= 0.25


def test_tokens_are_aligned_only_where_they_can_be() -> None:
    one, other = made(1), made(2)
    assert choose_level(one, other, "auto") == "token"
    assert choose_level(one, other, "prompt") == "prompt"
    assert choose_level(one, replace(other, reads=False), "auto") == "prompt"
    cut = replace(other, texts={name: own[:7] for name, own in other.texts.items()})
    assert choose_level(one, cut, "auto") == "prompt"
    with pytest.raises(InferenceError, match='level="prompt"'):
        choose_level(one, cut, "token")
    with pytest.raises(InferenceError, match="use auto"):
        choose_level(one, cut, "word")  # type: ignore[arg-type]
    with pytest.raises(InferenceError, match="4 texts found"):
        choose_level(one, made(2, n_texts=4), "auto")


def test_units_may_be_permuted_and_scaled(planted: Path) -> None:
    """The same networks, and so the same score, of a copy of the phantom's signals with other units and scales."""
    (source,) = find_run_groups(planted, DecompositionSettings(scale="none"), tasks=["pathology"])
    raw = [source.signals(number).astype(np.float64) for number in range(2)]
    rng = np.random.default_rng(3)
    order, scale = rng.permutation(raw[0].shape[1]), rng.uniform(0.1, 30, raw[0].shape[1])

    def texts_of(runs: list[NDArray[np.float64]], n_components: int = 4) -> ModelCourses:
        standard = [(run - run.mean(0)) / run.std(0) for run in runs]
        means = [run.reshape(33, 24, -1).mean(1) for run in standard]
        reduced = reduce_runs(lambda: iter(means), principal_axes(iter(means))[1][:30])  # type: ignore[arg-type]
        maps = fit_components(reduced, n_components, DecompositionSettings(), 0)
        courses = np.concatenate([time_courses(run, maps) for run in standard]).reshape(66, 24, n_components)
        names = tuple(map(str, range(n_components)))
        return ModelCourses("x", "x", names, {str(number): own for number, own in enumerate(courses)}, reads=False)

    one, other = texts_of(raw), texts_of([(run * scale)[:, order] for run in raw])
    assert compare_models(one, other, "prompt", 5, QUIET(0)).tables["score"]["score"][0] == pytest.approx(1, abs=1e-4)
    third = texts_of(raw[::-1], 3)
    assert score_pairs(compare_models(one, third, "prompt", 5, QUIET(0)).tables["spearman"].iloc[:, 1:].to_numpy())[
        0
    ] == pytest.approx(compare_models(other, third, "prompt", 5, QUIET(0)).tables["score"]["score"][0], abs=1e-3)


@pytest.fixture(scope="module")
def results(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two decompositions of one recording, with other numbers of components."""
    folder = tmp_path_factory.mktemp("fingerprint")
    for name, number in (("a", 6), ("b", 8)):
        ica(planted, folder / name, task_label=["pathology"], components=number, progress=False)
    return folder / "a", folder / "b"


def test_command(results: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    one, other = results
    call = ["fingerprint", str(one), str(other), "--n-draws", "99"]
    assert main(call) == 0
    assert "score" in capsys.readouterr().out
    assert main(call) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*call, "--overwrite", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (score,) = told["tables"]["score"]
    assert score["level"] == "prompt"
    assert score["score_p"] == 0.01
    assert score["pairs"] == 6
    assert {path.rpartition("_")[2] for path in told["files"]} == {
        "score.tsv",
        "matches.tsv",
        "spearman.tsv",
        "figure.png",
        "networks.json",
    }
    assert validate(one)[0].summary().endswith("0 errors, 0 warnings")
    courses = read_model_courses(next(iter(one.rglob("*_ica.json"))))
    assert len(courses.texts) == len(set(courses.texts)) >= 30
    first = read_tsv(next(iter(sorted(one.rglob("*run-01*_timeseries.tsv"))))).astype(float).to_numpy()
    assert any((own == first[: len(own)]).all() for own in courses.texts.values())


def test_an_answer_by_itself_can_be_replaced(results: tuple[Path, Path], tmp_path: Path) -> None:
    for overwrite in (False, True):
        answer = fingerprint(*results, out=tmp_path / "own", n_draws=9, overwrite=overwrite, progress=False)
        assert (tmp_path / "own" / "dataset_description.json").exists()
        assert all(path.is_relative_to(tmp_path / "own") for path in answer.files)


def test_what_cannot_be_compared_is_refused(results: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds 0 decompositions"):
        fingerprint(tmp_path, results[0])
    with pytest.raises(InferenceError, match="0 draws"):
        fingerprint(*results, n_draws=0)
    with pytest.raises(InferenceError, match="cannot be aligned"):
        fingerprint(*results, level="token")


def test_recordings_that_are_others_by_now_are_refused(two_sites: Path, tmp_path: Path) -> None:
    """The courses would be held against texts that they are not of."""
    raw = shutil.copytree(two_sites, tmp_path / "ds")
    out = raw / "derivatives" / "ica"
    ica(raw, out, sites=["block"], components=2, progress=False)
    fingerprint(out, out, n_draws=2, progress=False)
    events = next(raw.glob("sub-*/func/*acq-block_run-02_events.tsv"))
    events.write_text(events.read_text().replace("\ton\t", "\tcalled\t"))
    with pytest.raises(
        DatasetError, match=r"acq-block_run-02 was recorded anew.* llm2bids prep .* with overwrite=True"
    ):
        fingerprint(out, out, n_draws=2, overwrite=True, progress=False)
    prep(raw, overwrite=True, progress=False)
    with pytest.raises(
        DatasetError, match=r"made of other recordings than those now in .*ica again with overwrite=True"
    ):
        fingerprint(out, out, n_draws=2, overwrite=True, progress=False)
    ica(raw, out, sites=["block"], components=2, overwrite=True, progress=False)
    fingerprint(out, out, n_draws=2, overwrite=True, progress=False)
    for path in (raw / "derivatives" / "llm2bids").glob("sub-*/func/*run-02*"):
        path.unlink()
    with pytest.raises(DatasetError, match="acq-block_run-02 is no longer prepared"):
        fingerprint(out, out, n_draws=2, overwrite=True, progress=False)


@pytest.mark.parametrize("verb", ["fingerprint", "networks"])
def test_what_is_not_there_is_null_for_programs_and_a_dash_for_people(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = pd.DataFrame([{"score": np.nan, "iou": np.nan, "pairs": 0}])
    answer = Answer("match", "x", "", {"score": table}, files=(tmp_path / "one.tsv",))
    monkeypatch.setattr("llm2bids.networks.fingerprinting.fingerprint", lambda *_, **__: answer)
    monkeypatch.setattr("llm2bids.networks.matching.match", lambda *_, **__: answer)
    call = ["fingerprint", "a", "b"] if verb == "fingerprint" else ["networks", "match", "a", "b"]
    assert main([*call, "--json"]) == 0
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    first = told if verb == "fingerprint" else told[0]
    assert first["tables"]["score"] == [{"score": None, "iou": None, "pairs": 0}]
    assert main(call) == 0
    said = capsys.readouterr().out
    assert "nan" not in said.lower()
    assert " -" in said or "\n-" in said
