"""The three actions of ``llm2bids mask``: convert a map or mask, combine masks, show one."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from llm2bids import __version__
from llm2bids.bids.names import parse_name
from llm2bids.errors import MaskError
from llm2bids.masks.display import profile, show_text
from llm2bids.masks.files import (
    Origin,
    check_same_space,
    check_target,
    existing,
    file_sha256,
    load_mask,
    place,
    prefix_errors,
    read_origin,
    save_mask,
)
from llm2bids.masks.maps import (
    IMAGE_SUFFIXES,
    holds_p_values,
    is_binary,
    read_volume,
    select_units,
    split_volume,
    tested_p_values,
)
from llm2bids.space import Selection, UnitMask
from llm2bids.space.identity import check_same_model
from llm2bids.space.selection import SELECTION_KEYS, read_share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from llm2bids.space.selection import Tail

Operation = Literal["union", "intersection", "difference", "complement", "majority", "at-least"]
"""What `combine` can do."""
_EXTREMES: Final = {"positive": "largest value", "negative": "smallest value", "two": "largest absolute value"}


def convert_mask(  # noqa: PLR0913 - the arguments of the command
    source: str | Path,
    target: str | Path,
    *,
    like: str | Path | None = None,
    threshold: float | None = None,
    tail: Tail = "positive",
    below: bool = False,
    top: float | str | None = None,
    volume: int | None = None,
    allow_empty: bool = False,
    overwrite: bool = False,
) -> tuple[UnitMask, list[Path]]:
    """Make a mask from a map of any program, or write a mask in another format.

    Parameters
    ----------
    source : path-like
        A statistic map or mask on the grid of a recording: NIfTI of llm2bids, FSL, SPM, NeuroVault, AFNI's NIfTI or
        HEAD/BRIK; or a mask as ``.tsv``, ``.json`` or ``.safetensors``. Flipped or swapped axes are put back.
    target : path-like
        File ending in ``.nii.gz`` or ``.tsv``, which get a ``.json`` beside them, ``.json`` or ``.safetensors``.
    like : path-like, optional
        Bold, map or mask of the same recording, or a JSON file, that says which voxel is which unit. Needed where
        `source` has no sidecar of ours; checked against it where it has.
    threshold : float, optional
        Choose values beyond it; 0 or more. Without it and `top`, values that are not 0 are chosen.
    tail : {"positive", "negative", "two"}
        Side of the map: values above the threshold, below minus the threshold, or both.
    below : bool
        The map holds p values: choose those below the threshold.
    top : float or str, optional
        Share of the tested units to choose instead of a threshold, such as 0.01 or ``"1%"``: the strongest, see
        `llm2bids.space.selection`. Values that are NaN or exactly 0 count as not tested.
    volume : int, optional
        Which volume of several, from 0: AFNI's sub-brick number.
    allow_empty : bool
        Write a mask of no unit too.
    overwrite : bool
        Replace files that are there.

    Returns
    -------
    mask : UnitMask
        The units chosen, with their provenance.
    paths : list of Path
        The files written.

    Raises
    ------
    MaskError
        If the source cannot be read, its units are unknown or of another model than `like`, no unit passes, or the
        target is there.
    SpaceError
        If the map lies on another grid.
    """
    selection = Selection(threshold, tail, below, None if top is None else read_share(top))
    source, target = existing(source), Path(target)
    check_target(target, [source, *([Path(like)] if like else [])], overwrite=overwrite)
    if source.name.endswith(IMAGE_SUFFIXES):
        mask = _mask_of_image(source, like, selection, volume, allow_empty=allow_empty)
    elif selection.is_given or volume is not None:
        raise MaskError(f"{source} is a list of units, which has no values or volumes; leave out threshold and volume")
    else:
        mask = load_mask(source, like)
        _check_some(mask, f"{source} lists no unit", allow_empty=allow_empty)
    return mask, save_mask(mask, target, overwrite=overwrite)


def combine_masks(
    operation: Operation,
    sources: Sequence[str | Path],
    target: str | Path,
    *,
    at_least: int | None = None,
    like: str | Path | None = None,
    allow_empty: bool = False,
    overwrite: bool = False,
) -> tuple[UnitMask, list[Path]]:
    """Combine masks of one model and site into one mask.

    Parameters
    ----------
    operation : {"union", "intersection", "difference", "complement", "majority", "at-least"}
        Units in any mask, in all masks, in the first mask only, in none, in more than half of the masks, or in
        `at_least` of them.
    sources : sequence of path-like
        Masks of any format: one for ``complement``, two or more for all others.
    target : path-like
        File ending in ``.nii.gz`` or ``.tsv``, which get a ``.json`` beside them, ``.json`` or ``.safetensors``.
    at_least : int, optional
        For ``at-least``: in how many of the masks a unit must be.
    like : path-like, optional
        Says which voxel is which unit, for masks of other programs.
    allow_empty : bool
        Write a mask of no unit too.
    overwrite : bool
        Replace files that are there.

    Returns
    -------
    mask : UnitMask
        The units, with the provenance of all sources.
    paths : list of Path
        The files written.

    Raises
    ------
    MaskError
        If the masks are of two models or sites, their number does not fit, no unit is left, or the target is there.
    """
    paths, target = [existing(source) for source in sources], Path(target)
    _check_operation(operation, len(paths), at_least)
    check_target(target, [*paths, *([Path(like)] if like else [])], overwrite=overwrite)
    masks = [load_mask(path, like) for path in paths]
    identity = _shared_identity(paths, masks)
    origins = [
        {"File": path.name, "FileSHA256": file_sha256(path), **mask.provenance}
        for path, mask in zip(paths, masks, strict=True)
    ]
    fields = {"Operation": operation} | ({} if at_least is None else {"MinimumCount": at_least})
    chosen = _combined(operation, np.array([mask.selected for mask in masks]), at_least)
    mask = UnitMask(masks[0].space, chosen, identity | fields | {"Of": origins, "Version": __version__})
    _check_some(mask, f"the {operation} of {', '.join(path.name for path in paths)} is empty", allow_empty=allow_empty)
    return mask, save_mask(mask, target, overwrite=overwrite)


def show_mask(source: str | Path, *, like: str | Path | None = None, width: int = 80) -> tuple[pd.DataFrame, str]:
    """Show where in the model the units of a mask lie.

    Parameters
    ----------
    source : path-like
        A mask of any format.
    like : path-like, optional
        Says which voxel is which unit, for masks of other programs.
    width : int
        Columns of the terminal.

    Returns
    -------
    table : DataFrame
        See `profile`.
    text : str
        See `show_text`.

    Raises
    ------
    MaskError
        If the file is no mask, or its units are unknown.
    """
    mask = load_mask(source, like)
    return profile(mask), show_text(mask, width)


def _mask_of_image(
    source: Path, like: str | Path | None, selection: Selection, number: int | None, *, allow_empty: bool
) -> UnitMask:
    """Mask of the values of an image that pass."""
    if holds_p_values(source) and not selection.below:
        raise MaskError(f"{source} holds p values, where small ones count; add below=True, or use the map of z values")
    space, metadata = place(source, like)
    volume = read_volume(source, space, number)
    with prefix_errors(source):
        values, background = split_volume(volume, space)
        if selection.below:
            values = tested_p_values(values, background, is_ours=read_origin(source).space is not None)
        selected = select_units(selection, values, background, space)
    was_mask = not selection.is_given and is_binary(volume)
    provenance = metadata if was_mask else _provenance(source, metadata, selection, number)
    if n_untested := int(np.isnan(values).sum()):
        provenance |= {"UnitsNotTested" if selection.below else "NaNSetToZero": n_untested}
    mask = UnitMask(space, selected, provenance)
    if not mask.n_selected:
        why = _why_none(selection, values)
        _check_some(mask, f"no unit passes ({selection.text}) in {source.name}: {why}", allow_empty=allow_empty)
    return mask


def _why_none(selection: Selection, values: NDArray[np.floating[Any]]) -> str:
    """Say why no unit is chosen, e.g. ``the largest value is 2.9; lower the threshold``."""
    if np.isnan(values).all():
        return "no unit has a value; look at the map"
    if not selection.is_given:
        return "every unit is 0; look at the map"
    strongest = float(np.nanmax(selection.strength(values)))
    advice = "look at the map" if selection.top else f"{'raise' if selection.below else 'lower'} the threshold"
    value = -strongest if selection.below or selection.tail == "negative" else strongest
    return f"the {'smallest p value' if selection.below else _EXTREMES[selection.tail]} is {value + 0.0:.6g}; {advice}"


def _provenance(source: Path, metadata: Mapping[str, Any], selection: Selection, number: int | None) -> dict[str, Any]:
    """Provenance of a mask made from a map: what is known of the map, and how units were chosen."""
    provenance = {key: value for key, value in metadata.items() if key not in {*SELECTION_KEYS, "Volume"}}
    entities = parse_name(source.name)[1]
    for key, entity in (("Contrast", "contrast"), ("Statistic", "stat")):
        if entity in entities:
            provenance.setdefault(key, entities[entity])
    provenance |= {"Source": source.name, "SourceSHA256": file_sha256(source)}
    provenance |= {} if number is None else {"Volume": number}
    return provenance | selection.to_json() | {"Version": __version__}


def _check_some(mask: UnitMask, message: str, *, allow_empty: bool) -> None:
    """Raise if a mask chooses no unit: every later step would take it for an answer."""
    if not mask.n_selected and not allow_empty:
        raise MaskError(f"{message}; or keep the empty mask with allow_empty=True")


def _check_operation(operation: str, n_masks: int, at_least: int | None) -> None:
    """Raise if the number of masks does not fit the operation."""
    if operation not in get_args(Operation):
        raise MaskError(f"operation {operation!r} found; use {', '.join(get_args(Operation))}")
    if operation == "complement" and n_masks != 1:
        raise MaskError(f"{n_masks} masks found, complement takes one; combine them first")
    if operation != "complement" and n_masks <= 1:
        raise MaskError(f"{n_masks} mask found, {operation} takes two or more; give more")
    if (operation == "at-least") != (at_least is not None):
        raise MaskError('operation "at-least" and `at_least` belong together; give both or neither')
    if at_least is not None and not 1 <= at_least <= n_masks:
        raise MaskError(f"at least {at_least} of {n_masks} masks wanted; give 1 to {n_masks}")


def _shared_identity(paths: Sequence[Path], masks: Sequence[UnitMask]) -> dict[str, Any]:
    """Model and site of all masks; raises if they are of two models or spaces."""
    for (path, mask), (second_path, second) in combinations(zip(paths, masks, strict=True), 2):
        names = (path.name, second_path.name)
        check_same_space(mask.space, second.space, names)
        check_same_model(mask.provenance, second.provenance, names)
    shared = {"Site": masks[0].space.site}
    for mask in masks:
        shared = Origin(mask.space, mask.provenance).identity | shared
    return shared


def _combined(operation: str, selected: NDArray[np.bool_], at_least: int | None) -> NDArray[np.bool_]:
    """Apply the set operation to selections (n_masks, n_units)."""
    n_masks, n_choosing = len(selected), selected.sum(0)
    if operation == "complement":
        return np.asarray(n_choosing == 0)
    if operation == "difference":
        return np.asarray(selected[0] & (n_choosing == 1))
    needed = {"union": 1, "intersection": n_masks, "majority": n_masks // 2 + 1}.get(operation, at_least)
    return np.asarray(n_choosing >= needed)
