"""`lesion` on the phantom, whose networks are planted: what silencing them does, against random masks."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from llm2bids.bids.history import HISTORY
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.cli import main
from llm2bids.errors import (
    DatasetError,
    LesionError,
    LLM2BIDSError,
    MaskError,
    OptionError,
    PromptError,
    SiteError,
    SpaceError,
)
from llm2bids.lesioning import LesionResults, LesionScore, lesion_study
from llm2bids.lesioning.controls import draw_controls
from llm2bids.lesioning.evaluation import Evaluation, Question, TaskFile, overlap, read_text
from llm2bids.lesioning.output import RunLog
from llm2bids.masks import save_mask
from llm2bids.model.phantom import build_phantom, phantom_texts, phantom_truth
from llm2bids.model.sites import find_site, measure_widths
from llm2bids.space import UnitMask, UnitSpace
from llm2bids.task import builtin_prompts, on_topics, text_hash

from .families import tiny_subject

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from llm2bids.model.loading import Subject

TOPICS = ("medicalimaging", "pathology", "politicalscience")
"""The first two share units, the third has its own."""
SPACE = UnitSpace("mlp", ("h.0:out", "h.1:out", "h.2:out"), (600, 800, 1000))


@pytest.fixture(scope="module")
def phantom() -> Subject:
    return build_phantom(device="cpu")


@pytest.fixture(scope="module")
def networks(phantom: Subject) -> dict[str, UnitMask]:
    points = find_site(phantom.model, "neuron")
    space = UnitSpace("neuron", tuple(map(str, points)), measure_widths(phantom.model, points))
    return phantom_truth(space)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two prompts of each topic, one per line."""
    folder = tmp_path_factory.mktemp("texts")
    for topic, name in on_topics().items():
        lines = [prompt.text for prompt in builtin_prompts()[name][:2]]
        (folder / f"{topic}.txt").write_text("\n".join(lines) + "\n")
    return {topic: folder / f"{topic}.txt" for topic in on_topics()}


@pytest.fixture(scope="module")
def quick(phantom: Subject, files: dict[str, Path]) -> dict[str, Any]:
    return {
        "model": phantom,
        "text": files["pathology"],
        "lines": True,
        "controls": 2,
        "generations": 1,
        "new_tokens": 2,
    }


@pytest.fixture(scope="module")
def dissociated(
    phantom: Subject, networks: dict[str, UnitMask], files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> LesionResults:
    return lesion_study(
        tmp_path_factory.mktemp("lesions") / "out",
        model=phantom,
        masks=networks,
        text=list(files.values()),
        lines=True,
        dissociation=True,
        generations=1,
        new_tokens=3,
        progress=False,
    )


def cell(found: LesionResults, mask: str, text: str, score: str = "bits_per_token") -> LesionScore:
    return next(one for one in found.scores if (one.mask, one.material, one.score) == (mask, text, score))


def n_hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())  # noqa: SLF001


# --- what was planted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", on_topics())
def test_a_planted_network_harms_its_own_topic_beyond_100_matched_controls(
    dissociated: LesionResults, topic: str
) -> None:
    own = cell(dissociated, topic, topic)
    assert len(own.controls) == 100
    assert own.percentile == 100
    assert own.interval[0] > 95
    assert own.change > 1


@pytest.mark.parametrize("topic", on_topics())
def test_and_no_disjoint_one(dissociated: LesionResults, networks: dict[str, UnitMask], topic: str) -> None:
    disjoint = [other for other in on_topics() if not (networks[topic] & networks[other]).n_selected]
    assert len(disjoint) == (5 if topic in {"politicalscience", "randomstrings"} else 4)
    for other in disjoint:
        apart = cell(dissociated, topic, other)
        assert abs(apart.change) < 0.02
        assert apart.percentile < 100


def test_the_dissociation_is_diagonal_up_to_planted_overlap(
    dissociated: LesionResults, networks: dict[str, UnitMask]
) -> None:
    table = read_tsv(next(path for path in dissociated.files if path.name == "dissociation.tsv"))
    matrix = table.assign(change=table["change"].astype(float)).pivot_table("change", "mask", "text")
    values = matrix.loc[list(networks), list(networks)].to_numpy()
    shared = np.array([[(one & other).n_selected for other in networks.values()] for one in networks.values()])
    own = np.diag(values)
    assert (own > 1).all()
    assert (np.abs(values - np.diag(own)) < 0.2 * own.min()).all()
    felt, unfelt = np.abs(values[(shared > 0) & (values != own)]), np.abs(values[shared == 0])
    assert felt.min() > 10 * unfelt.max()


