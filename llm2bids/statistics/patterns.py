"""Activation patterns and extraction filters of two conditions, for the true labels or for many random ones.

The samples are texts, each the mean of its tokens. At each hookpoint, with means m_on and m_off of the two conditions:

* pattern ``a = m_on - m_off`` (activation pattern, Haufe et al. 2014, NeuroImage 87);
* noise covariance ``S = R'R / (n - 2)`` of the residuals R about the mean of their own condition, shrunk to
  ``S* = (1 - s) S + s tr(S) / C I``, s after Ledoit and Wolf (2004, J. Multivar. Anal. 88);
* filter ``w = S*^-1 a``, the pattern whitened by the noise: Fisher's discriminant (Walther et al. 2016, NeuroImage
  137).

All of it is computed in the principal axes of the *total* covariance, which does not depend on the labels. With
``T = X'X`` of the centred samples, ``R'R = T - k a a'``, ``k = n_on n_off / n``. So the inverse for any labels is a
diagonal one and a change of rank one (Sherman and Morrison 1950), and thousands of random labels cost one
eigendecomposition per hookpoint. That is exact: each labelling has the shrinkage of its own residuals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.space import UnitPattern

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from llm2bids.space import UnitSpace
    from llm2bids.statistics.pattern_samples import PatternSamples

_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class FittedPatterns:
    """Patterns of one or many labellings of the same samples.

    - `patterns`, `filters` (n_labellings, n_units): a filter is scaled so that what it reads from the samples has
      standard deviation 1 within conditions, at every hookpoint.
    - `references` (n_labellings, n_units): mean over the reference.
    - `shrinkage`, `spread` (n_labellings, n_hookpoints): of the covariance; and the standard deviation within
      conditions, in raw activation, of the component along the filter of length 1.

    On texts that were not fitted on the spread is larger, the more so the more channels there are per text: `rescaled`.
    """

    space: UnitSpace
    patterns: NDArray[np.float64]
    filters: NDArray[np.float64]
    references: NDArray[np.float64]
    shrinkage: NDArray[np.float64]
    spread: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of labellings."""
        return len(self.patterns)

    def rescaled(self, spread: NDArray[np.float64]) -> FittedPatterns:
        """Scale filters by another spread (n_hookpoints,), e.g. that of texts not fitted on; NaN and 0 change nothing.

        A filter of length 1 / spread reads standard deviation 1.
        """
        spreads = np.where((spread > 0) & (self.spread > 0), spread, self.spread)
        change = np.divide(self.spread, spreads, out=np.ones_like(spreads), where=spreads > 0)
        filters = self.filters * np.repeat(change, self.space.n_channels, axis=1)
        return replace(self, filters=filters, spread=spreads)

    def pattern(self, number: int = 0, provenance: Mapping[str, Any] | None = None) -> UnitPattern:
        """Give the pattern of one labelling."""
        return UnitPattern(
            self.space,
            pattern=self.patterns[number],
            filter=self.filters[number],
            reference=self.references[number],
            spread=self.spread[number],
            provenance=dict(provenance or {}),
        )


@dataclass(frozen=True, slots=True, eq=False)
class PrincipalAxes:
    """The samples of one hookpoint in the principal axes of their total covariance.

    - `mean` (n_channels,): over all samples.
    - `axes` (n_axes, n_channels): orthonormal; n_axes is the rank.
    - `scores` (n_samples, n_axes): of the samples, from the mean.
    - `squares` (n_axes,): sum of squares of the scores along each axis, largest last.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    scores: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64], *, dual: bool | None = None) -> PrincipalAxes:
        """Find the axes of samples (n_samples, n_channels).

        `dual`: from the products of samples (n_samples squared) instead of channels (n_channels squared); by default
        whichever is smaller. Both give the same: X'X and XX' have the same eigenvalues but for zeros.
        """
        mean = values.mean(0)
        centred = values - mean
        if dual if dual is not None else len(values) < values.shape[1]:
            squares, left = np.linalg.eigh(centred @ centred.T)
            solid = squares > max(values.shape) * np.finfo(float).eps * max(squares[-1], 0.0)
            scores = left[:, solid] * np.sqrt(squares[solid])
            axes = left[:, solid].T @ centred / np.sqrt(squares[solid])[:, None]
        else:
            squares, right = np.linalg.eigh(centred.T @ centred)
            solid = squares > max(values.shape) * np.finfo(float).eps * max(squares[-1], 0.0)
            axes = right[:, solid].T
            scores = centred @ axes.T
        return cls(mean, axes, scores, squares[solid])

    def project(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the scores of other samples (n, n_channels)."""
        scores: NDArray[np.float64] = (values - self.mean) @ self.axes.T
        return scores


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Patterns and filters of many labellings at one hookpoint, in its principal axes.

    - `patterns`, `filters` (n_labellings, n_axes): a, and ``S*^-1 a``.
    - `noise` (n_labellings,): standard deviation within conditions of what the filters read.
    - `shrinkage` (n_labellings,)
    """

    patterns: NDArray[np.float64]
    filters: NDArray[np.float64]
    noise: NDArray[np.float64]
    shrinkage: NDArray[np.float64]

    @property
    def scaled(self) -> NDArray[np.float64]:
        """Filters that read standard deviation 1; as they are where there is no noise."""
        return self.filters / np.where(self.noise > 0, self.noise, 1.0)[:, None]


def difference_weights(labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights (n_labellings, n_samples) that give mean of the condition minus mean of the reference; 0 without either.

    >>> difference_weights(np.array([[True, False, False]])).tolist()
    [[1.0, -0.5, -0.5]]
    """
    n_on = labels.sum(1, keepdims=True)
    n_off = labels.shape[1] - n_on
    weights = labels / np.maximum(n_on, 1) - ~labels / np.maximum(n_off, 1)
    return np.where((n_on > 0) & (n_off > 0), weights, 0.0)


