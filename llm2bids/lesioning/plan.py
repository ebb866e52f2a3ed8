"""Which lesions a study makes: of each mask, or of unions of masks."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Literal

from llm2bids.errors import LesionError, MaskError, SpaceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llm2bids.space import UnitMask

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surgery:
    """What is done to the units of a mask; with `keep`, to all other units."""

    method: str = "zero"
    keep: bool = False
    positions: Literal["all", "prompt", "generated"] = "all"

    def __str__(self) -> str:
        """The surgery as tables name it."""
        where = "" if self.positions == "all" else f" at {self.positions} tokens"
        return f"{'keep, others ' if self.keep else ''}{self.method}{where}"


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """A lesion of the model.

    - `name`: that of the mask; ``"mask 10"`` and ``"keep 64"`` for unions of so many masks.
    - `surgery`: what is done to the units of the mask.
    - `masks`: names of the masks whose union it is.
    """

    name: str
    mask: UnitMask
    surgery: Surgery
    masks: tuple[str, ...]

    @property
    def share(self) -> float:
        """Units of the mask among all units of its space."""
        return self.mask.n_selected / self.mask.space.n_units


def plan_lesions(
    masks: Mapping[str, UnitMask],
    surgery: Surgery,
    unions: Sequence[int] = (),
    kept_unions: Sequence[int] = (),
) -> list[Lesion]:
    """List the lesions: of each mask, or of unions of them.

    `unions`, `kept_unions`: numbers of masks; the units of the first so many are lesioned together, or all other units.
    Masks without units do not count. Returns one lesion per mask; with unions one per union, those that are kept last.

    >>> from llm2bids.space import UnitMask, UnitSpace
    >>> space = UnitSpace.uniform("mlp", ["h.0:out", "h.1:out"], 9)
    >>> masks = {f"ica{n}": UnitMask.from_units(space, [n, n + 1]) for n in (1, 2, 3)}
    >>> [(lesion.name, lesion.mask.n_selected) for lesion in plan_lesions(masks, Surgery(), [2], [1, 3])]
    [('mask 2', 3), ('keep 1', 2), ('keep 3', 4)]
    """
    if not masks:
        raise LesionError("no mask found; give `masks`, one or more")
    if not unions and not kept_unions:
        lesions = [Lesion(name, mask, surgery, (name,)) for name, mask in masks.items()]
    else:
        filled = {name: mask for name, mask in masks.items() if mask.n_selected}
        if len(filled) < len(masks):
            logger.warning("%d of %d masks choose no unit and are left out", len(masks) - len(filled), len(masks))
        _check_unions([*unions, *kept_unions], len(filled), surgery)
        keeping = replace(surgery, keep=True)
        lesions = [_union(f"mask {number}", filled, number, surgery) for number in dict.fromkeys(unions)]
        lesions += [_union(f"keep {number}", filled, number, keeping) for number in dict.fromkeys(kept_unions)]
    for lesion in lesions:
        if not lesion.mask.n_selected:
            raise MaskError(
                f"{lesion.name} chooses no unit, so there is nothing to lesion; choose units with another rule"
            )
    return lesions


def _check_unions(numbers: Sequence[int], n_masks: int, surgery: Surgery) -> None:
    """Raise if a union is of no mask, or of more masks than there are."""
    if surgery.keep:
        raise LesionError("keep=True together with unions found; say with `keep_union` which unions are kept")
    for number in numbers:
        if not 1 <= number <= n_masks:
            raise LesionError(
                f"a union of {number} masks asked for, {n_masks} with units given; ask for 1 to {n_masks}"
            )


def _union(name: str, masks: Mapping[str, UnitMask], number: int, surgery: Surgery) -> Lesion:
    """The lesion of the first so many masks together."""
    names = tuple(masks)[:number]
    first = masks[names[0]].space
    for member in names:
        if masks[member].space != first:
            raise SpaceError(
                f"a union of {names[0]} in space {first.label} and {member} in {masks[member].space.label} asked for; "
                "give masks of one site"
            )
    union = reduce(or_, (masks[member] for member in names))
    return Lesion(name, replace(union, provenance={"Operation": "union", "Of": list(names)}), surgery, names)
