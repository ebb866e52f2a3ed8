"""Changes the component of activations along a pattern, at one hookpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from llm2bids.errors import LesionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from llm2bids.space import UnitPattern
    from llm2bids.space.pattern import Along

_RANK: Final = 1e-9
"""Smallest singular value, of the largest, of directions that differ."""


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """How the component of activations along a pattern is read and written at one hookpoint.

    - `read` (n_channels, n_directions), `write` (n_directions, n_channels): of a row vector of activations h, measured
      from some origin, ``h @ read @ write`` is the component.
    - `step` (n_channels,): change of activations by one standard deviation along all directions; None if not known.
    """

    hookpoint: str
    read: Tensor
    write: Tensor
    step: Tensor | None

    def to(self, device: torch.device, dtype: torch.dtype) -> Projection:
        """Copy to a device and type."""
        step = None if self.step is None else self.step.to(device, dtype)
        return Projection(self.hookpoint, self.read.to(device, dtype), self.write.to(device, dtype), step)

    def component(self, differences: Tensor) -> Tensor:
        """Component of differences from an origin, (..., n_channels)."""
        return (differences @ self.read) @ self.write


def projections(pattern: UnitPattern, along: Along | None) -> Iterator[tuple[slice, Projection]]:
    """Make the projection of each hookpoint at which a pattern has a direction, with the units it holds.

    Along a filter or a pattern the projection is orthogonal: with Q an orthonormal basis of the directions, the
    component is ``Q Q' h``. The oblique one reads by the filter F and writes along the pattern A: ``A'(F A')^-1 F h``,
    which changes what the filter reads and nothing else (LEACE, Belrose et al. 2023, where F is the pattern whitened by
    the total covariance).
    """
    space = pattern.space
    directions = pattern.directions(along)
    written = pattern.directions("pattern") if along == "oblique" else directions
    spread = _spread(pattern, along)
    edges = [*space.starts().tolist(), space.n_units]
    for number, name in enumerate(space.hookpoints):
        units = slice(edges[number], edges[number + 1])
        rows, targets = directions[:, units], written[:, units]
        if not rows.any():
            continue
        here = None if spread is None else spread[:, number]
        read, write, step = _oblique(name, rows, targets, here) if along == "oblique" else _orthogonal(rows, here)
        steps = None if step is None else torch.from_numpy(step)
        yield units, Projection(name, torch.from_numpy(read.copy()), torch.from_numpy(write.copy()), steps)


def _spread(pattern: UnitPattern, along: Along | None) -> NDArray[np.float64] | None:
    """Standard deviation of the component along what is read; None where it is of another direction."""
    is_of_filter = pattern.filter is not None
    return None if is_of_filter and along == "pattern" else pattern.spread


def _orthogonal(
    rows: NDArray[np.float64], spread: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Reading, writing and step of an orthogonal projection onto rows (n_directions, n_channels)."""
    _, singular, right = np.linalg.svd(rows, full_matrices=False)
    basis = right[singular > _RANK * singular[0]]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    step = None if spread is None else (spread @ (rows / np.where(lengths > 0, lengths, 1.0)))
    return basis.T, basis, step


def _oblique(
    hookpoint: str, filters: NDArray[np.float64], patterns: NDArray[np.float64], spread: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Reading, writing and step of the projection that reads filters and writes along patterns."""
    lengths = [np.linalg.norm(rows, axis=1, keepdims=True) for rows in (filters, patterns)]
    units, targets = (
        rows / np.where(length > 0, length, 1.0) for rows, length in zip((filters, patterns), lengths, strict=True)
    )
    gains = targets @ units.T  # what each filter reads of each pattern
    singular = np.linalg.svd(gains, compute_uv=False)
    if singular[-1] <= _RANK * max(singular[0], _RANK):
        raise LesionError(
            f"a filter that reads nothing along its pattern at {hookpoint} found; use along='filter' there, or leave "
            "the layer out"
        )
    read = units.T @ np.linalg.inv(gains)
    # A change d = x P of activations is read as x P U' = x G; one step is to be read as the spread: x = spread G^-1.
    step = None if spread is None else np.linalg.solve(gains.T, spread) @ targets
    return read, targets, step
