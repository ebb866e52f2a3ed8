"""Designs equal nilearn's and the closed form, drift leaves the task alone, contrasts are estimable or refused."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import make_first_level_design_matrix

from llm2bids.bids.runs import frame_times
from llm2bids.design.matrix import (
    average_over_prompts,
    check_estimable,
    cosines,
    high_pass,
    partition,
    prompt_design,
    token_design,
)
from llm2bids.errors import DesignError

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = np.ndarray[Any, Any]


def events_of(kinds: Sequence[str], lengths: Sequence[int] | int, t_r: float = 1.0, gap: int = 0) -> pd.DataFrame:
    """Events one after another, lengths in scans; ``""`` is a pause."""
    lasting = [lengths] * len(kinds) if isinstance(lengths, int) else list(lengths)
    onsets = np.concatenate([[0], np.cumsum(np.add(lasting, gap))[:-1]])
    table = pd.DataFrame({"onset": onsets * t_r, "duration": np.multiply(lasting, t_r), "trial_type": list(kinds)})
    return table[table["trial_type"] != ""].reset_index(drop=True)


# ---- token designs


@pytest.mark.parametrize("cutoff", [None, 1 / 128, 0.02])
@pytest.mark.parametrize(("t_r", "n_scans"), [(1.0, 200), (2.5, 63), (0.72, 111)])
def test_conditions_and_drift_are_nilearns(t_r: float, n_scans: int, cutoff: float | None) -> None:
    rng = np.random.default_rng(3)
    onsets = np.sort(rng.uniform(0, (n_scans - 9) * t_r, 12))
    events = pd.DataFrame({"onset": onsets, "duration": rng.uniform(t_r, 9 * t_r, 12), "trial_type": [*"abcb"] * 3})
    times = np.arange(n_scans) * t_r + t_r / 2
    np.testing.assert_allclose(frame_times(n_scans, t_r), times)
    confounds = pd.DataFrame(rng.normal(size=(n_scans, 2)), columns=["tok_position", "cosine00"])
    ours = token_design(events, frame_times(n_scans, t_r), ["c", "a", "b"], confounds, cutoff)
    drift = {"drift_model": None} if cutoff is None else {"drift_model": "cosine", "high_pass": cutoff}
    expected = make_first_level_design_matrix(times, events, hrf_model=None, add_regs=confounds, **drift)
    names = [column if column in confounds else column.removeprefix("trial_type.") for column in ours]
    assert sorted(names) == sorted(expected.columns)
    np.testing.assert_allclose(ours, expected[names], atol=1e-12)
    assert list(ours)[:5] == ["trial_type.c", "trial_type.a", "trial_type.b", "tok_position", "cosine00"]


@pytest.mark.parametrize("n_events", [3, 40])
@pytest.mark.parametrize("t_r", [3.0, 1.0, 0.72, 0.1])
def test_a_scan_belongs_to_the_event_that_it_lies_in(t_r: float, n_events: int) -> None:
    rng = np.random.default_rng(n_events)
    kinds, lengths = rng.choice([*"ab", ""], n_events), rng.integers(1, 12, n_events)
    kinds[:3] = [*"ab", ""]
    conditions = np.repeat(kinds, lengths)
    matrix = token_design(events_of(kinds, lengths, t_r), frame_times(len(conditions), t_r), ["a", "b"])
    np.testing.assert_allclose(matrix["trial_type.a"], conditions == "a", atol=1e-12)
    np.testing.assert_allclose(matrix["trial_type.b"], conditions == "b", atol=1e-12)
    assert (matrix["constant"] == 1).all()


def test_conditions_not_asked_for_are_baseline_and_absent_ones_are_zero() -> None:
    matrix = token_design(events_of("aba", 4), frame_times(12, 1.0), ["b", "z"])
    assert list(matrix) == ["trial_type.b", "trial_type.z", "constant"]
    np.testing.assert_allclose(matrix["trial_type.b"], np.repeat([0, 1, 0], 4))
    assert (matrix["trial_type.z"] == 0).all()


# ---- prompt designs


def test_every_prompt_has_a_column_of_its_scans() -> None:
    events = events_of("aabb", [3, 2, 4, 5]).assign(prompt=["07", "3", "x", "1"], block=["1", "1", "2", "2"])
    matrix, prompts = prompt_design(events, frame_times(14, 1.0))
    np.testing.assert_allclose(matrix, np.repeat(np.eye(4), [3, 2, 4, 5], axis=0), atol=1e-12)
    assert prompts.to_dict("list") == {
        "name": list(matrix.columns),
        "prompt": ["07", "3", "x", "1"],
        "n_scans": [3, 2, 4, 5],
        "trial_type": [*"aabb"],
        "block": ["1", "1", "2", "2"],
    }


def test_events_of_one_prompt_share_a_column_and_gaps_bring_a_constant() -> None:
    events = events_of("aba" + "bb" + "c", [1, 2, 3, 2, 2, 4], gap=1).assign(prompt=["1", "1", "1", "2", "2", "3"])
    confounds = pd.DataFrame({"tok_position": np.arange(20)}, index=range(5, 25))
    matrix, prompts = prompt_design(events, frame_times(20, 1.0), confounds)
    assert list(matrix) == ["prompt.0001", "prompt.0002", "prompt.0003", "tok_position", "constant"]
    prompt_of_scan = np.repeat([1, 0, 1, 0, 1, 0, 2, 0, 2, 0, 3, 0], [1, 1, 2, 1, 3, 1, 2, 1, 2, 1, 4, 1])
    np.testing.assert_allclose(matrix.iloc[:, :3], np.equal.outer(prompt_of_scan, [1, 2, 3]), atol=1e-12)
    assert matrix["tok_position"].tolist() == list(range(20))
    assert prompts[["trial_type", "n_scans"]].to_numpy().tolist() == [["n/a", 6], ["b", 4], ["c", 4]]


def test_without_numbers_every_event_is_a_prompt() -> None:
    matrix, prompts = prompt_design(events_of("aaa", 2), frame_times(6, 1.0))
    assert (prompts["prompt"].tolist(), matrix.shape) == (["1", "2", "3"], (6, 3))
    assert "block" not in prompts


def test_a_prompt_between_scans_has_no_effect_that_could_be_estimated() -> None:
    events = pd.DataFrame({"onset": [0.0, 2.6, 3.0], "duration": [2.0, 0.3, 2.0], "trial_type": "a"})
    matrix, prompts = prompt_design(events, frame_times(5, 1.0))
    assert prompts["n_scans"].tolist() == [2, 0, 2]
    with pytest.raises(DesignError, match=r"prompts cannot be estimated: column prompt.0002 is 0; leave"):
        check_estimable(matrix, np.eye(3, 4), "prompts")


def test_averages_over_prompts_are_means_of_their_scans() -> None:
    events = events_of("aab", [3, 2, 4], gap=1)
    matrix, prompts = prompt_design(events, frame_times(12, 1.0))
    tokens = pd.DataFrame(np.random.default_rng(0).normal(size=(12, 2)), columns=["x", "y"])
    prompt_of_scan = [1, 1, 1, 0, 2, 2, 0, 3, 3, 3, 3, 0]
    expected = tokens.groupby(prompt_of_scan).mean().iloc[1:]
    means = average_over_prompts(tokens, matrix[prompts["name"]])
    np.testing.assert_allclose(means, expected)
    assert (list(means.index), list(means.columns)) == (prompts["name"].tolist(), ["x", "y"])


# ---- drift


@pytest.mark.parametrize(
    ("kinds", "length", "n_seconds", "period"),
    [
        ("aabb" * 3, 50, 600, 400),  # blocks of 100 s, a cycle of 200 s
        ("ab" * 3, 20, 120, 128),  # a cycle of 40 s: no faster than usual
        ("abaab", 100, 500, 600),  # b comes back after 300 s
        ("aab", 100, 300, 1200),  # a single block of each: no drift is slow enough for the run
        ("a", 100, 300, 1200),
        (["a", "n/a"] * 3, 100, 600, 400),  # rest between blocks
        (["n/a", "n/a"], 100, 200, None),
    ],
)
def test_drift_is_twice_as_slow_as_the_longest_cycle(
    kinds: Sequence[str], length: int, n_seconds: float, period: float | None
) -> None:
    cutoff = high_pass([events_of(kinds, length)], [n_seconds])
    assert cutoff == (period if period is None else pytest.approx(1 / period))


def test_the_longest_cycle_of_all_runs_counts() -> None:
    runs = [events_of("ab" * 3, 100), events_of(["n/a"], 50), events_of("ab" * 2, 150)]
    assert high_pass(runs, [600, 50, 600]) == pytest.approx(1 / 600)
    assert high_pass([], []) is None


@pytest.mark.parametrize("seed", range(3))
def test_drift_leaves_most_of_the_task(seed: int) -> None:
    kinds = [*"ab" * 5] if seed else np.random.default_rng(seed).permutation([*"aaaabbbb"]).tolist()
    events = events_of(kinds, 100 + 20 * seed)
    n_seconds = float(events["duration"].sum())
    times = frame_times(int(n_seconds), 1.0)
    task = token_design(events, times, ["a"])["trial_type.a"].to_numpy()
    task = task - task.mean()

    def kept(cutoff: float | None) -> float:
        drift = cosines(times, cutoff).to_numpy()
        residuals = task - drift @ np.linalg.lstsq(drift, task, rcond=None)[0]
        return float((residuals**2).sum() / (task**2).sum())

    assert kept(high_pass([events], [n_seconds])) > 0.7
    assert kept(0.01) < 0.3, "nilearn's default removes it"


def test_cosines_are_orthogonal_slow_and_numbered() -> None:
    drift = cosines(frame_times(500, 2.0), 1 / 128)
    assert list(drift)[:2] == ["cosine00", "cosine01"]
    assert drift.shape == (500, 15)  # half-cycles in 1000 s, none faster than 128 s for two: 2 * 1000 / 128
    gram = drift.T @ drift
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
    assert cosines(frame_times(7, 2.0), None).shape == (7, 0)
    assert cosines(frame_times(7, 2.0), 1 / 128).shape == (7, 0)
    assert cosines(frame_times(1, 2.0), 1 / 128).shape == (1, 0)


def test_a_cutoff_that_leaves_nothing_is_refused() -> None:
    assert cosines(frame_times(8, 2.0), 0.24).shape == (8, 7)
    with pytest.raises(
        DesignError, match=r"cutoff of 0.25 Hz found, which leaves nothing of scans of 2 s; choose a lower"
    ):
        cosines(frame_times(8, 2.0), 0.25)


# ---- contrasts

DESIGNS = [(20, 4, 4), (20, 5, 3), (6, 9, 4), (9, 9, 2), (3, 1, 1)]


def design_of(n_rows: int, n_columns: int, rank: int) -> Array:
    """Noise of some rank, in columns of very different units."""
    rng = np.random.default_rng(n_rows + n_columns)
    values = rng.normal(size=(n_rows, rank)) @ rng.normal(size=(rank, n_columns))
    return np.asarray(values * 10.0 ** rng.integers(-4, 7, n_columns))


@pytest.mark.parametrize(("n_rows", "n_columns", "rank"), DESIGNS)
def test_contrasts_of_rows_can_be_estimated_and_those_of_the_null_space_cannot(
    n_rows: int, n_columns: int, rank: int
) -> None:
    values = design_of(n_rows, n_columns, rank)
    matrix = pd.DataFrame(values, columns=[f"column{number}" for number in range(n_columns)])
    check_estimable(matrix, values[:2] * 1e-3, "rows")
    scale = np.linalg.norm(values, axis=0)
    null = np.linalg.svd(values / scale)[2][rank:]
    for weights in null:
        with pytest.raises(DesignError, match=r"c in run-01 cannot be estimated: columns column.* are collinear"):
            check_estimable(matrix, np.stack([values[0], values[0] + weights * scale]), "c in run-01")
    assert len(null) == n_columns - rank


def conditions(n_each: int = 5) -> pd.DataFrame:
    """Two conditions that fill the run with a constant; a confound and its copy; a condition that does not occur."""
    on = np.repeat([0.0, 1.0, 0.0, 1.0], n_each)
    position = np.tile(np.arange(n_each), 4)
    return pd.DataFrame({"on": on, "off": 1 - on, "p": position, "q": 1e6 * position, "z": 0.0, "constant": 1.0})


@pytest.mark.parametrize(
    ("weights", "telling"),
    [
        ([1, -1, 0, 0, 0, 0], None),
        ([1, 0, 0, 0, 0, 1], None),
        ([0, 0, 1, 1e6, 0, 0], None),
        ([1, 0, 0, 0, 0, 0], "columns on, off, constant are collinear"),
        ([0, 0, 1, 0, 0, 0], "columns p, q are collinear"),
        ([0, 0, 0, 1, 0, 0], "columns p, q are collinear"),
        ([1, -1, 0, 0, 1, 0], "column z is 0"),
    ],
)
def test_only_columns_that_a_contrast_cannot_tell_apart_are_named(weights: list[float], telling: str | None) -> None:
    contrast = np.array([weights], float)
    if telling is None:
        return check_estimable(conditions(), contrast, "x")
    with pytest.raises(
        DesignError, match=f"^x cannot be estimated: {telling}; leave one out, or ask another contrast$"
    ):
        check_estimable(conditions(), contrast, "x")
    return None


def test_checking_a_long_run_takes_no_square_of_its_length() -> None:
    matrix = conditions(5000)
    tracemalloc.start()
    check_estimable(matrix, np.array([[1.0, -1, 0, 0, 0, 0]]), "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * matrix.to_numpy().nbytes


@pytest.mark.parametrize(("n_rows", "n_columns", "rank"), DESIGNS)
def test_the_tested_column_carries_the_contrast(n_rows: int, n_columns: int, rank: int) -> None:
    values = design_of(n_rows, n_columns, rank)
    scale = np.linalg.norm(values, axis=0)
    samples = np.random.default_rng(1).normal(size=(n_rows, 6))
    contrast = values[0] + values[-1]
    expected = contrast / scale @ np.linalg.lstsq(values / scale, samples, rcond=1e-9)[0]
    tested, nuisance = partition(values, contrast)
    assert (tested.shape, nuisance.shape) == ((n_rows, 1), (n_rows, rank - 1))
    columns = np.hstack([tested, nuisance])
    np.testing.assert_allclose(np.linalg.lstsq(columns, samples, rcond=None)[0][0], expected, rtol=1e-7)
    np.testing.assert_allclose(nuisance.T @ nuisance, np.eye(rank - 1), atol=1e-9)
    np.testing.assert_allclose(tested.T @ nuisance, np.zeros((1, rank - 1)), atol=1e-9 * np.abs(tested).max())
    residuals = values / scale - columns @ np.linalg.lstsq(columns, values / scale, rcond=None)[0]
    np.testing.assert_allclose(residuals, 0, atol=1e-9)


def test_a_weak_column_beside_a_strong_one_stays_in_the_partition() -> None:
    drift = cosines(frame_times(4000, 1.0), 1 / 2000).to_numpy()
    matrix = np.column_stack([np.tile([0.0, 1.0], 2000), np.full(4000, 1e5), 1e-3 * drift])
    tested, nuisance = partition(matrix, np.eye(matrix.shape[1])[0])
    assert nuisance.shape[1] == matrix.shape[1] - 1
    samples = matrix / np.linalg.norm(matrix, axis=0)
    effect = np.linalg.lstsq(np.hstack([tested, nuisance]), samples, rcond=None)[0][0]
    np.testing.assert_allclose(effect, [1 / np.sqrt(2000), *[0.0] * (matrix.shape[1] - 1)], atol=1e-9)