def fit_labels(samples: PrincipalAxes, labels: NDArray[np.bool_], n_channels: int) -> Labelled:
    """Fit patterns and filters of many labellings (n_labellings, n_samples) at one hookpoint."""
    n_samples = len(samples.scores)
    n_on = labels.sum(1)
    free = max(n_samples - 2, 1)  # degrees of freedom within two conditions
    patterns = difference_weights(labels) @ samples.scores
    between = n_on * (n_samples - n_on) / n_samples  # k of the module's docstring
    shrinkage, trace = _ledoit_wolf(samples, labels, patterns, between, n_channels)
    # (S* + (1-s)/(n-2) k a a')^-1 a first: S* plus what R'R lacks of T is diagonal in these axes.
    share = ((1 - shrinkage) / free)[:, None]
    ridge = (shrinkage * trace / (free * n_channels))[:, None]
    floor = _TINY * samples.squares.max(initial=0.0) / free
    total = patterns / np.maximum(share * samples.squares + ridge, floor or 1.0)
    # Sherman-Morrison: (D - u a a')^-1 a = D^-1 a / (1 - u a'D^-1 a), u = (1-s)/(n-2) k.
    lost = share[:, 0] * between * (patterns * total).sum(1)
    filters = total / np.maximum(1 - lost, _TINY)[:, None]
    silent = trace <= _TINY * samples.squares.sum()  # no noise to whiten by: the filter is the pattern
    filters[silent] = patterns[silent]
    # w'R'Rw = w'Tw - k (a'w)^2
    squares = (filters**2 * samples.squares).sum(1) - between * (patterns * filters).sum(1) ** 2
    noise = np.where(silent, 0.0, np.sqrt(np.maximum(squares, 0.0) / free))
    return Labelled(patterns, filters, noise, shrinkage)


def _ledoit_wolf(
    samples: PrincipalAxes,
    labels: NDArray[np.bool_],
    patterns: NDArray[np.float64],
    between: NDArray[np.float64],
    n_channels: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shrinkage of the residuals of each labelling, as scikit-learn's `ledoit_wolf_shrinkage`, and their trace.

    It needs three sums over the residuals r_i: of their squares, of their fourth powers ``(r_i'r_i)^2``, and of the
    squared entries of R'R. All follow from the scores, so that no residual is computed.
    """
    n_samples, squares = len(samples.scores), samples.squares
    length = (patterns**2).sum(1)
    trace = np.maximum(squares.sum() - between * length, 0.0)
    # |T - k a a'|^2 = |T|^2 - 2 k a'Ta + k^2 |a|^4
    entries = (squares**2).sum() - 2 * between * (patterns**2 @ squares) + (between * length) ** 2
    # Means of the conditions, from the overall mean, are n_off/n a and -n_on/n a.
    on_share = labels.mean(1, keepdims=True)
    place = labels - on_share
    residuals = patterns @ samples.scores.T  # |x - p a|^2 = x'x + p (p a'a - 2 a'x), in place since it is large
    residuals *= -2
    residuals += place * length[:, None]
    residuals *= place
    residuals += (samples.scores**2).sum(1)
    fourth = np.einsum("ij,ij->i", residuals, residuals)
    spread = entries / n_samples**2
    beta = (fourth / n_samples - spread) / (n_channels * n_samples)
    delta = (spread - (trace / n_samples) ** 2 / n_channels) / n_channels
    solid = (delta > _TINY * (trace / n_samples / n_channels) ** 2) & (n_channels > 1)
    return np.where(solid, np.clip(beta / np.where(solid, delta, 1.0), 0.0, 1.0), 0.0), trace


def fit_patterns(samples: PatternSamples, labels: NDArray[np.bool_] | None = None) -> FittedPatterns:
    """Fit the pattern of the samples, or of many other labellings (n_labellings, n_samples) of the same samples."""
    labels = samples.on[None] if labels is None else labels
    reference_weights = ~labels / np.maximum((~labels).sum(1, keepdims=True), 1)
    columns: dict[str, list[NDArray[np.float64]]] = {name: [] for name in FittedPatterns.__slots__[1:]}
    for values in samples.hookpoints():
        axes = PrincipalAxes.of(values)
        fit = fit_labels(axes, labels, values.shape[1])
        lengths = np.linalg.norm(fit.filters, axis=1)
        columns["patterns"].append(fit.patterns @ axes.axes)
        columns["filters"].append(fit.scaled @ axes.axes)
        columns["references"].append(reference_weights @ values)
        columns["shrinkage"].append(fit.shrinkage[:, None])
        columns["spread"].append((fit.noise / np.where(lengths > 0, lengths, 1.0))[:, None])
    return FittedPatterns(samples.space, **{name: np.concatenate(parts, axis=1) for name, parts in columns.items()})
