"""Linear models over arrays: against nilearn's own models, closed forms, and every permutation there is."""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm import compute_fixed_effects
from nilearn.glm.first_level import FirstLevelModel
from scipy import stats

from llm2bids.design.statsmodel import Contrast
from llm2bids.errors import InferenceError, OptionError
from llm2bids.statistics.correction import adjust, max_t
from llm2bids.statistics.linear_model import (
    StatMaps,
    average_runs,
    chunks,
    coefficients,
    estimate_contrasts,
    join_chunks,
    weight_runs,
)
from llm2bids.statistics.settings import GLMOptions, GLMSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SHAPE = (3, 4, 5)
N_SCANS = 40
ON_OFF = Contrast("onVsOff", ("on", "off"), ((1.0, -1.0),))
EITHER = Contrast("either", ("on", "off"), ((1.0, 0.0), (0.0, 1.0)), "F")
MEAN = Contrast("mean", ("1",), ((1.0,),))


def noise(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    """Autocorrelated along the first axis, as tokens of one prompt are."""
    drawn = np.random.default_rng(seed).normal(size=shape)
    for row in range(1, shape[0]):
        drawn[row] += 0.5 * drawn[row - 1]
    return drawn


def design(n_rows: int = N_SCANS, *, redundant: bool = False) -> pd.DataFrame:
    """Blocks of two conditions, a trend, and what of a constant they leave free."""
    on = (np.arange(n_rows) // 5 % 2).astype(float)
    off = 1 - on if redundant else np.where(np.arange(n_rows) % 10 == 0, 0.0, 1 - on)
    return pd.DataFrame({"on": on, "off": off, "trend": np.linspace(-1, 1, n_rows), "constant": 1.0})


def image(signals: NDArray[np.float64]) -> nib.Nifti1Image:
    return nib.Nifti1Image(signals.T.reshape(*SHAPE, len(signals)), np.eye(4))


def flat(volume: nib.Nifti1Image) -> NDArray[np.float64]:
    values: NDArray[np.float64] = volume.get_fdata().reshape(-1)
    return values


def by_nilearn(signals: Sequence[NDArray[np.float64]], matrices: Sequence[pd.DataFrame], noise_model: str) -> Any:
    """A first-level model driven by hand."""
    mask = nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4))
    model = FirstLevelModel(mask_img=mask, signal_scaling=False, noise_model=noise_model, smoothing_fwhm=None)
    with catch_warnings():
        simplefilter("ignore")
        return model.fit([image(run) for run in signals], design_matrices=list(matrices))


