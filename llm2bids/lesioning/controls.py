"""Random masks to hold a lesion against: as many units, in the same layers, as active.

A lesion may do harm because it hits many units, late layers or strong units, whatever they stand for. Random masks
share all of that and are drawn at random otherwise. What a lesion does beyond all of them is due to which units it
hits.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from llm2bids.errors import LesionError
from llm2bids.lesioning.settings import ControlOptions
from llm2bids.space import UnitMask

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Kind = Literal["matched", "layer", "uniform"]
"""What random masks share with a lesion: units per layer and activation, per layer, or overall."""
N_NEAR: Final = 10
"""Units of a bin: those of the hookpoint that come next in activation, half of them weaker, half stronger."""


@dataclass(frozen=True, slots=True, eq=False)
class Controls:
    """Random masks for one lesion.

    - `crowded`: hookpoints of which the lesion takes more than half, so that its units could be drawn too.
    - `activation`, `control_activation`: mean absolute activation of the lesion's units, and of all units drawn; None
      where activations are not known.
    """

    masks: tuple[UnitMask, ...]
    kind: str
    crowded: tuple[str, ...]
    activation: float | None = None
    control_activation: float | None = None


def draw_controls(
    mask: UnitMask, n_controls: int, *, kind: Kind = "matched", strength: ArrayLike | None = None, seed: int = 0
) -> Controls:
    """Draw random masks that share with a mask what could explain its effect.

    `kind`: same number of units per hookpoint and bin of activation, per hookpoint, or overall. `strength` (n_units,):
    mean absolute activation of every unit; needed for ``matched``.

    Units of the lesion are not drawn, unless the lesion takes more than half of a hookpoint: there they may be drawn
    too. For ``matched``, each unit of the lesion has a bin: the ten units of its hookpoint that may be drawn and come
    next in activation, five weaker and five stronger. One unit is drawn from the bin. It is in no further bin of this
    mask; the other bins reach beyond it instead. At the ends, a bin is one-sided: a unit stronger than all others can
    only be met by weaker ones, which shows in the mean activations of both.

    >>> from llm2bids.space import UnitSpace
    >>> space = UnitSpace.uniform("mlp", ["h.0:out", "h.1:out"], 9)
    >>> controls = draw_controls(UnitMask.from_units(space, [9, 10]), 3, kind="layer")
    >>> [mask.table()["block"].tolist() for mask in controls.masks]
    [[1, 1], [1, 1], [1, 1]]
    """
    ControlOptions(controls=n_controls, control=kind, seed=seed)  # raises if such masks cannot be drawn
    levels = _levels(mask, kind, strength)
    edges = [0, mask.space.n_units] if kind == "uniform" else [*mask.space.starts().tolist(), mask.space.n_units]
    pools, crowded = [], []
    for name, start, end in zip(mask.space.hookpoints, edges, edges[1:], strict=False):
        pool = _Pool.from_hookpoint(mask.selected[start:end], levels[start:end], start)
        if len(pool.positions):
            pools.append(pool)
            crowded += [name if kind != "uniform" else "all"] * pool.is_crowded
    draw = _Pool.draw_near if kind == "matched" else _Pool.draw_anywhere
    provenance = {"Description": f"random mask ({kind}), seed {seed}", "Site": mask.space.site}
    masks = []
    for number in range(n_controls):
        rng = np.random.default_rng([seed, number])  # so that more masks begin with the same ones
        units = np.concatenate([draw(pool, rng) for pool in pools])
        masks.append(UnitMask.from_units(mask.space, units, provenance | {"Number": number}))
    if strength is None or not masks:
        return Controls(tuple(masks), kind, tuple(crowded))
    activations = np.asarray(strength, np.float64)
    mean = float(np.mean([activations[control.selected].mean() for control in masks]))
    return Controls(tuple(masks), kind, tuple(crowded), float(activations[mask.selected].mean()), mean)


def _levels(mask: UnitMask, kind: str, strength: ArrayLike | None) -> NDArray[np.float64]:
    """Activations by which bins are made, shape (n_units,); all 0 where activation does not matter."""
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
class _Pool:
    """Units of one hookpoint that may be drawn.

    - `units`: their numbers, the weakest first.
    - `positions`: for each unit of the lesion, how many of `units` are weaker.
    - `is_crowded`: whether units of the lesion may be drawn too.
    """

    units: NDArray[np.int64]
    positions: NDArray[np.int64]
    is_crowded: bool

    @classmethod
    def from_hookpoint(cls, selected: NDArray[np.bool_], levels: NDArray[np.float64], start: int) -> _Pool:
        """The pool of one hookpoint, whose first unit has the number `start`."""
        order = np.argsort(levels, kind="stable")
        is_crowded = 2 * int(selected.sum()) > len(selected)
        drawable = np.ones(len(order), bool) if is_crowded else ~selected[order]
        n_weaker = np.cumsum(drawable, dtype=np.int64) - drawable.astype(np.int64)
        return cls(start + order[drawable], n_weaker[selected[order]], is_crowded)

    def draw_anywhere(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw as many units as the lesion has here."""
        return rng.choice(self.units, len(self.positions), replace=False)

    def draw_near(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw one unit near each of the lesion in activation.

        The lesion's units take their turn in random order: those that come last find some of their bin gone, which
        must not always be the strong ones.
        """
        free = list(range(len(self.units)))
        drawn = []
        for position in rng.permutation(self.positions).tolist():
            middle = bisect_left(free, position)
            low, high = max(0, middle - N_NEAR // 2), min(len(free), middle + N_NEAR // 2)
            drawn.append(free.pop(int(rng.integers(low, high))))
        return self.units[drawn]
