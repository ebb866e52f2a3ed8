"""What networks share: closed forms, and chance against permutation by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import kstest

from llm2bids.networks.measures import (
    INDICES,
    combinations_of,
    index_matrix,
    index_of,
    shared_units,
    units_of_k,
    units_per_layer,
)
from llm2bids.networks.resampling import holm, matched_networks, p_at_least, shared_by_chance, units_of_k_by_chance

LAYERS = np.repeat([0, 1, 3], [4, 9, 7])  # layer 2 was not tested
NETWORKS = np.array([[place % step == 0 for place in range(20)] for step in (2, 3, 5)])


def permuted(networks: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Networks whose units are permuted within layers, shape (n_draws, n_networks, n_units)."""
    drawn = np.repeat(networks[None], n_draws, axis=0)
    for layer in np.unique(LAYERS):
        drawn[..., layer == LAYERS] = rng.permuted(drawn[..., layer == LAYERS], axis=2)
    return drawn


def test_indices_are_those_of_sets() -> None:
    sets = [set(np.flatnonzero(row)) for row in NETWORKS]
    shared = np.array([[len(a & b) for b in sets] for a in sets])
    assert shared_units(NETWORKS).tolist() == shared.tolist()
    expected = {
        "dice": [[2 * len(a & b) / (len(a) + len(b)) for b in sets] for a in sets],
        "jaccard": [[len(a & b) / len(a | b) for b in sets] for a in sets],
        "overlap_coefficient": [[len(a & b) / min(len(a), len(b)) for b in sets] for a in sets],
    }
    assert set(expected) == set(INDICES)
    for name, matrix in expected.items():
        assert index_matrix(name, NETWORKS) == pytest.approx(np.array(matrix))
    several = np.stack([NETWORKS, ~NETWORKS])
    assert index_matrix("dice", several)[0] == pytest.approx(index_matrix("dice", NETWORKS))
    assert index_matrix("dice", several)[1] == pytest.approx(index_matrix("dice", ~NETWORKS))


