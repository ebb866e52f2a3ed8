"""Sums over prompts that add up: against least squares of the stacked design, and exchanges against refitting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from llm2bids.design.statsmodel import Contrast
from llm2bids.errors import InferenceError
from llm2bids.networks.resampling import p_at_least
from llm2bids.networks.rules import NetworkRule
from llm2bids.networks.run_statistics import Maps, RunContrast, RunSums, SharedTexts, relabelled
from llm2bids.space.selection import largest, ranks, strength
from llm2bids.statistics.linear_model import estimate_contrasts, join_chunks

ON_OFF = Contrast.from_expression("on - off")


def design_of(kinds: list[str], n_drifts: int = 0) -> pd.DataFrame:
    """Conditions, cosines, constant."""
    n_prompts = len(kinds)
    times = np.pi * (np.arange(n_prompts) + 0.5) / n_prompts
    columns = {f"trial_type.{kind}": np.array(kinds) == kind for kind in dict.fromkeys(kinds)}
    columns |= {f"drift_{number}": np.cos(number * times) for number in range(1, n_drifts + 1)}
    return pd.DataFrame({**columns, "constant": 1.0}).astype(float)


def run_of(
    kinds: list[str],
    effects: np.ndarray,
    n_drifts: int = 0,
    contrast: Contrast = ON_OFF,
    texts: list[str] | None = None,
) -> RunContrast:
    """A run with its design; its texts are its own unless they are given."""
    stimuli = [f"{id(effects)} {number}" for number in range(len(kinds))] if texts is None else texts
    prompts = pd.DataFrame({"trial_type": kinds, "block": "1", "stimulus": stimuli})
    return RunContrast.from_design(("a", "s", "run-01"), prompts, effects, design_of(kinds, n_drifts), contrast)


def stacked(designs: list[pd.DataFrame], repeated: tuple[str, ...]) -> pd.DataFrame:
    """One design over runs in which the columns that start as in `repeated` are each run's repeated."""
    renamed = [
        design.rename(columns=lambda name, number=number: f"{name}_{number}" if name.startswith(repeated) else name)
        for number, design in enumerate(designs)
    ]
    return pd.concat(renamed, ignore_index=True).fillna(0.0)


KINDS = [["on", "off"] * 5, ["off", "off", "on"] * 4, ["on", "off", "off", "on", "on", "off", "on"]]


def test_several_runs_are_the_linear_model_of_all_their_prompts() -> None:
    rng = np.random.default_rng(0)
    effects = [rng.normal(3, 1, (len(kinds), 6)) for kinds in KINDS]
    drifts = (2, 3, 0)
    sums = RunSums.from_runs([run_of(*args) for args in zip(KINDS, effects, drifts, strict=True)])
    designs = [design_of(kinds, n_drifts) for kinds, n_drifts in zip(KINDS, drifts, strict=True)]
    choices = [[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0]]
    maps = sums.pooled(choices)
    for row, choice in enumerate(choices):
        runs = np.flatnonzero(choice)
        matrix = stacked([designs[run] for run in runs], ("drift", "constant"))
        values = np.concatenate([effects[run] for run in runs])
        glm = join_chunks(estimate_contrasts(values, matrix, [ON_OFF], "ols"))["onMinusOff"]
        assert maps.dof[row] == glm.dof == len(matrix) - np.linalg.matrix_rank(matrix)
        assert maps.effect[row] == pytest.approx(glm.effect)
        assert maps.t[row] == pytest.approx(glm.stat)
        assert maps.z[row] == pytest.approx(glm.z)


def test_a_condition_that_is_not_asked_about_is_each_runs_own() -> None:
    rng = np.random.default_rng(1)
    kinds = [["on", "off", "other"] * 3, ["other", "on", "off", "on"] * 2]
    effects = [rng.normal(size=(len(of_run), 5)) for of_run in kinds]
    contrast = Contrast.from_expression("on - off")
    maps = RunSums.from_runs([run_of(*args, 0, contrast) for args in zip(kinds, effects, strict=True)]).pooled([1, 1])
    designs = [design_of(of_run).drop(columns="constant") for of_run in kinds]
    half = [  # off is the same distance below on in all runs, all else is free
        pd.DataFrame({"asked": (design["trial_type.on"] - design["trial_type.off"]) / 2}).assign(
            mean=design["trial_type.on"] + design["trial_type.off"], other=design["trial_type.other"]
        )
        for design in designs
    ]
    matrix = stacked(half, ("mean", "other")).to_numpy()
    values = np.concatenate(effects)
    beta, rest, rank, _ = np.linalg.lstsq(matrix, values, rcond=None)
    dof = len(matrix) - rank
    variance = rest / dof * np.linalg.inv(matrix.T @ matrix)[0, 0]
    assert maps.dof.tolist() == [dof]
    assert maps.effect[0] == pytest.approx(beta[0])
    assert maps.t[0] == pytest.approx(beta[0] / np.sqrt(variance))


