"""Tasks told from networks: scores by hand, planted and absent networks, and that nothing held out is trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

import llm2bids.networks.task_decoding as decoding
from llm2bids.design.statsmodel import Contrast
from llm2bids.errors import InferenceError
from llm2bids.networks.rules import NetworkRule
from llm2bids.networks.run_statistics import Maps, RunContrast, RunSums
from llm2bids.networks.settings import SCORES
from llm2bids.networks.task_decoding import (
    Experiment,
    Items,
    accuracy_interval,
    confusion,
    items_by_level,
    most_similar,
    score,
)
from llm2bids.space import UnitSpace

N_UNITS = 120
N_PROMPTS = 12
ON_OFF = Contrast.from_expression("on - off")


def run_of(task: str, run: str, effects: np.ndarray, n_blocks: int = 2) -> RunContrast:
    """A run whose prompts take turns."""
    kinds = ["on", "off"] * (len(effects) // 2)
    on = (np.array(kinds) == "on").astype(float)
    design = pd.DataFrame({"trial_type.on": on, "trial_type.off": 1 - on, "constant": 1.0})
    blocks = [str(place * n_blocks // len(kinds)) for place in range(len(kinds))]
    texts = [f"{task} {run} {place}" for place in range(len(kinds))]
    prompts = pd.DataFrame({"trial_type": kinds, "block": blocks, "stimulus": texts})
    return RunContrast.from_design((task, "s", run), prompts, effects, design, ON_OFF)


def planted(places: list[tuple[str, str]], strength: float, seed: int, n_blocks: int = 2) -> list[RunContrast]:
    """Runs of tasks; `strength` is added to ten units of a task's own where it is on."""
    rng = np.random.default_rng(seed)
    tasks = sorted({task for task, _ in places})
    found = []
    for task, run in places:
        effects = rng.normal(size=(N_PROMPTS, N_UNITS)).astype(np.float32)
        start = 10 * tasks.index(task)
        effects[::2, start : start + 10] += strength
        found.append(run_of(task, run, effects, n_blocks))
    return found


def every(tasks: str, n_runs: int) -> list[tuple[str, str]]:
    """All runs of all tasks."""
    return [(task, f"run-{number}") for task in tasks for number in range(1, n_runs + 1)]


def experiment_of(
    runs: list[RunContrast], rules: tuple[str, ...] = ("8%",), groups: list[str] | None = None
) -> tuple[Experiment, np.ndarray]:
    """All runs of one number are held out together, if not told otherwise."""
    tasks = sorted({run.task for run in runs})
    weights = {f"{task}/{kind}": weight for task in tasks for kind, weight in (("on", 1.0), ("off", -1.0))}
    sums, parts = RunSums.from_runs(runs), np.array([run.run for run in runs])
    chosen = tuple(NetworkRule.from_text(rule) for rule in rules)
    held_out = parts if groups is None else np.array(groups)
    experiment = Experiment(sums, items_by_level(runs, sums, weights), held_out, chosen, parts)
    return experiment, np.array([tasks.index(run.task) for run in runs])


def test_items_are_prompts_blocks_and_runs() -> None:
    (run,) = planted([("a", "run-1")], 1.0, 0, n_blocks=3)
    sums = RunSums.from_runs([run])
    found = items_by_level([run], sums, {"a/on": 1.0, "a/off": -1.0})
    on, off = run.effects[::2], run.effects[1::2]
    assert found["prompt"].maps == pytest.approx(on - off.mean(0), abs=1e-5)
    assert found["prompt"].names == tuple(f"prompt-{number}" for number in range(1, 13, 2))
    assert found["block"].maps == pytest.approx(on.reshape(3, 2, -1).mean(1) - off.mean(0), abs=1e-5)
    assert found["block"].names == ("block-0", "block-1", "block-2")
    assert found["run"].maps == pytest.approx(sums.pooled([1]).z)
    above = items_by_level([run], sums, {"a/on": 2.0})["prompt"]
    assert above.maps == pytest.approx(on)
    for weights in ({"a/off": -1.0}, {}):
        with pytest.raises(InferenceError, match="run-1 of task a has no prompt of positive weight"):
            items_by_level([run], sums, weights)


