"""What is done to the model: which units, in which way, and as which states it is scored."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Final

import numpy as np

from llm2bids.errors import LesionError, MaskError, SpaceError
from llm2bids.model.lesions import Method, Positions
from llm2bids.model.lesions import lesion as lesioned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from llm2bids.model.scoring import Intervention
    from llm2bids.space import UnitMask

logger = logging.getLogger(__name__)

INTACT: Final = ""
"""Name of no mask."""


@dataclass(frozen=True, slots=True)
class Surgery:
    """What is done to the units of a mask.

    `keep`: whether to all others instead.
    """

    method: Method = field(default_factory=lambda: Method("zero"))
    keep: bool = False
    positions: Positions = "all"

    def __str__(self) -> str:
        """As it stands in tables."""
        where = "" if self.positions == "all" else f" at {self.positions} tokens"
        return f"{'keep, others ' if self.keep else ''}{self.method}{where}"


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """One thing that is done to the model.

    Parameters
    ----------
    name : str
        That of the mask, or ``"mask 10"`` and ``"keep 64"`` for unions of so many.
    mask : UnitMask
        Units.
    surgery : Surgery
        What is done to them.
    of : tuple of str
        Names of the masks whose union it is.
    """

    name: str
    mask: UnitMask
    surgery: Surgery
    of: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of all units, those that the mask chooses."""
        return self.mask.n_selected / self.mask.space.n_units


def plan_lesions(
    masks: Mapping[str, UnitMask],
    surgery: Surgery,
    unions: Sequence[int] = (),
    kept_unions: Sequence[int] = (),
) -> list[Lesion]:
    """Say what is to be done: to each mask, or to unions of them.

    `unions`: numbers of masks; the units of the first so many are lesioned together. Masks without units do not count.
    Returns one per mask; where unions are asked for, one per union, those that are kept last.

    >>> from llm2bids.space import UnitMask, UnitSpace
    >>> space = UnitSpace.uniform("mlp", ["h.0:out", "h.1:out"], 9)
    >>> masks = {f"ica{n}": UnitMask.from_units(space, [n, n + 1]) for n in (1, 2, 3)}
    >>> [(one.name, one.mask.n_selected) for one in plan_lesions(masks, Surgery(), [2], [1, 3])]
    [('mask 2', 3), ('keep 1', 2), ('keep 3', 4)]
    """
    if not masks:
        raise LesionError("no mask found; give one or more with --mask")
    if not unions and not kept_unions:
        lesions = [Lesion(name, mask, surgery, (name,)) for name, mask in masks.items()]
    else:
        held = {name: mask for name, mask in masks.items() if mask.n_selected}
        if len(held) < len(masks):
            logger.warning("%d of %d masks choose no unit and are left out", len(masks) - len(held), len(masks))
        _check_unions([*unions, *kept_unions], len(held), surgery)
        kept = replace(surgery, keep=True)
        lesions = [_union(f"mask {number}", held, number, surgery) for number in dict.fromkeys(unions)]
        lesions += [_union(f"keep {number}", held, number, kept) for number in dict.fromkeys(kept_unions)]
    for lesion in lesions:
        if not lesion.mask.n_selected:
            raise MaskError(
                f"{lesion.name} chooses no unit, so there is nothing to lesion; choose units with another rule"
            )
    return lesions


def _check_unions(numbers: Sequence[int], n_masks: int, surgery: Surgery) -> None:
    """Refuse unions of no mask or of more than there are."""
    if surgery.keep:
        raise LesionError("--keep together with unions found; say with --keep-union which unions are kept")
    for number in numbers:
        if not 1 <= number <= n_masks:
            raise LesionError(
                f"a union of {number} masks asked for, {n_masks} with units given; ask for 1 to {n_masks}"
            )


def _union(name: str, masks: Mapping[str, UnitMask], number: int, surgery: Surgery) -> Lesion:
    """Units of the first so many masks."""
    of = tuple(masks)[:number]
    for one in of:
        if masks[one].space != masks[of[0]].space:
            raise SpaceError(
                f"a union of {of[0]} in space {masks[of[0]].space.label} and {one} in {masks[one].space.label} asked "
                "for; give masks of one site"
            )
    union = reduce(or_, (masks[one] for one in of))
    return Lesion(name, replace(union, provenance={"Operation": "union", "Of": list(of)}), surgery, of)


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One state of the model.

    - `name`: of the lesion; empty for the intact model.
    - `control`: number of the random mask; None for the lesion itself.
    - `mask`: units; None for the intact model.
    - `surgery`: what is done to them.
    - `means` (n_units,): mean activation of all units, where the method needs it.
    """

    name: str = INTACT
    control: int | None = None
    mask: UnitMask | None = None
    surgery: Surgery = field(default_factory=Surgery)
    means: NDArray[np.float64] | None = None

    def changed(self, model: PreTrainedModel) -> Intervention | None:
        """Say how to bring the model into this state.

        Returns takes tokens of prompts and makes the context; None for the intact model.
        """
        mask, surgery = self.mask, self.surgery
        if mask is None:
            return None

        def enter(n_prompt: list[int]) -> AbstractContextManager[None]:
            return lesioned(
                model,
                mask,
                surgery.method,
                keep=surgery.keep,
                positions=surgery.positions,
                means=self.means,
                n_prompt=n_prompt,
            )

        return enter

    def key(self, common: str) -> str:
        """Hash all that its scores depend on."""
        digest = hashlib.sha256(common.encode())
        if self.control is None:
            digest.update(b"continued")  # what is no control says more: its continuations
        if self.mask is not None:
            digest.update(json.dumps([self.mask.space.to_json(), str(self.surgery)], sort_keys=True).encode())
            digest.update(np.packbits(self.mask.selected).tobytes())
        if self.means is not None:
            digest.update(self.means.tobytes())
        return digest.hexdigest()
