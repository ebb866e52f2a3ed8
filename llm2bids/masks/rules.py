"""Which values of a map choose a unit."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llm2bids.errors import MaskError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llm2bids.space import UnitSpace

Tail = Literal["positive", "negative", "two"]
"""Side of a map: values above the threshold, below minus the threshold, or both."""
RULE_KEYS = ("Rule", "Threshold", "Top", "Tail", "Below")
"""Keys that `Rule.to_json` may write."""
_EXTREMES = {"positive": "largest value", "negative": "smallest value", "two": "largest absolute value"}
_TAIL_TEXTS = {"positive": "value > {}", "negative": "value < -{}", "two": "|value| > {}"}
_TOP_TEXTS = {"positive": "by value", "negative": "by -value", "two": "by |value|"}


@dataclass(frozen=True, slots=True)
class Rule:
    """Which values of a map choose a unit; without threshold and top all that are not 0.

    NaN, which SPM writes where nothing was tested, never chooses.

    - `threshold`: in the units of the map, 0 or more; values equal to it are not chosen.
    - `tail`: choose ``value > threshold``, ``value < -threshold`` or ``|value| > threshold``.
    - `below`: the map holds p values: choose ``value < threshold``. Voxels without a unit are not looked at. A unit
      whose value is exactly 0 counts as not tested where the map is 0 at all voxels without a unit too, as AFNI and
      nilearn write; where it is 1 or NaN there, 0 is the smallest p value (float32 ends at 1e-45).
    - `top`: instead of a threshold, the share of all units to choose, above 0 and at most 1: the strongest of that
      side, and all that are as strong as the weakest of them. Only values beyond 0 on that side count.

    >>> Rule(3.1, "two").text, Rule(0.05, below=True).text, Rule(top=0.01, tail="negative").text
    ('|value| > 3.1', 'p < 0.05', 'top 1 % of units by -value')
    """

    threshold: float | None = None
    tail: Tail = "positive"
    below: bool = False
    top: float | None = None

    def __post_init__(self) -> None:
        """Refuse what would choose other units than meant."""
        if self.tail not in _EXTREMES:
            raise MaskError(f"tail {self.tail!r} found; use positive, negative or two")
        if self.threshold is not None and self.top is not None:
            raise MaskError("a threshold and a top share found; give one of them")
        if self.threshold is not None and not (isfinite(self.threshold) and self.threshold >= 0):
            raise MaskError(f"threshold {self.threshold} found, 0 or more needed; name the side with --tail negative")
        if self.top is not None and not 0 < self.top <= 1:
            raise MaskError(f"top {self.top} found; give the share of units, above 0 and at most 1, e.g. 0.01")
        if self.below and self.tail != "positive":
            raise MaskError(f"tail {self.tail!r} for p values found, which have none; leave out --tail or --below")
        if not self.is_given and (self.below or self.tail != "positive"):
            raise MaskError(f"a side ({'below' if self.below else self.tail}) without a threshold found; give one")

    @property
    def is_given(self) -> bool:
        """Whether there is a threshold or a share."""
        return self.threshold is not None or self.top is not None

    @property
    def text(self) -> str:
        """The rule for people."""
        if self.top is not None:
            return f"top {self.top * 100:g} % of units {'by small p' if self.below else _TOP_TEXTS[self.tail]}"
        if self.threshold is None:
            return "value other than 0"
        if self.below:
            return f"p < {self.threshold:g}"
        return _TAIL_TEXTS[self.tail].format(f"{self.threshold:g}") if self.threshold else self._at_zero()

    def to_json(self) -> dict[str, Any]:
        """Describe the rule for a sidecar.

        Returns ``Rule`` (its text) and those of ``Threshold``, ``Top``, ``Tail`` and ``Below`` that matter.
        """
        fields: dict[str, Any] = {"Rule": self.text}
        if self.threshold is not None:
            fields["Threshold"] = float(self.threshold)
        if self.top is not None:
            fields["Top"] = float(self.top)
        if self.is_given:
            fields |= {"Below": True} if self.below else {"Tail": self.tail}
        return fields

    def select(self, volume: NDArray[np.floating[Any]], space: UnitSpace) -> NDArray[np.bool_]:
        """Choose units.

        `volume` (x, y, z): A map on the grid of `space`. Returns (n_units,): true for the units chosen; perhaps none.
        """
        strength = self._strength(volume, space)
        chosen = strength > self._bound()
        values = space.from_volumes(strength.T)
        if self.top is not None:
            tested = np.sort(values[~np.isnan(values)])[::-1]
            count = min(len(tested), max(1, round(self.top * space.n_units)))
            chosen &= strength >= (tested[count - 1] if count else np.inf)
        selected: NDArray[np.bool_] = space.from_volumes(chosen.T)
        if stray := int(chosen.sum()) - int(selected.sum()):
            raise MaskError(
                f"{stray} voxels that hold no unit of {space.label} pass ({self.text}); "
                "use a map of the same recording, masked with its brain mask"
            )
        if not self.is_given and selected.all() and len(np.unique(values)) > 1:
            raise MaskError(
                f"all {space.n_units} units have a value other than 0, so this is no mask yet; "
                "give --threshold or --top"
            )
        return selected

    def explain_none(self, volume: NDArray[np.floating[Any]], space: UnitSpace) -> str:
        """Say how far the nearest unit was from being chosen.

        `volume` (x, y, z): A map in which the rule chooses nothing. Returns E.g. ``"the largest value is 2.9; lower the
        threshold"``.
        """
        strength = space.from_volumes(self._strength(volume, space).T)
        if np.isnan(strength).all():
            return "no unit has a value; look at the map"
        if not self.is_given:
            return "every unit is 0; look at the map"
        strongest = float(np.nanmax(strength))
        advice = "look at the map" if self.top else f"{'raise' if self.below else 'lower'} the threshold"
        value = -strongest if self.below or self.tail == "negative" else strongest
        return f"the {'smallest p value' if self.below else _EXTREMES[self.tail]} is {value + 0.0:.6g}; {advice}"

    def n_untested(self, volume: NDArray[np.floating[Any]], space: UnitSpace) -> int:
        """Count units without a value.

        `volume` (x, y, z): A map on the grid of `space`. Returns units that are NaN, and among p values those whose 0
        means that they were not tested.
        """
        return int(np.isnan(space.from_volumes(self._strength(volume, space).T)).sum())

    def _at_zero(self) -> str:
        """The rule for a threshold of 0, where a sign before it would read oddly."""
        return {"positive": "value > 0", "negative": "value < 0", "two": "value other than 0"}[self.tail]

    def _bound(self) -> float:
        """What the strength of a unit must exceed."""
        if self.below:
            return -np.inf if self.threshold is None else -self.threshold
        return self.threshold or 0.0

    def _strength(self, volume: NDArray[np.floating[Any]], space: UnitSpace) -> NDArray[np.floating[Any]]:
        """The map turned so that more is stronger; NaN where nothing was tested."""
        if self.below:
            return self._smallness(volume, space)
        if self.tail == "negative":
            return -volume
        return np.abs(volume) if self.tail == "two" or not self.is_given else volume

    def _smallness(self, volume: NDArray[np.floating[Any]], space: UnitSpace) -> NDArray[np.floating[Any]]:
        """Minus p where a unit was tested."""
        holds_unit = space.to_volumes(np.ones(space.n_units, bool)).T
        values = volume[holds_unit]
        if (values < 0).any() or (values > 1).any():
            raise MaskError(
                f"values from {np.nanmin(values):.6g} to {np.nanmax(values):.6g} found where p values, 0 to 1, were "
                "expected; leave out --below"
            )
        tested = holds_unit & ~((volume == 0) & (not volume[~holds_unit].any()))
        return np.where(tested, -volume, np.nan)
