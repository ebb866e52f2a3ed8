"""How much networks have in common, and how much they would by chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from llm2bids.errors import InferenceError
from llm2bids.space.selection import largest, strength

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from llm2bids.space.selection import Tail

INDICES: Final[Mapping[str, str]] = {
    "dice": "twice the shared units over the units of both",
    "jaccard": "shared units over units of either",
    "overlap_coefficient": "shared units over the units of the smaller network",
}
"""Measures of what two networks share: all 0 where nothing is, 1 where they are the same."""

_ROUNDING: Final = 1e-12
"""Relative difference of sums of the same numbers in another order."""


def shared_units(networks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the units that networks share.

    `networks` (..., n_networks, n_units): one row per network. Returns (..., n_networks, n_networks): units shared;
    sizes on the diagonal.
    """
    rows = networks.astype(np.float32)  # whole numbers to 2**24, and fast
    found: NDArray[np.int64] = np.rint(rows @ np.swapaxes(rows, -1, -2)).astype(np.int64)
    return found


def index_of(name: str, shared: ArrayLike, size: ArrayLike, other: ArrayLike) -> NDArray[np.float64]:
    """Measure what two networks share.

    Returns (...): between 0 and 1; NaN where both networks (for the overlap coefficient: one) are empty.

    >>> [float(index_of(name, 2, 4, 8).round(3)) for name in INDICES]
    [0.333, 0.2, 0.5]
    """
    common, one, two = (np.asarray(value, float) for value in (shared, size, other))
    below = {"dice": (one + two) / 2, "jaccard": one + two - common, "overlap_coefficient": np.minimum(one, two)}[name]
    nothing = np.full(np.broadcast(common, below).shape, np.nan)
    found: NDArray[np.float64] = np.divide(common, below, out=nothing, where=below > 0)
    return found


