"""Planted networks: their overlap, how they repeat, and that they tell the task; and nothing where there is nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest, kstest
from transformers import LlamaConfig, LlamaForCausalLM

from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.masks import load_mask
from llm2bids.model.phantom import build_phantom
from llm2bids.networks.identification import identify
from llm2bids.networks.measures import index_matrix, shared_units, units_per_layer
from llm2bids.networks.network_set import find_networks
from llm2bids.networks.repeatability import reliability
from llm2bids.networks.resampling import exchanged_labels, matched_networks, p_at_least
from llm2bids.networks.rules import NetworkRule
from llm2bids.networks.run_statistics import RunContrast, RunSums, relabelled
from llm2bids.networks.settings import SCORES
from llm2bids.networks.task_decoding import Experiment, accuracy_interval, items_by_level
from llm2bids.networks.unit_overlap import overlap
from llm2bids.preparation import prep
from llm2bids.recording import record
from llm2bids.statistics import glm
from llm2bids.task import builtin_prompts, on_topics

from .conftest import figures_left_blank

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llm2bids.networks.network_set import NetworkSet

TASKS = sorted(on_topics())


@pytest.fixture(scope="module")
def truth(planted: Path) -> np.ndarray:
    """Planted networks, shape (n_tasks, n_units)."""
    paths = [next(planted.glob(f"derivatives/phantom/sub-*/func/*task-{task}_acq-block_*truth*gz")) for task in TASKS]
    return np.stack([load_mask(path).selected for path in paths])


@pytest.fixture(scope="module")
def networks(planted: Path) -> NetworkSet:
    (networks,) = find_networks(planted / "derivatives" / "glm")
    assert networks.tasks == TASKS
    return networks


def test_the_largest_overlap_is_the_planted_one(planted_results: Path, truth: np.ndarray) -> None:
    (answer,) = overlap(planted_results, progress=False)
    pairs = answer.tables["pairs"]
    largest = pairs.loc[pairs["dice"].idxmax()]
    assert (largest["task_a"], largest["task_b"]) == ("medicalimaging", "pathology")
    a, b = (TASKS.index(largest[name]) for name in ("task_a", "task_b"))
    assert largest["dice"] == pytest.approx(index_matrix("dice", truth)[a, b], abs=0.05)
    assert largest["p_holm"] <= 0.05
    assert largest["same_sign"] == pytest.approx(largest["shared"], abs=2)
    others = pairs.drop(largest.name)
    assert (others["p_holm"] > 0.05).all()
    assert {path.suffix for path in answer.files} == {".tsv", ".json", ".png"}
    written = read_tsv(next(path for path in answer.files if path.name.endswith("_pairs.tsv")))
    assert written["shared"].astype(int).tolist() == pairs["shared"].tolist()
    columns = read_json(next(path for path in answer.files if path.suffix == ".json"))["Columns"]
    assert set(pairs.columns) <= set(columns)


@pytest.mark.usefixtures("blank_figures")
def test_tasks_repeat_better_than_they_resemble_others(planted_results: Path) -> None:
    (answer,) = reliability(planted_results, n_permutations=199, n_splits=5, progress=False)
    pairs = answer.tables["pairs"]
    within = pairs["task_a"] == pairs["task_b"]
    planted_pairs = [{"medicalimaging", "pathology"}, {"archeology", "paleontology"}]
    planted_alike = [{a, b} in planted_pairs for a, b in zip(pairs["task_a"], pairs["task_b"], strict=True)]
    assert pairs.loc[within, "dice"].min() > pairs.loc[~within & ~np.array(planted_alike), "dice"].max()
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


@pytest.mark.usefixtures("blank_figures")
def test_single_units_repeat_where_they_are_planted(planted_results: Path, truth: np.ndarray) -> None:
    (answer,) = reliability(planted_results, n_permutations=20, n_splits=1, progress=False)
    units = answer.tables["iccunits"].set_index("unit")["icc31"]
    planted_units = np.flatnonzero(truth.any(0))
    assert units.loc[planted_units].median() > 0.9
    assert units.drop(planted_units).median() < 0.2


@pytest.mark.usefixtures("blank_figures")
def test_held_out_runs_tell_their_task(planted_results: Path) -> None:
    (answer,) = identify(planted_results, n_permutations=50, progress=False)
    accuracy = answer.tables["summary"].set_index(["level", "score"])
    assert (accuracy.loc["run", "accuracy"] == 1).all()
    assert (accuracy.loc["block", "accuracy"] >= 0.95).all()
    assert accuracy["p"].dropna().tolist() == pytest.approx([1 / 51] * 9)
    matrix = answer.tables["confusion"].query("level == 'run' and score == 'mean-z' and count > 0")
    assert (matrix["task"] == matrix["told"]).all()
    assert matrix["count"].tolist() == [4] * 6


@pytest.fixture(scope="module", params=["phantom", "untrained"])
def nothing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[RunContrast]:
    """Six tasks of three runs whose conditions were dealt at random over the mixed prompts of rest."""
    root = tmp_path_factory.mktemp("nothing")
    rng = np.random.default_rng(5)
    pool = rng.permutation(
        [prompt.text for topic, prompts in builtin_prompts().items() if topic != "random strings" for prompt in prompts]
    )
    files = []
    for number in range(6):
        rows = ["text\ttrial_type\trun"]
        for run in range(3):
            start = 20 * (3 * number + run)
            kinds = rng.permutation(["on", "off"] * 10)
            rows += [f"{text}\t{kind}\t{run + 1}" for text, kind in zip(pool[start : start + 20], kinds, strict=True)]
        files.append(root / f"nothing{number}.tsv")
        files[-1].write_text("\n".join(rows) + "\n")
    model = "phantom" if request.param == "phantom" else untrained(root / "untrained")
    record(root / "ds", model, list(map(str, files)), subject="one", tokens=8, batch_size=20, progress=False)
    prep(root / "ds", progress=False)
    with figures_left_blank():
        glm(root / "ds", root / "glm", drift="none", contrasts=["on - off"], progress=False)
    (networks,) = find_networks(root / "glm")
    return networks.runs()


def untrained(folder: Path) -> str:
    """A model with the phantom's words and random weights."""
    torch.manual_seed(0)
    tokenizer = build_phantom().tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def relabel(run: RunContrast, rng: np.random.Generator) -> RunContrast:
    """The same prompts, with other conditions."""
    order = rng.permutation(len(run.regressor))
    kinds = run.prompts["trial_type"].to_numpy()[order]
    return replace(run, regressor=run.regressor[order], prompts=run.prompts.assign(trial_type=kinds))