def test_z_and_p_are_those_of_student() -> None:
    t, dof = np.array([[-3.0, 0.0, 1.5, 400.0], [2.0, -0.5, 0.0, -1.0]]), np.array([3.0, 30.0])
    maps = Maps(t, t, dof)
    p = stats.t.sf(t, dof[:, None])
    assert maps.p("positive") == pytest.approx(p)
    assert maps.p("negative") == pytest.approx(1 - p)
    assert maps.p("two") == pytest.approx(2 * np.minimum(p, 1 - p))
    assert stats.norm.sf(maps.z) == pytest.approx(p)
    huge = Maps(t[:1] * 1e9, t[:1] * 1e9, np.array([300.0]))
    assert np.isfinite(huge.z).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_unit_without_variance_has_no_effect(dtype: type) -> None:
    rng = np.random.default_rng(2)
    effects = np.concatenate([np.tile([0, 3.3, 1e3, 1e-9, 0.1], (12, 1)), rng.normal(size=(12, 1))], 1).astype(dtype)
    runs = [run_of(["on", "off"] * 6, effects, n_drifts) for n_drifts in (0, 3)]
    maps = RunSums.from_runs(runs).pooled([[1, 0], [0, 1], [1, 1]])
    assert (maps.t[:, :-1] == 0).all()
    assert (maps.effect[:, :-1] == 0).all()
    assert (maps.t[:, -1] != 0).all()
    assert all((draw[:, :-1] == 0).all() for draw in relabelled(runs, 3, rng))


def test_an_effect_without_noise_is_the_strongest() -> None:
    rng = np.random.default_rng(3)
    effects = rng.normal(size=(10, 4))
    effects[:, 2] = np.tile([0.0, 0.7], 5)
    maps = RunSums.from_runs([run_of(["on", "off"] * 5, effects)]).pooled([1])
    assert maps.effect[0, 2] == pytest.approx(-0.7)
    assert maps.t[0, 2] < -1e5
    assert np.isfinite(maps.z).all()
    assert NetworkRule.from_text("bonferroni", 1e-9).select(maps).tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("n_drifts", [0, 1])
def test_the_order_as_it_was_gives_the_map_as_it_was(n_drifts: int) -> None:
    run = run_of(["on", "off", "off", "on", "on"], np.random.default_rng(4).normal(size=(5, 3)), n_drifts)
    orders = SharedTexts.from_runs([run], 600).exchange(run, slice(0, 600), np.random.default_rng(6))
    (drawn,) = relabelled([run], 600, np.random.default_rng(6))
    unmoved = (orders == np.arange(5)).all(1)
    assert unmoved.any()
    observed = RunSums.from_runs([run]).pooled([1]).t
    assert drawn[unmoved] == pytest.approx(np.repeat(observed, unmoved.sum(), axis=0))


@pytest.mark.parametrize("n_drifts", [0, 2])
def test_exchanges_are_refitted_with_all_else_in_the_model(n_drifts: int) -> None:
    rng = np.random.default_rng(5)
    kinds = ["on", "off", "off", "on", "on", "off", "off", "on", "off"]
    run = run_of(kinds, rng.normal(size=(9, 3)), n_drifts)
    (drawn,) = relabelled([run], 40, np.random.default_rng(6))
    texts = SharedTexts.from_runs([run], 40)
    orders = texts.exchange(run, slice(0, 40), np.random.default_rng(6))
    for t, order in zip(drawn, orders, strict=True):
        moved = replace(run, effects=run.residuals[np.argsort(order)])
        refitted = RunSums.from_runs([moved]).pooled([1])
        assert t == pytest.approx(refitted.t[0])


