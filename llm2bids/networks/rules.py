"""Which units of a map are its network: a share of the strongest, or those that pass a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llm2bids.errors import InferenceError
from llm2bids.networks.run_statistics import strength
from llm2bids.statistics.linear_model import adjust

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from llm2bids.networks.run_statistics import Maps, Tail


@dataclass(frozen=True, slots=True)
class NetworkRule:
    """Which units of a map are its network.

    - `name`: the strongest units, or those that pass a test corrected like this.
    - `level`: share of the units, or level of the test.

    >>> NetworkRule.from_text("1%"), NetworkRule.from_text("fdr").label
    (NetworkRule(name='top', level=0.01, tail='two'), 'fdr .05')
    """

    name: str
    level: float
    tail: Tail = "two"

    def __post_init__(self) -> None:
        """Refuse unknown rules."""
        if self.name not in {"top", "fdr", "bonferroni", "none"}:
            raise InferenceError(f"rule {self.name!r} found; use a share of the units such as 1%, fdr or bonferroni")
        if self.tail not in {"two", "positive", "negative"}:
            raise InferenceError(f"tail {self.tail!r} found; use two, positive or negative")
        if not 0 < self.level < 1:
            raise InferenceError(f"level {self.level:g} found; more than 0 and less than 1 needed, e.g. 1% or 0.01")

    @classmethod
    def from_text(cls, text: str, alpha: float = 0.05, tail: Tail = "two") -> NetworkRule:
        """Read a rule as one writes it.

        `text`: A share of the units such as ``"1%"`` or ``"0.01"``, ``"fdr"``, ``"bonferroni"`` or ``"none"``.
        """
        if text in {"fdr", "bonferroni", "none"}:
            return cls(text, alpha, tail)
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError as error:
            raise InferenceError(f"rule {text!r} found; use a share such as 1%, or fdr, bonferroni, none") from error
        return cls("top", share, tail)

    @property
    def label(self) -> str:
        """The rule for people."""
        level = np.format_float_positional(self.level, trim="-").lstrip("0")
        return f"top {100 * self.level:g}%" if self.name == "top" else f"{self.name} {level}"

    def select(self, maps: Maps, order: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Choose units.

        `order` (n_maps, n_units): `ranks` of the strength of the maps, where they are known already. Returns (n_maps,
        n_units): the networks; of equally strong units at the edge of a share the first are chosen. A unit that is NaN
        is in no network of a test.
        """
        if self.name == "top":
            known = ranks(strength(maps.t, self.tail)) if order is None else order
            chosen: NDArray[np.bool_] = known < max(1, round(self.level * maps.t.shape[1]))
            return chosen
        p = np.nan_to_num(maps.p(self.tail), nan=1.0)
        return np.stack([adjust(row, self.name) <= self.level for row in p])


def strongest(values: NDArray[np.float64], n_chosen: ArrayLike) -> NDArray[np.bool_]:
    """Choose the largest values of each row.

    `values` (n_maps, n_units): more is stronger. `n_chosen` (n_maps,): how many of each row. Returns (n_maps, n_units):
    true for those; of equal ones the first.

    >>> strongest(np.array([[3.0, 1.0, 2.0]]), [2]).tolist()
    [[True, False, True]]
    """
    return ranks(values) < np.asarray(n_chosen)[:, None]


def ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number the values of each row from the largest.

    `values` (n_maps, n_units): more is stronger. Returns (n_maps, n_units): 0 for the largest; of equal ones the first
    comes first.

    >>> ranks(np.array([[2.0, 5.0, 2.0]])).tolist()
    [[1, 0, 2]]
    """
    order = np.argsort(-values, axis=1, kind="stable")
    found = np.empty_like(order)
    np.put_along_axis(found, order, np.broadcast_to(np.arange(values.shape[1]), order.shape), axis=1)
    return found
