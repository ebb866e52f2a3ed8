"""What the command ``llm2bids mask`` does: convert, combine, show."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from llm2bids import __version__
from llm2bids.bids.names import parse_name
from llm2bids.errors import MaskError
from llm2bids.masks.display import profile, show_text
from llm2bids.masks.files import (
    Origin,
    check_same_space,
    check_target,
    choose_units,
    existing,
    file_sha256,
    load_mask,
    place,
    read_origin,
    save_mask,
)
from llm2bids.masks.maps import IMAGE_SUFFIXES, holds_p_values, is_binary, read_volume
from llm2bids.masks.rules import RULE_KEYS, Rule
from llm2bids.space import UnitMask
from llm2bids.space.identity import check_same_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from llm2bids.masks.rules import Tail

Operation = Literal["union", "intersection", "difference", "complement", "majority", "at-least"]
"""What `combine` can do."""


def convert(  # noqa: PLR0913 - the arguments of the command
    source: str | Path,
    target: str | Path,
    *,
    like: str | Path | None = None,
    threshold: float | None = None,
    tail: Tail = "positive",
    below: bool = False,
    top: float | None = None,
    volume: int | None = None,
    allow_empty: bool = False,
    overwrite: bool = False,
) -> tuple[UnitMask, list[Path]]:
    """Make a mask of a map of any program, or write a mask in another format.

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
        See `Rule`, as for `tail`, `below` and `top`. Without it and `top`, values that are not 0 are chosen.
    tail : {"positive", "negative", "two"}
        Side of the map.
    below : bool
        The map holds p values: choose those below the threshold. In maps with a sidecar of ours 0 is a p value.
    top : float, optional
        Share of all units to choose instead of a threshold.
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
    rule = Rule(threshold, tail, below, top)
    source, target = existing(source), Path(target)
    check_target(target, [source, *([Path(like)] if like else [])], overwrite=overwrite)
    if source.name.endswith(IMAGE_SUFFIXES):
        mask = _mask_of_image(source, like, rule, volume, allow_empty=allow_empty)
    elif rule.is_given or volume is not None:
        raise MaskError(f"{source} is a list of units, which has no values or volumes; leave out threshold and volume")
    else:
        mask = load_mask(source, like)
        _check_some(mask, f"{source} lists no unit", allow_empty=allow_empty)
    return mask, save_mask(mask, target, overwrite=overwrite)


def combine(
    operation: Operation,
    sources: Sequence[str | Path],
    target: str | Path,
    *,
    at_least: int | None = None,
    like: str | Path | None = None,
    allow_empty: bool = False,
    overwrite: bool = False,
) -> tuple[UnitMask, list[Path]]:
    """Make one mask of several of the same model and site.

    Parameters
    ----------
    operation : {"union", "intersection", "difference", "complement", "majority", "at-least"}
        Units in any mask, in all, in the first and in no other, not in the one given, in more than half of the
        masks, or in `at_least` of them.
    sources : sequence of path-like
        Masks of any format; one for ``complement``, else two or more.
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
    of = [
        {"File": path.name, "FileSHA256": file_sha256(path), **mask.provenance}
        for path, mask in zip(paths, masks, strict=True)
    ]
    told = {"Operation": operation} | ({} if at_least is None else {"MinimumCount": at_least})
    chosen = _combined(operation, np.array([mask.selected for mask in masks]), at_least)
    mask = UnitMask(masks[0].space, chosen, identity | told | {"Of": of, "Version": __version__})
    _check_some(mask, f"the {operation} of {', '.join(path.name for path in paths)} is empty", allow_empty=allow_empty)
    return mask, save_mask(mask, target, overwrite=overwrite)


def show(source: str | Path, *, like: str | Path | None = None, width: int = 80) -> tuple[pd.DataFrame, str]:
    """Tell where in the model the units of a mask lie.

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
    source: Path, like: str | Path | None, rule: Rule, number: int | None, *, allow_empty: bool
) -> UnitMask:
    """Mask of the values that pass."""
    if holds_p_values(source) and not rule.below:
        raise MaskError(f"{source} holds p values, where small ones count; add --below, or use the map of z values")
    space, known = place(source, like)
    values = read_volume(source, space, number)
    if rule.below and read_origin(source).space is not None:  # ours are 1 where nothing was tested: 0 is a p value
        values = np.where(space.to_volumes(np.ones(space.n_units, bool)).T, values, 1)
    selected = choose_units(source, rule, values, space)
    was_mask = not rule.is_given and is_binary(values)
    provenance = known if was_mask else _told(source, known, rule, number)
    if n_untested := rule.n_untested(values, space):
        provenance |= {"UnitsNotTested" if rule.below else "NaNSetToZero": n_untested}
    mask = UnitMask(space, selected, provenance)
    if not mask.n_selected:
        why = rule.explain_none(values, space)
        _check_some(mask, f"no unit passes ({rule.text}) in {source.name}: {why}", allow_empty=allow_empty)
    return mask


