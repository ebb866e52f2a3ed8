"""Planted networks: their overlap, how they repeat, and that they tell the task; and nothing where there is nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, kstest

from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.mask import load_mask
from llm2bids.networks.agreement import exchanged_labels
from llm2bids.networks.identification import Experiment, accuracy_interval, items_of
from llm2bids.networks.identify import identify
from llm2bids.networks.overlap import overlap
from llm2bids.networks.reliability import reliability
from llm2bids.networks.results import find_networks
from llm2bids.networks.similarity import index_matrix, matched_networks, p_at_least, shared_units, units_per_layer
from llm2bids.networks.sums import NetworkRule, RunContrast, RunSums, relabelled
from llm2bids.task import on_topics

if TYPE_CHECKING:
    from pathlib import Path

    from llm2bids.networks.results import NetworkSet

TASKS = sorted(on_topics())


@pytest.fixture(scope="module")
def truth(planted: Path) -> np.ndarray:
    """Planted networks, shape (n_tasks, n_units)."""
    paths = [next(planted.glob(f"derivatives/phantom/sub-*/func/*task-{task}_acq-block_*truth*gz")) for task in TASKS]
    return np.stack([load_mask(path).selected for path in paths])


@pytest.fixture(scope="module")
def found(planted: Path) -> NetworkSet:
    (networks,) = find_networks(planted / "derivatives" / "glm")
    assert networks.tasks == TASKS
    return networks


def test_the_largest_overlap_is_the_planted_one(planted_results: Path, truth: np.ndarray) -> None:
    (answer,) = overlap(planted_results, progress=False)
    pairs = answer.tables["pairs"]
    largest = pairs.loc[pairs["dice"].idxmax()]
    assert (largest["task_a"], largest["task_b"]) == ("medicalimaging", "pathology")
    one, other = (TASKS.index(largest[name]) for name in ("task_a", "task_b"))
    assert largest["dice"] == pytest.approx(index_matrix("dice", truth)[one, other], abs=0.05)
    assert largest["p_holm"] <= 0.05
    assert largest["same_sign"] == pytest.approx(largest["shared"], abs=2)
    others = pairs.drop(largest.name)
    assert (others["p_holm"] > 0.05).all()
    assert {path.suffix for path in answer.files} == {".tsv", ".json", ".png"}
    written = read_tsv(next(path for path in answer.files if path.name.endswith("_pairs.tsv")))
    assert written["shared"].astype(int).tolist() == pairs["shared"].tolist()
    columns = read_json(next(path for path in answer.files if path.suffix == ".json"))["Columns"]
    assert set(pairs.columns) <= set(columns)


def test_tasks_repeat_better_than_they_resemble_others(planted_results: Path) -> None:
    (answer,) = reliability(planted_results, n_permutations=199, n_splits=5, progress=False)
    pairs = answer.tables["pairs"]
    within = pairs["task_a"] == pairs["task_b"]
    planted_pairs = [{"medicalimaging", "pathology"}, {"archeology", "paleontology"}]
    alike = [{a, b} in planted_pairs for a, b in zip(pairs["task_a"], pairs["task_b"], strict=True)]
    assert pairs.loc[within, "dice"].min() > pairs.loc[~within & ~np.array(alike), "dice"].max()
    assert pairs.loc[within, "correlation"].min() > pairs.loc[~within, "correlation"].max()
    summary = answer.tables["summary"].set_index(["measure", "task"])
    for measure in ("dice", "correlation"):
        row = summary.loc[measure, "all"]
        assert 0.5 < row["low"] < row["difference"] < row["high"]
        assert row["p"] == pytest.approx(1 / 200)
    growth = answer.tables["growth"]
    by_size = growth[growth["of"] == "prompts"].groupby("n")["correlation"].mean()
    assert by_size.is_monotonic_increasing
    assert by_size.iloc[-1] > 0.9


def test_single_units_repeat_where_they_are_planted(planted_results: Path, truth: np.ndarray) -> None:
    (answer,) = reliability(planted_results, n_permutations=20, n_splits=1, progress=False)
    units = answer.tables["iccunits"].set_index("unit")["icc31"]
    planted_units = np.flatnonzero(truth.any(0))
    assert units.loc[planted_units].median() > 0.9
    assert units.drop(planted_units).median() < 0.2


def test_held_out_runs_tell_their_task(planted_results: Path) -> None:
    (answer,) = identify(planted_results, n_permutations=50, progress=False)
    accuracy = answer.tables["summary"].set_index(["level", "score"])
    assert (accuracy.loc["run", "accuracy"] == 1).all()
    assert (accuracy.loc["block", "accuracy"] >= 0.95).all()
    assert (accuracy["p"].dropna() == pytest.approx(1 / 51)).all()
    matrix = answer.tables["confusion"].query("level == 'run' and score == 'mean-z' and count > 0")
    assert (matrix["task"] == matrix["told"]).all()
    assert matrix["count"].tolist() == [4] * 6


@pytest.mark.parametrize("share", ["1%", "10%"])
def test_overlap_of_tasks_without_effect_is_uniform(found: NetworkSet, share: str) -> None:
    rng = np.random.default_rng(20)
    rule = NetworkRule.from_text(share)
    pair = [network.runs(found.tested) for network in found.networks[2:4]]
    p_values = []
    for _ in range(120):
        own = [[_without_effect(run, rng) for run in runs] for runs in pair]
        networks = np.stack([rule.select(RunSums.from_runs(runs).pooled(np.ones(4)))[0] for runs in own])
        counts = units_per_layer(networks, found.layers)
        drawn = [
            np.concatenate(list(matched_networks(relabelled(runs, 99, rng), count, found.layers, "two")))
            for runs, count in zip(own, counts, strict=True)
        ]
        by_chance = shared_units(np.stack(drawn, axis=1))[:, 0, 1]
        p_values.append(float(p_at_least(shared_units(networks)[0, 1], by_chance, rng)))
    assert kstest(p_values, "uniform").pvalue > 0.05
    assert np.mean(np.array(p_values) <= 0.05) < 0.12


def test_identification_is_at_chance_where_there_is_nothing(found: NetworkSet) -> None:
    rng = np.random.default_rng(3)
    runs = found.runs()
    labels = np.array([TASKS.index(run.task) for run in runs])
    weights = {f"{task}/{name}": weight for task in TASKS for name, weight in (("on", 1.0), ("off", -1.0))}
    hits: dict[tuple[str, str], list[np.ndarray]] = {}
    inside = []
    for _ in range(60):
        own = [_without_effect(run, rng) for run in runs]
        sums = RunSums.from_runs(own)
        rules = tuple(NetworkRule.from_text(text) for text in ("1%", "5%"))
        experiment = Experiment(sums, items_of(own, sums, weights), np.array([run.run for run in own]), rules)
        result = experiment.identify(labels, rng)
        for key, told in result.predictions.items():
            hits.setdefault(key, []).append(told == labels[experiment.items[key[0]].runs])
        _, low, high = accuracy_interval(hits["run", "mean-z"][-1], np.arange(len(runs)))
        inside.append(low <= 1 / 6 <= high)
    for key, right in hits.items():
        rates = np.array([one.mean() for one in right])
        standard_error = rates.std(ddof=1) / np.sqrt(len(rates))
        assert abs(rates.mean() - 1 / 6) < 3 * standard_error, key
    assert np.mean(inside) >= 0.85


def _without_effect(run: RunContrast, rng: np.random.Generator) -> RunContrast:
    """The same prompts, their conditions dealt at random: what was active does not go with them."""
    order = rng.permutation(len(run.tested))
    return replace(run, effects=run.residuals[order], prompts=run.prompts)


def test_a_choice_that_sees_the_held_out_run_would_be_caught(found: NetworkSet) -> None:
    """Chance with many rules to choose from: ours stays at it, one that looks at the held-out run does not."""
    rng = np.random.default_rng(8)
    labels = np.array([TASKS.index(run.task) for run in found.runs()])
    weights = {f"{task}/{name}": weight for task in TASKS for name, weight in (("on", 1.0), ("off", -1.0))}
    texts = ("0.3%", "0.5%", "1%", "2%", "3%", "5%", "8%", "15%", "25%", "40%")
    rules = tuple(NetworkRule.from_text(text) for text in texts)
    nested, leaky = [], []
    for _ in range(25):
        own = [_without_effect(run, rng) for run in found.runs()]
        sums = RunSums.from_runs(own)
        items, groups = items_of(own, sums, weights), np.array([run.run for run in own])
        ours = Experiment(sums, items, groups, rules, ("mean-z",))
        nested.append(ours.accuracies(labels, ours.identify(labels, rng))["run", "mean-z"])
        each = [Experiment(sums, items, groups, (rule,), ("mean-z",)) for rule in rules]
        leaky.append(max(one.accuracies(labels, one.identify(labels, rng))["run", "mean-z"] for one in each))
    assert binomtest(round(24 * sum(nested)), 24 * 25, 1 / 6, "greater").pvalue > 0.01
    assert binomtest(round(24 * sum(leaky)), 24 * 25, 1 / 6, "greater").pvalue < 1e-6


def test_what_is_held_out_changes_nothing_of_the_choice(found: NetworkSet) -> None:
    runs = found.runs()
    labels = np.array([TASKS.index(run.task) for run in runs])
    weights = {f"{task}/{name}": weight for task in TASKS for name, weight in (("on", 1.0), ("off", -1.0))}
    rng = np.random.default_rng(1)
    spoiled = [
        replace(run, effects=100 * rng.standard_normal(run.effects.shape)) if run.run == "run-03" else run
        for run in runs
    ]
    chosen = []
    for own in (runs, spoiled):
        sums = RunSums.from_runs(own)
        rules = tuple(NetworkRule.from_text(text) for text in ("0.5%", "2%", "20%"))
        experiment = Experiment(sums, items_of(own, sums, weights), np.array([run.run for run in own]), rules)
        folds = experiment.identify(labels, np.random.default_rng(0)).folds
        chosen.append(folds[folds["held_out"] == "run-03"].reset_index(drop=True))
    pd.testing.assert_frame_equal(*chosen)


def test_exchanges_stay_in_their_cells() -> None:
    tasks, cells = ["a", "b", "c", "a", "b", "c"], ["1", "1", "1", "2", "2", "2"]
    drawn = [exchanged_labels(tasks, cells, np.random.default_rng(seed)).tolist() for seed in range(20)]
    assert all(sorted(one[:3]) == sorted(one[3:]) == ["a", "b", "c"] for one in drawn)
    assert len({tuple(one) for one in drawn}) > 10
