"""`lesion` on the phantom, whose networks are planted: what silencing them does, against random masks."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest

from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.cli import main
from llm2bids.errors import DatasetError, LesionError, LLM2BIDSError, MaskError, PromptError, SiteError
from llm2bids.lesion import Lesions, LesionScore, draw_controls, lesion
from llm2bids.lesion.exam import Exam, Reading, find_option
from llm2bids.lesion.figures import draw_curve, draw_dissociation
from llm2bids.lesion.materials import Item, Questions, overlap, read_questions, read_text
from llm2bids.lesion.plan import Ledger
from llm2bids.mask import save_mask
from llm2bids.model import scoring
from llm2bids.model.lesions import lesion as lesioned
from llm2bids.model.scoring import Intact, split_texts, surprise
from llm2bids.model.sites import find_site, measure_widths
from llm2bids.phantom import build_phantom, phantom_truth
from llm2bids.space import UnitMask, UnitSpace
from llm2bids.task import builtin_prompts, on_topics, text_hash

from .families import WORDS, tiny_subject

if TYPE_CHECKING:
    from pathlib import Path

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
    for topic in TOPICS:
        lines = [prompt.text for prompt in builtin_prompts()[on_topics()[topic]][:2]]
        (folder / f"{topic}.txt").write_text("\n".join(lines) + "\n")
    return {topic: folder / f"{topic}.txt" for topic in TOPICS}


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
) -> Lesions:
    return lesion(
        tmp_path_factory.mktemp("lesions") / "out",
        model=phantom,
        masks={topic: networks[topic] for topic in TOPICS},
        text=list(files.values()),
        lines=True,
        dissociation=True,
        generations=1,
        new_tokens=3,
        progress=False,
    )


def cell(found: Lesions, mask: str, text: str, score: str = "bits_per_token") -> LesionScore:
    return next(one for one in found.scores if (one.mask, one.material, one.score) == (mask, text, score))


def n_hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())  # noqa: SLF001


# --- what was planted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", TOPICS)
def test_a_planted_network_harms_its_own_topic_beyond_100_matched_controls(dissociated: Lesions, topic: str) -> None:
    own = cell(dissociated, topic, topic)
    assert len(own.controls) == 100
    assert own.percentile == 100
    assert own.interval[0] > 95
    assert own.change > 2


@pytest.mark.parametrize(("topic", "other"), [("politicalscience", "pathology"), ("pathology", "politicalscience"),
                                              ("medicalimaging", "politicalscience")])  # fmt: skip
def test_and_no_disjoint_one(dissociated: Lesions, topic: str, other: str) -> None:
    apart = cell(dissociated, topic, other)
    assert abs(apart.change) < 0.01
    assert apart.percentile < 100


def test_the_dissociation_is_diagonal_up_to_planted_overlap(dissociated: Lesions) -> None:
    table = read_tsv(next(path for path in dissociated.files if path.name == "dissociation.tsv"))
    matrix = table.assign(change=table["change"].astype(float)).pivot_table("change", "mask", "text").loc[:, TOPICS]
    values = matrix.loc[list(TOPICS)].to_numpy()
    assert (np.diag(values) > 2).all()
    off = values[~np.eye(3, dtype=bool)]
    assert (np.abs(off) < 0.1 * np.diag(values).min()).all()
    assert abs(values[0, 1]) > 10 * abs(values[0, 2])  # what is shared is felt


def test_keeping_the_union_keeps_perplexity_and_keeping_random_units_does_not(
    phantom: Subject, networks: dict[str, UnitMask], files: dict[str, Path], tmp_path: Path
) -> None:
    union = networks["pathology"]
    for network in networks.values():
        union |= network
    kept = {"one": networks["pathology"], "union": union}
    found = lesion(
        tmp_path / "out", model=phantom, masks=kept, keep=True, text=list(files.values()), lines=True, controls=10,
        generations=0, progress=False,
    )  # fmt: skip
    for topic in TOPICS:
        score = cell(found, "union", topic, "perplexity")
        assert score.after < 1.1 * score.before
        assert min(score.controls) > 4 * score.before
        assert score.percentile == 0
    own, apart = (cell(found, "one", topic, "perplexity") for topic in ("pathology", "politicalscience"))
    assert own.after < 1.1 * own.before
    assert apart.after > 4 * apart.before
    assert "keep.png" in {path.name for path in found.files}


# --- controls -----------------------------------------------------------------------------------------------------


def counts(mask: UnitMask) -> list[int]:
    return np.add.reduceat(mask.selected, mask.space.starts(), dtype=int).tolist()


def strong(seed: int = 0) -> tuple[UnitMask, np.ndarray]:
    """A mask of strong units, most of them late, and the strength of all units: as wide as real ones."""
    rng = np.random.default_rng(seed)
    strength = np.exp(rng.normal(0, 1.5, SPACE.n_units))
    late = np.repeat([0.002, 0.01, 0.05], SPACE.n_channels)
    chosen = rng.random(SPACE.n_units) < late * (1 + 3 * (strength > np.median(strength)))
    return UnitMask(SPACE, chosen), strength


def test_matched_controls_have_the_same_layers_and_activation_and_no_unit_of_the_lesion() -> None:
    mask, strength = strong()
    drawn = draw_controls(mask, 200, strength=strength)
    assert all(counts(control) == counts(mask) for control in drawn.masks)
    assert not any((control & mask).n_selected for control in drawn.masks)
    assert drawn.own == ()
    levels = np.log([strength[control.selected].mean() for control in drawn.masks])
    by_layer = draw_controls(mask, 200, kind="layer")
    unmatched = np.log([strength[control.selected].mean() for control in by_layer.masks])
    wanted = np.log(strength[mask.selected].mean())
    assert abs(levels.mean() - wanted) < 0.1
    assert abs(unmatched.mean() - wanted) > 0.3
    ranks = strength.argsort().argsort()
    median = np.median([np.median(ranks[control.selected]) for control in drawn.masks])
    assert abs(median - np.median(ranks[mask.selected])) < 0.02 * SPACE.n_units


@pytest.mark.parametrize("kind", ["matched", "layer", "uniform"])
def test_controls_by_kind_and_seed(kind: str) -> None:
    mask, strength = strong()
    drawn = [draw_controls(mask, n, kind=kind, strength=strength, seed=seed) for n, seed in ((5, 1), (9, 1), (5, 2))]
    first, longer, other = ([one.units.tolist() for one in each.masks] for each in drawn)
    assert first == longer[:5]
    assert first != other
    assert len({tuple(units) for units in longer}) == 9
    assert all(len(units) == mask.n_selected for units in longer)
    assert all(not set(units) & set(mask.units.tolist()) for units in longer)
    same = [counts(one) == counts(mask) for one in drawn[1].masks]
    assert all(same) if kind != "uniform" else not all(same)


def test_a_network_of_more_than_half_of_a_layer_may_be_met_by_its_controls() -> None:
    chosen = np.zeros(SPACE.n_units, bool)
    chosen[:400] = True  # of 600
    chosen[600:603] = True
    mask = UnitMask(SPACE, chosen)
    drawn = draw_controls(mask, 20, strength=np.arange(SPACE.n_units))
    assert drawn.own == ("h.0:out",)
    assert all(counts(control) == [400, 3, 0] for control in drawn.masks)
    second = [control.selected[600:603] for control in drawn.masks]
    assert not np.any(second)
    whole = draw_controls(UnitMask(SPACE, np.ones(SPACE.n_units, bool)), 2, kind="uniform")
    assert [control.n_selected for control in whole.masks] == [SPACE.n_units] * 2
    assert whole.own == ("all",)


def test_controls_refuse() -> None:
    mask, strength = strong()
    for message, options in {
        "kind 'odd'": {"kind": "odd"},
        "-1 controls": {"n_controls": -1},
        "need the mean absolute": {},
        r"strength of shape \(3,\)": {"strength": strength[:3]},
    }.items():
        with pytest.raises(LesionError, match=message):
            draw_controls(mask, **({"n_controls": 2} | options))
    with pytest.raises(LesionError, match="empty"):
        draw_controls(UnitMask.from_units(SPACE, []), 2, kind="layer")


# --- scores -------------------------------------------------------------------------------------------------------


def test_percentile_and_interval_against_scipy() -> None:
    controls = tuple(np.random.default_rng(0).normal(size=40))
    for score, sign in (("kl", 1), ("accuracy", -1)):
        one = LesionScore("m", 3, "zero", "matched", "t", score, 0.0, 0.5, controls)
        milder = sum(sign * control < sign * 0.5 for control in controls)
        exact = binomtest(milder, 40).proportion_ci(method="exact")
        assert one.percentile == 100 * milder / 40
        np.testing.assert_allclose(one.interval, [100 * exact.low, 100 * exact.high])
        assert one.p_harm == pytest.approx((41 - milder) / 41)
    assert np.isnan(LesionScore("m", 3, "zero", "matched", "t", "kl", 0.0, 0.5, ()).percentile)
    assert np.isnan(LesionScore("m", 3, "zero", "matched", "t", "kl", 0.0, float("nan"), controls).interval).all()


@pytest.mark.parametrize("family", ["llama", "mamba", "bloom"])
def test_surprisal_equals_the_loss_of_transformers(family: str) -> None:
    subject = tiny_subject(family)
    documents = [" ".join(WORDS[: 4 + 3 * number]) for number in range(3)]
    found = surprise(subject, split_texts(subject, documents), batch_size=2)
    for document, bits, n_tokens in zip(documents, found.bits, found.n_tokens, strict=True):
        ids = subject.tokenizer(document, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            loss = float(subject.model(input_ids=ids, labels=ids).loss)
        assert n_tokens == ids.shape[1] - 1
        assert bits / n_tokens == pytest.approx(loss / np.log(2), rel=1e-4)


@pytest.mark.parametrize(("window", "stride"), [(7, 3), (7, 6), (7, 1), (9, None), (64, None)])
def test_every_token_of_a_long_text_is_scored_once_with_what_stands_before_it_in_its_window(
    window: int, stride: int | None
) -> None:
    subject = tiny_subject("llama")
    words = WORDS * 2
    pieces = split_texts(subject, [" ".join(words), "a model"], window, stride)
    ids = subject.tokenizer(" ".join(words))["input_ids"][1:]
    assert [token for piece in pieces if not piece.text for token in piece.tokens[piece.start :]] == ids
    assert all(len(piece.tokens) <= window and piece.tokens[0] == 1 for piece in pieces)
    assert sum(piece.n_bytes for piece in pieces if not piece.text) == len(" ".join(words))
    by_hand = []
    for piece in pieces:
        with torch.inference_mode():
            scores = subject.model(input_ids=torch.tensor([piece.tokens])).logits[0].log_softmax(-1)
        own = [float(-scores[at - 1, piece.tokens[at]]) for at in range(piece.start, len(piece.tokens))]
        by_hand.append(sum(own) / np.log(2))
    np.testing.assert_allclose(surprise(subject, pieces, batch_size=3).bits, by_hand, rtol=1e-4)


def test_without_a_start_token_the_first_word_and_its_bytes_do_not_count() -> None:
    subject = tiny_subject("llama")
    subject.tokenizer.backend_tokenizer.post_processor = None
    assert split_texts(subject, ["model is shown"])[0].tokens[0] == 1  # the tokenizer has one, if it does not add it
    subject.tokenizer.bos_token = None
    (piece,) = split_texts(subject, ["model is shown"])
    assert (piece.start, piece.n_bytes) == (1, len(" is shown"))
    with pytest.raises(PromptError, match="less than 2 tokens"):
        split_texts(subject, ["model"])


@pytest.mark.parametrize("kept", [True, False])
def test_divergence_from_the_intact_model(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    if not kept:
        monkeypatch.setattr(scoring, "_KEPT_BYTES", 0)
    subject = tiny_subject("llama")
    points = find_site(subject.model, "neuron")
    space = UnitSpace("neuron", tuple(map(str, points)), measure_widths(subject.model, points))
    mask = UnitMask.from_units(space, range(20))
    pieces = split_texts(subject, ["a model is shown", "one word after another and every unit"])
    intact = Intact()
    assert surprise(subject, pieces, None, intact).kl.tolist() == [0, 0]
    found = surprise(subject, pieces, lambda _starts: lesioned(subject.model, mask), intact)
    ids = torch.tensor([pieces[0].tokens])
    with torch.inference_mode():
        before = subject.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        with lesioned(subject.model, mask):
            after = subject.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    wanted = torch.nn.functional.kl_div(after, before, log_target=True, reduction="sum") / np.log(2)
    assert found.kl[0] == pytest.approx(float(wanted), rel=1e-3)
    assert wanted > 0.01


# --- tasks --------------------------------------------------------------------------------------------------------


def test_the_likeliest_option_is_the_answer() -> None:
    subject = tiny_subject("llama")
    prompt, options = "a model is", ("shown one", "way", "every unit of it")
    scores = []
    for option in options:
        ids = subject.tokenizer(f"{prompt} {option}", return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logs = subject.model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
        scores.append(float(logs[3:].sum()))
    best = options[int(np.argmax(scores))]
    items = (Item(prompt, best, options), Item(prompt, next(one for one in options if one != best), options))
    exam = Exam.prepare(subject, [], [Questions("quiz", items, "")], Reading(new_tokens=3))
    assert exam.take()["quiz"] == {"accuracy": 0.5, "accuracy_parsed": 0.5, "parse_failures": 0.0}


def test_answers_that_cannot_be_parsed_are_counted_and_not_taken_for_wrong_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = iter(["Positive!", "I do not know", "negative", "positive or negative", "", "the spleen, it is"])
    monkeypatch.setattr(Exam, "_continue", lambda _self, prompts, _changed: [next(said) for _ in prompts])
    options = ("positive", "negative")
    items = [Item("a", "positive", options)] * 4 + [Item("a", "spleen"), Item("a", "The Spleen")]
    exam = Exam.prepare(tiny_subject("llama"), [], [Questions("quiz", tuple(items), "")], Reading(answers="generate"))
    found = exam.take()["quiz"]
    assert found["accuracy"] == pytest.approx(2 / 6)
    assert found["accuracy_parsed"] == pytest.approx(2 / 3)
    assert found["parse_failures"] == pytest.approx(3 / 6)


def test_options_are_found_as_whole_words() -> None:
    assert find_option("It is Not Happy.\nhappy", ["happy", "not happy"]) == "not happy"
    assert find_option("\n\nsad", ["happy", "sad"]) == "sad"
    assert find_option("unhappy", ["happy", "sad"]) is None
    assert find_option("happy, not sad", ["happy", "sad"]) is None


def test_task_files_of_both_kinds_are_read_alike(tmp_path: Path) -> None:
    rows = [
        {"prompt": "one plus one is", "options": ["two", "three"], "answer": "two"},
        {"prompt": "the capital", "options": [], "answer": "Paris"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.tsv").write_text(
        "prompt\toptions\tanswer\none plus one is\ttwo | three\ttwo\nthe capital\t\tParis\n"
    )
    assert read_questions(tmp_path / "a.jsonl").items == read_questions(tmp_path / "a.tsv").items


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "prompt\nx\n", "no column answer"),
        ("a.tsv", "prompt\tanswer\n", "holds no question"),
        ("a.tsv", "prompt\tanswer\nx\t\n", "line 2 has no answer"),
        ("a.tsv", "prompt\tanswer\toptions\nx\ta\tb|c\n", "none of its options"),
        ("a.tsv", "prompt\tanswer\toptions\nx\ta\ta\n", "one option"),
        ("a.tsv", "prompt\tanswer\nx\ta\tb\n", "line 2 has 3 fields"),
        ("a.jsonl", "{", "line 1 is no JSON"),
        ("a.jsonl", "[]", "line 1 holds a list"),
        ("a.jsonl", '{"prompt": " ", "answer": "a"}', "no prompt"),
        ("a.jsonl", '{"prompt": "x", "answer": "a", "options": [1, 2]}', "options that are no texts"),
        ("a.txt", "x", "ending in .tsv or .jsonl"),
    ],
)
def test_task_files_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(LesionError, match=message):
        read_questions(tmp_path / name)


def test_tasks_of_the_phantom_with_prompt_and_generated_tokens_lesioned(
    phantom: Subject, networks: dict[str, UnitMask], tmp_path: Path
) -> None:
    prompts = [prompt.text for prompt in builtin_prompts()[on_topics()["pathology"]][:4]]
    quiz = tmp_path / "quiz.tsv"
    quiz.write_text("prompt\tanswer\toptions\n" + "".join(f"{one}\tbiopsy\tbiopsy|because\n" for one in prompts))
    after = {}
    for positions in ("all", "prompt", "generated"):
        found = lesion(
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
            lesion(tmp_path / name, masks={name: mask}, **quick)
        assert not (tmp_path / name).exists()
        lesion(tmp_path / name, masks={name: mask}, allow_overlap=True, progress=False, **quick)
        (told,) = read_json(tmp_path / name / "lesion.json")["Llm2bids"]["Masks"]
        assert (told["StimuliInScoredTexts"], told["StimuliKnown"]) == (1, True)
    assert overlap(own, read_text(files["pathology"])) == [line]
    assert overlap(own, read_text(files["medicalimaging"])) == []
    assert overlap(own, Questions("q", (Item(f"Read.\n{line}\n", "a"),), "")) == [line]


def test_a_mask_that_does_not_say_by_which_texts_is_warned_about(
    networks: dict[str, UnitMask], quick: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        lesion(tmp_path / "out", masks={"net": networks["pathology"]}, progress=False, **quick)
    assert "net does not say by which texts it was defined" in caplog.text


# --- files --------------------------------------------------------------------------------------------------------


def test_tables_and_sidecar(dissociated: Lesions) -> None:
    out = dissociated.files[0].parent
    expected = {"scores.tsv", "runs.tsv", "generations.tsv", "dissociation.tsv", "dissociation.png", "lesion.json"}
    assert {path.name for path in out.iterdir()} == {*expected, "runs.jsonl"}
    assert {path.name for path in dissociated.files} == {*expected, "runs.jsonl"}
    sidecar = read_json(out / "lesion.json")
    own = sidecar["Llm2bids"]
    assert own["WeightsSHA256"]
    assert own["Controls"] == {"Kind": "matched", "Number": 100, "Seed": 0}
    for told in own["Masks"]:
        assert told["DistinctControls"] == 100
        assert told["ControlsMayHoldOwnUnitsAt"] == []
        assert told["MeanActivationOfControls"] > 0
    for name in ("scores", "runs", "generations", "dissociation"):
        assert set(read_tsv(out / f"{name}.tsv").columns) <= set(sidecar["Columns"])
    runs = read_tsv(out / "runs.tsv")
    assert len(runs) == (1 + 3 * 101) * 3 * 4
    table = dissociated.table.set_index(["score", "mask", "text"]).sort_index()
    bits, perplexity = table.loc["bits_per_token"], table.loc["perplexity"]
    np.testing.assert_allclose(np.exp2(bits["after"]), perplexity["after"])
    assert (table.loc["kl", "before"] == 0).all()
    assert (table.loc["kl", "after"] >= 0).all()


def test_numbers_do_not_depend_on_the_batch(
    networks: dict[str, UnitMask], quick: dict[str, Any], tmp_path: Path
) -> None:
    found = [
        lesion(tmp_path / f"{size}", masks={"net": networks["pathology"]}, batch_size=size, progress=False, **quick)
        for size in (1, 8)
    ]
    pd.testing.assert_frame_equal(found[0].table, found[1].table, rtol=1e-4, atol=1e-4)


def test_what_was_broken_off_is_taken_up(
    networks: dict[str, UnitMask], quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = {topic: networks[topic] for topic in TOPICS}
    whole = lesion(tmp_path / "whole", masks=masks, progress=False, **quick)
    take, done = Exam.take, []

    def counted(exam: Exam, changed: Any = None) -> Any:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(changed)
        return take(exam, changed)

    monkeypatch.setattr(Exam, "take", counted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        lesion(out, masks=masks, progress=False, **quick)
    with (out / "runs.jsonl").open("a") as file:
        file.write('{"key": "cut sh')  # killed while it wrote
    with pytest.raises(DatasetError, match="broken off already; go on with --resume"):
        lesion(out, masks=masks, progress=False, **quick)
    done.clear()
    monkeypatch.setattr(Exam, "take", lambda exam, changed=None: done.append(changed) or take(exam, changed))
    resumed = lesion(out, masks=masks, progress=False, resume=True, **quick)
    assert len(done) == 10 - 4
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    for name in ("scores.tsv", "runs.tsv", "generations.tsv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    done.clear()
    lesion(out, masks=masks, progress=False, resume=True, **(quick | {"controls": 3}))
    assert len(done) == 3  # one more control of each
    done.clear()
    lesion(out, masks=masks, progress=False, overwrite=True, **quick)
    assert len(done) == 10


def test_a_damaged_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text('{"key": "a"}\nnonsense\n')
    with pytest.raises(DatasetError, match="damaged in line 2"):
        Ledger.open(tmp_path / "runs.jsonl")


def refusals(networks: dict[str, UnitMask]) -> dict[str, tuple[type[Exception], str, dict[str, Any]]]:
    network = networks["pathology"]
    space = network.space
    foreign = UnitSpace("neuron", ("h.0:in",), (4,))
    wide = UnitSpace("neuron", space.hookpoints, (9,) * space.n_hookpoints)
    return {
        "no text": (LesionError, "nothing to score", {"text": []}),
        "method": (LesionError, "method 'burn'", {"method": "burn"}),
        "controls": (LesionError, "kind 'odd'", {"control": "odd"}),
        "positions": (LesionError, "all prompt", {"positions": "generated"}),
        "nowhere": (LesionError, "positions 'here'", {"positions": "here"}),
        "one mask": (LesionError, "1 masks and 1 texts", {"dissociation": True}),
        "answers": (LesionError, "answers by 'x'", {"answers": "x"}),
        "tokens": (LesionError, "new_tokens of 0", {"new_tokens": 0}),
        "window": (LesionError, "window of 1 tokens", {"window": 1}),
        "stride": (LesionError, "stride of 90 tokens", {"window": 20, "stride": 90}),
        "both": (DatasetError, "both --resume and --overwrite", {"resume": True, "overwrite": True}),
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
        "encoder": (LesionError, "does not predict the next token", {"model": tiny_subject("bert")}),
    }


@pytest.mark.parametrize("name", list(refusals({"pathology": UnitMask.from_units(SPACE, [0])})))
def test_what_cannot_be_scored_is_refused_and_leaves_nothing(
    networks: dict[str, UnitMask], quick: dict[str, Any], tmp_path: Path, name: str
) -> None:
    kind, message, options = refusals(networks)[name]
    with pytest.raises(kind, match=message) as caught:
        lesion(tmp_path / "out", **({"masks": {"net": networks["pathology"]}, "progress": False} | quick | options))
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
            lesion(tmp_path / out, masks={"net": networks["pathology"]}, **(quick | options))
    assert (tmp_path / "theirs" / "thesis.doc").exists()


@pytest.mark.parametrize("method", ["mean", "scale:0.5", "push:-1", "add:0.1"])
def test_every_method_runs(
    networks: dict[str, UnitMask], quick: dict[str, Any], files: dict[str, Path], tmp_path: Path, method: str
) -> None:
    found = lesion(
        tmp_path / "out", masks={"net": UnitMask.from_units(networks["pathology"].space, range(0, 1536, 7))}, method=method, reference=files["medicalimaging"],
        progress=False, **quick,
    )  # fmt: skip
    assert cell(found, "net", "pathology", "kl").after > 1e-6
    assert read_json(tmp_path / "out" / "lesion.json")["Llm2bids"]["ActivationOver"] == "medicalimaging"


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


# --- pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_tasks", [2, 6, 12])
def test_no_text_of_the_matrix_lies_on_another(n_tasks: int) -> None:
    names = [f"quite-a-long-name-{number}" for number in range(n_tasks)]
    rng = np.random.default_rng(0)
    rows = [
        {"mask": one, "text": other, "change": rng.normal(3, 9), "percentile": 100.0}
        for one in names
        for other in names
    ]
    figure = draw_dissociation(pd.DataFrame(rows), "phantom: zero", 100)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == n_tasks**2
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[:at])
    tiles = axes.transData.transform([[0, 0], [1, 1]])
    assert max(box.width for box in boxes) < abs(tiles[1, 0] - tiles[0, 0])


def test_curves_have_one_panel_per_text() -> None:
    scores = ["bits_per_token", "kl"]
    rows = [
        {"units": units, "text": f"text{text}", "score": score, "before": 3.0, "after": 9 - units / 50,
         "control_mean": 9.0, "control_low": 8.0, "control_high": 10.0}
        for units in (10, 200) for text in range(4) for score in scores
    ]  # fmt: skip
    figure = draw_curve(pd.DataFrame(rows), "phantom: keep")
    assert [panel.get_title() for panel in figure.axes if panel.axison] == [f"text{number}" for number in range(4)]
