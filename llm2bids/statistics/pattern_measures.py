"""How well a pattern tells its condition from the reference, on texts whose clusters it was not fitted on.

Clusters are dealt over folds and never divided. Each fold is judged by the pattern of the others:

* `auc`: area under the ROC curve of the expression (what the filter reads). Only texts of one fold are compared with
  each other, since pooling folds with different filters biases it below .5 where there is nothing (Airola et al. 2011,
  Comput. Stat. Data Anal. 55).
* `crossnobis`: ``w_train . a_test`` with ``w_train = S*^-1 a`` of the other folds; the squared Mahalanobis distance,
  whose mean is 0 where there is no difference, since the noise of a_train and a_test is independent (Walther et al.
  2016, NeuroImage 137).
* `cosine_halves`: cosine of the patterns of two halves of the clusters; `noise_ceiling`: the cosine that the pattern
  of all texts is to be expected to have with the pattern without noise.
* `p`: share of exchanged labels with a crossnobis distance as large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from llm2bids.statistics.patterns import Labelled, PrincipalAxes, difference_weights, fit_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llm2bids.statistics.pattern_samples import PatternSamples

N_FOLDS: Final = 3
N_SPLITS: Final = 20
"""Ways of cutting the clusters into halves, over which cosines are averaged."""
N_EXCHANGES: Final = 999
N_BOOTSTRAPS: Final = 1000
INTERVAL: Final = (2.5, 97.5)
"""Percentiles of the bootstrap: 95 %."""
ALL: Final = "all"
"""Name of the row of all hookpoints together."""
COLUMNS: Final = (
    "hookpoint", "block", "auc", "auc_low", "auc_high", "cosine_halves", "noise_ceiling", "crossnobis", "p",
    "shrinkage", "spread",
)  # fmt: skip
_ROUNDING: Final = 1e-9
_AT_A_TIME: Final = 125
"""Labellings whose arrays stay in the cache of a processor."""


def deal_clusters(
    clusters: NDArray[np.str_], on: NDArray[np.bool_], n_folds: int, rng: np.random.Generator, n_deals: int = 1
) -> NDArray[np.int64]:
    """Deal clusters over folds; those of the condition, of the reference and of both each as evenly as can be.

    Returns (n_deals, n_samples): fold of each sample. Clusters are counted, not their texts: then every way to exchange
    labels within folds would have led to these folds with the same probability, which makes p exact.
    """
    names, place = np.unique(clusters, return_inverse=True)
    kinds = cluster_kinds(place, on)
    members = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
    fold = np.empty((n_deals, len(names)), np.int64)
    for row in fold:
        row[np.concatenate([rng.permutation(part) for part in members])] = np.arange(len(names)) % n_folds
    return fold[:, place]


def cluster_kinds(place: NDArray[np.int64], on: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Say what each cluster holds: 1 the reference only, 2 the condition only, 3 both.

    `place` (n_samples,): number of the cluster of each sample.
    """
    kinds = np.zeros(place.max() + 1, np.int64)
    np.bitwise_or.at(kinds, place, np.where(on, 2, 1))
    return kinds


def exchanged(
    clusters: NDArray[np.str_],
    on: NDArray[np.bool_],
    n_labellings: int,
    rng: np.random.Generator,
    folds: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_]:
    """Exchange labels among clusters, and among texts within clusters that hold both conditions.

    `folds` (n_samples,): labels are exchanged within each fold only. Returns (n_labellings, n_samples): random labels.
    """
    _, place = np.unique(clusters, return_inverse=True)
    kinds = cluster_kinds(place, on)
    folds = np.zeros(len(on), np.int64) if folds is None else folds
    fold_of, label_of = np.zeros((2, len(kinds)), np.int64)
    fold_of[place], label_of[place] = folds, on
    mixed = kinds == 3  # noqa: PLR2004 - see cluster_kinds
    pure = [np.flatnonzero((fold_of == fold) & ~mixed) for fold in np.unique(folds)]
    within = [np.flatnonzero(place == cluster) for cluster in np.flatnonzero(mixed)]
    labels = np.empty((n_labellings, len(on)), bool)
    for row in labels:
        shuffled, row[:] = label_of.copy(), on
        for members in pure:
            shuffled[members] = label_of[rng.permutation(members)]
        row[~mixed[place]] = shuffled[place][~mixed[place]]
        for texts in within:
            row[texts] = on[rng.permutation(texts)]
    return labels


@dataclass(frozen=True, slots=True, eq=False)
class CrossValidated:
    """What filters read from texts that they were not fitted on, at one hookpoint.

    - `expression` (n_samples,): per standard deviation over the texts of its fold.
    - `distances` (n_labellings,): crossnobis, mean over folds; of the true labels first.
    - `spread`: standard deviation within conditions of the component along the filter of length 1, in raw activation.
    """

    expression: NDArray[np.float64]
    distances: NDArray[np.float64]
    spread: float


