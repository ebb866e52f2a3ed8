"""Which units of a map are chosen: the strongest, those beyond a threshold, or those with small p-values.

Every verb chooses by the rules of this module. Corrected p-values are compared with their level in
`llm2bids.statistics`.

Share
    A share is of the units that were tested: those whose value is a number. It is rounded to the nearest whole number
    of units, and is one unit at least.
Ties
    Of units that are equally strong the first in the order of the units is chosen, so that a share is met exactly.
Zero, NaN and side
    A unit that is exactly 0, that is NaN or that lies on the other side of 0 is never among the strongest. Where fewer
    units than the share are left, all of them are chosen.
Threshold
    Values beyond the threshold are chosen, values equal to it are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llm2bids.errors import SelectionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

Tail = Literal["positive", "negative", "two"]
"""Side of a map: values above 0, below 0, or both."""
SELECTION_KEYS = ("Rule", "Threshold", "Top", "Tail", "Below")
"""Keys that `Selection.to_json` may write."""
_TAILS = ("positive", "negative", "two")
_THRESHOLD_TEXTS = {"positive": "value > {}", "negative": "value < -{}", "two": "|value| > {}"}
_AT_ZERO = {"positive": "value > 0", "negative": "value < 0", "two": "value other than 0"}
_TOP_TEXTS = {"positive": "by value", "negative": "by -value", "two": "by |value|"}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which units of a map are chosen; without `threshold` and `top` all that are not 0.

    - `threshold`: in the units of the map, 0 or more.
    - `tail`: choose ``value > threshold``, ``value < -threshold`` or ``|value| > threshold``.
    - `below`: the map holds p-values: choose ``value < threshold``.
    - `top`: instead of a threshold, the share of the tested units to choose, above 0 and at most 1.

    >>> Selection(3.1, "two").text, Selection(0.05, below=True).text, Selection(top=0.01, tail="negative").text
    ('|value| > 3.1', 'p < 0.05', 'top 1 % of tested units by -value')
    >>> Selection(top=0.5, tail="two").select([1, -3, 3, 0, 2, float("nan")]).tolist()
    [False, True, True, False, False, False]
    """

    threshold: float | None = None
    tail: Tail = "positive"
    below: bool = False
    top: float | None = None

    def __post_init__(self) -> None:
        """Raise if the fields contradict each other or would choose other units than meant."""
        if self.tail not in _TAILS:
            raise SelectionError(f"tail {self.tail!r} found; use positive, negative or two")
        if self.threshold is not None and self.top is not None:
            raise SelectionError("a threshold and a top share found; give one of them")
        if self.threshold is not None and not (isfinite(self.threshold) and self.threshold >= 0):
            raise SelectionError(f'threshold {self.threshold} found, 0 or more needed; name the side: tail="negative"')
        if self.top is not None:
            check_shares([self.top])
        if self.below and self.tail != "positive":
            raise SelectionError(f"tail {self.tail!r} for p values found, which have none; leave out `tail` or `below`")
        if not self.is_given and (self.below or self.tail != "positive"):
            raise SelectionError(f"a side ({'below' if self.below else self.tail}) without a threshold found; give one")

    @property
    def is_given(self) -> bool:
        """Whether there is a threshold or a share."""
        return self.threshold is not None or self.top is not None

    @property
    def text(self) -> str:
        """The rule in words."""
        if self.top is not None:
            return f"top {self.top * 100:g} % of tested units {'by small p' if self.below else _TOP_TEXTS[self.tail]}"
        if self.threshold is None:
            return _AT_ZERO["two"]
        if self.below:
            return f"p < {self.threshold:g}"
        return _THRESHOLD_TEXTS[self.tail].format(f"{self.threshold:g}") if self.threshold else _AT_ZERO[self.tail]

    def to_json(self) -> dict[str, Any]:
        """Describe the rule for a sidecar: ``Rule``, and those of the other `SELECTION_KEYS` that matter."""
        fields: dict[str, Any] = {"Rule": self.text}
        if self.threshold is not None:
            fields["Threshold"] = float(self.threshold)
        if self.top is not None:
            fields["Top"] = float(self.top)
        if self.is_given:
            fields |= {"Below": True} if self.below else {"Tail": self.tail}
        return fields

    def strength(self, values: ArrayLike) -> NDArray[np.floating[Any]]:
        """Turn values (...) so that more is stronger; the same shape."""
        if self.below:
            return -np.asarray(values)
        return strength(values, self.tail if self.is_given else "two")

    @property
    def bound(self) -> float:
        """What the strength of a unit must exceed: the threshold; for a share 0, or -1 where it is of p-values."""
        if self.below:
            return -1.0 if self.threshold is None else -self.threshold
        return self.threshold or 0.0

    def select(
        self, values: ArrayLike, *, order: NDArray[np.int64] | None = None, equals: ArrayLike | None = None
    ) -> NDArray[np.bool_]:
        """Choose units, of each map by itself.

        `values` (..., n_units): statistic or p-values; NaN where a unit was not tested. `order` (..., n_units): the
        `ranks` of their strength, where they are known already. `equals` (..., n_units): a second statistic by which
        equal values are told apart, before the order of the units decides. Returns (..., n_units).
        """
        level = self.strength(values)
        chosen: NDArray[np.bool_] = level > self.bound
        if self.top is None:
            return chosen
        if order is None:
            order = ranks(level, None if equals is None else self.strength(equals))
        n_tested = np.count_nonzero(~np.isnan(level), axis=-1, keepdims=True)
        chosen &= order < np.maximum(1, np.round(self.top * n_tested))
        return chosen