ITEMS = Items(
    np.array([[4.0, -3.0, 1.0, 0.0, 0.5], [0.0, 0.2, -5.0, 1.0, 0.1], [7.0] * 5]), np.arange(3), ("x", "y", "z")
)
MAPS = Maps(*[np.array([[5.0, -2.0, 0.1, 0.2, 1.0], [-1.0, 0.3, -6.0, 4.0, 0.0]])] * 2, np.array([9.0, 9.0]))
NETWORKS = np.array([[True, True, False, False, False], [False, False, True, True, True]])


def test_mean_z_is_the_mean_sign_by_sign() -> None:
    z = (ITEMS.maps[:2] - ITEMS.maps[:2].mean(1, keepdims=True)) / ITEMS.maps[:2].std(1, keepdims=True)
    by_hand = np.stack([(z[:, 0] - z[:, 1]) / 2, (-z[:, 2] + z[:, 3] + 0 * z[:, 4]) / 3], axis=1)
    found = score("mean-z", ITEMS, MAPS, NETWORKS)
    assert found[:2] == pytest.approx(by_hand)
    assert found[2].tolist() == [0, 0]
    assert most_similar(found[:2], np.random.default_rng(0)).tolist() == [0, 1]


def test_correlation_is_with_the_whole_map() -> None:
    found = score("correlation", ITEMS, MAPS, NETWORKS)
    assert found[:2] == pytest.approx(np.corrcoef(ITEMS.maps[:2], MAPS.t)[:2, 2:])
    assert found[2].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("tail", "first"), [("two", [1.0, 1 / 3]), ("positive", [0.5, 2 / 3]), ("negative", [0.5, 2 / 3])]
)
def test_dice_is_with_as_many_of_the_strongest(tail: str, first: list[float]) -> None:
    maps = Items(np.array([[4.0, -3.0, 1.0, 0.0, -0.5]]), np.zeros(1, np.int64), ("x",))
    found = score("dice", maps, MAPS, NETWORKS, tail)  # type: ignore[arg-type]
    assert found[0].tolist() == pytest.approx(first)


@pytest.mark.parametrize("name", ["mean-z", "dice"])
def test_an_empty_network_is_never_chosen(name: str) -> None:
    found = score(name, ITEMS, MAPS, NETWORKS & [[False], [True]])
    assert np.isneginf(found[:, 0]).all()
    assert np.isfinite(found[:, 1]).all()
    assert (most_similar(found, np.random.default_rng(0)) == 1).all()


def test_ties_are_broken_evenly() -> None:
    scores = np.tile([[0.0, 2.0, 1.0, 2.0], [-np.inf] * 4, [-3.0, -3.0, -3.0, -4.0]], (2000, 1))
    told = most_similar(scores, np.random.default_rng(0)).reshape(2000, 3)
    shares = [np.bincount(column, minlength=4) / 2000 for column in told.T]
    expected = np.array([[0, 1 / 2, 0, 1 / 2], [1 / 4] * 4, [1 / 3, 1 / 3, 1 / 3, 0]])
    assert np.array(shares) == pytest.approx(expected, abs=0.05)
    assert (np.array(shares)[expected == 0] == 0).all()


def test_confusion_counts_rows_true_columns_told() -> None:
    labels, told = np.array([0, 2, 2, 2, 0]), np.array([1, 2, 0, 2, 1])
    assert confusion(labels, told, 4).tolist() == [[0, 2, 0, 0], [0] * 4, [1, 0, 2, 0], [0] * 4]


@pytest.mark.parametrize(("n_right", "n_items"), [(0, 7), (3, 8), (9, 10), (6, 6), (1, 2), (1, 1)])
def test_the_interval_of_single_items_is_clopper_and_pearsons(n_right: int, n_items: int) -> None:
    rate, low, high = accuracy_interval(np.arange(n_items) < n_right, np.arange(n_items) + 3, 0.9)
    expected = binomtest(n_right, n_items).proportion_ci(0.9, "exact")
    assert (rate, low, high) == pytest.approx((n_right / n_items, expected.low, expected.high))


