"""Principal components of many runs in constant memory, and the number of components beyond noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

MAX_DIMENSIONS: Final = 1000
"""Dimensions in memory while runs are added: exact for fewer units or fewer samples, else as in MELODIC's incremental
group PCA (Smith et al. 2014, NeuroImage 101)."""
_N_DRAWS: Final = 20
"""Noise data sets of parallel analysis."""
_LEVEL: Final = 0.95
"""Quantile of the variance of noise that a component has to exceed."""
_TINY: Final = 1e-9
"""Variances below this share of the largest are 0 but for rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class ReducedRuns:
    """Samples of several runs in the principal components of all.

    - `basis` (n_dimensions, n_units): orthonormal rows.
    - `scores`: one array (n_samples, n_dimensions) per run, centred.
    - `total`: sum of squares of all samples, in all dimensions.
    - `subjects`: subject of each run; empty for one subject.
    """

    basis: NDArray[np.float64]
    scores: tuple[NDArray[np.float64], ...]
    total: float
    subjects: tuple[str, ...] = ()

    @property
    def by_subject(self) -> list[NDArray[np.float64]]:
        """Samples of each subject, shape (n_samples, n_dimensions)."""
        labels = self.subjects or ("",) * len(self.scores)
        return [
            np.concatenate([run for run, label in zip(self.scores, labels, strict=True) if label == subject])
            for subject in dict.fromkeys(labels)
        ]

    @property
    def n_samples(self) -> int:
        """Number of samples of all runs."""
        return sum(map(len, self.scores))

    def resampled(self, rng: np.random.Generator) -> ReducedRuns:
        """Draw runs with replacement; of a single run, draw its samples."""
        if len(self.scores) > 1:
            chosen = rng.integers(len(self.scores), size=len(self.scores))
            subjects = tuple(self.subjects[number] for number in chosen) if self.subjects else ()
            return replace(self, scores=tuple(self.scores[number] for number in chosen), subjects=subjects)
        rows = self.scores[0][rng.integers(self.n_samples, size=self.n_samples)]
        return replace(self, scores=(rows - rows.mean(0),))


def principal_axes(
    blocks: Iterable[NDArray[np.floating[Any]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the principal components of samples that come run by run.

    `blocks`: arrays (n_samples, n_units), centred. Returns `variances` (n_dimensions,), sums of squares, the largest
    first; and `basis` (n_dimensions, n_units), orthonormal rows.
    """
    rows: NDArray[np.float64] | None = None
    squares: NDArray[np.float64] | None = None
    for block in blocks:
        samples = np.asarray(block, np.float64)
        if samples.shape[1] <= MAX_DIMENSIONS:
            # Few units: the cross-products of runs add up to those of all samples, exactly.
            squares = samples.T @ samples if squares is None else squares + samples.T @ samples
            continue
        # Many units: rows with the same cross-products as all samples so far stand for them, the smallest dropped.
        rows = samples if rows is None else np.concatenate([rows, samples])
        if len(rows) > MAX_DIMENSIONS:
            rows = _rotated(rows)[:MAX_DIMENSIONS]
    if squares is not None:
        variances, vectors = np.linalg.eigh(squares)
        return _leading(variances[::-1], vectors.T[::-1])
    if rows is None:
        raise ValueError("no samples")
    rows = _rotated(rows)
    variances = (rows**2).sum(1)
    return _leading(variances, rows / np.sqrt(np.maximum(variances, _TINY * variances[0]))[:, None])


def reduce_runs(blocks: Callable[[], Iterator[NDArray[np.float32]]], basis: NDArray[np.float64]) -> ReducedRuns:
    """Project the samples of all runs on a basis, shape (n_dimensions, n_units), of orthonormal rows."""
    scores, total = [], 0.0
    for block in blocks():
        samples = block.astype(np.float64)
        scores.append(samples @ basis.T)
        total += float((samples**2).sum())
    return ReducedRuns(basis, tuple(scores), total)


def estimate_components(
    variances: NDArray[np.float64],
    lengths: Sequence[int],
    power: NDArray[np.float64],
    rng: np.random.Generator,
    n_draws: int = _N_DRAWS,
) -> int:
    """Estimate the number of components by parallel analysis (Horn 1965, Psychometrika 30).

    `variances` (n_dimensions,): as from `principal_axes`. `lengths`: samples of each run. `power` (n_units,): sum
    of squares of each unit. Returns the number of leading dimensions with more variance than the same dimension of 95 %
    of normal noise data, of the same variance in each unit and independent between units and samples; 2 at least.
    """
    # Each run is centred, which costs it one degree of freedom.
    spread = np.sqrt(power / max(sum(lengths) - len(lengths), 1))

    def noise() -> Iterator[NDArray[np.float64]]:
        for length in lengths:
            samples = rng.standard_normal((length, len(spread))) * spread
            yield samples - samples.mean(0)

    spectra = [_spectrum(noise(), sum(lengths), len(spread)) for _ in range(n_draws)]
    shortest = min(len(variances), *map(len, spectra))
    bound = np.quantile([spectrum[:shortest] for spectrum in spectra], _LEVEL, axis=0)
    above = variances[:shortest] > bound
    return max(2, int(shortest if above.all() else np.argmin(above)))


def _spectrum(blocks: Iterable[NDArray[np.float64]], n_samples: int, n_units: int) -> NDArray[np.float64]:
    """Compute the variances of `principal_axes` without their directions, which take most of the time."""
    if n_units > MAX_DIMENSIONS:
        return principal_axes(blocks)[0]
    if n_samples < n_units:  # X X' and X' X have the same eigenvalues but for zeros: take the smaller
        rows = np.concatenate(list(blocks))
        return np.asarray(np.linalg.eigvalsh(rows @ rows.T)[::-1], np.float64)
    squares = np.zeros((n_units, n_units))
    for block in blocks:
        squares += block.T @ block
    return np.asarray(np.linalg.eigvalsh(squares)[::-1], np.float64)


def _rotated(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotate rows until they are orthogonal, the longest first; their cross-product X' X stays the same."""
    _, vectors = np.linalg.eigh(rows @ rows.T)
    rotated: NDArray[np.float64] = vectors.T[::-1] @ rows
    return rotated


def _leading(
    variances: NDArray[np.float64], basis: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Drop dimensions whose variance is 0 but for rounding."""
    positive = variances > _TINY * variances[0]
    return variances[positive], basis[positive]
