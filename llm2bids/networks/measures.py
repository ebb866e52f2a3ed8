"""Numbers that describe networks and maps: what they share, where they lie, and how well they repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

INDICES: Final[Mapping[str, str]] = {
    "dice": "twice the shared units over the units of both",
    "jaccard": "shared units over units of either",
    "overlap_coefficient": "shared units over the units of the smaller network",
}
"""Measures of what two networks share: 0 if they share nothing, 1 if they are the same."""
ROUNDING: Final = 1e-12
"""Relative difference of numbers that differ by rounding alone."""


def shared_units(networks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the units that every two networks share.

    `networks` (..., n_networks, n_units). Returns (..., n_networks, n_networks), with sizes on the diagonal.
    """
    rows = networks.astype(np.float32)  # BLAS multiplies floats only; these hold whole numbers exactly to 2**24
    shared: NDArray[np.int64] = np.rint(rows @ np.swapaxes(rows, -1, -2)).astype(np.int64)
    return shared


def index_of(name: str, shared: ArrayLike, size_a: ArrayLike, size_b: ArrayLike) -> NDArray[np.float64]:
    """Measure what two networks share, from numbers of units; NaN where both (overlap coefficient: one) are empty.

    >>> [float(index_of(name, 2, 4, 8).round(3)) for name in INDICES]
    [0.333, 0.2, 0.5]
    """
    common, a, b = (np.asarray(value, float) for value in (shared, size_a, size_b))
    below = {"dice": (a + b) / 2, "jaccard": a + b - common, "overlap_coefficient": np.minimum(a, b)}[name]
    nothing = np.full(np.broadcast(common, below).shape, np.nan)
    index: NDArray[np.float64] = np.divide(common, below, out=nothing, where=below > 0)
    return index


