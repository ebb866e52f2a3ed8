"""Options of the three actions of ``mask``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from llm2bids.errors import MaskError
from llm2bids.options import option, options

_TARGET: Final = "name ending in .nii.gz or .tsv, which get a .json beside them, in .json or in .safetensors"


@options
class MaskOptions:
    """Options of every action."""

    like: str | Path | None = option(
        "bold, map or mask of the same recording, or a JSON file, that says which voxel is which unit; for files of "
        "other programs, and checked against files that say it themselves",
        default=None,
        metavar="FILE",
    )


@options
class NewMaskOptions(MaskOptions):
    """Options of the actions that write a mask."""

    allow_empty: bool = option("write a mask without units too", default=False)
    overwrite: bool = option("replace what is there", default=False)


@options
class ConvertOptions(NewMaskOptions):
    """Options of ``mask convert``."""

    source: str | Path = option(
        "statistic map or mask on the grid of a recording: NIfTI of any program, AFNI's HEAD or BRIK, or a mask as "
        ".tsv, .json or .safetensors; flipped or swapped axes are put back",
        metavar="MAP",
        kw_only=False,
        place=True,
    )
    target: str | Path = option(
        _TARGET,
        metavar="OUT",
        kw_only=False,
        place=True,
    )
    threshold: float | None = option(
        "choose values beyond it, 0 or more; by default all values that are not 0", default=None, metavar="X"
    )
    tail: Literal["positive", "negative", "two"] = option(
        "side of the map: values above the threshold, below minus the threshold, or both", default="positive"
    )
    below: bool = option("for maps of p: choose values below the threshold", default=False)
    top: float | str | None = option(
        "choose the strongest units instead, e.g. 1% of those tested; values that are NaN or exactly 0 were not",
        default=None,
        metavar="SHARE",
        parse=str,
    )
    volume: int | None = option("which volume of several, from 0: AFNI's sub-brick number", default=None, metavar="N")


@options
class CombineOptions(NewMaskOptions):
    """Options of ``mask combine``."""

    operation: Literal["union", "intersection", "difference", "complement", "majority", "at-least"] = option(
        "units in any mask, in all masks, in the first mask only, in none, in more than half of the masks, or in at "
        "least so many",
        kw_only=False,
        place=True,
    )
    sources: Sequence[str | Path] = option(
        "masks of any format: one for complement, two or more for all others",
        many=True,
        metavar="MASK",
        kw_only=False,
        place=True,
    )
    target: str | Path = option(
        _TARGET,
        metavar="OUT",
        kw_only=False,
        place=True,
    )
    at_least: int | None = option("in how many of the masks a unit must be, for at-least", default=None, metavar="K")

    def check(self) -> None:
        """Raise if the number of masks does not fit the operation."""
        n_masks = len(self.sources)
        if self.operation == "complement" and n_masks != 1:
            raise MaskError(f"{n_masks} masks found, complement takes one; combine them first")
        if self.operation != "complement" and n_masks <= 1:
            raise MaskError(f"{n_masks} mask found, {self.operation} takes two or more; give more")
        if (self.operation == "at-least") != (self.at_least is not None):
            raise MaskError('operation "at-least" and `at_least` belong together; give both or neither')
        if self.at_least is not None and not 1 <= self.at_least <= n_masks:
            raise MaskError(f"at least {self.at_least} of {n_masks} masks wanted; give 1 to {n_masks}")


@options
class ShowOptions(MaskOptions):
    """Options of ``mask show``."""

    source: str | Path = option("a mask of any format", metavar="MASK", kw_only=False, place=True)
    width: int = option("columns of the text", default=80, typed=False)