@pytest.fixture(scope="module")
def unions(
    phantom: Subject, networks: dict[str, UnitMask], tmp_path_factory: pytest.TempPathFactory
) -> tuple[LesionResults, Path]:
    """All networks lesioned and kept together, and one by itself, on texts that the phantom wrote on all topics."""
    folder = tmp_path_factory.mktemp("unions")
    for topic, texts in phantom_texts(phantom, 4).items():
        (folder / f"{topic}.txt").write_text("\n".join(texts) + "\n")
    ordered = {"pathology": networks["pathology"]} | networks
    found = lesion_study(
        folder / "out", model=phantom, masks=ordered, union=[6], keep_union=[1, 6], text=sorted(folder.glob("*.txt")),
        lines=True, controls=10, generations=0, progress=False,
    )  # fmt: skip
    return found, folder / "out"


@pytest.mark.parametrize("topic", on_topics())
def test_keeping_the_union_keeps_perplexity_and_keeping_random_units_does_not(
    unions: tuple[LesionResults, Path], topic: str
) -> None:
    kept = cell(unions[0], "keep 6", topic, "perplexity")
    assert kept.after == pytest.approx(kept.before, rel=0.1)
    assert min(kept.controls) > (4 if topic != "randomstrings" else 1.5) * kept.before
    assert kept.percentile == 0
    assert cell(unions[0], "mask 6", topic, "perplexity").percentile == 100
    one = cell(unions[0], "keep 1", topic, "perplexity")
    if topic == "pathology":
        assert one.after == pytest.approx(one.before, rel=0.1)
    elif topic != "medicalimaging":  # half of which it shares
        assert one.after > 1.5 * one.before


def test_unions_are_told_as_in_tables_of_lesion_studies(unions: tuple[LesionResults, Path]) -> None:
    found, out = unions
    table = read_tsv(out / "summary.tsv")
    assert table["condition"].tolist() == [
        "intact", "mask 6", "random for mask 6", "keep 1", "random for keep 1", "keep 6", "random for keep 6",
    ]  # fmt: skip
    assert table["networks"].astype(int).tolist() == [0, 6, 6, 1, 1, 6, 6]
    union = table.set_index("condition").loc["keep 6"]
    assert float(union["share"]) == pytest.approx(162 / 1536, abs=1e-5)
    score = cell(found, "keep 6", "pathology", "perplexity")
    values = table.set_index("condition")["pathology.perplexity"].astype(float)
    assert values["intact"] == pytest.approx(score.before)
    assert values["random for keep 6"] == pytest.approx(np.exp(np.log(score.controls).mean()), rel=1e-5)
    sidecar = read_json(out / "lesion.json")
    assert set(table.columns) <= set(sidecar["Columns"])
    lesions = sidecar["Llm2bids"]["Lesions"]
    assert [(one["Name"], len(one["Masks"]), one["Method"]) for one in lesions] == [
        ("mask 6", 6, "zero"), ("keep 1", 1, "keep, others zero"), ("keep 6", 6, "keep, others zero"),
    ]  # fmt: skip
    assert "keep.png" in {path.name for path in found.files}


def test_tasks_of_the_phantom_with_prompt_and_generated_tokens_lesioned(
    phantom: Subject, networks: dict[str, UnitMask], tmp_path: Path
) -> None:
    prompts = [prompt.text for prompt in builtin_prompts()[on_topics()["pathology"]][:4]]
    quiz = tmp_path / "quiz.tsv"
    quiz.write_text("prompt\tanswer\toptions\n" + "".join(f"{one}\tbiopsy\tbiopsy|because\n" for one in prompts))
    after = {}
    for positions in ("all", "prompt", "generated"):
        found = lesion_study(
            tmp_path / positions, model=phantom, masks={"net": networks["pathology"]}, task=quiz, controls=3,
            positions=positions, new_tokens=2, progress=False,
        )  # fmt: skip
        score = cell(found, "net", "quiz", "accuracy")
        assert score.before == 1
        after[positions] = score.after
        assert cell(found, "net", "quiz", "parse_failures").after == 0
        assert len(read_tsv(tmp_path / positions / "generations.tsv")) == 2
    assert after["all"] < 1
    assert n_hooks(phantom.model) == 0