def index_matrix(name: str, networks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Measure what every two networks share: (..., n_networks, n_units) to (..., n_networks, n_networks)."""
    shared = shared_units(networks)
    sizes = np.diagonal(shared, axis1=-2, axis2=-1)
    return index_of(name, shared, sizes[..., :, None], sizes[..., None, :])


def units_per_layer(
    networks: NDArray[np.bool_], layers: NDArray[np.int64], n_layers: int | None = None
) -> NDArray[np.int64]:
    """Count the units of networks layer by layer.

    `networks` (n_networks, n_units). `layers` (n_units,): number of the layer of each unit. `n_layers`: by default up
    to the last layer with a unit. Returns (n_networks, n_layers).
    """
    length = int(layers.max()) + 1 if n_layers is None else n_layers
    rows = [np.bincount(layers[units], minlength=length) for units in networks]
    return np.array(rows, np.int64).reshape(len(networks), length)


def units_of_k(networks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the units that belong to exactly 0, 1, 2 ... networks.

    `networks` (..., n_networks, n_units). Returns (..., n_networks + 1).

    >>> units_of_k(np.array([[True, True, False, False], [True, False, False, True]])).tolist()
    [1, 2, 1]
    """
    membership = networks.sum(-2)
    counts: NDArray[np.int64] = (membership[..., None] == np.arange(networks.shape[-2] + 1)).sum(-2)
    return counts


def combinations_of(networks: NDArray[np.bool_], names: Sequence[str]) -> dict[tuple[str, ...], int]:
    """Count the units of every combination of networks that occurs, the most frequent first.

    `networks` (n_networks, n_units). A unit counts for the combination of all networks that it belongs to, if any.

    >>> combinations_of(np.array([[True, True, True, False], [False, True, True, False]]), ["a", "b"])
    {('a', 'b'): 2, ('a',): 1}
    """
    patterns, counts = np.unique(networks.T, axis=0, return_counts=True)
    combined = {
        tuple(name for name, member in zip(names, pattern, strict=True) if member): int(count)
        for pattern, count in zip(patterns, counts, strict=True)
    }
    return dict(sorted(((key, count) for key, count in combined.items() if key), key=lambda item: (-item[1], item[0])))


def standardized(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale maps (n_maps, n_units) to mean 0 and standard deviation 1 over units; NaN for a map that is constant."""
    values = np.asarray(maps, np.float64)
    centred = values - values.mean(1, keepdims=True)
    spread = centred.std(1, keepdims=True)
    varies = spread > ROUNDING * np.abs(values).max(1, keepdims=True)
    scores: NDArray[np.float64] = np.divide(centred, spread, out=np.full(centred.shape, np.nan), where=varies)
    return scores


def correlations(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlate every two maps (n_maps, n_units) over units: Pearson, (n_maps, n_maps); NaN for a constant map."""
    scores = standardized(maps)
    matrix: NDArray[np.float64] = np.clip(scores @ scores.T / maps.shape[1], -1, 1)
    return matrix


def within_and_between(similarity: NDArray[np.float64], tasks: ArrayLike) -> tuple[float, float]:
    """Average a similarity of runs within tasks and between them.

    `similarity` (n_runs, n_runs): symmetric; NaN is left out. `tasks` (n_runs,): task of each run.

    >>> within_and_between(np.array([[1, 0.8, 0.2], [0.8, 1, 0.4], [0.2, 0.4, 1]]), ["a", "a", "b"])
    (0.8, 0.30000000000000004)
    """
    labels = np.asarray(tasks)
    same = labels[:, None] == labels
    upper = np.triu(np.ones(same.shape, bool), 1) & ~np.isnan(similarity)  # each pair once, no run with itself
    within, between = similarity[upper & same], similarity[upper & ~same]
    return (float(within.mean()) if within.size else np.nan), (float(between.mean()) if between.size else np.nan)


def icc(ratings: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the intraclass correlations ICC(2,1) and ICC(3,1) of single runs (Shrout and Fleiss 1979).

    `ratings` (n_targets, n_raters, ...): what each rater (run) says of each target (task); two of each at least.
    Returns both with shape (...): absolute agreement, to which means of runs matter, and consistency, to which they do
    not. NaN where nothing varies.
    """
    values = np.asarray(ratings, float)
    n_targets, n_raters = values.shape[:2]
    # two-way analysis of variance without replication: mean squares of targets, raters and the rest
    mean = values.mean((0, 1))
    targets, raters = values.mean(1), values.mean(0)
    between = n_raters * ((targets - mean) ** 2).sum(0) / (n_targets - 1)
    of_raters = n_targets * ((raters - mean) ** 2).sum(0) / (n_raters - 1)
    rest = values - targets[:, None] - raters[None] + mean
    error = (rest**2).sum((0, 1)) / ((n_targets - 1) * (n_raters - 1))
    # ICC(3,1) = (BMS - EMS) / (BMS + (k - 1) EMS); ICC(2,1) adds k (JMS - EMS) / n below the line
    consistency = between + (n_raters - 1) * error
    agreement = consistency + n_raters * (of_raters - error) / n_targets
    varies = values.std((0, 1)) > ROUNDING * np.abs(values).max((0, 1))
    icc21, icc31 = (
        (between - error) / np.where(varies & (below > 0), below, np.nan) for below in (agreement, consistency)
    )
    return icc21, icc31


def rated_runs(tasks: ArrayLike, runs: ArrayLike) -> NDArray[np.int64]:
    """Arrange runs for `icc`: tasks are rated, and the runs of one name are a rater.

    `tasks`, `runs` (n_runs,): task and name of each run. Returns numbers of runs (n_tasks, n_raters): of names that all
    tasks have; where there are fewer than two, of the first, second ... run of each task. Exchanges of tasks among runs
    of one name leave raters as they are.

    >>> rated_runs(["a", "a", "a", "b", "b"], ["2", "1", "3", "2", "3"]).tolist()
    [[0, 2], [3, 4]]
    """
    labels, names = np.asarray(tasks), np.asarray(runs)
    by_task = [np.flatnonzero(labels == task) for task in np.unique(labels)]
    by_task = [numbers[np.argsort(names[numbers], kind="stable")] for numbers in by_task]
    common = sorted(set.intersection(*(set(names[numbers].tolist()) for numbers in by_task)))
    if len(common) > 1:
        by_task = [numbers[np.isin(names[numbers], common)] for numbers in by_task]
    n_raters = min(map(len, by_task))
    return np.stack([numbers[:n_raters] for numbers in by_task])


def lengthened(reliability: float, times: float) -> float:
    """Predict the reliability of more data (Spearman and Brown); NaN where halves disagree: nothing follows from that.

    >>> round(lengthened(0.5, 2), 3)
    0.667
    """
    return times * reliability / (1 + (times - 1) * reliability) if reliability >= 0 else np.nan


def quantiles_by_layer(values: NDArray[np.float64], layers: NDArray[np.int64], good: float) -> pd.DataFrame:
    """Describe the distribution of a number over the units of each layer.

    `values` (n_units,): NaN is left out. `layers` (n_units,): layer of each unit. Returns one row per layer: ``layer``,
    ``n_units``, ``good`` (share of units of that value or more), ``mean``, and quantiles ``q05`` to ``q95``.
    """
    rows = []
    for layer in np.unique(layers):
        present = values[(layers == layer) & ~np.isnan(values)]
        row = {"layer": int(layer), "n_units": present.size, "good": np.nan, "mean": np.nan}
        cuts = np.full(5, np.nan)
        if present.size:
            row |= {"good": (present >= good).mean(), "mean": present.mean()}
            cuts = np.quantile(present, [0.05, 0.25, 0.5, 0.75, 0.95])
        rows.append({**row, **dict(zip(("q05", "q25", "q50", "q75", "q95"), cuts, strict=True))})
    return pd.DataFrame(rows)
