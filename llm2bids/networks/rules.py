"""Which units of a map are its network: a share of the strongest, or those that pass a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llm2bids.errors import InferenceError, SelectionError
from llm2bids.results.work import read_share
from llm2bids.space import Selection
from llm2bids.statistics.correction import adjust

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llm2bids.networks.run_statistics import Maps
    from llm2bids.space.selection import Tail


@dataclass(frozen=True, slots=True)
class NetworkRule:
    """Which units of a map are its network.

    - `name`: ``top`` for the strongest units, or the correction of the test that they pass.
    - `level`: share of the units, or level of the test.

    >>> NetworkRule.from_text("1%"), NetworkRule.from_text("fdr").label
    (NetworkRule(name='top', level=0.01, tail='two'), 'fdr .05')
    """

    name: str
    level: float
    tail: Tail = "two"

    def __post_init__(self) -> None:
        """Raise if the rule is unknown."""
        if self.name not in {"top", "fdr", "bonferroni", "none"}:
            raise InferenceError(f"rule {self.name!r} found; use a share of the units such as 1%, fdr or bonferroni")
        if self.tail not in {"two", "positive", "negative"}:
            raise InferenceError(f"tail {self.tail!r} found; use two, positive or negative")
        if not 0 < self.level < 1:
            raise InferenceError(f"level {self.level:g} found; more than 0 and less than 1 needed, e.g. 1% or 0.01")

    @classmethod
    def from_text(cls, text: str, alpha: float = 0.05, tail: Tail = "two") -> NetworkRule:
        """Read a rule as people write it: a share such as ``1%``, or ``fdr``, ``bonferroni`` or ``none``."""
        if text in {"fdr", "bonferroni", "none"}:
            return cls(text, alpha, tail)
        try:
            share = read_share(text)
        except SelectionError as error:
            raise InferenceError(f"rule {text!r} found; use a share such as 1%, or fdr, bonferroni, none") from error
        return cls("top", share, tail)

    @property
    def label(self) -> str:
        """The rule in words."""
        level = np.format_float_positional(self.level, trim="-").lstrip("0")
        return f"top {100 * self.level:g}%" if self.name == "top" else f"{self.name} {level}"

    def select(self, maps: Maps, order: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Choose units; a share by `llm2bids.space.selection`, a test where the corrected p-value is at most the level.

        `order` (n_maps, n_units): `ranks` of the strength of the maps, where they are known already. Returns (n_maps,
        n_units): the networks. A unit that is NaN is in none.
        """
        if self.name == "top":
            return Selection(top=self.level, tail=self.tail).select(maps.t, order=order)
        p = np.nan_to_num(maps.p(self.tail), nan=1.0)
        return np.stack([adjust(row, self.name) <= self.level for row in p])
