"""Patterns and filters of synthetic texts: against scikit-learn, closed forms and the null."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.metrics import roc_auc_score

from llm2bids.errors import InferenceError
from llm2bids.space import UnitPattern, UnitSpace
from llm2bids.statistics.pattern_measures import (
    ALL,
    ClusterPairs,
    cross_validate,
    deal_clusters,
    exchange_p,
    exchanged,
    half_cosines,
    measure,
    noise_ceiling,
)
from llm2bids.statistics.pattern_samples import PatternSamples, PromptMeans
from llm2bids.statistics.patterns import PrincipalAxes, fit_labels, fit_patterns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SPACE = UnitSpace("block", ("h.0:out", "h.1:out"), (7, 40))
"""Fewer channels than texts at the first hookpoint, more at the second."""
N_ON, N_OFF = 9, 14


def samples_of(activations: Floats, n_on: int, space: UnitSpace = SPACE, n_clusters: int = 0) -> PatternSamples:
    """Texts of the condition first; `n_clusters` per condition, or each text its own."""
    on = np.arange(len(activations)) < n_on
    texts = np.array([f"text{number:03d}" for number in range(len(on))])
    clusters = np.array([f"{'on' if c else 'off'}{i % n_clusters}" for i, c in enumerate(on)]) if n_clusters else texts
    return PatternSamples(space, activations, on, clusters, texts)


def noisy(seed: int = 0) -> PatternSamples:
    """Correlated channels of very different size, with a difference between conditions."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((SPACE.n_units, SPACE.n_units)) * np.geomspace(100, 0.1, SPACE.n_units)
    activations = rng.standard_normal((N_ON + N_OFF, SPACE.n_units)) @ mixing + 50
    activations[:N_ON] += 30 * rng.standard_normal(SPACE.n_units)
    return samples_of(activations, N_ON)


def slow(values: Floats, on: NDArray[np.bool_]) -> tuple[Floats, Floats, float, float]:
    """Pattern, filter, shrinkage and noise at one hookpoint, as the formulas have it."""
    pattern = values[on].mean(0) - values[~on].mean(0)
    residuals = values - np.where(on[:, None], values[on].mean(0), values[~on].mean(0))
    covariance = residuals.T @ residuals / (len(values) - 2)
    shrinkage = float(ledoit_wolf_shrinkage(residuals, assume_centered=True))
    target = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    filters = np.linalg.solve((1 - shrinkage) * covariance + shrinkage * target, pattern)
    return pattern, filters, shrinkage, float(np.sqrt(filters @ covariance @ filters))


@pytest.mark.parametrize("dual", [True, False])
@pytest.mark.parametrize("hookpoint", [0, 1])
def test_both_ways_to_the_axes_equal_scikit_learn_and_a_solved_covariance(hookpoint: int, *, dual: bool) -> None:
    samples = noisy()
    values = list(samples.hookpoints())[hookpoint]
    axes = PrincipalAxes.of(values, dual=dual)
    fit = fit_labels(axes, samples.on[None], values.shape[1])
    pattern, filters, shrinkage, noise = slow(values, samples.on)
    np.testing.assert_allclose(fit.patterns[0] @ axes.axes, pattern, rtol=1e-8, atol=1e-8 * abs(pattern).max())
    np.testing.assert_allclose(fit.filters[0] @ axes.axes, filters, rtol=1e-8, atol=1e-8 * abs(filters).max())
    np.testing.assert_allclose([fit.shrinkage[0], fit.noise[0]], [shrinkage, noise], rtol=1e-9)


