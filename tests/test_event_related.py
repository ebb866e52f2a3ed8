"""Slopes over modulators and answers in bins of tokens: equal to OLS by hand, calibrated over prompts, or refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from nilearn.glm.contrasts import compute_contrast
from nilearn.glm.first_level import run_glm
from scipy import stats

from llm2bids.bids.tables import read_json, read_tsv, write_json
from llm2bids.design import frame_times, prompt_design
from llm2bids.errors import DesignError, InferenceError, LLM2BIDSError, StatsModelError
from llm2bids.glm import glm
from llm2bids.glm.analysis import Analysis
from llm2bids.glm.estimate import check, estimate, first_level, second_level
from llm2bids.glm.fit import flips_signs, max_t
from llm2bids.glm.kinds import Weighing, with_bins, with_slopes
from llm2bids.glm.settings import Settings
from llm2bids.prep import prep
from llm2bids.record import record
from llm2bids.regressors import MEAN, Column
from llm2bids.statsmodel import Contrast, StatsModel
from llm2bids.validate import validate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.glm import Finding
    from llm2bids.glm.estimate import Fitted

OFF_ON = ("off", "on")
FACTOR = {"Name": "Factor", "Input": ["trial_type"]}
SURPRISAL = [
    {"Name": "Product", "Input": [f"trial_type.{name}", "tok_surprisal"], "Output": [f"{name}_x_surprisal"]}
    for name in OFF_ON
]
POSITION = [
    {"Name": "Product", "Input": ["tok_position", f"trial_type.{name}"], "Output": f"{name}_x_position"}
    for name in OFF_ON
]
BINS = {"Name": "Convolve", "Model": "fir", "Input": ["trial_type.*"], "FIRDelays": [0, 4, 8]}
SLOPES = ["trial_type.on", "trial_type.off", "on_x_surprisal", "off_x_surprisal"]
DELAYS = [f"trial_type.{name}_delay_{delay}" for name in OFF_ON for delay in (0, 4, 8)]


def contrast(name: str, test: str = "t", **weights: Any) -> dict[str, Any]:
    """One contrast; ``on_delay_0=1`` weighs a condition or its bin, names with ``_x_`` a product."""
    columns = [column if "_x_" in column else f"trial_type.{column}" for column in weights]
    rows = list(weights.values())
    return {
        "Name": name,
        "ConditionList": columns,
        "Weights": np.transpose(rows).tolist() if test == "F" else rows,
        "Test": test,
    }


def model(steps: Sequence[dict[str, Any]], x: Sequence[str], *contrasts: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a model."""
    transformations = {"Transformer": "pybids-transforms-v1", "Instructions": [FACTOR, *steps]}
    node = {"Level": "Run", "Name": "run", "GroupBy": ["run", "subject"], "Transformations": transformations,
            "Model": {"Type": "glm", "X": list(x)}, "Contrasts": list(contrasts)}  # fmt: skip
    return {"Name": "m", "BIDSModelVersion": "1.0.0", "Nodes": [node]}


# ---- runs that are nowhere on disk