def test_indices_of_empty_networks() -> None:
    indices = {name: index_of(name, 0, [0, 5], [0, 0]) for name in INDICES}
    assert np.isnan(indices["dice"]).tolist() == np.isnan(indices["jaccard"]).tolist() == [True, False]
    assert np.isnan(indices["overlap_coefficient"]).all()
    empty = np.zeros((2, 7), bool)
    assert shared_by_chance(empty, np.arange(7) // 3, 5, np.random.default_rng(0)).sum() == 0
    assert units_of_k_by_chance(empty, np.arange(7) // 3).tolist() == [7, 0, 0]
    assert combinations_of(empty, ["a", "b"]) == {}
    assert np.isnan(index_matrix("dice", empty)).all()


def test_units_are_counted_layer_by_layer() -> None:
    counts = units_per_layer(NETWORKS, LAYERS)
    assert counts.tolist() == [[row[layer == LAYERS].sum() for layer in range(4)] for row in NETWORKS]
    assert counts[:, 2].tolist() == [0, 0, 0]


def test_chance_is_that_of_permuted_units() -> None:
    rng = np.random.default_rng(1)
    drawn = shared_by_chance(NETWORKS, LAYERS, 4000, rng)
    by_hand = shared_units(permuted(NETWORKS, 6000, rng))
    assert drawn.shape == (4000, 3, 3)
    assert (drawn == drawn.swapaxes(1, 2)).all()
    assert (np.diagonal(drawn, axis1=1, axis2=2) == NETWORKS.sum(1)).all()
    assert drawn.mean(0) == pytest.approx(by_hand.mean(0), abs=0.07)
    assert drawn.var(0) == pytest.approx(by_hand.var(0), abs=0.09)
    assert drawn.var(0)[0, 1] > 0.5


def test_a_network_that_fills_a_layer_shares_all_of_it() -> None:
    full = np.stack([LAYERS == 1, NETWORKS[0]])
    shared = shared_by_chance(full, LAYERS, 30, np.random.default_rng(2))[:, 0, 1]
    assert (shared == (NETWORKS[0] & (LAYERS == 1)).sum()).all()


def test_units_of_several_networks_are_those_of_permuted_units() -> None:
    by_hand = units_of_k(permuted(NETWORKS, 6000, np.random.default_rng(3)))
    expected = units_of_k_by_chance(NETWORKS, LAYERS)
    assert expected == pytest.approx(by_hand.mean(0), abs=0.08)
    assert expected.sum() == pytest.approx(20)
    chances = (0.5, 0.3, 0.8)
    one_layer = np.zeros(4)
    for sides in product([True, False], repeat=3):
        one_layer[sum(sides)] += np.prod([p if inside else 1 - p for p, inside in zip(chances, sides, strict=True)])
    networks = np.arange(10) < 10 * np.array(chances)[:, None]
    assert units_of_k_by_chance(networks, np.zeros(10, np.int64)) == pytest.approx(10 * one_layer)


def test_units_of_several_networks_are_counted() -> None:
    membership = [sum(row[place] for row in NETWORKS) for place in range(20)]
    assert units_of_k(NETWORKS).tolist() == [membership.count(k) for k in range(4)]
    assert units_of_k(np.stack([NETWORKS, ~NETWORKS]))[1].tolist() == [membership.count(3 - k) for k in range(4)]


def test_combinations_are_exclusive_and_the_most_frequent_first() -> None:
    counts = combinations_of(NETWORKS, ["two", "three", "five"])
    by_hand: dict[tuple[str, ...], int] = {}
    for place in range(20):
        key = tuple(name for name, row in zip(("two", "three", "five"), NETWORKS, strict=True) if row[place])
        by_hand[key] = by_hand.get(key, 0) + 1
    del by_hand[()]
    assert counts == by_hand
    assert list(counts.values()) == sorted(counts.values(), reverse=True)


@pytest.mark.parametrize("tail", ["two", "positive", "negative"])
def test_matched_networks_have_as_many_units_in_each_layer(tail: str) -> None:
    counts = np.array([0, 3, 0, 7])
    maps = np.random.default_rng(4).normal(size=(5, 20))
    (networks,) = matched_networks(iter([maps]), counts, LAYERS, tail)  # type: ignore[arg-type]
    assert (units_per_layer(networks, LAYERS) == counts).all()
    turned = {"two": np.abs(maps), "positive": maps, "negative": -maps}[tail]
    inside = np.where(networks & (LAYERS == 1), turned, np.inf).min(1)
    outside = np.where(~networks & (LAYERS == 1), turned, -np.inf).max(1)
    assert (inside > outside).all()


def test_p_values_count_the_draws_that_are_as_large() -> None:
    drawn = np.array([[0, 5], [1, 5], [1, 5], [3, 5]])
    assert p_at_least([1, 5], drawn).tolist() == [4 / 5, 1]
    assert p_at_least([4, 6], drawn).tolist() == [1 / 5, 1 / 5]
    p = p_at_least([np.nan, 1.0], np.array([[1, np.nan], [2, 0.5], [3, 1.5]]))
    assert np.isnan(p[0])
    assert p[1] == 3 / 4  # what is not known may be more


def test_sums_in_another_order_are_ties() -> None:
    parts = np.random.default_rng(5).normal(size=(30, 50))
    orders = parts[:, ::2].sum(1) + parts[:, 1::2].sum(1)
    assert (orders != parts.sum(1)).any()
    assert (p_at_least(parts.sum(1), orders[None]) == 1).all()
    assert (p_at_least(-parts.sum(1), -orders[None]) == 1).all()
    assert p_at_least(1e-20, np.array([0.9e-20, 1.1e-20, -3e-20])) == 2 / 4  # of small numbers, too


def test_p_values_of_nothing_are_valid() -> None:
    rng = np.random.default_rng(6)
    values = rng.binomial(4, 0.5, (20, 3000))  # one observed and 19 draws, with many ties
    conservative, uniform = p_at_least(values[0], values[1:]), p_at_least(values[0], values[1:], rng)
    levels = np.arange(1, 20) / 20
    often = (conservative[:, None] <= levels).mean(0)
    assert (often <= levels + 3 * np.sqrt(levels * (1 - levels) / 3000)).all()
    assert (uniform <= conservative).all()
    assert kstest(uniform, "uniform").pvalue > 0.01


def test_holm_is_the_step_down_procedure() -> None:
    p = np.array([0.011, 0.02, np.nan, 0.9, 0.012, 0.5])
    corrected = holm(p)
    assert np.isnan(corrected[2])
    order = np.argsort(p)[:5]
    for level in np.linspace(0.005, 0.95, 190):
        rejected, expected = corrected[order] <= level, []
        for number, place in enumerate(order):
            expected.append(bool(p[place] <= level / (5 - number)) and all(expected))
        assert rejected.tolist() == expected
    assert np.isnan(holm(np.array([np.nan, np.nan]))).all()