def test_items_of_a_run_that_agree_are_one() -> None:
    right = np.repeat([True, False, True, True], 5)
    assert accuracy_interval(right, np.repeat(np.arange(4), 5)) == pytest.approx(
        accuracy_interval(right[::5], np.arange(4))
    )
    single = accuracy_interval(right, np.arange(20))
    assert single[2] - single[1] < 0.45
    some = right.copy()
    some[[0, 5, 10]] ^= True
    width = [np.ptp(accuracy_interval(some, runs)[1:]) for runs in (np.arange(20), np.repeat(np.arange(4), 5))]
    assert width[0] < width[1] < 0.95
    assert accuracy_interval(np.full(20, True), np.repeat(np.arange(4), 5))[1] == pytest.approx(0.025 ** (1 / 4))
    assert accuracy_interval(np.full(20, False), np.repeat(np.arange(4), 5))[2] == pytest.approx(1 - 0.025 ** (1 / 4))
    assert np.ptp(accuracy_interval(right, np.zeros(20, np.int64))[1:]) > 0.9


@pytest.mark.parametrize("agreement", [0.01, 0.3])
def test_intervals_cover_as_often_as_they_say(agreement: float) -> None:
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(250):
        chance = rng.beta(0.7 * (1 / agreement - 1), 0.3 * (1 / agreement - 1), 8)
        right = rng.uniform(size=(8, 13)) < chance[:, None]
        _, low, high = accuracy_interval(right.ravel(), np.repeat(np.arange(8), 13))
        inside.append(low <= 0.7 <= high)
    assert np.mean(inside) >= 0.92


@pytest.mark.parametrize(
    "places", [every("abcd", 3), every("ab", 2), [*every("abc", 2), ("b", "run-3"), ("c", "run-7")]]
)
def test_planted_networks_tell_their_task(places: list[tuple[str, str]]) -> None:
    experiment, labels = experiment_of(planted(places, 4.0, 2), ("8%", "1%", "50%"))
    found = experiment.identify(labels, np.random.default_rng(0))
    assert set(experiment.accuracies(labels, found).values()) == {1.0}
    assert len(found.folds) == len({run for _, run in places}) * len(SCORES)
    assert all(np.isfinite(scores).all() for scores in found.scores.values())
    chosen = found.folds.query("score != 'correlation' and accuracy == accuracy")
    assert (chosen["accuracy"] > 0.95).all()


def test_nothing_tells_a_task_at_the_null() -> None:
    rates = []
    for seed in range(12):
        experiment, labels = experiment_of(planted(every("abcd", 3), 0.0, seed), ("2%", "10%"))
        rates.append(
            list(experiment.accuracies(labels, experiment.identify(labels, np.random.default_rng(seed))).values())
        )
    error = np.std(rates, axis=0, ddof=1) / np.sqrt(12)
    assert (np.abs(np.mean(rates, axis=0) - 0.25) < 3.5 * error).all()


def test_the_rule_is_chosen_where_it_tells_best() -> None:
    experiment, labels = experiment_of(planted(every("abc", 4), 1.2, 3), ("90%", "8%"))
    folds = experiment.identify(labels, np.random.default_rng(0)).folds
    told = folds[folds["score"] == "mean-z"]
    assert (told["rule"] == "top 8%").all()
    assert told["accuracy"].between(0.5, 1).all()
    assert (folds.loc[folds["score"] == "correlation", "rule"] == "all units").all()
    alone, _ = experiment_of(planted(every("abc", 4), 1.2, 3), ("8%",))
    assert alone.identify(labels, np.random.default_rng(0)).folds["accuracy"].isna().all()


