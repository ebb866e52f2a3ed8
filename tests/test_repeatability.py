"""How well maps repeat: against published numbers, closed forms, and data whose reliability is known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from llm2bids.design.statsmodel import Contrast
from llm2bids.networks.measures import (
    correlations,
    icc,
    lengthened,
    quantiles_by_layer,
    rated_runs,
    standardized,
    within_and_between,
)
from llm2bids.networks.repeatability import compare_halves, contrast_of_means, growth_with_prompts, growth_with_runs
from llm2bids.networks.resampling import exchanged_labels, halves, jackknife, p_at_least
from llm2bids.networks.rules import NetworkRule
from llm2bids.networks.run_statistics import Maps, RunContrast, RunSums

SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
"""Table 2: six targets, four judges."""
RULE = NetworkRule.from_text("10%")


def test_intraclass_correlations_are_the_published_ones() -> None:
    several = np.stack([SHROUT_FLEISS, 3 * SHROUT_FLEISS + 1.0, np.add(SHROUT_FLEISS, [0, 5, 3, 2])], axis=2)
    icc21, icc31 = icc(several)
    assert icc21[:2] == pytest.approx([0.29, 0.29], abs=0.005)
    assert icc31 == pytest.approx([0.71, 0.71, 0.71], abs=0.005)  # judges that differ in their mean do not matter
    assert icc21[2] > 0.6  # but to absolute agreement they do


def test_intraclass_correlations_of_the_edge() -> None:
    rng = np.random.default_rng(0)
    targets, judges = rng.normal(size=(5, 1, 3)), rng.normal(size=(1, 4, 3))
    assert icc(targets + 0 * judges)[0] == pytest.approx(np.ones(3))
    assert icc(targets + judges)[1] == pytest.approx(np.ones(3))
    constant = np.full((5, 4, 3), 0.1)
    constant[..., 2] = rng.normal(size=(5, 4))
    for values in icc(constant):
        assert np.isnan(values).tolist() == [True, True, False]
    for values in icc(rng.normal(size=(2, 3, 4000))):
        assert np.isfinite(values).all()
        assert (values <= 1).all()


def test_raters_stay_who_they_are_when_tasks_are_exchanged() -> None:
    """Runs that differ in their mean would else look like noise in exchanges only, and any task would repeat."""
    rng = np.random.default_rng(13)
    tasks, cells = np.repeat(["a", "b", "c"], 4), np.tile(["1", "2", "3", "4"], 3)
    p_values = []
    for _ in range(150):
        effects = rng.normal(size=(12, 5)) + np.tile(10 * rng.normal(size=(4, 5)), (3, 1))
        labels = [exchanged_labels(tasks.tolist(), cells.tolist(), rng) for _ in range(39)]
        observed, *drawn = [np.median(icc(effects[rated_runs(order, cells)])[1]) for order in (tasks, *labels)]
        p_values.append(float(p_at_least(observed, np.array(drawn), rng)))
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    numbers = rated_runs(["a", "b", "b", "a", "b"], ["1", "1", "3", "3", "2"])
    assert numbers.tolist() == [[0, 3], [1, 2]]
    assert rated_runs(["a", "a", "b", "b", "b"], ["1", "2", "5", "4", "2"]).tolist() == [[0, 1], [4, 3]]


def test_correlations_over_units() -> None:
    maps = np.random.default_rng(1).normal(size=(3, 40))
    assert correlations(maps) == pytest.approx(np.corrcoef(maps))
    maps[1] = 0.1
    assert np.isnan(correlations(maps)).tolist() == [[False, True, False], [True] * 3, [False, True, False]]
    assert standardized(maps)[[0, 2]] == pytest.approx(stats.zscore(maps[[0, 2]], axis=1))
    for constant in (np.full((2, 1001), 0.1), np.full((2, 1001), 0.1, np.float32), np.full((2, 1), 5.0)):
        assert np.isnan(standardized(constant)).all()


def test_pairs_within_and_between() -> None:
    tasks = ["a", "b", "a", "c", "b", "a"]
    matrix = np.random.default_rng(2).normal(size=(6, 6))
    matrix = matrix + matrix.T
    matrix[0, 2] = matrix[2, 0] = np.nan
    pairs = [pair for pair in combinations(range(6), 2) if pair != (0, 2)]
    same = [matrix[a, b] for a, b in pairs if tasks[a] == tasks[b]]
    others = [matrix[a, b] for a, b in pairs if tasks[a] != tasks[b]]
    assert within_and_between(matrix, tasks) == pytest.approx((np.mean(same), np.mean(others)))
    assert np.isnan(within_and_between(matrix[:2, :2], ["a", "b"])[0])
    assert np.isnan(within_and_between(matrix[:2, :2], ["a", "a"])[1])


def test_the_jackknife_of_means_is_their_standard_error() -> None:
    values = np.random.default_rng(3).normal(size=11)
    interval = jackknife(lambda runs: float(values[runs].mean()), [range(11)], 0.9)
    low, high = stats.t.interval(0.9, 10, values.mean(), stats.sem(values))
    assert interval == pytest.approx((values.mean(), low, high))
    interval = jackknife(
        lambda runs: float(values[runs[runs < 4]].mean() - values[runs[runs > 3]].mean()), [range(4), range(4, 11)]
    )
    error = np.hypot(stats.sem(values[:4]), stats.sem(values[4:]))
    assert interval[2] - interval[0] == pytest.approx(stats.t.isf(0.025, 3 + 6) * error)


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    inside = []
    for _ in range(300):
        values = rng.exponential(size=24)
        _, low, high = jackknife(lambda runs, values=values: float(np.log(values[runs].mean())), [range(24)])
        inside.append(low <= 0 <= high)
    assert stats.binomtest(sum(inside), 300, 0.95).pvalue > 0.01


def test_a_single_run_has_no_interval() -> None:
    assert np.isnan(jackknife(lambda runs: float(runs.sum()), [[0, 1], [2]])[1:]).all()
    assert jackknife(lambda runs: float(runs.sum()), [[0, 1], [2]])[0] == 3
    assert np.isnan(jackknife(lambda runs: np.nan if len(runs) < 3 else 1.0, [[0, 1, 2]])[1:]).all()


@pytest.mark.parametrize(("n_runs", "size", "n_pairs"), [(4, 2, 3), (5, 2, 15), (6, 1, 15), (7, 3, 70), (2, 1, 1)])
def test_halves_are_all_pairs_of_disjoint_sets(n_runs: int, size: int, n_pairs: int) -> None:
    pairs = halves(n_runs, size, 1000, np.random.default_rng(0))
    assert len({frozenset(map(frozenset, pair)) for pair in pairs}) == len(pairs) == n_pairs
    assert all(len(first) == len(second) == size and not set(first) & set(second) for first, second in pairs)
    assert len(halves(n_runs, size, 1, np.random.default_rng(0))) == 1


def test_halves_of_many_runs_are_drawn() -> None:
    pairs = halves(20, 9, 40, np.random.default_rng(0))
    assert len(pairs) == 40
    assert all(len(set(first) | set(second)) == 18 for first, second in pairs)
    assert len({tuple(first) for first, _ in pairs}) > 35


def test_exchanges_of_incomplete_cells_keep_what_each_cell_has() -> None:
    tasks, cells = ["a", "a", "b", "b", "b"], ["1", "3", "1", "2", "3"]
    orders = {tuple(exchanged_labels(tasks, cells, np.random.default_rng(seed))) for seed in range(40)}
    assert orders == {
        ("a", "a", "b", "b", "b"),
        ("b", "a", "a", "b", "b"),
        ("a", "b", "b", "b", "a"),
        ("b", "b", "a", "b", "a"),
    }


def test_longer_tests_are_more_reliable() -> None:
    rng = np.random.default_rng(5)
    truth = rng.normal(size=50_000)
    first, second = (truth + rng.normal(size=(3, 50_000)) for _ in range(2))
    single = float(np.corrcoef(first[0], second[0])[0, 1])
    assert lengthened(single, 3) == pytest.approx(np.corrcoef(first.mean(0), second.mean(0))[0, 1], abs=0.02)
    assert lengthened(0.6, 1) == pytest.approx(0.6)
    assert lengthened(0.0, 9) == 0
    assert np.isnan([lengthened(-0.5, 3), lengthened(-1.0, 2), lengthened(np.nan, 2)]).all()


def test_quantiles_layer_by_layer() -> None:
    layers = np.repeat([0, 2, 5], [11, 1, 4])
    values = np.concatenate([np.arange(11.0), [7.0], np.full(4, np.nan)])
    values[3] = np.nan
    table = quantiles_by_layer(values, layers, 6.0)
    assert table["layer"].tolist() == [0, 2, 5]
    assert table["n_units"].tolist() == [10, 1, 0]
    assert table["good"].tolist()[:2] == [0.5, 1.0]
    assert table["mean"].tolist()[:2] == [5.2, 7.0]
    assert table.loc[0, ["q05", "q25", "q50", "q75", "q95"]].tolist() == pytest.approx(
        np.nanquantile(values[:11], [0.05, 0.25, 0.5, 0.75, 0.95])
    )
    assert table.drop(columns=["layer", "n_units"]).iloc[2].isna().all()


def runs_of(n_runs: int, truth: np.ndarray, rng: np.random.Generator, n_prompts: int = 16) -> list[RunContrast]:
    """Runs whose prompts show the truth, half of it below and half above their mean, with noise of variance 1."""
    kinds = ["on", "off"] * (n_prompts // 2)
    on = (np.array(kinds) == "on").astype(float)
    design = pd.DataFrame({"trial_type.on": on, "trial_type.off": 1 - on, "constant": 1.0})
    runs = []
    for number in range(n_runs):
        texts = [f"{number} {place}" for place in range(n_prompts)]
        prompts = pd.DataFrame({"trial_type": kinds, "block": "1", "stimulus": texts})
        effects = (on - 0.5)[:, None] * truth + rng.normal(size=(n_prompts, truth.size))
        contrast = Contrast.from_expression("on - off")
        runs.append(RunContrast.from_design(("a", "s", f"run-{number}"), prompts, effects, design, contrast))
    return runs


def test_agreement_grows_with_runs_as_reliability_does() -> None:
    rng = np.random.default_rng(6)
    runs = runs_of(6, 0.5 * rng.normal(size=4000), rng)
    table = growth_with_runs(runs, RULE, 10, rng)
    single = 0.25 / (0.25 + 2 / 8)  # variance of the effect, and of the difference of two means of 8 prompts
    expected = [lengthened(single, size) for size in (1, 2, 3)]
    assert table["n"].tolist() == [1, 2, 3]
    assert table["n_prompts"].tolist() == [16, 32, 48]
    assert table["n_splits"].tolist() == [10, 10, 10]
    assert table["correlation"].tolist() == pytest.approx(expected, abs=0.03)
    assert table["predicted"].tolist() == pytest.approx(expected, abs=0.03)
    assert table["dice"].is_monotonic_increasing
    assert 0.1 < table["dice"].iloc[0] < table["dice"].iloc[-1] < 1


def test_agreement_grows_with_prompts_as_reliability_does() -> None:
    rng = np.random.default_rng(7)
    runs = runs_of(3, 0.5 * rng.normal(size=4000), rng, 14)
    table = growth_with_prompts(runs, {"on": 1.0, "off": -1.0, "unused": 0.0}, RULE, 12, rng)
    assert table["n"].tolist() == [2, 4, 8, 10]
    assert table["n_prompts"].tolist() == [4, 8, 16, 20]
    expected = [0.25 / (0.25 + 2 / size) for size in (2, 4, 8, 10)]
    assert table["correlation"].tolist() == pytest.approx(expected, abs=0.03)
    assert table["predicted"].tolist() == pytest.approx(expected, abs=0.05)


def test_nothing_agrees_at_the_null() -> None:
    rng = np.random.default_rng(8)
    runs = runs_of(4, np.zeros(3000), rng)
    for table in (growth_with_runs(runs, RULE, 9, rng), growth_with_prompts(runs, {"on": 1, "off": -1}, RULE, 9, rng)):
        assert table["correlation"].tolist() == pytest.approx([0] * len(table), abs=0.04)
        assert table["dice"].tolist() == pytest.approx([0.1] * len(table), abs=0.03)


def test_a_text_of_several_runs_is_on_one_side() -> None:
    """The same noise wherever a text is shown would agree with itself, were it on both sides."""
    rng = np.random.default_rng(9)
    (run,) = runs_of(1, np.zeros(3000), rng)
    table = growth_with_prompts([run, run, run], {"on": 1, "off": -1}, RULE, 15, rng)
    assert table["n"].tolist() == [2, 4]
    assert table["correlation"].tolist() == pytest.approx([0, 0], abs=0.05)


def test_means_are_compared_as_in_a_linear_model() -> None:
    rng = np.random.default_rng(10)
    on, off, rest_condition = rng.normal(size=(5, 7)), rng.normal(size=(8, 7)), rng.normal(size=(3, 7))
    maps = contrast_of_means([on, off], [1, -1])
    expected = stats.ttest_ind(on, off)
    assert maps.t[0] == pytest.approx(expected.statistic)
    assert maps.dof.tolist() == [11]
    assert maps.effect[0] == pytest.approx(on.mean(0) - off.mean(0))
    matrix = np.repeat(np.eye(3), [5, 8, 3], axis=0)
    weights = np.array([2.0, -1.0, -1.0])
    beta, rest, _, _ = np.linalg.lstsq(matrix, np.concatenate([on, off, rest_condition]), rcond=None)
    error = np.sqrt(rest / 13 * (weights**2 / [5, 8, 3]).sum())
    assert contrast_of_means([on, off, rest_condition], [2, -1, -1]).t[0] == pytest.approx(weights @ beta / error)
    constant = [np.full((3, 4), 0.1), np.full((5, 4), 0.1, np.float32)]
    assert (contrast_of_means([constant[0], constant[0][:2]], [1, -1]).t == 0).all()
    assert (contrast_of_means([constant[1], constant[1][:2]], [1, -1]).t == 0).all()


def test_what_cannot_be_halved_has_no_row() -> None:
    rng = np.random.default_rng(11)
    runs = runs_of(1, np.zeros(20), rng, 6)
    assert growth_with_runs(runs, RULE, 3, rng).empty
    for weights in ({}, {"on": 0.0}, {"on": 1.0, "off": -1.0}, {"on": 1.0, "absent": -1.0}):
        assert growth_with_prompts(runs, weights, RULE, 3, rng).empty


def test_empty_networks_agree_in_nothing() -> None:
    maps = RunSums.from_runs(runs_of(2, np.zeros(30), np.random.default_rng(12))).pooled(np.eye(2))
    strict = NetworkRule.from_text("bonferroni", 1e-9)
    halved = [Maps(maps.effect[row : row + 1], maps.t[row : row + 1], maps.dof[row : row + 1]) for row in (0, 1)]
    agreement = compare_halves(*halved, strict)
    assert agreement["dice"] == 0
    assert agreement["correlation"] == pytest.approx(np.corrcoef(maps.effect)[0, 1])
    assert np.isnan([agreement["dice_sd"], agreement["correlation_sd"]]).all()