def test_exchanges_without_effect_are_students_t() -> None:
    rng = np.random.default_rng(7)
    runs = [run_of(["on", "off"] * 8, rng.normal(size=(16, 300)), n_drifts) for n_drifts in (0, 4)]
    drawn = np.concatenate(list(relabelled(runs, 41, rng)))
    dof = RunSums.from_runs(runs).pooled([1, 1]).dof[0]
    assert drawn.shape == (41, 300)
    assert drawn.mean() == pytest.approx(0, abs=0.05)
    assert drawn.var() == pytest.approx(dof / (dof - 2), rel=0.05)


def test_a_text_changes_sides_wherever_it_is_shown() -> None:
    rng = np.random.default_rng(8)
    kinds = ["on", "off"] * 6
    shared = [f"base {place}" if kind == "off" else f"{place}" for place, kind in enumerate(kinds)]
    others = [text if "base" in text else f"other {text}" for text in shared]
    flipped = Contrast.from_expression("off - on")
    runs = [
        run_of(kinds, rng.normal(size=(12, 3)), 0, contrast, texts)
        for contrast, texts in ((ON_OFF, shared), (flipped, others))
    ]
    texts = SharedTexts.from_runs(runs, 50)
    assert len(texts.columns) == 6
    first, second = (
        np.sign(run.regressor[texts.exchange(run, slice(0, 50), rng)]) * np.sign(run.regressor) for run in runs
    )
    off = np.array(kinds) == "off"
    assert (first[:, off] == second[:, off]).all()
    assert (first[:, ~off] != second[:, ~off]).any()
    assert len(np.unique(first, axis=0)) > 30


@pytest.mark.parametrize("shared_are_known", [True, False])
def test_a_baseline_in_common_is_no_overlap(shared_are_known: bool) -> None:  # noqa: FBT001
    rng = np.random.default_rng(11)
    kinds, rule, p_values = ["on", "off"] * 8, NetworkRule.from_text("10%"), []
    for _ in range(80):
        first, second = rng.normal(size=(2, 16, 300))
        second[1::2] = first[1::2]
        texts = [[f"{place}" if place % 2 else f"{task} {place}" for place in range(16)] for task in "ab"]
        runs = [
            run_of(kinds, effects, 0, ON_OFF, stimuli) for effects, stimuli in zip((first, second), texts, strict=True)
        ]
        shared = SharedTexts.from_runs(runs, 39) if shared_are_known else None
        drawn = [rule.select(Maps(t, t, t[:, 0])) for run in runs for t in relabelled([run], 39, rng, shared)]
        networks = [rule.select(RunSums.from_runs([run]).pooled([1]))[0] for run in runs]
        p_values.append(float(p_at_least((networks[0] & networks[1]).sum(), (drawn[0] & drawn[1]).sum(1), rng)))
    assert (stats.kstest(p_values, "uniform").pvalue > 0.01) == shared_are_known


@pytest.mark.parametrize("expression", ["on - off", "on - other", "2*on - off - other"])
def test_orders_are_exchanges(expression: str) -> None:
    kinds = ["on", "off", "other", "off", "on", "other", "on"]
    run = run_of(kinds, np.ones((7, 2)), 0, Contrast.from_expression(expression))
    orders = SharedTexts.from_runs([run, run], 3000).exchange(run, slice(0, 3000), np.random.default_rng(9))
    assert (np.sort(orders, axis=1) == np.arange(7)).all()
    often = np.array([(orders == row).mean(0) for row in range(7)])
    assert often == pytest.approx(np.full((7, 7), 1 / 7), abs=0.04)


@pytest.mark.parametrize(
    ("text", "name", "level", "label"),
    [
        ("1%", "top", 0.01, "top 1%"),
        ("0.005", "top", 0.005, "top 0.5%"),
        ("fdr", "fdr", 0.03, "fdr .03"),
        ("none", "none", 0.03, "none .03"),
    ],
)
def test_rules_are_read_as_one_writes_them(text: str, name: str, level: float, label: str) -> None:
    rule = NetworkRule.from_text(text, 0.03, "positive")
    assert rule == NetworkRule(name, level, "positive")
    assert rule.label == label