def test_parts_are_held_out_where_one_group_is_left() -> None:
    places = every("ab", 4)
    sessions = ["1", "1", "2", "2"] * 2
    rules = ("40%", "8%")
    experiment, labels = experiment_of(planted(places, 4.0, 4), rules, sessions)
    found = experiment.identify(labels, np.random.default_rng(0))
    assert found.folds["held_out"].unique().tolist() == ["1", "2"]
    assert (found.folds.query("score != 'correlation'")["accuracy"] > 0.9).all()
    whole = replace(experiment, parts=np.array(sessions))  # nothing to hold out within a session
    folds = whole.identify(labels, np.random.default_rng(0)).folds
    assert folds["accuracy"].isna().all()
    assert (folds.query("score == 'dice'")["rule"] == "top 40%").all()


def test_inner_folds_leave_every_task_something_to_train_on() -> None:
    """Without run 1, task b has run 2 alone: holding that out, too, would leave it without a network."""
    places = [*every("ab", 2), ("a", "run-3"), ("a", "run-4")]
    experiment, labels = experiment_of(planted(places, 4.0, 5), ("8%", "20%"))
    folds = experiment.identify(labels, np.random.default_rng(0)).folds
    by_run = folds.query("score == 'dice'").set_index("held_out")["accuracy"]
    assert by_run.notna().all()
    assert by_run["run-1"] == 1
    with pytest.raises(InferenceError, match="no prompt left"):
        experiment_of(planted([("a", "run-1"), ("a", "run-2"), ("b", "run-2")], 1.0, 0))[0].identify(
            np.array([0, 0, 1]), np.random.default_rng(0)
        )


def test_labels_of_what_is_held_out_are_not_looked_at() -> None:
    runs = planted(every("abc", 3), 1.0, 6)
    experiment, labels = experiment_of(runs, ("5%", "20%"))
    held_out = experiment.groups == "run-2"
    other = labels.copy()
    other[held_out] = (other[held_out] + 1) % 3
    found = [experiment.identify(own, np.random.default_rng(0)) for own in (labels, other)]
    for key in found[0].scores:
        places = held_out[experiment.items[key[0]].runs]
        assert found[0].scores[key][places].tolist() == found[1].scores[key][places].tolist()
        assert found[0].scores[key][~places].tolist() != found[1].scores[key][~places].tolist()


SPACE = UnitSpace("site", ("block0", "block1"), (50, 70))
KEPT = np.ones(N_UNITS, bool)


class Spy(decoding.Decoder):  # type: ignore[misc]
    """A decoder that notes on what it was fitted."""

    seen: ClassVar[list[Any]] = []

    def fit(self, images: Any, names: Any, groups: Any = None) -> Spy:
        super().fit(images, names, groups=groups)
        self.seen.append((SPACE.to_signals(images), names, self.cv_))
        return self


UNEQUAL = [*every("ab", 2), ("a", "run-3"), ("b", "run-4")]


@pytest.mark.parametrize("places", [every("abc", 3), UNEQUAL, every("ab", 2)])
@pytest.mark.parametrize("n_blocks", [1, 3])
def test_a_decoder_never_sees_what_is_held_out(
    places: list[tuple[str, str]], n_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spy, "seen", [])
    monkeypatch.setattr(decoding, "Decoder", Spy)
    experiment, _ = experiment_of(planted(places, 4.0, 7, n_blocks))
    names = [task for task, _ in places]
    told = decoding.decode(experiment.items, names, (experiment.groups, experiment.parts), SPACE, KEPT)
    for level, items in experiment.items.items():
        assert told[level].tolist() == [names[run] for run in items.runs]
    blocks = experiment.items["block"]
    for run, (signals, trained, folds) in zip(np.unique(experiment.groups), Spy.seen, strict=True):
        kept = (experiment.groups != run)[blocks.runs]
        assert signals == pytest.approx(blocks.standardized[kept], abs=1e-5)
        assert trained.tolist() == [names[number] for number in blocks.runs[kept]]
        inner = experiment.groups[blocks.runs[kept]]
        for training, testing in folds:
            assert set(trained[training]) == set(names)
            if len(set(inner)) > 1:
                assert not set(inner[training]) & set(inner[testing])