def cross_validate(values: NDArray[np.float64], labels: NDArray[np.bool_], folds: NDArray[np.int64]) -> CrossValidated:
    """Fit on all folds but one and judge on that one, each in turn.

    `values` (n_samples, n_channels): of one hookpoint. `labels` (n_labellings, n_samples): the true ones first.
    """
    numbers = np.unique(folds)
    expression, distances = np.zeros(len(values)), np.zeros((len(numbers), len(labels)))
    squares, n_free = 0.0, 0
    for row, fold in enumerate(numbers):
        test = folds == fold
        axes = PrincipalAxes.of(values[~test])
        scores, on = axes.project(values[test]), labels[0, test]
        for start in range(0, len(labels), _AT_A_TIME):
            part = slice(start, start + _AT_A_TIME)
            fit = fit_labels(axes, labels[part][:, ~test], values.shape[1])
            distances[row, part] = crossnobis(fit, difference_weights(labels[part][:, test]) @ scores)
        true = fit_labels(axes, labels[:1, ~test], values.shape[1]).filters[0]
        component = scores @ true / (np.linalg.norm(true) or 1.0)
        # Texts of a fold come from other clusters than those fitted on: the filter, which is steep where few samples
        # happened to vary little, has a larger spread on them than on its own.
        residual = component - np.where(on, component[on].mean(), component[~on].mean())
        squares, n_free = squares + float((residual**2).sum()), n_free + max(len(residual) - 2, 0)
        # Over hookpoints expressions are averaged; scaled without looking at labels, none outweighs the others.
        expression[test] = component / (component.std() or 1.0)
    return CrossValidated(expression, distances.mean(0), float(np.sqrt(squares / n_free)) if n_free else 0.0)


def crossnobis(fit: Labelled, patterns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Crossnobis distance of each labelling: filter of some texts times pattern (n_labellings, n_axes) of others."""
    distances: NDArray[np.float64] = np.einsum("ij,ij->i", fit.filters, patterns)
    return distances


@dataclass(frozen=True, slots=True, eq=False)
class ClusterPairs:
    """Which clusters are compared in the area under the curve, and how often each is drawn in a bootstrap.

    - `place` (n_samples,): number of the cluster of each sample.
    - `drawn` (n_bootstraps, n_clusters): how often; clusters of the condition and of the reference are drawn apart.
    """

    place: NDArray[np.int64]
    on: NDArray[np.bool_]
    folds: NDArray[np.int64]
    drawn: NDArray[np.float64]

    @classmethod
    def of(
        cls, samples: PatternSamples, folds: NDArray[np.int64], rng: np.random.Generator, n_bootstraps: int
    ) -> ClusterPairs:
        """Draw clusters with replacement."""
        _, place = np.unique(samples.clusters, return_inverse=True)
        kinds = cluster_kinds(place, samples.on)
        drawn = np.zeros((n_bootstraps, len(kinds)))
        for kind in np.unique(kinds):
            members = kinds == kind
            n_members = int(members.sum())
            drawn[:, members] = rng.multinomial(n_members, np.full(n_members, 1 / n_members), n_bootstraps)
        return cls(place, samples.on, folds, drawn)

    def auc(self, values: NDArray[np.float64]) -> tuple[float, float, float]:
        """Area under the curve of an expression (n_samples,) with its 95 % interval.

        It is the share of pairs, a text of the condition and one of the reference in the same fold, in which the first
        has the larger value (Mann and Whitney 1947); ties count half. The interval is given the fitted filters.
        """
        first, second = np.unique(self.place[self.on]), np.unique(self.place[~self.on])  # clusters of each
        above, pairs = np.zeros((2, len(first), len(second)))
        for fold in np.unique(self.folds):
            on, off = (np.flatnonzero((self.folds == fold) & which) for which in (self.on, ~self.on))
            step = np.subtract.outer(values[on], values[off])
            cells = np.ix_(np.searchsorted(first, self.place[on]), np.searchsorted(second, self.place[off]))
            np.add.at(above, cells, (step > 0) + 0.5 * (step == 0))
            np.add.at(pairs, cells, 1.0)
        n_above, n_drawn = (
            ((self.drawn[:, first] @ counts) * self.drawn[:, second]).sum(1) for counts in (above, pairs)
        )
        low, high = np.percentile(n_above[n_drawn > 0] / n_drawn[n_drawn > 0], INTERVAL)
        return float(above.sum() / pairs.sum()), float(low), float(high)


def half_cosines(values: NDArray[np.float64], halves: NDArray[np.bool_], on: NDArray[np.bool_]) -> float:
    """Mean cosine of the activation patterns of two halves of the samples.

    `values` (n_samples, n_channels). `halves` (n_splits, n_samples): True for the first half.
    """
    first, second = (_difference_weights_within(on, part) @ (values - values.mean(0)) for part in (halves, ~halves))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(np.mean((first * second).sum(1) / np.where(lengths > 0, lengths, 1.0)))


def noise_ceiling(cosine: float) -> float:
    """Cosine to be expected of the pattern of all texts with the pattern without noise.

    With t the true pattern and noise of variance v in half of the texts, halves have cosine c = t't / (t't + v). All
    texts have noise v / 2, hence t't / (t't + v / 2) = 2c / (1 + c) (Spearman 1910, Brown 1910), and its root is the
    cosine with t.

    >>> round(noise_ceiling(0.5), 3), noise_ceiling(-0.1)
    (0.816, 0.0)
    """
    return float(np.sqrt(2 * cosine / (1 + cosine))) if cosine > 0 else 0.0


def _difference_weights_within(on: NDArray[np.bool_], parts: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights (n_parts, n_samples) that compare condition and reference within parts of the samples."""
    first, second = parts & on, parts & ~on
    return np.asarray(first / first.sum(1, keepdims=True) - second / second.sum(1, keepdims=True))


