"""Random masks to hold a lesion against: as many units, in the same layers, as active.

A lesion may hurt because it hits many units, late layers or strong ones, whatever they stand for. Controls share all of
that and are else drawn at random, so that what a lesion does beyond all of them is due to which units it hits.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.errors import LesionError
from llm2bids.space import UnitMask

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

KINDS: Final = ("matched", "layer", "uniform")
"""Same layers and activation, same layers, anywhere."""
N_NEAR: Final = 10
"""Units of a bin: the others of the hookpoint that come next in activation, half of them weaker, half stronger."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How random masks are drawn for every lesion.

    `kind`: what they share with the lesion.
    """

    n_controls: int = 100
    kind: str = "matched"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse controls that cannot be drawn, whatever the mask."""
        if self.kind not in KINDS:
            raise LesionError(f"controls of kind {self.kind!r} found; use {', '.join(KINDS)}")
        if self.n_controls < 0:
            raise LesionError(f"{self.n_controls} controls found; 0 or more needed, 100 for a percentile")

    def to_json(self) -> dict[str, Any]:
        """Describe it for a sidecar."""
        return {"Kind": self.kind, "Number": self.n_controls, "Seed": self.seed}


@dataclass(frozen=True, slots=True, eq=False)
class Controls:
    """Masks drawn for one lesion.

    - `kind`: what they share with the lesion.
    - `own`: hookpoints at which too few other units were left, so that the lesion's own could be drawn too.
    - `activation`, `control_activation`: mean strength of the lesion's units, and over all controls of theirs; None
      where strength is not known.
    """

    masks: tuple[UnitMask, ...]
    kind: str
    own: tuple[str, ...]
    activation: float | None = None
    control_activation: float | None = None


def draw_controls(
    mask: UnitMask, n_controls: int, *, kind: str = "matched", strength: ArrayLike | None = None, seed: int = 0
) -> Controls:
    """Draw random masks that share with a mask what could explain its effect.

    `kind`: same number of units per hookpoint and bin of activation, per hookpoint, or overall. `strength` (n_units,):
    mean absolute activation of every unit; needed for ``matched``. Returns the masks, and how far the units of the
    lesion could be left out.

    Units of the lesion are not drawn where a hookpoint has as many others; where it has not, the mask holding more than
    half of it, they may be drawn too. For ``matched``, each unit of the lesion has a bin of its own: the ten units of
    its hookpoint that may be drawn and come next in activation, five weaker and five stronger. One is drawn from it
    and is in no further bin of that control, which reach beyond it instead. At the ends, a bin is one-sided: a unit
    stronger than all others can only be met by weaker ones, which the mean activations of both tell.

    >>> from llm2bids.space import UnitSpace
    >>> space = UnitSpace.uniform("mlp", ["h.0:out", "h.1:out"], 9)
    >>> drawn = draw_controls(UnitMask.from_units(space, [9, 10]), 3, kind="layer")
    >>> [mask.table()["block"].tolist() for mask in drawn.masks]
    [[1, 1], [1, 1], [1, 1]]
    """
    Drawing(n_controls, kind, seed)  # refuses what cannot be drawn
    levels = _levels(mask, kind, strength)
    edges = [0, mask.space.n_units] if kind == "uniform" else [*mask.space.starts().tolist(), mask.space.n_units]
    parts, own = [], []
    for name, start, end in zip(mask.space.hookpoints, edges, edges[1:], strict=False):
        part = _Part.of(mask.selected[start:end], levels[start:end], start)
        if len(part.wanted):
            parts.append(part)
            own += [name if kind != "uniform" else "all"] * part.admits_own
    draw = _Part.near if kind == "matched" else _Part.anywhere
    told = {"Description": f"random mask ({kind}), seed {seed}", "Site": mask.space.site}
    masks = []
    for number in range(n_controls):
        rng = np.random.default_rng([seed, number])
        units = np.concatenate([draw(part, rng) for part in parts])
        masks.append(UnitMask.from_units(mask.space, units, told | {"Number": number}))
    if strength is None or not masks:
        return Controls(tuple(masks), kind, tuple(own))
    given = np.asarray(strength, np.float64)
    found = float(np.mean([given[one.selected].mean() for one in masks]))
    return Controls(tuple(masks), kind, tuple(own), float(given[mask.selected].mean()), found)


def _levels(mask: UnitMask, kind: str, strength: ArrayLike | None) -> NDArray[np.float64]:
    """Strength by which bins are made: all alike where activation does not matter."""
    if not mask.n_selected:
        raise LesionError("the mask is empty, so there is nothing to lesion; choose units with a lower threshold")
    if kind != "matched":
        return np.zeros(mask.space.n_units)
    if strength is None:
        raise LesionError("matched controls need the mean absolute activation of every unit; pass it, or use layer")
    levels = np.asarray(strength, np.float64)
    if levels.shape != (mask.space.n_units,) or not np.isfinite(levels).all():
        raise LesionError(
            f"a strength of shape {levels.shape} found, ({mask.space.n_units},) finite numbers needed: one per unit"
        )
    return levels


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One hookpoint: units that may be drawn, weakest first, and places among them of the units to be matched."""

    pool: NDArray[np.int64]
    wanted: NDArray[np.int64]
    admits_own: bool

    @classmethod
    def of(cls, chosen: NDArray[np.bool_], levels: NDArray[np.float64], start: int) -> _Part:
        """The part of one hookpoint, whose first unit has the number `start`."""
        order = np.argsort(levels, kind="stable")
        admits_own = 2 * int(chosen.sum()) > len(chosen)
        drawable = order if admits_own else order[~chosen[order]]
        stronger = np.ones(len(order), np.int64) if admits_own else (~chosen[order]).astype(np.int64)
        places = np.cumsum(stronger) - stronger  # units that may be drawn and are weaker
        return cls(start + drawable, places[chosen[order]], admits_own)

    def anywhere(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """As many units as are wanted."""
        return rng.choice(self.pool, len(self.wanted), replace=False)

    def near(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """One unit near each that is wanted, these in random order."""
        free = list(range(len(self.pool)))
        drawn = []
        for place in rng.permutation(self.wanted).tolist():
            middle = bisect_left(free, place)
            low, high = max(0, middle - N_NEAR // 2), min(len(free), middle + N_NEAR // 2)
            drawn.append(free.pop(int(rng.integers(low, high))))
        return self.pool[drawn]