def two_sample(values: NDArray[np.float64], on: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(stats.ttest_ind(values[on], values[~on]).statistic)


# ---- one run and several


@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
@pytest.mark.parametrize("contrast", [ON_OFF, EITHER], ids=["t", "F"])
def test_a_run_equals_a_first_level_model(contrast: Contrast, noise_model: str) -> None:
    signals = noise(N_SCANS, int(np.prod(SHAPE)))
    result = join_chunks(estimate_contrasts(signals, design(), [contrast], noise_model))[contrast.name]
    by_hand = by_nilearn([signals], [design()], noise_model)
    weights = contrast.matrix(list(design().columns))
    vector_or_rows = weights[0] if contrast.test == "t" else weights
    for output, values in (("stat", result.stat), ("z_score", result.z)):
        volume = by_hand.compute_contrast(vector_or_rows, stat_type=contrast.test, output_type=output)
        np.testing.assert_allclose(values, flat(volume), atol=1e-6)
    assert result.dof == N_SCANS - 4


def test_runs_add_up_as_in_a_first_level_model() -> None:
    runs = [noise(N_SCANS, int(np.prod(SHAPE)), seed=seed) for seed in range(3)]
    parts = [estimate_contrasts(run, design(), [ON_OFF], "ar1")["onVsOff"] for run in runs]
    result = StatMaps.from_estimates(average_runs(parts))
    by_hand = by_nilearn(runs, [design()] * 3, "ar1")
    outputs = {"effect_size": result.effect, "effect_variance": result.variance, "z_score": result.z}
    for output, values in outputs.items():
        volume = by_hand.compute_contrast([np.array([1.0, -1, 0, 0])] * 3, output_type=output)
        np.testing.assert_allclose(values, flat(volume), atol=1e-6)


def test_redundant_columns_change_nothing_over_independent_samples() -> None:
    signals, matrix = np.random.default_rng(0).normal(size=(N_SCANS, 7)), design(redundant=True)
    redundant = join_chunks(estimate_contrasts(signals, matrix, [ON_OFF], "ols"))["onVsOff"]
    spare = join_chunks(estimate_contrasts(signals, matrix.drop(columns="constant"), [ON_OFF], "ols"))["onVsOff"]
    assert redundant.dof == spare.dof == N_SCANS - 3
    np.testing.assert_allclose(redundant.stat, spare.stat, rtol=1e-10)
    alone = matrix[["on", "off", "constant"]]
    result = join_chunks(estimate_contrasts(signals, alone, [ON_OFF], "ols"))["onVsOff"]
    np.testing.assert_allclose(result.stat, two_sample(signals, matrix["on"].to_numpy() > 0), rtol=1e-10)


@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_units_do_not_depend_on_how_many_are_fitted_at_a_time(noise_model: str) -> None:
    n_rows, n_last = 1024, 60
    first = next(chunks((n_rows, 1 << 30))).stop
    signals = np.tile(noise(n_rows, 1).astype(np.float32), first + n_last)
    signals[:, -n_last:] = noise(n_rows, n_last, seed=1)
    assert len(list(chunks(signals.shape))) == 2
    all_units = join_chunks(estimate_contrasts(signals, design(n_rows), [ON_OFF], noise_model))["onVsOff"]
    last = join_chunks(estimate_contrasts(signals[:, -n_last:], design(n_rows), [ON_OFF], noise_model))["onVsOff"]
    np.testing.assert_array_equal(all_units.z[-n_last:], last.z)
    matrix = design(n_rows).drop(columns="constant")
    effects = coefficients(signals, matrix, 2, noise_model)
    np.testing.assert_array_equal(effects[:, -n_last:], coefficients(signals[:, -n_last:], matrix, 2, noise_model))


@pytest.mark.parametrize("shape", [(7, 3), (1 << 30, 3), (0, 5), (4, 0)])
def test_chunks_hold_every_unit_once(shape: tuple[int, int]) -> None:
    assert [unit for part in chunks(shape) for unit in range(shape[1])[part]] == list(range(shape[1]))


# ---- effects of prompts


def prompts(n_prompts: int, n_scans: int) -> pd.DataFrame:
    """One column per prompt, each of `n_scans`."""
    return pd.DataFrame(np.repeat(np.eye(n_prompts), n_scans, axis=0), columns=[f"p{n}" for n in range(n_prompts)])


def test_effects_with_independent_noise_are_plain_means() -> None:
    signals = noise(8 * 5, 11)
    means = signals.reshape(8, 5, 11).mean(1)
    np.testing.assert_allclose(coefficients(signals, prompts(8, 5), 8, "ols"), means, atol=1e-12)


def test_effects_with_autocorrelated_noise_equal_a_first_level_model() -> None:
    signals = noise(8 * 5, int(np.prod(SHAPE)))
    matrix = prompts(8, 5).assign(trend=np.linspace(-1, 1, 40))
    by_hand = by_nilearn([signals], [matrix], "ar1")
    effects = coefficients(signals, matrix, 8, "ar1")
    for number in range(8):
        np.testing.assert_allclose(
            effects[number], flat(by_hand.compute_contrast(f"p{number}", output_type="effect_size")), atol=1e-6
        )
    assert np.abs(effects - coefficients(signals, matrix, 8, "ols")).max() > 0.01


# ---- fixed effects over runs


def test_runs_are_weighed_as_by_nilearn() -> None:
    rng = np.random.default_rng(0)
    runs = []
    for dof in (10.0, 20.0, 15.0):
        effect, variance = rng.normal(size=int(np.prod(SHAPE))), rng.uniform(0.1, 1, int(np.prod(SHAPE)))
        runs.append(StatMaps("t", effect, variance, effect / np.sqrt(variance), effect, dof))
    result = weight_runs(runs)
    volumes = [[image(getattr(run, name)[None]).slicer[..., 0] for run in runs] for name in ("effect", "variance")]
    mask = nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4))
    effect, variance, t, z = compute_fixed_effects(*volumes, mask, precision_weighted=True, dofs=[10, 20, 15])
    for values, volume in ((result.effect, effect), (result.variance, variance), (result.stat, t), (result.z, z)):
        np.testing.assert_allclose(values, flat(volume), atol=1e-6)