def test_many_labellings_in_one_solve_equal_each_by_itself() -> None:
    samples, rng = noisy(), np.random.default_rng(1)
    labels = np.stack([rng.permutation(samples.on) for _ in range(5)] + [np.arange(len(samples.on)) < 4])
    fit = fit_patterns(samples, labels)
    assert len(fit) == len(labels)
    for number, on in enumerate(labels):
        for hookpoint, values in enumerate(samples.hookpoints()):
            pattern, filters, shrinkage, noise = slow(values, on)
            patterns, scaled, references = (
                SPACE.split(rows[number])[hookpoint] for rows in (fit.patterns, fit.filters, fit.references)
            )
            np.testing.assert_allclose(patterns, pattern, rtol=1e-7, atol=1e-8 * abs(pattern).max())
            np.testing.assert_allclose(scaled, filters / noise, rtol=1e-7, atol=1e-8 * abs(filters / noise).max())
            np.testing.assert_allclose(references, values[~on].mean(0), rtol=1e-12)
            np.testing.assert_allclose(fit.shrinkage[number, hookpoint], shrinkage, rtol=1e-8)
            np.testing.assert_allclose(fit.spread[number, hookpoint], noise / np.linalg.norm(filters), rtol=1e-8)


def test_a_fitted_pattern_reads_standard_deviation_one_within_conditions() -> None:
    samples = noisy()
    pattern = fit_patterns(samples).pattern(provenance={"Contrast": "a"})
    read = pattern.expression(samples.activations)[:, 0]
    residuals = read - np.where(samples.on[:, None], read[samples.on].mean(0), read[~samples.on].mean(0))
    np.testing.assert_allclose(np.sqrt((residuals**2).sum(0) / (len(read) - 2)), 1, rtol=1e-9)
    np.testing.assert_allclose(read[~samples.on].mean(0), 0, atol=1e-9)
    assert pattern.provenance == {"Contrast": "a"}


def test_expression_is_in_steps_of_the_direction_that_was_measured() -> None:
    samples = noisy()
    pattern = fit_patterns(samples).pattern()
    along = pattern.expression(samples.activations, "pattern")
    alone = UnitPattern(SPACE, pattern=pattern.pattern, reference=pattern.reference)
    np.testing.assert_allclose(along, alone.expression(samples.activations))
    both = UnitPattern.together([pattern, pattern])
    read = both.expression(samples.activations)
    assert read.shape == (N_ON + N_OFF, 2, 2)
    np.testing.assert_allclose(read, np.repeat(pattern.expression(samples.activations), 2, axis=1))


def test_maps_in_standard_deviations_become_raw() -> None:
    rng = np.random.default_rng(0)
    raw, sd = rng.standard_normal(SPACE.n_units), rng.uniform(0.5, 2, SPACE.n_units)
    sd[3], raw[3] = 0, 0
    effect = SPACE.to_image(100 * np.divide(raw, sd, out=np.zeros_like(raw), where=sd > 0))
    pattern = UnitPattern.from_image(effect, SPACE, scale=SPACE.to_image(sd), one_sd=100)
    np.testing.assert_allclose(pattern.directions()[0], raw, rtol=1e-6)
    weights = UnitPattern.from_image(SPACE.to_image(raw * sd / 100), SPACE, "filter", scale=sd, one_sd=100)
    np.testing.assert_allclose(weights.directions()[0], raw, rtol=1e-6)


def test_units_that_never_vary_and_texts_without_noise_give_finite_filters() -> None:
    activations = np.zeros((4, SPACE.n_units))
    activations[:2, 3] = 1.0
    fit = fit_patterns(samples_of(activations, 2))
    np.testing.assert_allclose(fit.filters, fit.patterns)
    assert np.flatnonzero(fit.filters).tolist() == [3]


def test_filters_take_the_spread_of_texts_not_fitted_on() -> None:
    fit = fit_patterns(noisy())
    scaled = fit.rescaled(np.array([3 * fit.spread[0, 0], np.nan]))
    first, second = SPACE.split(scaled.filters / fit.filters)
    np.testing.assert_allclose(first, 1 / 3)
    np.testing.assert_allclose(second, 1)
    lengths = [np.linalg.norm(part) for part in SPACE.split(scaled.filters[0])]
    np.testing.assert_allclose(scaled.spread[0], 1 / np.array(lengths))


