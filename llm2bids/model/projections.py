"""Changes the component of activations along a pattern, at one hookpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import torch

from llm2bids.errors import LesionError
from llm2bids.space.pattern import orthonormal_basis, unit_length

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from llm2bids.space import UnitPattern
    from llm2bids.space.pattern import Along

Arrays: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]"
_RANK: Final = 1e-9
"""Smallest singular value, of the largest, of filters that read their patterns."""


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """How the component of activations along a pattern is read and written at one hookpoint.

    - `read` (n_channels, n_directions), `write` (n_directions, n_channels): of a row vector of activations h, measured
      from some origin, ``h @ read @ write`` is the component.
    - `step` (n_channels,): change of activations by one standard deviation along all directions; 0 where the spread
      of the pattern is not known, which nobody may steer along.
    """

    read: Tensor
    write: Tensor
    step: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Projection:
        """Copy to a device and type."""
        return Projection(*(part.to(device, dtype) for part in (self.read, self.write, self.step)))

    def component(self, differences: Tensor) -> Tensor:
        """Component of differences from an origin, (..., n_channels)."""
        return (differences @ self.read) @ self.write


def projections(pattern: UnitPattern, along: Along | None) -> Iterator[Projection | None]:
    """Make the projection of each hookpoint; None where a pattern has no direction.

    Along a filter or a pattern the projection is orthogonal: with Q an orthonormal basis of the directions, the
    component is ``Q Q' h``. The oblique one reads by the filter F and writes along the pattern A: ``A'(F A')^-1 F h``,
    which changes what the filter reads and nothing else (LEACE, Belrose et al. 2023, where F is the pattern whitened by
    the total covariance).
    """
    space = pattern.space
    directions = unit_length(pattern.directions(along), space)
    written = unit_length(pattern.directions("pattern"), space) if along == "oblique" else directions
    spread = np.zeros((pattern.n_directions, space.n_hookpoints)) if pattern.spread is None else pattern.spread
    parts = zip(space.hookpoints, space.split(directions), space.split(written), spread.T, strict=True)
    for name, rows, targets, steps in parts:
        if not rows.any():
            yield None
            continue
        arrays = _oblique(name, rows, targets, steps) if along == "oblique" else _orthogonal(rows, steps)
        yield Projection(*(torch.from_numpy(array.copy()) for array in arrays))


def _orthogonal(rows: NDArray[np.float64], spread: NDArray[np.float64]) -> Arrays:
    """Reading, writing and step of the orthogonal projection onto rows of length 1, (n_directions, n_channels)."""
    basis = orthonormal_basis(rows)
    return basis, basis.T, spread @ rows


def _oblique(
    hookpoint: str, filters: NDArray[np.float64], patterns: NDArray[np.float64], spread: NDArray[np.float64]
) -> Arrays:
    """Reading, writing and step of the projection that reads filters and writes along patterns, rows of length 1."""
    gains = patterns @ filters.T  # what each filter reads of each pattern
    singular = np.linalg.svd(gains, compute_uv=False)
    if singular[-1] <= _RANK * max(singular[0], _RANK):
        raise LesionError(
            f"a filter that reads nothing along its pattern at {hookpoint} found; use along='filter' there, or leave "
            "the layer out"
        )
    # A change x A of activations is read as x A F' = x G; one step is to be read as the spread: x = spread G^-1.
    return filters.T @ np.linalg.inv(gains), patterns, np.linalg.solve(gains.T, spread) @ patterns
