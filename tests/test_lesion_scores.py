"""What `lesion` measures with: controls like the network, scores, answers to tasks, and the pictures of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest

from llm2bids.errors import LesionError, OptionError, PromptError
from llm2bids.lesioning import LesionScore, draw_controls
from llm2bids.lesioning.evaluation import Evaluation, Question, TaskFile, find_option, read_task_file
from llm2bids.lesioning.settings import EvaluationOptions
from llm2bids.model import scoring
from llm2bids.model.lesions import lesion as lesioned
from llm2bids.model.scoring import IntactPredictions, measure_surprisal, split_texts
from llm2bids.model.sites import find_site, measure_widths
from llm2bids.plots.lesions import draw_curve, draw_dissociation
from llm2bids.space import UnitMask, UnitSpace

from .families import WORDS, tiny_subject

if TYPE_CHECKING:
    from pathlib import Path

SPACE = UnitSpace("mlp", ("h.0:out", "h.1:out", "h.2:out"), (600, 800, 1000))


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
    assert drawn.crowded == ()
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
    assert drawn.crowded == ("h.0:out",)
    assert all(counts(control) == [400, 3, 0] for control in drawn.masks)
    second = [control.selected[600:603] for control in drawn.masks]
    assert not np.any(second)
    whole = draw_controls(UnitMask(SPACE, np.ones(SPACE.n_units, bool)), 2, kind="uniform")
    assert [control.n_selected for control in whole.masks] == [SPACE.n_units] * 2
    assert whole.crowded == ("all",)


def test_controls_refuse() -> None:
    mask, strength = strong()
    with pytest.raises(OptionError, match="control 'odd'"):
        draw_controls(mask, 2, kind="odd")  # type: ignore[arg-type]
    for message, options in {
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
    found = measure_surprisal(subject, split_texts(subject, documents), batch_size=2)
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
    np.testing.assert_allclose(measure_surprisal(subject, pieces, batch_size=3).bits, by_hand, rtol=1e-4)


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
        monkeypatch.setattr(scoring, "_CACHE_BYTES", 0)
    subject = tiny_subject("llama")
    points = find_site(subject.model, "neuron")
    space = UnitSpace("neuron", tuple(map(str, points)), measure_widths(subject.model, points))
    mask = UnitMask.from_units(space, range(20))
    pieces = split_texts(subject, ["a model is shown", "one word after another and every unit"])
    intact = IntactPredictions()
    assert measure_surprisal(subject, pieces, None, intact).kl.tolist() == [0, 0]
    found = measure_surprisal(subject, pieces, lambda _starts: lesioned(subject.model, mask), intact)
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
    items = (Question(prompt, best, options), Question(prompt, next(one for one in options if one != best), options))
    evaluation = Evaluation.prepare(subject, [], [TaskFile("quiz", items, "")], EvaluationOptions(new_tokens=3))
    assert evaluation.score()["quiz"] == {"accuracy": 0.5, "accuracy_parsed": 0.5, "parse_failures": 0.0}


def test_answers_that_cannot_be_parsed_are_counted_and_not_taken_for_wrong_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = iter(["Positive!", "I do not know", "negative", "positive or negative", "", "the spleen, it is"])
    monkeypatch.setattr(Evaluation, "_continue", lambda _self, prompts, _changed: [next(said) for _ in prompts])
    options = ("positive", "negative")
    items = [Question("a", "positive", options)] * 4 + [Question("a", "spleen"), Question("a", "The Spleen")]
    evaluation = Evaluation.prepare(
        tiny_subject("llama"), [], [TaskFile("quiz", tuple(items), "")], EvaluationOptions(answers="generate")
    )
    found = evaluation.score()["quiz"]
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
    assert read_task_file(tmp_path / "a.jsonl").questions == read_task_file(tmp_path / "a.tsv").questions


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
        read_task_file(tmp_path / name)


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