def index_matrix(name: str, networks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Measure what every two networks share.

    `networks` (..., n_networks, n_units): one row per network. Returns (..., n_networks, n_networks): between 0 and 1.
    """
    shared = shared_units(networks)
    sizes = np.diagonal(shared, axis1=-2, axis2=-1)
    return index_of(name, shared, sizes[..., :, None], sizes[..., None, :])


def units_per_layer(
    networks: NDArray[np.bool_], layers: NDArray[np.int64], n_layers: int | None = None
) -> NDArray[np.int64]:
    """Count the units of networks layer by layer.

    `networks` (n_networks, n_units): one row per network. `layers` (n_units,): number of the layer of each unit, from
    0. `n_layers`: how many there are, also without any unit; by default up to the last that has one. Returns
    (n_networks, n_layers): counts.
    """
    length = int(layers.max()) + 1 if n_layers is None else n_layers
    rows = [np.bincount(layers[own], minlength=length) for own in networks]
    return np.array(rows, np.int64).reshape(len(networks), length)


def shared_by_chance(
    networks: NDArray[np.bool_], layers: NDArray[np.int64], n_draws: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Count shared units when the units of every layer are permuted.

    Each network keeps its number of units per layer. The number that two of them share in a layer is then
    hypergeometric, from which it is drawn.

    `networks` (n_networks, n_units): one row per network. `layers` (n_units,): layer of each unit. Returns (n_draws,
    n_networks, n_networks): symmetric; sizes on the diagonal.
    """
    counts, widths = units_per_layer(networks, layers), np.bincount(layers)
    n_networks = len(networks)
    drawn = np.zeros((n_draws, n_networks, n_networks), np.int64)
    for one in range(n_networks):
        drawn[:, one, one] = counts[one].sum()
        for other in range(one):
            drawn[:, one, other] = rng.hypergeometric(
                counts[one], widths - counts[one], counts[other], size=(n_draws, len(widths))
            ).sum(1)
            drawn[:, other, one] = drawn[:, one, other]
    return drawn


def units_of_k(networks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the units that belong to k networks.

    `networks` (..., n_networks, n_units): one row per network. Returns (..., n_networks + 1): units of exactly 0, 1, 2
    ... networks.

    >>> units_of_k(np.array([[True, True, False, False], [True, False, False, True]])).tolist()
    [1, 2, 1]
    """
    membership = networks.sum(-2)
    kinds = np.arange(networks.shape[-2] + 1)
    found: NDArray[np.int64] = (membership[..., None] == kinds).sum(-2)
    return found


def units_of_k_by_chance(networks: NDArray[np.bool_], layers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Expect how many units belong to k networks when the units of every layer are permuted.

    `networks` (n_networks, n_units): one row per network. `layers` (n_units,): layer of each unit. Returns (n_networks
    + 1,): expected counts; in each layer the number of networks of a unit is Poisson binomial.
    """
    counts, widths = units_per_layer(networks, layers), np.bincount(layers)
    expected = np.zeros(len(networks) + 1)
    for layer, width in enumerate(widths):
        chances = np.ones(1)
        for count in counts[:, layer]:
            chances = np.convolve(chances, [1 - count / max(width, 1), count / max(width, 1)])
        expected += width * chances
    return expected


def combinations_of(networks: NDArray[np.bool_], names: Sequence[str]) -> dict[tuple[str, ...], int]:
    """Count the units of every combination of networks that occurs.

    `networks` (n_networks, n_units): one row per network. Returns units that are in just these networks and no other,
    by names; the most frequent first, without those of none.

    >>> combinations_of(np.array([[True, True, True, False], [False, True, True, False]]), ["a", "b"])
    {('a', 'b'): 2, ('a',): 1}
    """
    patterns, counts = np.unique(networks.T, axis=0, return_counts=True)
    found = {
        tuple(name for name, member in zip(names, pattern, strict=True) if member): int(count)
        for pattern, count in zip(patterns, counts, strict=True)
    }
    return dict(sorted(((key, count) for key, count in found.items() if key), key=lambda item: (-item[1], item[0])))


def matched_networks(
    statistics: Iterator[NDArray[np.float64]], counts: NDArray[np.int64], layers: NDArray[np.int64], tail: Tail
) -> Iterator[NDArray[np.bool_]]:
    """Make networks of maps, with as many units in each layer as a given network has.

    `statistics` (n_some, n_units): maps, some at a time, as from `llm2bids.networks.run_statistics.relabelled`.
    `counts` (n_layers,): units per layer. `layers` (n_units,): layer of each unit. Yields (n_some, n_units): the
    strongest units of each layer.
    """
    for maps in statistics:
        values = strength(maps, tail)
        chosen = np.zeros(maps.shape, bool)
        for layer, count in enumerate(counts):
            members = layers == layer
            if count:
                chosen[:, members] = largest(values[:, members], np.full(len(maps), count))
        yield chosen


def check_draws(n_draws: int) -> None:
    """Refuse a number of draws by which no p-value can be told."""
    if n_draws < 1:
        raise InferenceError(f"{n_draws} draws asked for; 1000 or more needed for a p-value of .001")


def p_at_least(
    observed: ArrayLike, drawn: NDArray[np.floating] | NDArray[np.int64], rng: np.random.Generator | None = None
) -> NDArray[np.float64]:
    """Say how often chance gives as much or more.

    `observed` (...): what was found. `drawn` (n_draws, ...): what chance gave. `rng`: break ties at random, for a
    p-value that is exactly uniform where there is nothing. Without, ties count as more: the p-value is at most too
    large. Returns (...): p-values: one plus the number of draws that are as large, over one plus the number of draws.
    NaN where nothing was observed; a draw that is NaN counts as more. Numbers that differ by rounding alone are equal.

    Phipson and Smyth 2010.
    """
    found = np.asarray(observed, float)
    n_draws = len(drawn)
    rounding = _ROUNDING * np.fmax(np.abs(found), np.fmax.reduce(np.abs(drawn), axis=0, initial=0.0))
    lower, higher = found - rounding, found + rounding
    more = ((drawn > higher) | np.isnan(drawn)).sum(0)
    equal = ((drawn >= lower) & (drawn <= higher)).sum(0)
    ties = equal + 1.0 if rng is None else rng.uniform(size=np.shape(found)) * (equal + 1)
    return np.where(np.isnan(found), np.nan, (more + ties) / (n_draws + 1))