def test_fixed_effects_of_f_are_refused() -> None:
    maps = join_chunks(estimate_contrasts(noise(N_SCANS, 3), design(), [EITHER], "ols"))["either"]
    with pytest.raises(InferenceError, match="fixed effects over runs of an F contrast"):
        weight_runs([maps, maps])


# ---- p-values


def test_tails() -> None:
    signals = noise(N_SCANS, 50) + 0.3 * design()["on"].to_numpy()[:, None]
    maps = join_chunks(estimate_contrasts(signals, design(), [ON_OFF, EITHER], "ols"))
    t, f = maps["onVsOff"], maps["either"]
    np.testing.assert_allclose(t.p("positive"), stats.t.sf(t.stat, 36), rtol=1e-6)
    np.testing.assert_allclose(t.p("negative"), stats.t.cdf(t.stat, 36), rtol=1e-6)
    np.testing.assert_allclose(t.p("two"), 2 * stats.t.sf(np.abs(t.stat), 36), rtol=1e-6)
    for tail in ("two", "positive", "negative"):
        np.testing.assert_allclose(f.p(tail), stats.f.sf(f.stat, 2, 36), rtol=1e-6)


def test_corrections_by_hand() -> None:
    p = np.array([0.03, 0.001, 0.8, 0.012, 0.04])
    # sorted .001 .012 .03 .04 .8 times 5/rank: .005 .03 .05 .05 .8
    np.testing.assert_allclose(adjust(p, "fdr"), [0.05, 0.005, 0.8, 0.03, 0.05])
    np.testing.assert_allclose(adjust(p, "bonferroni"), [0.15, 0.005, 1, 0.06, 0.2])
    np.testing.assert_array_equal(adjust(p, "none"), p)


# ---- permutation


def every_order(values: NDArray[np.float64], on: NDArray[np.bool_]) -> Iterator[NDArray[np.float64]]:
    """The t of every way to label as many rows."""
    for chosen in combinations(range(len(on)), int(on.sum())):
        yield two_sample(values, np.isin(np.arange(len(on)), chosen))