def prompts_of(*rows: tuple[str, str, str, int, float]) -> PromptMeans:
    """Prompts by text, condition, cluster, number of tokens and activation of all units."""
    table = pd.DataFrame(rows, columns=["stimulus", "trial_type", "cluster", "n_averaged", "value"])
    activations = np.repeat(table.pop("value").to_numpy(np.float32)[:, None], SPACE.n_units, axis=1)
    return PromptMeans(table, activations)


def test_a_text_shown_again_is_one_sample_and_never_its_own_reference() -> None:
    shown = prompts_of(
        ("a", "on", "x", 3, 1.0),
        ("b", "off", "y", 3, 2.0),
        ("a", "on", "x", 5, 4.0),
        ("c", "other", "z", 3, 8.0),
        ("e", "on", "x", 0, 99.0),
    )
    others = prompts_of(("b", "off", "y", 3, 3.0), ("a", "off", "x", 3, 77.0), ("d", "on", "w", 3, 5.0))
    task = PatternSamples.from_prompts(SPACE, shown, ({"on"}, {"off"}))
    assert task.activations[:, 0].tolist() == [2.5, 2.0]
    whole = PatternSamples.from_prompts(SPACE, shown, ({"on"}, {"off"}), others)
    assert (whole.texts.tolist(), whole.clusters.tolist()) == (["a", "b", "d"], ["x", "y", "w"])
    assert whole.on.tolist() == [True, False, False]
    assert whole.activations[:, -1].tolist() == [2.5, 2.5, 5.0]
    part = whole.select(whole.clusters != "y")
    assert (part.texts.tolist(), part.on.tolist(), part.activations[:, 0].tolist()) == (
        ["a", "d"],
        [True, False],
        [2.5, 5.0],
    )


def test_texts_of_one_condition_only_are_refused() -> None:
    with pytest.raises(InferenceError, match="0 of 5 texts are of the condition"):
        samples_of(np.zeros((5, SPACE.n_units)), 0)


# ---- folds and exchanges


def test_clusters_are_never_divided_and_dealt_evenly() -> None:
    on = np.repeat([True, False], [30, 50])
    clusters = np.array([f"{'a' if c else 'b'}{i % (7 if c else 11)}" for i, c in enumerate(on)])
    (folds,) = deal_clusters(clusters, on, 3, np.random.default_rng(0))
    assert all(len(np.unique(folds[clusters == name])) == 1 for name in np.unique(clusters))
    for which, n_clusters in ((on, 7), (~on, 11)):
        counts = [len(np.unique(clusters[which & (folds == fold)])) for fold in range(3)]
        assert (sum(counts), max(counts) - min(counts)) == (n_clusters, 1)
    totals = [len(np.unique(clusters[folds == fold])) for fold in range(3)]
    assert totals == [6, 6, 6]


def test_labels_are_exchanged_by_cluster_within_folds() -> None:
    on = np.repeat([True, False, True], [12, 18, 3])
    clusters = np.array([f"{'a' if c else 'b'}{i % (4 if c else 6)}" for i, c in enumerate(on)], "U8")
    clusters[-3:] = "both"
    clusters[12:14] = "both"
    rng = np.random.default_rng(0)
    (folds,) = deal_clusters(clusters, on, 2, rng)
    labels = exchanged(clusters, on, 200, rng, folds)
    for name in np.unique(clusters)[:-1]:
        assert (np.ptp(labels[:, clusters == name].astype(int), axis=1) == 0).all()
    for fold in range(2):
        pure = [n for n in np.unique(clusters[folds == fold]) if n != "both"]
        kinds = np.array([[row[clusters == n][0] for n in pure] for row in labels])
        assert (kinds.sum(1) == sum(n.startswith("a") for n in pure)).all()
    assert (labels[:, clusters == "both"].sum(1) == 3).all()
    assert len(np.unique(labels, axis=0)) > 50
    assert 0.2 < labels[:, 0].mean() < 0.7


# ---- measures by hand