# --- leakage ------------------------------------------------------------------------------------------------------


def test_texts_that_defined_a_network_are_refused(
    networks: dict[str, UnitMask], quick: dict[str, Any], files: dict[str, Path], tmp_path: Path
) -> None:
    network, line = networks["pathology"], files["pathology"].read_text().splitlines()[1]
    own = {**network.provenance, "Stimuli": [{"File": "s.json", "SHA256": "x", "Texts": [text_hash(line)]}]}
    masks = {"net": UnitMask(network.space, network.selected, own)}
    masks["of"] = masks["net"] | UnitMask.from_units(network.space, [0], {"Model": "phantom"})
    for name, mask in masks.items():
        with pytest.raises(LesionError, match=f"pathology holds 1 texts by which {name} was defined"):
            lesion_study(tmp_path / name, masks={name: mask}, **quick)
        assert not (tmp_path / name).exists()
        lesion_study(tmp_path / name, masks={name: mask}, allow_overlap=True, progress=False, **quick)
        (told,) = read_json(tmp_path / name / "lesion.json")["Llm2bids"]["Masks"]
        assert (told["StimuliInScoredTexts"], told["StimuliKnown"]) == (1, True)
    assert overlap(own, read_text(files["pathology"])) == [line]
    assert overlap(own, read_text(files["medicalimaging"])) == []
    assert overlap(own, TaskFile("q", (Question(f"Read.\n{line}\n", "a"),), "")) == [line]


def test_prompts_that_defined_a_network_are_known_in_a_quiz_about_their_endings() -> None:
    own = {"Stimuli": [{"Texts": [text_hash("the scan shows a small tumour")]}]}
    ended = Question("the scan shows", "a small tumour", ("a small tumour", "no rain"))
    assert overlap(own, TaskFile("q", (ended,), "")) == ["the scan shows a small tumour"]
    assert overlap(own, TaskFile("q", (Question("the scan shows", "no rain"),), "")) == []