@dataclass(frozen=True)
class Run:
    """What an analysis asks of a run: prompts one after another, of some lengths, and what the units did."""

    label: str
    trial_types: tuple[str, ...]
    lengths: tuple[int, ...]
    tokens: pd.DataFrame
    activity: NDArray[np.float64]
    texts: tuple[str, ...] = ()
    volumes: Any = field(default_factory=lambda: SimpleNamespace(own={"HighPassHz": None}, entities={"sub": "x"}))

    @cached_property
    def times(self) -> NDArray[np.float64]:
        return frame_times(sum(self.lengths), 1.0)

    @cached_property
    def events(self) -> pd.DataFrame:
        onsets = np.cumsum([0, *self.lengths[:-1]]).astype(float)
        return pd.DataFrame(
            {"onset": onsets, "duration": np.array(self.lengths, float), "trial_type": list(self.trial_types)}
        )

    @property
    def confounds(self) -> pd.DataFrame:
        return self.tokens

    @property
    def conditions(self) -> set[str]:
        return set(self.trial_types)

    @property
    def varying(self) -> Any:
        return SimpleNamespace(selected=np.ones(self.activity.shape[1], bool))

    def stimuli(self, prompts: Sequence[str]) -> list[str]:
        return list(self.texts) or [f"{self.label}_{prompt}" for prompt in prompts]

    def signals(self, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
        return self.activity[:, kept]


def noise(rng: np.random.Generator, lengths: Sequence[int], n_units: int, rho: float = 0.5) -> NDArray[np.float64]:
    """AR(1) within each prompt, as its tokens are."""
    parts = []
    for length in lengths:
        drawn = rng.normal(size=(length, n_units))
        drawn[0] /= np.sqrt(1 - rho**2)
        for row in range(1, length):
            drawn[row] += rho * drawn[row - 1]
        parts.append(drawn)
    return np.concatenate(parts)


def run_of(
    seed: int,
    n_units: int,
    *,
    lengths: Sequence[int] = (12,) * 24,
    label: str = "run-01",
    spread: float = 0.0,
    slope: float = 0.0,
    in_bin: float = 0.0,
) -> Run:
    """Noise; `spread` varies means and slopes from prompt to prompt, `slope` and `in_bin` are planted in "on"."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.resize(OFF_ON, len(lengths)))
    position = np.concatenate([np.arange(length) for length in lengths])
    tokens = pd.DataFrame(
        {
            "tok_position": position,
            "tok_surprisal": rng.gamma(2, 2, len(position)),
            "level": np.repeat(1.0, len(position)),
        }
    )
    values = noise(rng, lengths, n_units)
    ends = np.cumsum(lengths)
    for number, (stop, length) in enumerate(zip(ends, lengths, strict=True)):
        own = slice(stop - length, stop)
        on = kinds[number] == "on"
        slopes = rng.normal(slope * on, spread / 4, n_units)
        values[own] += rng.normal(0, spread, n_units) + tokens["tok_surprisal"].to_numpy()[own, None] * slopes
        values[own][4:8] += in_bin * on
    return Run(label, tuple(map(str, kinds)), tuple(lengths), tokens, values)


def analysis_of(runs: Run | Sequence[Run], fields: dict[str, Any], **settings: Any) -> Analysis:
    chosen = {"drift": "none", **settings}
    every = (runs,) if isinstance(runs, Run) else tuple(runs)
    return Analysis(every, StatsModel.from_json(fields), Settings(**chosen))  # type: ignore[arg-type]


def fitted(runs: Run | Sequence[Run], fields: dict[str, Any], **settings: Any) -> Fitted:
    """What an analysis that passed its check comes to."""
    analysis = analysis_of(runs, fields, **settings)
    check(analysis)
    return estimate(analysis)


def by_prompt(run: Run) -> list[slice]:
    stops = np.cumsum(run.lengths)
    return [slice(stop - length, stop) for stop, length in zip(stops, run.lengths, strict=True)]


def slopes_by_hand(run: Run, names: Sequence[str] = ("tok_surprisal",)) -> NDArray[np.float64]:
    """Slopes of each prompt by least squares, shape (n_prompts, n_modulators, n_units)."""
    found = []
    for own in by_prompt(run):
        design = np.column_stack([np.ones(own.stop - own.start), run.tokens[list(names)].to_numpy()[own]])
        found.append(np.linalg.lstsq(design, run.activity[own], rcond=None)[0][1:])
    return np.array(found)


# ---- numbers


def test_slopes_are_those_of_least_squares_prompt_by_prompt() -> None:
    run = run_of(0, 7, lengths=[9, 12, 10, 14, 12, 11, 8, 13], spread=1.0)
    asked = [contrast("mean", on_x_surprisal=1), contrast("differ", on_x_surprisal=1, off_x_surprisal=-1)]
    found = fitted(run, model(SURPRISAL, SLOPES, *asked), level="prompt-mean")
    slopes, on = slopes_by_hand(run)[:, 0], np.array(run.trial_types) == "on"
    one, two = stats.ttest_1samp(slopes[on], 0), stats.ttest_ind(slopes[on], slopes[~on])
    np.testing.assert_allclose(found.maps["mean"].effect, slopes[on].mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.maps["mean"].stat, one.statistic, rtol=1e-9)
    np.testing.assert_allclose(found.maps["differ"].stat, two.statistic, rtol=1e-9)
    assert (found.maps["mean"].dof, found.maps["differ"].dof) == (on.sum() - 1, len(on) - 2)
    assert list(found.designs["contrast-mean"]) == ["trial_type.on"]
    assert found.told["mean"] == {
        "EffectOf": "slope over tok_surprisal", "Kinds": {"tok_surprisal": 1.0}, "NumberOfPrompts": 4, "NumberOfSamples": 4,
    }  # fmt: skip


def test_slopes_over_two_modulators_are_of_one_model() -> None:
    run = run_of(1, 5, spread=1.0)
    fields = model([*SURPRISAL, *POSITION], [*SLOPES, "*_x_position"], contrast("c", on_x_position=1))
    found = fitted(run, fields, level="prompt-mean").maps["c"]
    on = np.array(run.trial_types) == "on"
    by_hand = slopes_by_hand(run, ["tok_surprisal", "tok_position"])[on, 1]
    np.testing.assert_allclose(found.stat, stats.ttest_1samp(by_hand, 0).statistic, rtol=1e-8)


def test_mean_effects_do_not_depend_on_modulators_or_bins() -> None:
    runs = [run_of(seed, 6, label=f"run-0{seed}", spread=1.0) for seed in (1, 2)]
    level = contrast("level", on=1, off=-1)
    plain = fitted(runs, model([], ["trial_type.*"], level))
    more = fitted(runs, model(SURPRISAL, SLOPES, level, contrast("slope", on_x_surprisal=1)))
    np.testing.assert_allclose(plain.maps["level"].z, more.maps["level"].z, rtol=1e-12)
    bins = fitted(runs, model([BINS], DELAYS, contrast("bin", on_delay_0=1, off_delay_0=-1)))
    for other in (more, bins):
        np.testing.assert_array_equal(plain.effects, other.effects)
        pd.testing.assert_frame_equal(plain.prompts, other.prompts)
        pd.testing.assert_frame_equal(plain.designs["prompts"], other.designs["prompts"], check_like=True)


def test_bins_are_means_of_their_tokens() -> None:
    runs = [run_of(seed, 5, lengths=[12, 9, 14, 10] * 3, label=f"run-0{seed}", spread=1.0) for seed in (1, 2)]
    asked = [
        contrast("level", on_delay_4=1, off_delay_4=-1),
        contrast("within", on_delay_0=0.5, off_delay_0=0.5, on_delay_8=-0.5, off_delay_8=-0.5),
    ]
    found = fitted(runs, model([BINS], DELAYS, *asked), level="prompt-mean").maps
    bins = [
        [run.activity[own][first : first + 4].mean(0) for own in by_prompt(run)] for first in (0, 4, 8) for run in runs
    ]
    zero, four, eight = (np.concatenate([bins[2 * number], bins[2 * number + 1]]) for number in range(3))
    on = np.concatenate([np.array(run.trial_types) == "on" for run in runs])
    design = pd.DataFrame({"on": on, "first": np.arange(24) < 12, "second": np.arange(24) >= 12}).astype(float)
    labels, results = run_glm(four, design.to_numpy(), noise_model="ols")
    by_hand = compute_contrast(labels, results, np.array([1.0, 0, 0]), stat_type="t")
    np.testing.assert_allclose(found["level"].stat, np.ravel(by_hand.stat()), rtol=1e-8)
    np.testing.assert_allclose(found["within"].effect, (zero - eight).mean(0), rtol=1e-8)
    assert found["within"].dof == 24 - 2, "each condition has a mean of its own"


def test_tokens_after_the_last_bin_are_none_of_it() -> None:
    run = run_of(3, 4, lengths=[15] * 8)
    run.activity[np.tile(np.arange(15) >= 12, 8)] += 1000.0
    found = fitted(run, model([BINS], DELAYS, contrast("c", on_delay_8=1, off_delay_8=-1)))
    assert np.abs(found.maps["c"].effect).max() < 10


def test_short_prompts_give_no_sample_to_bins_that_they_do_not_reach() -> None:
    run = run_of(4, 3, lengths=[12, 6, 12, 12, 5, 12, 12, 12, 12, 12])
    asked = [contrast("early", on_delay_4=1, off_delay_4=-1), contrast("late", on_delay_8=1, off_delay_8=-1)]
    found = fitted(run, model([BINS], DELAYS, *asked), level="prompt-mean")
    assert [found.told[name]["PromptsWithoutTokens"] for name in ("early", "late")] == [0, 2]
    assert [found.told[name]["NumberOfSamples"] for name in ("early", "late")] == [10, 8]
    long = np.array(run.lengths) > 8
    last = np.array([run.activity[own][8:].mean(0) for own, kept in zip(by_prompt(run), long, strict=True) if kept])
    on = (np.array(run.trial_types) == "on")[long]
    np.testing.assert_allclose(found.maps["late"].stat, stats.ttest_ind(last[on], last[~on]).statistic, rtol=1e-8)
    assert len(found.designs["contrast-late"]) == 8
    none = run_of(4, 3, lengths=[8] * 10)
    told = "no prompt of sub-x is of one condition of contrast late and has a token for delay 8; ask for earlier"
    refused(DesignError, told, none, model([BINS], DELAYS, asked[1]))


def test_texts_shown_again_are_one_sample() -> None:
    runs = [run_of(5, 4, spread=1.0), run_of(5, 4, spread=1.0, label="run-02")]
    runs = [Run(**{**vars_of(run), "texts": tuple(f"text {number}" for number in range(24))}) for run in runs]
    fields = model(SURPRISAL, SLOPES, contrast("c", on_x_surprisal=1))
    once, twice = fitted(runs[0], fields), fitted(runs, fields)
    assert (twice.told["c"]["NumberOfPrompts"], twice.told["c"]["NumberOfSamples"]) == (24, 12)
    np.testing.assert_allclose(once.maps["c"].stat, twice.maps["c"].stat, rtol=1e-8)
    refused(InferenceError, "24 prompts in more than one run", runs, fields, inference="run")


def vars_of(run: Run) -> dict[str, Any]:
    names = ("label", "trial_types", "lengths", "tokens", "activity", "volumes")
    return {name: getattr(run, name) for name in names}


def test_runs_apart_are_weighed_by_their_precision() -> None:
    runs = [run_of(seed, 5, label=f"run-0{seed}", spread=1.0) for seed in (1, 2)]
    found = fitted(
        runs, model(SURPRISAL, SLOPES, contrast("c", on_x_surprisal=1)), inference="run", level="prompt-mean"
    )
    alone = [slopes_by_hand(run)[np.array(run.trial_types) == "on", 0] for run in runs]
    weights = [1 / (slopes.var(0, ddof=1) / len(slopes)) for slopes in alone]
    by_hand = sum(weight * slopes.mean(0) for weight, slopes in zip(weights, alone, strict=True)) / sum(weights)
    np.testing.assert_allclose(found.maps["c"].effect, by_hand, rtol=1e-8)
    assert {"run-01", "run-01_contrast-c", "run-02_contrast-c"} <= set(found.designs)


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
    found = fitted(run, fields, inference="token")
    np.testing.assert_allclose(found.maps["c"].z, by_hand.z_score(), atol=1e-9)
    if kind == "fir":
        assert [name for name in found.designs["run-01"] if name.endswith("later")] == [
            "trial_type.off_later",
            "trial_type.on_later",
        ]


# ---- what is planted is recovered, and nothing else


def test_planted_slopes_and_bins_are_recovered_without_bias() -> None:
    """Two hundred units with one truth: their mean is within three standard errors of it."""
    run = run_of(7, 200, slope=0.25, spread=0.4)
    both = contrast("slope", on_x_surprisal=1), contrast("differ", on_x_surprisal=1, off_x_surprisal=-1)
    slopes = fitted(run, model(SURPRISAL, SLOPES, *both)).maps
    asked = [contrast(f"bin{delay}", **{f"on_delay_{delay}": 1, f"off_delay_{delay}": -1}) for delay in (0, 4, 8)]
    flat = run_of(8, 200, in_bin=0.8, spread=0.4)
    bins = fitted(flat, model([BINS], DELAYS, *asked)).maps
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
        relabelled = [Run(**vars_of(run) | {"trial_types": own}) for run, own in zip(runs, labels, strict=True)]
        maps = second_level(analysis_of(relabelled, fields, **settings), first).maps
        rates.append({name: float((one.p("two") < 0.05).mean()) for name, one in maps.items()})
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
        settings = Settings(correction="maxt", n_permutations=100, seed=seed)
        asked = (values[:7], design[["on"]][:7], alone), (values, design, over)
        hits.append([max_t(*one, settings).min() <= 0.05 for one in asked])
    assert np.all(np.mean(hits, axis=0) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(hits)))


def test_signs_are_flipped_as_every_flip_there_is() -> None:
    rng = np.random.default_rng(3)
    design = pd.DataFrame({"on": np.arange(10) < 3, "off": np.arange(10) >= 3}).astype(float)
    values = rng.normal([0.0, 0.3, 0.6, 1.2], 1, (10, 4))
    asked = Contrast("both", ("on", "off"), ((0.5, 0.5),))
    found = max_t(values, design, asked, Settings(correction="maxt", n_permutations=4000, seed=1))
    matrix = design.to_numpy()
    weights = np.array([0.5, 0.5])
    off_mean = matrix[:, 0] * 0.5 / 3 + matrix[:, 1] * 0.5 / 7
    other = matrix @ [1 / 3 * 7, -1.0]
    other -= off_mean * (other @ off_mean) / (off_mean @ off_mean)
    left = values - np.outer(other, other @ values) / (other @ other)

    def t_of(samples: NDArray[np.float64]) -> NDArray[np.float64]:
        coefficients = np.linalg.pinv(matrix) @ samples
        rest = ((samples - matrix @ coefficients) ** 2).sum(0) / 8
        return np.abs(weights @ coefficients) / np.sqrt(rest * (weights @ np.linalg.inv(matrix.T @ matrix) @ weights))

    largest = [t_of(left * np.array(signs)[:, None]).max() for signs in product([1.0, -1.0], repeat=10)]
    exact = (np.array(largest)[:, None] >= t_of(values) - 1e-9).mean(0)
    np.testing.assert_allclose(found, exact, atol=0.03)
    assert found.min() < 0.1


def test_only_means_have_their_signs_flipped() -> None:
    ones = np.ones((6, 1))
    assert flips_signs(ones, np.empty((6, 0)))
    assert not flips_signs(np.array([[1.0], [-1], [1], [-1], [1], [-1]]), ones / np.sqrt(6))


def test_max_t_of_a_mean_slope_runs_through() -> None:
    run = run_of(9, 30, slope=0.5)
    asked = [contrast("one", on_x_surprisal=1), contrast("both", on_x_surprisal=0.5, off_x_surprisal=0.5)]
    found = fitted(run, model(SURPRISAL, SLOPES, *asked), correction="maxt", n_permutations=200)
    assert max(found.adjusted["one"].max(), found.adjusted["both"].max()) <= 0.05


# ---- contrasts in two parts

COLUMNS = {
    "trial_type.a": Column("a"), "trial_type.b": Column("b"), "a_x_s": Column("a", "s"), "b_x_s": Column("b", "s"),
    "trial_type.a_delay_0": Column("a", "delay 0"), "trial_type.a_delay_4": Column("a", "delay 4"),
    "trial_type.b_delay_0": Column("b", "delay 0"), "trial_type.b_delay_4": Column("b", "delay 4"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "kinds", "over", "is_level", "text"),
    [
        ({"trial_type.a": 1, "trial_type.b": -1}, {MEAN: 1}, {"a": 1, "b": -1}, True, "mean effect"),
        ({"trial_type.a": -1, "trial_type.b": 1}, {MEAN: 1}, {"a": -1, "b": 1}, True, "mean effect"),
        ({"a_x_s": 1, "b_x_s": -0.5}, {"s": 1}, {"a": 1, "b": -0.5}, False, "slope over s"),
        ({"trial_type.a_delay_0": 0.5, "trial_type.a_delay_4": 0.5}, {"delay 0": 1, "delay 4": 1}, {"a": 0.5}, True, "delay 0 + delay 4"),
        ({"trial_type.a_delay_0": 2, "trial_type.a_delay_4": -2}, {"delay 0": 1, "delay 4": -1}, {"a": 2}, False, "delay 0 - delay 4"),
        ({"trial_type.a": 1, "a_x_s": 2}, {MEAN: 0.5, "s": 1}, {"a": 2}, True, "0.5 × mean effect + slope over s"),
        (
            {"trial_type.a_delay_0": 1, "trial_type.a_delay_4": -1, "trial_type.b_delay_0": -1, "trial_type.b_delay_4": 1},
            {"delay 0": 1, "delay 4": -1}, {"a": 1, "b": -1}, False, "delay 0 - delay 4",
        ),
    ],
)  # fmt: skip
def test_a_contrast_is_what_it_takes_of_a_prompt_times_how_it_compares_conditions(
    weights: dict[str, float],
    kinds: dict[str, float],
    over: dict[str, float],
    is_level: bool,  # noqa: FBT001
    text: str,
) -> None:
    asked = Contrast("c", tuple(weights), (tuple(map(float, weights.values())),))
    found = Weighing.from_contrast(asked, COLUMNS)
    assert found.kinds == kinds
    assert (
        dict(zip((name.removeprefix("trial_type.") for name in found.over.columns), found.over.weights[0], strict=True))
        == over
    )
    assert (found.is_level, found.text) == (is_level, text)


@pytest.mark.parametrize(
    ("weights", "rows", "told"),
    [
        (
            ["trial_type.a", "b_x_s"],
            [[1, -1]],
            "contrast c weighs mean effect, s of prompts differently in its conditions",
        ),
        (["trial_type.a_delay_0", "trial_type.b_delay_4"], [[1, -1]], "weighs delay 0, delay 4 .* conditions"),
        (["a_x_s", "tok_position"], [[1, 1]], "weighs s, mean effect"),
        (
            ["trial_type.a_delay_0", "trial_type.a_delay_4"],
            [[1, 0], [0, 1]],
            "differently in its rows; .* --inference token",
        ),
    ],
)
def test_what_is_no_product_of_the_two_is_refused(weights: list[str], rows: list[list[float]], told: str) -> None:
    test = "F" if len(rows) > 1 else "t"
    asked = Contrast("c", tuple(weights), tuple(map(tuple, rows)), test)  # type: ignore[arg-type]
    with pytest.raises(InferenceError, match=told):
        Weighing.from_contrast(asked, COLUMNS)


def test_f_whose_rows_take_the_same_of_a_prompt_is_tested() -> None:
    run = run_of(10, 4, spread=1.0)
    asked = contrast("any", "F", on_x_surprisal=[1, 0], off_x_surprisal=[0, 1])
    found = fitted(run, model(SURPRISAL, SLOPES, asked), level="prompt-mean").maps["any"]
    slopes, on = slopes_by_hand(run)[:, 0], np.array(run.trial_types) == "on"
    within = ((slopes[on] - slopes[on].mean(0)) ** 2).sum(0) + ((slopes[~on] - slopes[~on].mean(0)) ** 2).sum(0)
    between = on.sum() * slopes[on].mean(0) ** 2 + (~on).sum() * slopes[~on].mean(0) ** 2
    np.testing.assert_allclose(found.stat, (between / 2) / (within / (len(on) - 2)), rtol=1e-8)


# ---- designs


def test_slopes_are_centred_within_prompts_and_left_out_where_there_are_none() -> None:
    events = pd.DataFrame({"onset": [0.0, 3, 4, 8], "duration": [3.0, 1, 4, 4], "trial_type": "a"})
    matrix, prompts = prompt_design(events, frame_times(13, 1.0))
    over = pd.DataFrame({"s": [1.0, 2, 6, 5, 7, 7, 7, 7, 1, 2, 3, 4, 9]})
    found = with_slopes(matrix, list(prompts["name"]), over)
    assert found.kept["s"].tolist() == [True, False, False, True]
    assert list(found.matrix)[:2] == ["prompt.0001_s", "prompt.0004_s"]
    np.testing.assert_allclose(found.matrix["prompt.0001_s"], [-2, -1, 3, *[0] * 10], atol=1e-12)
    spread = found.spread(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))["s"]
    np.testing.assert_array_equal(spread, [[1, 2, 3], [np.nan] * 3, [np.nan] * 3, [4, 5, 6]])


def test_bins_partition_the_tokens_of_prompts() -> None:
    events = pd.DataFrame({"onset": [0.0, 3, 9], "duration": [3.0, 6, 2], "trial_type": "a", "prompt": ["1", "2", "3"]})
    matrix, prompts = prompt_design(events, frame_times(11, 1.0), pd.DataFrame({"spike": np.eye(11)[9]}))
    found = with_bins(matrix, list(prompts["name"]), [0, 1, 2])
    assert found.kept.to_numpy().tolist() == [[True] * 3, [True] * 3, [True, True, False]]
    assert found.n_effects == 8
    np.testing.assert_allclose(found.matrix.sum(axis=1), 1)
    assert list(found.matrix)[-1] == "prompt.0002_later", "the spike is a bin, so that the bin would not be estimable"
    assert found.matrix["prompt.0002_later"].sum() == 3


# ---- what is refused


def refused(
    error: type[LLM2BIDSError], told: str, runs: Run | Sequence[Run], fields: dict[str, Any], **settings: Any
) -> None:
    with pytest.raises(error, match=told) as stop:
        check(analysis_of(runs, fields, **settings))
    assert "\n" not in str(stop.value)


def test_prompts_without_a_slope_are_refused_where_they_are_needed() -> None:
    run = run_of(1, 3, lengths=[12, 1, 12, 1, 12, 12, 12, 12])
    kinds = ("on", "off", "on", "off", "on", "off", "on", "off")
    run = Run(**vars_of(run) | {"trial_types": kinds})
    told = (
        "2 of 4 prompts of sub-x that contrast c compares have too few tokens, .* in tok_surprisal, .* longer prompts"
    )
    refused(DesignError, told, run, model(SURPRISAL, SLOPES, contrast("c", off_x_surprisal=1)))
    assert fitted(run, model(SURPRISAL, SLOPES, contrast("c", on_x_surprisal=1))).told["c"]["NumberOfSamples"] == 4
    flat = model([{**SURPRISAL[1], "Input": ["trial_type.on", "level"]}], SLOPES[:3], contrast("c", on_x_surprisal=1))
    refused(DesignError, "4 of 4 prompts", run, flat)


@pytest.mark.parametrize(
    ("fields", "error", "told"),
    [
        (model([{**SURPRISAL[1], "Input": ["trial_type.on", "tok_frequency"]}], SLOPES[:3], contrast("c", on_x_surprisal=1)),
         DesignError, "run-01: a Product names tok_frequency, which is no confound; there are tok_position"),
        (model([{**SURPRISAL[1], "Output": "tok_position"}], ["tok_position"], contrast("c", on=1)),
         StatsModelError, "Output tok_position, which is a confound already"),
        (model(SURPRISAL, [*SLOPES, "old_x_surprisal"], contrast("c", on=1)), DesignError, "old_x_surprisal"),
        (model([BINS], ["trial_type.on"], contrast("c", on=1)), DesignError, r"trial_type\.on is asked for .* there are trial_type\.off_delay_0, "),
        (model(SURPRISAL, SLOPES, contrast("c", on_x_position=1)), DesignError, "weighs on_x_position, which the design"),
        (model(SURPRISAL, SLOPES, contrast("c", on_delay_0=1)), DesignError, "names condition on_delay_0, .* it has on, off, on_x"),
        (model([BINS], DELAYS, contrast("c", on_delay_0=1, off_delay_4=-1)), InferenceError, "differently in its conditions"),
    ],
)  # fmt: skip
def test_what_a_run_does_not_have_is_refused(fields: dict[str, Any], error: type[LLM2BIDSError], told: str) -> None:
    refused(error, told, run_of(2, 3), fields)


def test_bins_of_one_token_leave_nothing_for_the_noise() -> None:
    fields = model(
        [{**BINS, "FIRDelays": list(range(12))}], ["trial_type.*"], contrast("c", on_delay_0=1, off_delay_0=-1)
    )
    told = "run-01 has 288 scans, of 24 prompts with slopes or bins, and 288 columns: none left .* --level prompt-mean"
    refused(DesignError, told, run_of(3, 2), fields)
    assert np.isfinite(fitted(run_of(3, 2), fields, level="prompt-mean").maps["c"].z).all()


def test_dummies_are_products_and_bins_too() -> None:
    for steps, x in (SURPRISAL, ["*_x_surprisal"]), ([BINS], ["trial_type.*"]):
        fields = model(steps, x)
        fields["Nodes"][0]["DummyContrasts"] = {"Test": "t"}
        analysis = analysis_of(run_of(2, 3), fields)
        assert [one.name for one in analysis.contrasts] == [
            name.removeprefix("trial_type.") for name in analysis.columns
        ]
    asked = analysis_of(run_of(2, 3), model(SURPRISAL, ["*_x_surprisal"]))
    assert list(asked.columns) == ["off_x_surprisal", "on_x_surprisal"]


def test_products_are_named_without_the_factor_on_the_command_line() -> None:
    read = StatsModel.from_json(model(SURPRISAL, SLOPES)).asking(
        [Contrast.from_expression("on_x_surprisal - off_x_surprisal")]
    )
    assert read.run.contrasts[0].columns == ("on_x_surprisal", "off_x_surprisal")
    assert read.run.contrasts[0].label == "onxsurprisalMinusOffxsurprisal"


# ---- files


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task, two runs, prepared."""
    root = tmp_path_factory.mktemp("kinds") / "ds"
    record(root, task="pathology", runs=2, blocks=2, prompts_per_block=2, tokens=9, progress=False)
    prep(root, progress=False)
    return root


def analysed(root: Path, out: Path, fields: dict[str, Any], **options: Any) -> list[Finding]:
    write_json(out.with_suffix(".json"), fields)
    return glm(root, out, model=out.with_suffix(".json"), progress=False, **options)


def test_files_say_what_was_made_and_keep_the_mean_effects(prepared: Path, tmp_path: Path) -> None:
    level = contrast("level", on=1, off=-1)
    asked = [level, contrast("slope", on_x_surprisal=1, off_x_surprisal=-1)]
    (plain,) = analysed(prepared, tmp_path / "plain", model([], ["trial_type.*"], level))
    both = analysed(prepared, tmp_path / "slopes", model(SURPRISAL, ["trial_type.*", *SLOPES[2:]], *asked))
    bins = model([BINS], ["trial_type.*"], contrast("bin", on_delay_4=1, off_delay_4=-1))
    (one,) = analysed(prepared, tmp_path / "bins", bins)
    stem = plain.mask.name.split("_contrast")[0]
    for ending in ("_prompts.tsv", "_stat-effect_desc-prompts_statmap.nii.gz", "_desc-prompts_design.tsv"):
        kept = plain.mask.with_name(f"{stem}{ending}").read_bytes()
        assert [found.mask.with_name(f"{stem}{ending}").read_bytes() == kept for found in (*both, one)] == [True] * 3
    slope = read_json(
        both[1].z_map.with_name(both[1].z_map.name.replace("stat-z_statmap.nii.gz", "stat-effect_statmap.json"))
    )
    assert (
        slope["Description"]
        == "slope: Effect: slope over tok_surprisal, in standard deviations of the unit over the run per unit of tok_surprisal."
    )
    assert slope["Llm2bids"]["Transformations"] == SURPRISAL
    assert slope["Llm2bids"]["NumberOfPrompts"] == 20
    assert len(read_tsv(next((tmp_path / "slopes").rglob("*_contrast-slope_design.tsv")))) == 20
    assert "Transformations" not in read_json(plain.mask.with_name(f"{stem}_desc-brain_mask.json"))["Llm2bids"]
    page = (tmp_path / "slopes" / "sub-phantom.html").read_text()
    assert "on_x_surprisal = trial_type.on × tok_surprisal" in page
    assert "Design matrix of slope: one row per prompt" in page
    assert "trial_type.* in bins of tokens from 0, 4, 8" in (tmp_path / "bins" / "sub-phantom.html").read_text()
    assert [issue.summary() for issue in validate(tmp_path / "slopes") if issue.issues] == []


def test_another_product_under_the_same_name_is_another_analysis(prepared: Path, tmp_path: Path) -> None:
    fields = model(SURPRISAL[1:], SLOPES[:3], contrast("c", on_x_surprisal=1))
    analysed(prepared, tmp_path / "out", fields)
    assert [one.skipped for one in analysed(prepared, tmp_path / "out", fields, resume=True)] == [True]
    other = model(
        [{**SURPRISAL[1], "Input": ["trial_type.on", "tok_entropy"]}], SLOPES[:3], contrast("c", on_x_surprisal=1)
    )
    with pytest.raises(LLM2BIDSError, match="made of other data or with other settings"):
        analysed(prepared, tmp_path / "out", other, resume=True)