@pytest.mark.parametrize("text", ["many", "", "%", "0", "100%", "-1%", "nan", "inf", "1e3%"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(InferenceError, match=r"rule|level"):
        NetworkRule.from_text(text)


def test_a_level_or_tail_that_is_none_is_refused() -> None:
    with pytest.raises(InferenceError, match="level 1 found"):
        NetworkRule.from_text("fdr", 1.0)
    with pytest.raises(InferenceError, match="tail 'both' found"):
        NetworkRule.from_text("fdr", 0.05, "both")  # type: ignore[arg-type]
    with pytest.raises(InferenceError, match="rule 'maxt' found"):
        NetworkRule("maxt", 0.05)


def test_networks_of_a_share() -> None:
    t = np.array([[3.0, -4.0, 3.0, 1.0, 0.0, -5.0, 3.0, 2.0], [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0]])
    maps = Maps(t, t, np.array([9.0, 9.0]))
    chosen = {
        tail: [np.flatnonzero(row).tolist() for row in NetworkRule("top", 3 / 8, tail).select(maps)]
        for tail in ("two", "positive", "negative")
    }
    assert chosen == {
        "two": [[0, 1, 5], [5, 6, 7]],  # of equal ones the first
        "positive": [[0, 2, 6], []],  # never of the other side
        "negative": [[1, 5], [5, 6, 7]],  # never 0
    }
    assert NetworkRule.from_text("1%").select(maps).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("text", ["fdr", "bonferroni", "none"])
@pytest.mark.parametrize("tail", ["two", "positive", "negative"])
def test_networks_of_a_test(text: str, tail: str) -> None:
    rng = np.random.default_rng(10)
    t = np.concatenate([rng.normal(4, 1, (2, 10)), rng.normal(size=(2, 33)), -rng.normal(4, 1, (2, 7))], axis=1)
    maps = Maps(t, t, np.array([11.0, 40.0]))
    networks = NetworkRule.from_text(text, 0.05, tail).select(maps)  # type: ignore[arg-type]
    for row, p in zip(networks, maps.p(tail), strict=True):  # type: ignore[arg-type]
        steps = {"fdr": 0.05 * np.arange(1, 51) / 50, "bonferroni": np.full(50, 0.001), "none": np.full(50, 0.05)}[text]
        below = np.flatnonzero(np.sort(p) <= steps)
        assert row.tolist() == (p <= np.sort(p)[below.max()]).tolist()
        assert 0 < row.sum() < 30
    nothing = Maps(t * np.nan, t * np.nan, maps.dof)
    assert not NetworkRule.from_text(text, 0.05, tail).select(nothing).any()  # type: ignore[arg-type]


def test_largest_and_ranks() -> None:
    values = np.array([[1.0, 5.0, 5.0, -2.0], [0.0, np.nan, -1.0, 3.0]])
    assert ranks(values).tolist() == [[2, 0, 1, 3], [1, 3, 2, 0]]
    assert largest(values, [2, 3]).tolist() == [[False, True, True, False], [True, False, True, True]]
    assert strength(values[0], "negative").tolist() == [-1, -5, -5, 2]


def test_too_few_prompts_and_f_tests_are_refused() -> None:
    run = run_of(["on", "off", "on"], np.arange(6.0).reshape(3, 2) ** 2, 1)
    with pytest.raises(InferenceError, match="no prompt left for the noise"):
        RunSums.from_runs([run]).pooled([1])
    with pytest.raises(InferenceError, match="no prompt left for the noise"):
        next(relabelled([run], 5, np.random.default_rng(0)))
    longer = run_of(["on", "off"] * 4, np.arange(16.0).reshape(8, 2) ** 2)
    with pytest.raises(InferenceError, match="no prompt left for the noise"):
        RunSums.from_runs([longer, run]).pooled([[1, 1], [0, 0]])
    with pytest.raises(InferenceError, match="is an F test"):
        run_of(["on", "off"] * 4, np.ones((8, 2)), 0, replace(ON_OFF, test="F"))


@pytest.mark.parametrize(("name", "session"), [("ses-02_run-01", "02"), ("run-03", ""), ("ses-a", "a")])
def test_the_session_of_a_run(name: str, session: str) -> None:
    assert replace(run_of(["on", "off"] * 2, np.ones((4, 1))), run=name).session == session