def experiment_of(
    runs: list[RunContrast], rules: Sequence[str], scores: Sequence[str]
) -> tuple[Experiment, np.ndarray]:
    tasks = sorted({run.task for run in runs})
    weights = {f"{task}/{name}": weight for task in tasks for name, weight in (("on", 1.0), ("off", -1.0))}
    sums, groups = RunSums.from_runs(runs), np.array([run.run for run in runs])
    chosen = tuple(NetworkRule.from_text(text) for text in rules)
    experiment = Experiment(sums, items_by_level(runs, sums, weights), groups, chosen, groups, tuple(scores))
    return experiment, np.array([tasks.index(run.task) for run in runs])


@pytest.mark.parametrize("share", ["1%", "10%"])
def test_overlap_of_tasks_without_effect_is_uniform(nothing: list[RunContrast], share: str) -> None:
    rng = np.random.default_rng(20)
    rule = NetworkRule.from_text(share)
    layers = np.arange(nothing[0].effects.shape[1]) // 128
    pair = [[run for run in nothing if run.task == task] for task in ("nothing2", "nothing4")]
    p_values = []
    for _ in range(120):
        relabelled_runs = [[relabel(run, rng) for run in runs] for runs in pair]
        networks = np.stack([rule.select(RunSums.from_runs(runs).pooled(np.ones(3)))[0] for runs in relabelled_runs])
        drawn = [
            np.concatenate(list(matched_networks(relabelled(runs, 99, rng), count, layers, "two")))
            for runs, count in zip(relabelled_runs, units_per_layer(networks, layers), strict=True)
        ]
        by_chance = shared_units(np.stack(drawn, axis=1))[:, 0, 1]
        p_values.append(float(p_at_least(shared_units(networks)[0, 1], by_chance, rng)))
    assert kstest(p_values, "uniform").pvalue > 0.05
    assert np.mean(np.array(p_values) <= 0.05) < 0.12