def mean_t(values: NDArray[np.float64], age: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The t of the mean, with a centred covariate or without."""
    residuals = values if age is None else values - np.outer(age, age @ values / (age @ age))
    squares = ((residuals - residuals.mean(0)) ** 2).sum(0) / (len(values) - 1 - (age is not None))
    return np.asarray(values.mean(0) / np.sqrt(squares / len(values)))


def every_sign(values: NDArray[np.float64], age: NDArray[np.float64] | None) -> Iterator[NDArray[np.float64]]:
    """The t of every way to flip rows, of what the covariate leaves (Freedman and Lane)."""
    residuals = values if age is None else values - np.outer(age, age @ values / (age @ age))
    for signs in product([-1.0, 1.0], repeat=len(values)):
        yield mean_t(residuals * np.array(signs)[:, None], age)


@pytest.mark.parametrize("tail", ["two", "positive", "negative"])
@pytest.mark.parametrize("constant", [False, True])
def test_max_t_of_two_groups_goes_through_their_orders(tail: str, *, constant: bool) -> None:
    on = np.arange(8) % 2 == 0
    values = np.random.default_rng(3).normal(size=(8, 6)) + np.outer(on, [1.5, -1.5, 0, 0, 0, 0])
    matrix = pd.DataFrame({"on": on * 1.0, "off": ~on * 1.0}).assign(**({"constant": 1.0} if constant else {}))
    sided = {"two": np.abs, "positive": np.positive, "negative": np.negative}[tail]
    largest = np.array([sided(t).max() for t in every_order(values, on)])
    exact = (largest[:, None] >= sided(two_sample(values, on)) - 1e-9).mean(0)
    p = max_t(values, matrix, ON_OFF, GLMSettings(correction="maxt", tail=tail, n_permutations=2000))  # type: ignore[arg-type]
    np.testing.assert_allclose(p, exact, atol=0.04)


@pytest.mark.parametrize("covariate", [False, True])
def test_max_t_of_a_mean_goes_through_its_signs(*, covariate: bool) -> None:
    values = np.random.default_rng(4).normal(size=(8, 5)) + np.array([1.2, 0, 0, 0, 0])
    age = np.tile([-1.0, 1.0], 4) / 3 if covariate else None
    largest = np.array([np.abs(t).max() for t in every_sign(values, age)])
    exact = (largest[:, None] >= np.abs(mean_t(values, age)) - 1e-9).mean(0)
    matrix = pd.DataFrame({"1": np.ones(8)} | ({} if age is None else {"age": age}))
    p = max_t(values, matrix, MEAN, GLMSettings(correction="maxt", n_permutations=2000))
    np.testing.assert_allclose(p, exact, atol=0.04)


def test_max_t_ranks_units_as_their_t_in_any_design() -> None:
    matrix = design(redundant=True).assign(run=(np.arange(N_SCANS) > 20) * 1.0)
    values = np.random.default_rng(1).normal(size=(N_SCANS, 200))
    values[:, 7] += 3 * matrix["on"]
    p = max_t(values, matrix, ON_OFF, GLMSettings(correction="maxt", n_permutations=199))
    t = np.abs(join_chunks(estimate_contrasts(values, matrix, [ON_OFF], "ols"))["onVsOff"].stat)
    assert p[7] == 1 / 200
    assert (np.diff(p[np.argsort(-t)]) >= 0).all()
    np.testing.assert_array_equal(p * 200, np.round(p * 200))


def test_max_t_finds_something_in_a_twentieth_of_null_data() -> None:
    """The family-wise error of 200 null experiments is .05 up to chance: between 2 and 20 of them."""
    on = np.arange(16) % 2 == 0
    matrix = pd.DataFrame({"on": on * 1.0, "off": ~on * 1.0})
    rng, settings = np.random.default_rng(5), GLMSettings(correction="maxt", n_permutations=99)
    n_hits = sum(max_t(rng.normal(size=(16, 30)), matrix, ON_OFF, settings).min() <= 0.05 for _ in range(200))
    assert 2 <= n_hits <= 20


def test_max_t_is_the_same_for_the_same_seed_only() -> None:
    values, matrix = np.random.default_rng(2).normal(size=(N_SCANS, 20)), design()
    first, same, another = (
        max_t(values, matrix, ON_OFF, GLMSettings(correction="maxt", n_permutations=50, seed=seed))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != another).any()


def test_permutation_of_f_is_refused() -> None:
    with pytest.raises(InferenceError, match="permutation of F contrast either"):
        max_t(noise(N_SCANS, 3), design(), EITHER, GLMSettings(correction="maxt"))


# ---- settings


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"inference": "voxel"}, "inference 'voxel' found; use prompt, run, token"),
        ({"correction": "rft"}, "correction 'rft'"),
        ({"tail": "both"}, "tail 'both'"),
        ({"level": "token"}, "level 'token'"),
        ({"drift": "polynomial"}, "drift 'polynomial'"),
        ({"alpha": 0.0}, "alpha 0.0"),
        ({"alpha": float("nan")}, "alpha nan"),
        ({"high_pass": 0.0}, "cutoff of 0.0"),
        ({"high_pass": float("inf")}, "cutoff of inf"),
        ({"high_pass": 0.01, "drift": "none"}, "no drift"),
        ({"inference": "token", "level": "prompt-mean"}, "means of prompts and inference over tokens"),
        ({"inference": "token", "correction": "maxt"}, 'permutation with inference="token"'),
        ({"inference": "run", "correction": "maxt"}, 'permutation with inference="run"'),
        ({"correction": "maxt", "n_permutations": 10}, "10 permutations found; level 0.05 needs 20"),
    ],
)
def test_settings_that_mean_nothing_are_refused(choice: dict[str, Any], message: str) -> None:
    with pytest.raises((InferenceError, OptionError), match=message):
        GLMSettings(**choice)


@pytest.mark.parametrize(
    ("choice", "label"),
    [
        ({}, "fdr05"),
        ({"alpha": 0.001}, "fdr001"),
        ({"alpha": 0.1, "correction": "maxt"}, "maxt10"),
        ({"correction": "none", "alpha": 0.05}, "uncorrected05"),
        ({"alpha": 1e-4, "correction": "bonferroni"}, "bonferroni0001"),
    ],
)
def test_networks_are_labelled_by_correction_and_level(choice: dict[str, Any], label: str) -> None:
    assert GLMSettings(**choice).label == label


def test_what_needs_neighbours_is_refused_with_the_reason() -> None:
    for options in ({"smoothing_fwhm": 6.0}, {"cluster_threshold": 10}):
        with pytest.raises(InferenceError, match="neighbours on the page only"):
            GLMOptions(bids_dir="ds", **options)  # type: ignore[arg-type]
