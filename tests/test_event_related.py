"""Slopes over modulators and answers in bins of tokens: equal to OLS by hand, and calibrated over prompts."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from nilearn.glm.contrasts import compute_contrast
from nilearn.glm.first_level import run_glm
from scipy import stats

from llm2bids.bids.runs import frame_times
from llm2bids.design.matrix import prompt_design
from llm2bids.design.statsmodel import Contrast
from llm2bids.design.within_prompts import with_bins, with_slopes
from llm2bids.errors import DesignError, InferenceError
from llm2bids.statistics.correction import flips_signs, max_t
from llm2bids.statistics.first_level import first_level
from llm2bids.statistics.second_level import check, second_level
from llm2bids.statistics.settings import GLMSettings

from .event_related_cases import (
    BINS,
    DELAYS,
    POSITION,
    SLOPES,
    SURPRISAL,
    Run,
    analysis_of,
    by_prompt,
    contrast,
    fitted,
    model,
    refused,
    run_of,
    slopes_by_hand,
    vars_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


# ---- numbers


def test_slopes_are_those_of_least_squares_prompt_by_prompt() -> None:
    run = run_of(0, 7, lengths=[9, 12, 10, 14, 12, 11, 8, 13], spread=1.0)
    contrasts = [contrast("mean", on_x_surprisal=1), contrast("differ", on_x_surprisal=1, off_x_surprisal=-1)]
    result = fitted(run, model(SURPRISAL, SLOPES, *contrasts), level="prompt-mean")
    slopes, on = slopes_by_hand(run)[:, 0], np.array(run.trial_types) == "on"
    one_sample, two = stats.ttest_1samp(slopes[on], 0), stats.ttest_ind(slopes[on], slopes[~on])
    np.testing.assert_allclose(result.maps["mean"].effect, slopes[on].mean(0), rtol=1e-9)
    np.testing.assert_allclose(result.maps["mean"].stat, one_sample.statistic, rtol=1e-9)
    np.testing.assert_allclose(result.maps["differ"].stat, two.statistic, rtol=1e-9)
    assert (result.maps["mean"].dof, result.maps["differ"].dof) == (on.sum() - 1, len(on) - 2)
    assert list(result.designs["contrast-mean"]) == ["trial_type.on"]
    assert result.sample_fields["mean"] == {
        "EffectOf": "slope over tok_surprisal", "Kinds": {"tok_surprisal": 1.0}, "NumberOfPrompts": 4, "NumberOfSamples": 4,
    }  # fmt: skip


def test_slopes_over_two_modulators_are_of_one_model() -> None:
    run = run_of(1, 5, spread=1.0)
    fields = model([*SURPRISAL, *POSITION], [*SLOPES, "*_x_position"], contrast("c", on_x_position=1))
    maps = fitted(run, fields, level="prompt-mean").maps["c"]
    on = np.array(run.trial_types) == "on"
    by_hand = slopes_by_hand(run, ["tok_surprisal", "tok_position"])[on, 1]
    np.testing.assert_allclose(maps.stat, stats.ttest_1samp(by_hand, 0).statistic, rtol=1e-8)


def test_mean_effects_do_not_depend_on_modulators_or_bins() -> None:
    runs = [run_of(seed, 6, label=f"run-0{seed}", spread=1.0) for seed in (1, 2)]
    level = contrast("level", on=1, off=-1)
    plain = fitted(runs, model([], ["trial_type.*"], level))
    more = fitted(runs, model(SURPRISAL, SLOPES, level, contrast("slope", on_x_surprisal=1)))
    np.testing.assert_allclose(plain.maps["level"].z, more.maps["level"].z, rtol=1e-12)
    bins = fitted(runs, model([BINS], DELAYS, contrast("bin", on_delay_0=1, off_delay_0=-1)))
    for maps in (more, bins):
        np.testing.assert_array_equal(plain.effects, maps.effects)
        pd.testing.assert_frame_equal(plain.prompts, maps.prompts)
        pd.testing.assert_frame_equal(plain.designs["prompts"], maps.designs["prompts"], check_like=True)


def test_bins_are_means_of_their_tokens() -> None:
    runs = [run_of(seed, 5, lengths=[12, 9, 14, 10] * 3, label=f"run-0{seed}", spread=1.0) for seed in (1, 2)]
    contrasts = [
        contrast("level", on_delay_4=1, off_delay_4=-1),
        contrast("within", on_delay_0=0.5, off_delay_0=0.5, on_delay_8=-0.5, off_delay_8=-0.5),
    ]
    maps = fitted(runs, model([BINS], DELAYS, *contrasts), level="prompt-mean").maps
    bins = [
        [run.activity[scans][first : first + 4].mean(0) for scans in by_prompt(run)]
        for first in (0, 4, 8)
        for run in runs
    ]
    zero, four, eight = (np.concatenate([bins[2 * number], bins[2 * number + 1]]) for number in range(3))
    on = np.concatenate([np.array(run.trial_types) == "on" for run in runs])
    design = pd.DataFrame({"on": on, "first": np.arange(24) < 12, "second": np.arange(24) >= 12}).astype(float)
    labels, results = run_glm(four, design.to_numpy(), noise_model="ols")
    by_hand = compute_contrast(labels, results, np.array([1.0, 0, 0]), stat_type="t")
    np.testing.assert_allclose(maps["level"].stat, np.ravel(by_hand.stat()), rtol=1e-8)
    np.testing.assert_allclose(maps["within"].effect, (zero - eight).mean(0), rtol=1e-8)
    assert maps["within"].dof == 24 - 2, "each condition has a mean of its own"


def test_tokens_after_the_last_bin_are_none_of_it() -> None:
    run = run_of(3, 4, lengths=[15] * 8)
    run.activity[np.tile(np.arange(15) >= 12, 8)] += 1000.0
    result = fitted(run, model([BINS], DELAYS, contrast("c", on_delay_8=1, off_delay_8=-1)))
    assert np.abs(result.maps["c"].effect).max() < 10


def test_short_prompts_give_no_sample_to_bins_that_they_do_not_reach() -> None:
    run = run_of(4, 3, lengths=[12, 6, 12, 12, 5, 12, 12, 12, 12, 12])
    contrasts = [contrast("early", on_delay_4=1, off_delay_4=-1), contrast("late", on_delay_8=1, off_delay_8=-1)]
    result = fitted(run, model([BINS], DELAYS, *contrasts), level="prompt-mean")
    assert [result.sample_fields[name]["PromptsWithoutTokens"] for name in ("early", "late")] == [0, 2]
    assert [result.sample_fields[name]["NumberOfSamples"] for name in ("early", "late")] == [10, 8]
    long = np.array(run.lengths) > 8
    last = np.array(
        [run.activity[scans][8:].mean(0) for scans, is_long in zip(by_prompt(run), long, strict=True) if is_long]
    )
    on = (np.array(run.trial_types) == "on")[long]
    np.testing.assert_allclose(result.maps["late"].stat, stats.ttest_ind(last[on], last[~on]).statistic, rtol=1e-8)
    assert len(result.designs["contrast-late"]) == 8
    none = run_of(4, 3, lengths=[8] * 10)
    message = "no prompt of sub-x is of one condition of contrast late and has a token for delay 8; ask for earlier"
    refused(DesignError, message, none, model([BINS], DELAYS, contrasts[1]))


def test_texts_shown_again_are_one_sample() -> None:
    runs = [run_of(5, 4, spread=1.0), run_of(5, 4, spread=1.0, label="run-02")]
    runs = [Run(**{**vars_of(run), "texts": tuple(f"text {number}" for number in range(24))}) for run in runs]
    fields = model(SURPRISAL, SLOPES, contrast("c", on_x_surprisal=1))
    once, twice = fitted(runs[0], fields), fitted(runs, fields)
    assert (twice.sample_fields["c"]["NumberOfPrompts"], twice.sample_fields["c"]["NumberOfSamples"]) == (24, 12)
    np.testing.assert_allclose(once.maps["c"].stat, twice.maps["c"].stat, rtol=1e-8)
    refused(InferenceError, "24 prompts in more than one run", runs, fields, inference="run")


def test_runs_apart_are_weighed_by_their_precision() -> None:
    runs = [run_of(seed, 5, label=f"run-0{seed}", spread=1.0) for seed in (1, 2)]
    result = fitted(
        runs, model(SURPRISAL, SLOPES, contrast("c", on_x_surprisal=1)), inference="run", level="prompt-mean"
    )
    alone = [slopes_by_hand(run)[np.array(run.trial_types) == "on", 0] for run in runs]
    weights = [1 / (slopes.var(0, ddof=1) / len(slopes)) for slopes in alone]
    by_hand = sum(weight * slopes.mean(0) for weight, slopes in zip(weights, alone, strict=True)) / sum(weights)
    np.testing.assert_allclose(result.maps["c"].effect, by_hand, rtol=1e-8)
    assert {"run-01", "run-01_contrast-c", "run-02_contrast-c"} <= set(result.designs)


@pytest.mark.parametrize("kind", ["product", "fir"])
def test_tokens_equal_nilearn_by_hand(kind: str) -> None:
    run = run_of(6, 5, lengths=[14, 9, 12, 13, 12, 12, 10, 12])
    on = np.repeat(np.array(run.trial_types) == "on", run.lengths).astype(float)
    place = run.tokens["tok_position"].to_numpy() // 4
    if kind == "product":
        surprisal = run.tokens["tok_surprisal"].to_numpy()
        columns = [on, 1 - on, on * surprisal, (1 - on) * surprisal, np.ones_like(on)]
        weights = [0, 0, 1, -1, 0]
        fields = model(SURPRISAL, SLOPES, contrast("c", on_x_surprisal=1, off_x_surprisal=-1))
    else:
        columns = [side * (place == number) for side in (1 - on, on) for number in range(4)]
        columns.append(np.ones_like(on))
        weights = [0, -1, 0, 0, 0, 1, 0, 0, 0]
        fields = model([BINS], DELAYS, contrast("c", on_delay_4=1, off_delay_4=-1))
    labels, results = run_glm(run.activity, np.column_stack(columns), noise_model="ar1")
    by_hand = compute_contrast(labels, results, np.array(weights, float), stat_type="t")
    result = fitted(run, fields, inference="token")
    np.testing.assert_allclose(result.maps["c"].z, by_hand.z_score(), atol=1e-9)
    if kind == "fir":
        assert [name for name in result.designs["run-01"] if name.endswith("later")] == [
            "trial_type.off_later",
            "trial_type.on_later",
        ]


# ---- what is planted is recovered, and nothing else


def test_planted_slopes_and_bins_are_recovered_without_bias() -> None:
    """Two hundred units with one truth: their mean is within three standard errors of it."""
    run = run_of(7, 200, slope=0.25, spread=0.4)
    slope_contrasts = contrast("slope", on_x_surprisal=1), contrast("differ", on_x_surprisal=1, off_x_surprisal=-1)
    slopes = fitted(run, model(SURPRISAL, SLOPES, *slope_contrasts)).maps
    bin_contrasts = [
        contrast(f"bin{delay}", **{f"on_delay_{delay}": 1, f"off_delay_{delay}": -1}) for delay in (0, 4, 8)
    ]
    flat = run_of(8, 200, in_bin=0.8, spread=0.4)
    bins = fitted(flat, model([BINS], DELAYS, *bin_contrasts)).maps
    planted = {"slope": 0.25, "differ": 0.25, "bin0": 0.0, "bin4": 0.8, "bin8": 0.0}
    for name, truth in planted.items():
        effects = (slopes | bins)[name].effect
        assert abs(effects.mean() - truth) < 3 * effects.std() / np.sqrt(len(effects)), name
    assert (slopes["slope"].p("two") < 0.01).mean() > 0.9


@pytest.fixture(scope="module")
def null() -> list[Run]:
    """Two runs without a true slope or bin, but whose prompts differ in means and slopes."""
    return [run_of(seed, 400, label=f"run-{seed:02d}", spread=0.6) for seed in (11, 12)]


def null_rates(runs: Sequence[Run], fields: dict[str, Any], n_designs: int, **settings: Any) -> dict[str, float]:
    """Share of p < .05 over units and random labels, by contrast."""
    analysis = analysis_of(runs, fields, **settings)
    check(analysis)
    first = first_level(analysis)
    rng, rates = np.random.default_rng(5), []
    for _ in range(n_designs):
        labels = [tuple(map(str, rng.permutation(run.trial_types))) for run in runs]
        relabelled = [
            Run(**vars_of(run) | {"trial_types": trial_types}) for run, trial_types in zip(runs, labels, strict=True)
        ]
        maps = second_level(analysis_of(relabelled, fields, **settings), first).maps
        rates.append({name: float((contrast_maps.p("two") < 0.05).mean()) for name, contrast_maps in maps.items()})
    return pd.DataFrame(rates).mean().to_dict()


def test_nothing_is_found_over_prompts_where_nothing_is(null: list[Run]) -> None:
    """At one seed; 400 units by 25 designs."""
    slopes = model(SURPRISAL, SLOPES, contrast("mean", on_x_surprisal=1),
                   contrast("differ", on_x_surprisal=1, off_x_surprisal=-1))  # fmt: skip
    bins = model(
        [BINS], DELAYS, contrast("bin", on_delay_4=1, off_delay_4=-1), contrast("within", on_delay_0=1, on_delay_8=-1)
    )
    rates = null_rates(null, slopes, 25) | null_rates(null, bins, 25)
    assert all(0.04 <= rate <= 0.06 for rate in rates.values()), rates


def test_tokens_find_slopes_where_there_are_none(null: list[Run]) -> None:
    fields = model(SURPRISAL, SLOPES, contrast("c", on_x_surprisal=1, off_x_surprisal=-1))
    assert (fitted(null, fields, inference="token").maps["c"].p("two") < 0.05).mean() > 0.1


def test_permutation_holds_the_family_wise_error_of_mean_slopes() -> None:
    """How often the largest of 20 units is found, one-sample and over conditions of unequal size."""
    over, alone = Contrast("both", ("on", "off"), ((0.5, 0.5),)), Contrast("one", ("on",), ((1.0,),))
    hits = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        design = pd.DataFrame({"on": np.arange(20) < 7, "off": np.arange(20) >= 7}).astype(float)
        values = rng.standard_t(6, (20, 20))
        settings = GLMSettings(correction="maxt", n_permutations=100, seed=seed)
        cases = (values[:7], design[["on"]][:7], alone), (values, design, over)
        hits.append([max_t(*case, settings).min() <= 0.05 for case in cases])
    assert np.all(np.mean(hits, axis=0) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(hits)))


def test_signs_are_flipped_as_every_flip_there_is() -> None:
    rng = np.random.default_rng(3)
    design = pd.DataFrame({"on": np.arange(10) < 3, "off": np.arange(10) >= 3}).astype(float)
    values = rng.normal([0.0, 0.3, 0.6, 1.2], 1, (10, 4))
    mean = Contrast("both", ("on", "off"), ((0.5, 0.5),))
    p = max_t(values, design, mean, GLMSettings(correction="maxt", n_permutations=4000, seed=1))
    matrix = design.to_numpy()
    weights = np.array([0.5, 0.5])
    off_mean = matrix[:, 0] * 0.5 / 3 + matrix[:, 1] * 0.5 / 7
    nuisance = matrix @ [1 / 3 * 7, -1.0]
    nuisance -= off_mean * (nuisance @ off_mean) / (off_mean @ off_mean)
    residuals = values - np.outer(nuisance, nuisance @ values) / (nuisance @ nuisance)

    def t_of(samples: NDArray[np.float64]) -> NDArray[np.float64]:
        coefficients = np.linalg.pinv(matrix) @ samples
        rest = ((samples - matrix @ coefficients) ** 2).sum(0) / 8
        return np.abs(weights @ coefficients) / np.sqrt(rest * (weights @ np.linalg.inv(matrix.T @ matrix) @ weights))

    largest = [t_of(residuals * np.array(signs)[:, None]).max() for signs in product([1.0, -1.0], repeat=10)]
    exact = (np.array(largest)[:, None] >= t_of(values) - 1e-9).mean(0)
    np.testing.assert_allclose(p, exact, atol=0.03)
    assert p.min() < 0.1


def test_only_means_have_their_signs_flipped() -> None:
    ones = np.ones((6, 1))
    assert flips_signs(ones, np.empty((6, 0)))
    assert not flips_signs(np.array([[1.0], [-1], [1], [-1], [1], [-1]]), ones / np.sqrt(6))


def test_max_t_of_a_mean_slope_runs_through() -> None:
    run = run_of(9, 30, slope=0.5)
    contrasts = [contrast("one", on_x_surprisal=1), contrast("both", on_x_surprisal=0.5, off_x_surprisal=0.5)]
    result = fitted(run, model(SURPRISAL, SLOPES, *contrasts), correction="maxt", n_permutations=200)
    assert max(result.adjusted["one"].max(), result.adjusted["both"].max()) <= 0.05


def test_f_whose_rows_take_the_same_of_a_prompt_is_tested() -> None:
    run = run_of(10, 4, spread=1.0)
    either = contrast("any", "F", on_x_surprisal=[1, 0], off_x_surprisal=[0, 1])
    maps = fitted(run, model(SURPRISAL, SLOPES, either), level="prompt-mean").maps["any"]
    slopes, on = slopes_by_hand(run)[:, 0], np.array(run.trial_types) == "on"
    within = ((slopes[on] - slopes[on].mean(0)) ** 2).sum(0) + ((slopes[~on] - slopes[~on].mean(0)) ** 2).sum(0)
    between = on.sum() * slopes[on].mean(0) ** 2 + (~on).sum() * slopes[~on].mean(0) ** 2
    np.testing.assert_allclose(maps.stat, (between / 2) / (within / (len(on) - 2)), rtol=1e-8)


# ---- designs


def test_slopes_are_centred_within_prompts_and_left_out_where_there_are_none() -> None:
    events = pd.DataFrame({"onset": [0.0, 3, 4, 8], "duration": [3.0, 1, 4, 4], "trial_type": "a"})
    matrix, prompts = prompt_design(events, frame_times(13, 1.0))
    over = pd.DataFrame({"s": [1.0, 2, 6, 5, 7, 7, 7, 7, 1, 2, 3, 4, 9]})
    design = with_slopes(matrix, list(prompts["name"]), over)
    assert design.estimable["s"].tolist() == [True, False, False, True]
    assert list(design.matrix)[:2] == ["prompt.0001_s", "prompt.0004_s"]
    np.testing.assert_allclose(design.matrix["prompt.0001_s"], [-2, -1, 3, *[0] * 10], atol=1e-12)
    spread = design.effects_by_kind(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))["s"]
    np.testing.assert_array_equal(spread, [[1, 2, 3], [np.nan] * 3, [np.nan] * 3, [4, 5, 6]])


def test_bins_partition_the_tokens_of_prompts() -> None:
    events = pd.DataFrame({"onset": [0.0, 3, 9], "duration": [3.0, 6, 2], "trial_type": "a", "prompt": ["1", "2", "3"]})
    matrix, prompts = prompt_design(events, frame_times(11, 1.0), pd.DataFrame({"spike": np.eye(11)[9]}))
    design = with_bins(matrix, list(prompts["name"]), [0, 1, 2])
    assert design.estimable.to_numpy().tolist() == [[True] * 3, [True] * 3, [True, True, False]]
    assert design.n_effects == 8
    np.testing.assert_allclose(design.matrix.sum(axis=1), 1)
    assert list(design.matrix)[-1] == "prompt.0002_later", "the spike is a bin, so that the bin would not be estimable"
    assert design.matrix["prompt.0002_later"].sum() == 3