def test_crossnobis_by_hand() -> None:
    # One channel, two folds. Fold A: condition 3, 5, reference 0, 2: a = 3, residuals 1 and -1 four times, S = 4 / 2.
    # Fold B: condition 6, 6, reference 1, 3: a = 4, residuals 0, 0, -1, 1, S = 2 / 2.
    # Filter of A times pattern of B, 3/2 * 4 = 6; of B times A, 4/1 * 3 = 12; mean 9. (One channel has no shrinkage.)
    values = np.array([3.0, 5, 6, 6, 0, 2, 1, 3])[:, None]
    on = np.arange(8) < 4
    folds = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    judged = cross_validate(values, np.stack([on, ~on]), folds)
    np.testing.assert_allclose(judged.distances, [9, 9])
    # Spread: residuals of both folds about the means of their conditions, squares 4 and 2, 2 degrees of freedom each.
    assert judged.spread == pytest.approx(np.sqrt(6 / 4))


def test_crossnobis_of_two_channels_equals_the_formula() -> None:
    rng = np.random.default_rng(0)
    values, on, folds = (
        rng.standard_normal((24, 3)) @ rng.standard_normal((3, 3)),
        np.arange(24) < 10,
        np.arange(24) % 2,
    )
    values[on] += 1
    expected = []
    for fold in (0, 1):
        _, filters, _, _ = slow(values[folds != fold], on[folds != fold])
        pattern, _, _, _ = slow(values[folds == fold], on[folds == fold])
        expected.append(filters @ pattern)
    assert cross_validate(values, on[None], folds).distances[0] == pytest.approx(np.mean(expected))


def test_area_under_the_curve_compares_texts_of_one_fold() -> None:
    rng = np.random.default_rng(0)
    samples = samples_of(rng.standard_normal((40, SPACE.n_units)), 16, n_clusters=5)
    (folds,) = deal_clusters(samples.clusters, samples.on, 2, rng)
    values = rng.standard_normal(40) + samples.on + 100 * folds
    pairs = ClusterPairs.of(samples, folds, rng, 2000)
    area, low, high = pairs.auc(values)
    each = [roc_auc_score(samples.on[folds == fold], values[folds == fold]) for fold in (0, 1)]
    n_pairs = [(samples.on[folds == f]).sum() * (~samples.on[folds == f]).sum() for f in (0, 1)]
    assert area == pytest.approx(np.average(each, weights=n_pairs))
    assert low < area < high
    assert pairs.auc(samples.on.astype(float)) == (1.0, 1.0, 1.0)
    assert pairs.auc(np.zeros(40)) == (0.5, 0.5, 0.5)


def test_interval_of_the_area_equals_a_bootstrap_of_clusters_by_hand() -> None:
    rng = np.random.default_rng(0)
    samples = samples_of(rng.standard_normal((30, SPACE.n_units)), 12, n_clusters=4)
    values, folds = rng.standard_normal(30) + samples.on, np.zeros(30, int)
    pairs = ClusterPairs.of(samples, folds, rng, 200)
    names = np.unique(samples.clusters)
    areas = []
    for drawn in pairs.drawn:
        rows = np.concatenate(
            [np.tile(np.flatnonzero(samples.clusters == n), int(k)) for n, k in zip(names, drawn, strict=True)]
        )
        areas.append(roc_auc_score(samples.on[rows], values[rows]))
    np.testing.assert_allclose(pairs.auc(values)[1:], np.percentile(areas, [2.5, 97.5]))