def exchange_p(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """p-value of the first labelling among all, (n_rows, n_labellings) -> (n_rows,); the true one counts too.

    (1 + b) / (1 + m) with b of m exchanged labellings as large is exact (Phipson and Smyth 2010).
    """
    true = distances[:, :1]
    larger = distances[:, 1:] >= true - _ROUNDING * np.abs(true)
    return np.asarray((1 + larger.sum(1)) / distances.shape[1])


def n_folds_of(samples: PatternSamples) -> int:
    """Number of folds that the clusters allow; below 2 nothing can be judged."""
    of_conditions = [len(np.unique(samples.clusters[which])) for which in (samples.on, ~samples.on)]
    return min(N_FOLDS, *of_conditions)


def measure(
    samples: PatternSamples, *, seed: int = 0, n_exchanges: int = N_EXCHANGES, n_bootstraps: int = N_BOOTSTRAPS
) -> pd.DataFrame:
    """Judge the pattern of samples on clusters that it was not fitted on.

    Returns columns `COLUMNS` without ``shrinkage``, one row per hookpoint and the last for all together; NaN where a
    condition has a single cluster.
    """
    rng = np.random.default_rng(seed)
    n_folds = n_folds_of(samples)
    (folds,) = deal_clusters(samples.clusters, samples.on, max(n_folds, 1), rng)
    halves = deal_clusters(samples.clusters, samples.on, 2, rng, N_SPLITS) == 0
    names = [*samples.space.hookpoints, ALL]
    table = pd.DataFrame({"hookpoint": names, "block": [*samples.space.blocks, "n/a"]})
    parts = [folds == fold for fold in range(n_folds)] + [*halves] + [*~halves]
    if n_folds < 2 or not all(0 < samples.on[part].sum() < part.sum() for part in parts):  # noqa: PLR2004 - none is left
        return table.assign(**dict.fromkeys(COLUMNS[2:], np.nan)).drop(columns="shrinkage")
    labels = np.vstack([samples.on, exchanged(samples.clusters, samples.on, n_exchanges, rng, folds)])
    pairs = ClusterPairs.of(samples, folds, rng, n_bootstraps)
    judged = [cross_validate(values, labels, folds) for values in samples.hookpoints()]
    cosines = np.array([half_cosines(values, halves, samples.on) for values in samples.hookpoints()])
    distances = np.stack([hookpoint.distances for hookpoint in judged])
    # Hookpoints count alike in the p of all: distances of each are scaled by how much they vary over all labellings.
    scale = distances.std(1, keepdims=True)
    together = (distances / np.where(scale > 0, scale, 1.0)).mean(0)
    expressions = np.stack([hookpoint.expression for hookpoint in judged])
    areas = np.array([pairs.auc(expression) for expression in (*expressions, expressions.mean(0))])
    mean_cosine = [*cosines, cosines.mean()]
    return table.assign(
        auc=areas[:, 0],
        auc_low=areas[:, 1],
        auc_high=areas[:, 2],
        cosine_halves=mean_cosine,
        noise_ceiling=[noise_ceiling(cosine) for cosine in mean_cosine],
        crossnobis=[*distances[:, 0], distances[:, 0].mean()],
        p=exchange_p(np.vstack([distances, together])),
        spread=[*(hookpoint.spread for hookpoint in judged), np.nan],
    )