def test_masks_without_units_do_not_count_in_unions(
    networks: dict[str, UnitMask], quick: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = UnitMask.from_units(networks["pathology"].space, [])
    masks = {"none": empty, "a": networks["pathology"], "also": empty, "b": networks["archeology"]}
    with caplog.at_level(logging.WARNING):
        found = lesion_study(tmp_path / "out", masks=masks, union=[1, 2], progress=False, **quick)
    assert "2 of 4 masks choose no unit" in caplog.text
    lesions = read_json(tmp_path / "out" / "lesion.json")["Llm2bids"]["Lesions"]
    assert [one["Masks"] for one in lesions] == [["a"], ["a", "b"]]
    assert found.summary["networks"].tolist() == [0, 1, 1, 2, 2]
    assert found.summary["activation"].notna().tolist() == [False, True, True, True, True]


def test_random_masks_that_are_the_lesion_itself_say_nothing(
    networks: dict[str, UnitMask], quick: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    space = networks["pathology"].space
    masks = {"layer": UnitMask.from_units(space, range(256)), "most": UnitMask.from_units(space, range(200))}
    with caplog.at_level(logging.WARNING):
        found = lesion_study(tmp_path / "out", masks=masks, progress=False, **quick)
    assert "layer takes so many units that no others are left" in caplog.text
    assert "most takes more than half of model.layers.0" in caplog.text
    assert np.isnan(cell(found, "layer", "pathology").percentile)
    assert len(cell(found, "most", "pathology").controls) == 2


def test_a_mask_that_does_not_say_by_which_texts_is_warned_about(
    networks: dict[str, UnitMask], quick: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        lesion_study(tmp_path / "out", masks={"net": networks["pathology"]}, progress=False, **quick)
    assert "net does not say by which texts it was defined" in caplog.text


# --- files --------------------------------------------------------------------------------------------------------


def test_tables_and_sidecar(dissociated: LesionResults) -> None:
    out = dissociated.files[0].parent
    expected = {
        "scores.tsv",
        "summary.tsv",
        "runs.tsv",
        "generations.tsv",
        "dissociation.tsv",
        "dissociation.png",
        "lesion.json",
    }
    assert {path.name for path in out.iterdir()} == {*expected, "runs.jsonl", HISTORY}
    assert {path.name for path in dissociated.files} == {*expected, "runs.jsonl"}
    assert repr(dissociated) == f"<LesionResults of 6 lesions: {len(dissociated.scores)} scores in {out}>"
    assert dissociated._repr_html_().count("<tr") == 1 + len(dissociated.summary)
    sidecar = read_json(out / "lesion.json")
    own = sidecar["Llm2bids"]
    assert [one["Name"] for one in own["Masks"]] == [one["Masks"][0] for one in own["Lesions"]] == [*on_topics()]
    assert own["WeightsSHA256"]
    assert own["Controls"] == {"Kind": "matched", "Number": 100, "Seed": 0}
    for told in own["Lesions"]:
        assert told["DistinctControls"] == 100
        assert told["ControlsMayHoldOwnUnitsAt"] == []
        assert told["MeanActivationOfControls"] > 0
    for name in ("scores", "summary", "runs", "generations", "dissociation"):
        assert set(read_tsv(out / f"{name}.tsv").columns) <= set(sidecar["Columns"])
    runs = read_tsv(out / "runs.tsv")
    assert len(runs) == (1 + 6 * 101) * 6 * 4
    table = dissociated.table.set_index(["score", "mask", "text"]).sort_index()
    bits, perplexity = table.loc["bits_per_token"], table.loc["perplexity"]
    np.testing.assert_allclose(np.exp2(bits["after"]), perplexity["after"])
    assert (table.loc["kl", "before"] == 0).all()
    assert (table.loc["kl", "after"] >= 0).all()


def test_numbers_do_not_depend_on_the_batch(
    networks: dict[str, UnitMask], quick: dict[str, Any], tmp_path: Path
) -> None:
    found = [
        lesion_study(
            tmp_path / f"{size}", masks={"net": networks["pathology"]}, batch_size=size, progress=False, **quick
        )
        for size in (1, 8)
    ]
    pd.testing.assert_frame_equal(found[0].table, found[1].table, rtol=1e-4, atol=1e-4)


def test_what_was_broken_off_is_taken_up(
    networks: dict[str, UnitMask], quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = {topic: networks[topic] for topic in TOPICS}
    whole = lesion_study(tmp_path / "whole", masks=masks, progress=False, **quick)
    score, done = Evaluation.score, []

    def counted(evaluation: Evaluation, intervention: Any = None) -> Any:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(intervention)
        return score(evaluation, intervention)

    monkeypatch.setattr(Evaluation, "score", counted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        lesion_study(out, masks=masks, progress=False, **quick)
    with (out / "runs.jsonl").open("a") as file:
        file.write('{"key": "cut sh')  # killed while it wrote
    with pytest.raises(DatasetError, match="broken off already; go on with resume=True"):
        lesion_study(out, masks=masks, progress=False, **quick)
    done.clear()
    monkeypatch.setattr(
        Evaluation, "score", lambda evaluation, state=None: done.append(state) or score(evaluation, state)
    )
    resumed = lesion_study(out, masks=masks, progress=False, resume=True, **quick)
    assert len(done) == 10 - 4
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    for name in ("scores.tsv", "runs.tsv", "generations.tsv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    done.clear()
    lesion_study(out, masks=masks, progress=False, resume=True, **(quick | {"controls": 3}))
    assert len(done) == 3  # one more control of each
    done.clear()
    lesion_study(out, masks=masks, progress=False, overwrite=True, **quick)
    assert len(done) == 10


def test_a_control_that_is_another_lesion_keeps_them_apart(
    networks: dict[str, UnitMask], quick: dict[str, Any], tmp_path: Path
) -> None:
    space = networks["pathology"].space
    one = UnitMask.from_units(space, [3])
    (other,) = draw_controls(one, 1, kind="layer").masks
    options = quick | {"controls": 1, "control": "layer"}
    found = lesion_study(tmp_path / "out", masks={"one": one, "other": other}, progress=False, **options)
    assert {score.mask for score in found.scores} == {"one", "other"}
    assert set(read_tsv(tmp_path / "out" / "generations.tsv")["mask"]) == {"one", "other"}


def test_resumed_without_a_picture_no_old_one_stays(
    networks: dict[str, UnitMask], quick: dict[str, Any], files: dict[str, Path], tmp_path: Path
) -> None:
    masks = {topic: networks[topic] for topic in TOPICS}
    options = quick | {"text": [files[topic] for topic in TOPICS], "controls": 0}
    lesion_study(tmp_path / "out", masks=masks, progress=False, dissociation=True, **options)
    assert (tmp_path / "out" / "dissociation.png").exists()
    again = lesion_study(tmp_path / "out", masks=masks, progress=False, resume=True, **(options | {"generations": 0}))
    assert {*(path.name for path in again.files), HISTORY} == {path.name for path in (tmp_path / "out").iterdir()}
    assert not (tmp_path / "out" / "dissociation.png").exists()


def test_a_prompt_that_is_too_long_costs_no_earlier_results(
    networks: dict[str, UnitMask], quick: dict[str, Any], tmp_path: Path
) -> None:
    masks = {"net": networks["pathology"]}
    lesion_study(tmp_path / "out", masks=masks, progress=False, **quick)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "long.tsv").write_text("prompt\tanswer\n" + "tumour " * 2100 + "\tcell\n")
    options = quick | {"text": [], "task": tmp_path / "long.tsv", "answers": "generate"}
    with pytest.raises(PromptError, match="the context holds 2048"):
        lesion_study(tmp_path / "out", masks=masks, progress=False, overwrite=True, **options)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_damaged_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text('{"key": "a"}\nnonsense\n')
    with pytest.raises(DatasetError, match="damaged in line 2"):
        RunLog.open(tmp_path / "runs.jsonl")


def refusals(networks: dict[str, UnitMask]) -> dict[str, tuple[type[Exception], str, dict[str, Any]]]:
    network = networks["pathology"]
    space = network.space
    foreign = UnitSpace("neuron", ("h.0:in",), (4,))
    wide = UnitSpace("neuron", space.hookpoints, (9,) * space.n_hookpoints)
    return {
        "no text": (LesionError, "nothing to score", {"text": []}),
        "method": (LesionError, "method 'burn'", {"method": "burn"}),
        "method of patterns": (LesionError, "method steer:1.0 found", {"method": "steer:1"}),
        "method with samples": (LesionError, "method resample found", {"method": "resample"}),
        "controls": (OptionError, "control 'odd'", {"control": "odd"}),
        "positions": (LesionError, "all prompt", {"positions": "generated"}),
        "nowhere": (OptionError, "positions 'here'", {"positions": "here"}),
        "one mask": (LesionError, "1 masks and 1 texts", {"dissociation": True}),
        "answers": (OptionError, "answers 'x'", {"answers": "x"}),
        "tokens": (LesionError, "new_tokens of 0", {"new_tokens": 0}),
        "window": (LesionError, "window of 1 tokens", {"window": 1}),
        "stride": (LesionError, "stride of 90 tokens", {"window": 20, "stride": 90}),
        "both": (DatasetError, "both resume=True and overwrite=True", {"resume": True, "overwrite": True}),
        "no mask": (LesionError, "no mask found", {"masks": {}}),
        "empty": (MaskError, "net chooses no unit", {"masks": {"net": UnitMask.from_units(space, [])}}),
        "weights": (
            MaskError,
            "net is of model other.*use files of one model",
            {"masks": {"net": UnitMask(space, network.selected, {"Model": "other", "WeightsSHA256": "ab" * 32})}},
        ),
        "site": (
            MaskError,
            "site mlp",
            {"masks": {"net": UnitMask(space, network.selected, {"Model": "phantom", "Site": "mlp"})}},
        ),
        "places": (SiteError, "units at h.0:in", {"masks": {"net": UnitMask.from_units(foreign, [1])}}),
        "widths": (MaskError, "9 channels at", {"masks": {"net": UnitMask.from_units(wide, [1])}}),
        "union of none": (LesionError, "a union of 0 masks asked for, 1 with units", {"union": [0]}),
        "union of two": (LesionError, "a union of 2 masks asked for, 1 with units", {"keep_union": [1, 2]}),
        "two sites": (
            SpaceError,
            "a union of net in space .* and other in .*give masks of one site",
            {"masks": {"net": network, "other": UnitMask.from_units(foreign, [1])}, "union": [2]},
        ),
        "kept": (LesionError, "keep=True together with unions", {"union": [1], "keep": True}),
        "matrix": (LesionError, "a dissociation of unions", {"union": [1], "dissociation": True}),
        "encoder": (LesionError, "does not predict the next token", {"model": tiny_subject("bert")}),
    }


@pytest.mark.parametrize("name", list(refusals({"pathology": UnitMask.from_units(SPACE, [0])})))
def test_what_cannot_be_scored_is_refused_and_leaves_nothing(
    networks: dict[str, UnitMask], quick: dict[str, Any], tmp_path: Path, name: str
) -> None:
    kind, message, options = refusals(networks)[name]
    with pytest.raises(kind, match=message) as caught:
        lesion_study(
            tmp_path / "out", **({"masks": {"net": networks["pathology"]}, "progress": False} | quick | options)
        )
    assert isinstance(caught.value, LLM2BIDSError)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_folders_and_texts_refused(networks: dict[str, UnitMask], quick: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.doc").touch()
    bad = {"empty.txt": b" \n", "latin.txt": b"\xff\xfe", "short.txt": b"<s>"}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    for message, out, options in [
        ("no results of lesions", "theirs", {}),
        ("is a file", "empty.txt", {}),
        ("empty.txt is empty", "out", {"text": tmp_path / "empty.txt"}),
        ("not in UTF-8", "out", {"text": tmp_path / "latin.txt"}),
        ("cannot be read", "out", {"text": tmp_path / "none.txt"}),
        ("less than 2 tokens", "out", {"text": tmp_path / "short.txt"}),
        ("two files named 'short'", "out", {"text": [tmp_path / "short.txt"] * 2}),
    ]:
        with pytest.raises(LLM2BIDSError, match=message):
            lesion_study(tmp_path / out, masks={"net": networks["pathology"]}, **(quick | options))
    assert (tmp_path / "theirs" / "thesis.doc").exists()


@pytest.mark.parametrize("method", ["mean", "scale:0.5", "push:-1", "add:0.1"])
def test_every_method_runs(
    networks: dict[str, UnitMask], quick: dict[str, Any], files: dict[str, Path], tmp_path: Path, method: str
) -> None:
    found = lesion_study(
        tmp_path / "out", masks={"net": UnitMask.from_units(networks["pathology"].space, range(0, 1536, 7))}, method=method, reference=files["medicalimaging"],
        progress=False, **quick,
    )  # fmt: skip
    assert cell(found, "net", "pathology", "kl").after > 1e-6
    assert read_json(tmp_path / "out" / "lesion.json")["Llm2bids"]["ActivationOver"] == "medicalimaging"


def test_printed_tables_name_masks_by_what_differs(
    networks: dict[str, UnitMask], files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"sub-x_task-{task}_desc-fdr05_mask" for task in ("pathology", "politicalscience")]
    masks = [save_mask(networks[name.split("_")[1][5:]], tmp_path / f"{name}.safetensors")[0] for name in names]
    options = ["--text", str(files["pathology"]), "--lines", "--controls", "1", "--new-tokens", "2"]
    assert main(["lesion", str(tmp_path / "out"), "--mask", *map(str, masks), "--device", "cpu", *options]) == 0
    first, second, _ = capsys.readouterr().out.split("\n\n")
    rows = [line.split("  ")[0] for line in first.splitlines()]
    lesions = [text for task in ("pathology", "politicalscience") for text in (task, f"random for {task}")]
    assert rows == ["condition", "intact", *lesions]
    assert first.splitlines()[1].split()[1:5] == ["0", "0", "0.000", "n/a"]
    assert {line.split()[0] for line in second.splitlines()[1:]} == {"pathology", "politicalscience"}
    assert set(read_tsv(tmp_path / "out" / "scores.tsv")["mask"]) == set(names)


def test_the_command_line(
    networks: dict[str, UnitMask], files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mask, *_) = save_mask(networks["pathology"], tmp_path / "net.safetensors")
    start = ["lesion", str(tmp_path / "out"), "--mask", str(mask), "--device", "cpu", "--text"]
    options = ["--lines", "--controls", "2", "--new-tokens", "2"]
    assert main([*start, str(files["pathology"]), *options]) == 0
    assert "net" in capsys.readouterr().out
    assert main([*start, str(files["pathology"]), *options, "--resume", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["score"] for row in told["scores"]} == {"perplexity", "bits_per_token", "bits_per_byte", "kl"}
    assert main([*start, str(files["pathology"]), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("llm2bids: ")
    assert error.count("\n") == 1
