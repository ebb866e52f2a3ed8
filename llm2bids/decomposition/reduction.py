"""From many runs to few dimensions in flat memory: principal components of all, and how many are more than noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

KEEP: Final = 1000
"""Dimensions kept while runs are added: exact for models of fewer units and for fewer samples, else as in MELODIC's
incremental group PCA (Smith et al. 2014, NeuroImage 101)."""
_DRAWS: Final = 20
_LEVEL: Final = 0.95
_TINY: Final = 1e-9
"""Relative to the largest: a variance below is 0 but for rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """Samples of several runs in the principal components of all.

    - `basis` (n_dimensions, n_units): orthonormal rows.
    - `scores` (n_samples, n_dimensions): one per run, centred in each.
    - `total`: sum of squares of all samples, before dimensions were left out.
    - `subjects`: whose each run is; empty for one subject.
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
            np.concatenate([own for own, label in zip(self.scores, labels, strict=True) if label == subject])
            for subject in dict.fromkeys(labels)
        ]

    @property
    def n_samples(self) -> int:
        """Samples of all runs."""
        return sum(map(len, self.scores))

    def resampled(self, rng: np.random.Generator) -> Reduced:
        """Draw runs with replacement; the samples of a single run, where there is one."""
        if len(self.scores) > 1:
            chosen = rng.integers(len(self.scores), size=len(self.scores))
            subjects = tuple(self.subjects[number] for number in chosen) if self.subjects else ()
            return replace(self, scores=tuple(self.scores[number] for number in chosen), subjects=subjects)
        rows = self.scores[0][rng.integers(self.n_samples, size=self.n_samples)]
        return replace(self, scores=(rows - rows.mean(0),))


def principal(blocks: Iterable[NDArray[np.floating[Any]]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the principal components of samples that come run by run.

    `blocks` (n_samples, n_units): centred. Returns `variances` (n_dimensions,): sums of squares along each, the largest
    first. Returns `basis` (n_dimensions, n_units): orthonormal rows.
    """
    held: NDArray[np.float64] | None = None
    squares: NDArray[np.float64] | None = None
    for block in blocks:
        own = np.asarray(block, np.float64)
        if own.shape[1] <= KEEP:
            squares = own.T @ own if squares is None else squares + own.T @ own
            continue
        held = own if held is None else np.concatenate([held, own])
        if len(held) > KEEP:
            held = _rotated(held)[:KEEP]
    if squares is not None:
        variances, vectors = np.linalg.eigh(squares)
        return _leading(variances[::-1], vectors.T[::-1])
    if held is None:
        raise ValueError("no samples")
    held = _rotated(held)
    variances = (held**2).sum(1)
    return _leading(variances, held / np.sqrt(np.maximum(variances, _TINY * variances[0]))[:, None])


def reduce_runs(blocks: Callable[[], Iterator[NDArray[np.float32]]], basis: NDArray[np.float64]) -> Reduced:
    """Put the samples of all runs into given dimensions.

    `basis` (n_dimensions, n_units): orthonormal rows.
    """
    scores, total = [], 0.0
    for block in blocks():
        own = block.astype(np.float64)
        scores.append(own @ basis.T)
        total += float((own**2).sum())
    return Reduced(basis, tuple(scores), total)


def estimate_components(
    variances: NDArray[np.float64],
    lengths: Sequence[int],
    power: NDArray[np.float64],
    rng: np.random.Generator,
    n_draws: int = _DRAWS,
) -> int:
    """Estimate the number of components by parallel analysis (Horn 1965, Psychometrika 30).

    `variances` (n_dimensions,): what `principal` gave. `power` (n_units,): sum of squares of each unit. Returns how
    many dimensions have more variance than 95 % of such dimensions of normal noise that is as strong in each unit and
    independent between units and samples. 2 at least.
    """
    spread = np.sqrt(power / max(sum(lengths) - len(lengths), 1))

    def noise() -> Iterator[NDArray[np.float64]]:
        for length in lengths:
            drawn = rng.standard_normal((length, len(spread))) * spread
            yield drawn - drawn.mean(0)

    drawn = [_spectrum(noise(), sum(lengths), len(spread)) for _ in range(n_draws)]
    shortest = min(len(variances), *map(len, drawn))
    bound = np.quantile([one[:shortest] for one in drawn], _LEVEL, axis=0)
    above = variances[:shortest] > bound
    return max(2, int(shortest if above.all() else np.argmin(above)))


def _spectrum(blocks: Iterable[NDArray[np.float64]], n_samples: int, n_units: int) -> NDArray[np.float64]:
    """What `principal` gives first, without the directions, which take most of the time."""
    if n_units > KEEP:
        return principal(blocks)[0]
    if n_samples < n_units:  # few samples: the smaller of two matrices with the same values
        rows = np.concatenate(list(blocks))
        return np.asarray(np.linalg.eigvalsh(rows @ rows.T)[::-1], np.float64)
    squares = np.zeros((n_units, n_units))
    for block in blocks:
        squares += block.T @ block
    return np.asarray(np.linalg.eigvalsh(squares)[::-1], np.float64)


def _rotated(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same sums of squares along orthogonal rows, the largest first."""
    _, vectors = np.linalg.eigh(rows @ rows.T)
    turned: NDArray[np.float64] = vectors.T[::-1] @ rows
    return turned


def _leading(
    variances: NDArray[np.float64], basis: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What is more than rounding."""
    there = variances > _TINY * variances[0]
    return variances[there], basis[there]