def test_cosine_of_halves_and_its_ceiling_follow_from_signal_and_noise() -> None:
    rng = np.random.default_rng(0)
    n_units, n_texts, cosines, with_truth = 400, 40, [], []
    truth = rng.standard_normal(n_units)
    on, halves = np.arange(n_texts) < 20, np.arange(n_texts)[None] % 2 == 0
    for _ in range(60):
        values = 2.0 * rng.standard_normal((n_texts, n_units))
        values[on] += truth
        cosines.append(half_cosines(values, halves, on))
        pattern = values[on].mean(0) - values[~on].mean(0)
        with_truth.append(pattern @ truth / np.linalg.norm(pattern) / np.linalg.norm(truth))
    # Noise of a half: 4 / 10 per condition and unit, two conditions, against a signal of about 1 per unit.
    signal = float(truth @ truth) / n_units
    assert np.mean(cosines) == pytest.approx(signal / (signal + 0.8), abs=0.02)
    assert noise_ceiling(float(np.mean(cosines))) == pytest.approx(np.mean(with_truth), abs=0.01)


def test_p_counts_the_true_labels_too() -> None:
    assert exchange_p(np.array([[3.0, 1, 3, 2], [0.0, 1, 2, 3]])).tolist() == [0.5, 1.0]


# ---- what measures say where there is nothing, and where there is something


SMALL = UnitSpace("block", ("h.0:out", "h.1:out"), (5, 30))
N_NULLS = 200


@pytest.fixture(scope="module", params=["clusters", "texts"])
def nulls(request: pytest.FixtureRequest) -> list[pd.DataFrame]:
    """Measures of texts that come in clusters, with labels at random; or of texts that do not, in unequal groups."""
    rng, tables = np.random.default_rng(4), []
    for seed in range(N_NULLS):
        n_texts, n_on, n_clusters = (36, 12, 4) if request.param == "clusters" else (24, 8, 0)
        values = rng.standard_normal((n_texts, SMALL.n_units)) * np.geomspace(1, 10, SMALL.n_units)
        samples = samples_of(values, n_on, SMALL, n_clusters)
        if n_clusters:  # texts of a cluster are alike, so that they are no independent samples
            means = {name: 2 * rng.standard_normal(SMALL.n_units) for name in np.unique(samples.clusters)}
            values += [means[name] for name in samples.clusters]
        tables.append(measure(samples, seed=seed, n_exchanges=19, n_bootstraps=20))
    return tables


@pytest.mark.parametrize(("column", "chance"), [("auc", 0.5), ("cosine_halves", 0.0), ("crossnobis", 0.0)])
def test_measures_are_at_chance_where_there_is_nothing(nulls: list[pd.DataFrame], column: str, chance: float) -> None:
    values = np.array([table[column] for table in nulls])
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    assert (abs(values.mean(0) - chance) < stats.norm.isf(0.0005) * error).all(), (values.mean(0), error)


def test_p_is_uniform_where_there_is_nothing(nulls: list[pd.DataFrame]) -> None:
    p = np.array([table["p"] for table in nulls])
    for level in (0.05, 0.25, 0.5, 0.75):
        error = np.sqrt(level * (1 - level) / len(p))
        assert (abs((p <= level).mean(0) - level) < stats.norm.isf(0.0005) * error).all(), (p <= level).mean(0)


def test_a_difference_is_found_and_its_size_told() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((60, SMALL.n_units))
    values[:20, :5] += 0.9
    table = measure(samples_of(values, 20, SMALL, 10), n_exchanges=199).set_index("hookpoint")
    first, second, both = (table.loc[name] for name in (*SMALL.hookpoints, ALL))
    assert 0.8 < first["auc_low"] < first["auc"] <= first["auc_high"] <= 1
    assert first["p"] == pytest.approx(1 / 200)
    assert first["crossnobis"] == pytest.approx(5 * 0.9**2, rel=0.5)
    assert second["auc_low"] < 0.5 < second["auc_high"] + 0.1
    assert both["auc"] > 0.75
    np.testing.assert_allclose(table["spread"].iloc[:2], 1, atol=0.3)


def test_a_condition_of_one_cluster_is_not_judged() -> None:
    rng = np.random.default_rng(0)
    table = measure(samples_of(rng.standard_normal((12, SMALL.n_units)), 6, SMALL, 1))
    assert list(table["hookpoint"]) == [*SMALL.hookpoints, ALL]
    assert table.drop(columns=["hookpoint", "block"]).isna().all(axis=None)