def test_identification_is_at_chance_where_there_is_nothing(nothing: list[RunContrast]) -> None:
    rng = np.random.default_rng(3)
    rates: dict[tuple[str, str], list[float]] = {}
    inside = []
    for _ in range(60):
        relabelled_runs = [relabel(run, rng) for run in nothing]
        experiment, labels = experiment_of(relabelled_runs, ["1%", "5%"], SCORES)
        result = experiment.identify(labels, rng)
        for key, rate in experiment.accuracies(labels, result).items():
            rates.setdefault(key, []).append(rate)
        _, low, high = accuracy_interval(result.predictions["run", "mean-z"] == labels, np.arange(len(labels)))
        inside.append(low <= 1 / 6 <= high)
    for key, accuracies in rates.items():
        assert abs(np.mean(accuracies) - 1 / 6) < 2.8 * np.std(accuracies, ddof=1) / np.sqrt(len(accuracies)), key
    assert np.mean(inside) >= 0.85


def test_a_choice_that_sees_the_held_out_run_would_be_caught(nothing: list[RunContrast]) -> None:
    """With many rules to choose from ours stays at chance; the best rule for the held-out runs themselves does not."""
    rng = np.random.default_rng(8)
    rules = ("0.3%", "0.5%", "1%", "2%", "3%", "5%", "8%", "15%", "25%", "40%")
    nested, leaky = [], []
    for _ in range(25):
        relabelled_runs = [relabel(run, rng) for run in nothing]
        ours, labels = experiment_of(relabelled_runs, rules, ["mean-z"])
        nested.append(ours.accuracies(labels, ours.identify(labels, rng))["run", "mean-z"])
        of_runs = {"run": ours.items["run"]}
        each = [replace(ours, rules=(rule,), items=of_runs) for rule in ours.rules]
        leaky.append(
            max(experiment.accuracies(labels, experiment.identify(labels, rng))["run", "mean-z"] for experiment in each)
        )
    n_items = 25 * len(nothing)
    assert binomtest(round(len(nothing) * sum(nested)), n_items, 1 / 6, "greater").pvalue > 0.01
    assert binomtest(round(len(nothing) * sum(leaky)), n_items, 1 / 6, "greater").pvalue < 1e-4


def test_what_is_held_out_changes_nothing_of_the_choice(networks: NetworkSet) -> None:
    runs = networks.runs()
    rng = np.random.default_rng(1)
    spoiled = [
        replace(run, effects=100 * rng.standard_normal(run.effects.shape)) if run.run == "run-03" else run
        for run in runs
    ]
    chosen = []
    for version in (runs, spoiled):
        experiment, labels = experiment_of(version, ["0.5%", "2%", "20%"], SCORES)
        folds = experiment.identify(labels, np.random.default_rng(0)).folds
        chosen.append(folds[folds["held_out"] == "run-03"].reset_index(drop=True))
    pd.testing.assert_frame_equal(*chosen)


def test_exchanges_stay_in_their_cells() -> None:
    tasks, cells = ["a", "b", "c", "a", "b", "c"], ["1", "1", "1", "2", "2", "2"]
    drawn = [exchanged_labels(tasks, cells, np.random.default_rng(seed)).tolist() for seed in range(20)]
    assert all(sorted(tasks[:3]) == sorted(tasks[3:]) == ["a", "b", "c"] for tasks in drawn)
    assert len({tuple(tasks) for tasks in drawn}) > 10