def strength(values: ArrayLike, tail: Tail) -> NDArray[np.floating[Any]]:
    """Turn a statistic (...), such as t, z or effects, so that more is stronger; the same shape."""
    statistic = np.asarray(values)
    return np.abs(statistic) if tail == "two" else (statistic if tail == "positive" else -statistic)


def ranks(level: NDArray[np.floating[Any]], equals: NDArray[np.floating[Any]] | None = None) -> NDArray[np.int64]:
    """Number the units of each map from the strongest; of equal ones the first comes first, NaN comes last.

    `level` (..., n_units): more is stronger. `equals` (..., n_units): tells equal ones apart. Returns (..., n_units): 0
    for the strongest.

    >>> ranks(np.array([[2.0, 5.0, 2.0]])).tolist()
    [[1, 0, 2]]
    """
    keys = [-level] if equals is None else [-equals, -level]
    order = np.lexsort(keys, axis=-1) if len(keys) > 1 else np.argsort(keys[0], axis=-1, kind="stable")
    numbers = np.empty_like(order)
    np.put_along_axis(numbers, order, np.broadcast_to(np.arange(level.shape[-1]), order.shape), axis=-1)
    return numbers


def largest(level: NDArray[np.floating[Any]], n_chosen: ArrayLike) -> NDArray[np.bool_]:
    """Choose a number of units of each map, whatever their sign: for maps that are to match a network in size.

    `level` (n_maps, n_units): more is stronger. `n_chosen` (n_maps,): how many of each map. Returns (n_maps, n_units).

    >>> largest(np.array([[3.0, 1.0, 2.0]]), [2]).tolist()
    [[True, False, True]]
    """
    return ranks(level) < np.asarray(n_chosen)[:, None]


def share_label(share: float) -> str:
    """Name a share as a BIDS label, in percent.

    >>> share_label(0.01), share_label(0.005), share_label(0.1)
    ('top1', 'top0p5', 'top10')
    """
    return f"top{share * 100:.8f}".rstrip("0").rstrip(".").replace(".", "p")


def check_shares(shares: Sequence[float]) -> None:
    """Raise if a share chooses nothing, or if the same share is given twice."""
    for share in shares:
        if not 0 < share <= 1 or share_label(share) == "top0":
            raise SelectionError(
                f"top share {share} found; a share of the tested units needed, above 0 and at most 1, e.g. 0.01 or 1%"
            )
    labels = [share_label(share) for share in shares]
    if doubled := {label for label in labels if labels.count(label) > 1}:
        raise SelectionError(f"{min(doubled)} given twice; name each share once")