def _told(source: Path, known: Mapping[str, Any], rule: Rule, number: int | None) -> dict[str, Any]:
    """Provenance of a mask made from a map: what is known of the map, and what was done."""
    told = {key: value for key, value in known.items() if key not in {*RULE_KEYS, "Volume"}}
    entities = parse_name(source.name)[1]
    for key, entity in (("Contrast", "contrast"), ("Statistic", "stat")):
        if entity in entities:
            told.setdefault(key, entities[entity])
    told |= {"Source": source.name, "SourceSHA256": file_sha256(source)}
    told |= {} if number is None else {"Volume": number}
    return told | rule.to_json() | {"Version": __version__}


def _check_some(mask: UnitMask, found: str, *, allow_empty: bool) -> None:
    """Refuse a mask of no unit, which every later step would take for an answer."""
    if not mask.n_selected and not allow_empty:
        raise MaskError(f"{found}; or keep the empty mask with --allow-empty")


def _check_operation(operation: str, n_masks: int, at_least: int | None) -> None:
    """Refuse a number of masks that does not fit."""
    if operation not in get_args(Operation):
        raise MaskError(f"operation {operation!r} found; use {', '.join(get_args(Operation))}")
    if operation == "complement" and n_masks != 1:
        raise MaskError(f"{n_masks} masks found, complement takes one; combine them first")
    if operation != "complement" and n_masks <= 1:
        raise MaskError(f"{n_masks} mask found, {operation} takes two or more; give more")
    if (operation == "at-least") != (at_least is not None):
        raise MaskError("operation at-least and --at-least belong together; give both or neither")
    if at_least is not None and not 1 <= at_least <= n_masks:
        raise MaskError(f"at least {at_least} of {n_masks} masks wanted; give 1 to {n_masks}")


def _shared_identity(paths: Sequence[Path], masks: Sequence[UnitMask]) -> dict[str, Any]:
    """Whose units all masks choose; refuses those of two models or spaces."""
    for (path, mask), (other_path, other) in combinations(zip(paths, masks, strict=True), 2):
        names = (path.name, other_path.name)
        check_same_space(mask.space, other.space, names)
        check_same_model(mask.provenance, other.provenance, names)
    shared = {"Site": masks[0].space.site}
    for mask in masks:
        shared = Origin(mask.space, mask.provenance).identity | shared
    return shared


def _combined(operation: str, selected: NDArray[np.bool_], at_least: int | None) -> NDArray[np.bool_]:
    """The set operation over selections of shape (n_masks, n_units)."""
    n_masks, n_choosing = len(selected), selected.sum(0)
    if operation == "complement":
        return np.asarray(n_choosing == 0)
    if operation == "difference":
        return np.asarray(selected[0] & (n_choosing == 1))
    needed = {"union": 1, "intersection": n_masks, "majority": n_masks // 2 + 1}.get(operation, at_least)
    return np.asarray(n_choosing >= needed)
