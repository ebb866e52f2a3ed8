"""The three actions of ``llm2bids mask``: convert a map or mask, combine masks, show one."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

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
from llm2bids.masks.settings import CombineOptions, ConvertOptions, ShowOptions
from llm2bids.options import takes
from llm2bids.results.work import read_share
from llm2bids.space import Selection, UnitMask
from llm2bids.space.identity import check_same_model
from llm2bids.space.selection import SELECTION_KEYS
from llm2bids.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray


_EXTREMES: Final = {"positive": "largest value", "negative": "smallest value", "two": "largest absolute value"}


@takes(ConvertOptions)
def convert_mask(options: ConvertOptions) -> tuple[UnitMask, list[Path]]:
    """Make a mask from a map of any program, or write a mask in another format.

    Which units are chosen is said by `llm2bids.space.selection`.

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
    top = None if options.top is None else read_share(options.top)
    selection = Selection(options.threshold, options.tail, options.below, top)
    source = existing(options.source)
    _check_target(options, [source])
    if source.name.endswith(IMAGE_SUFFIXES):
        mask = _mask_of_image(source, selection, options)
    elif selection.is_given or options.volume is not None:
        raise MaskError(f"{source} is a list of units, which has no values or volumes; leave out threshold and volume")
    else:
        mask = load_mask(source, options.like)
        _check_some(mask, f"{source} lists no unit", options)
    return mask, save_mask(mask, options.target, overwrite=options.overwrite)


@takes(CombineOptions)
def combine_masks(options: CombineOptions) -> tuple[UnitMask, list[Path]]:
    """Combine masks of one model and site into one mask.

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
    paths = [existing(source) for source in options.sources]
    _check_target(options, paths)
    masks = [load_mask(path, options.like) for path in paths]
    identity = _shared_identity(paths, masks)
    origins = [
        {"File": path.name, "FileSHA256": file_sha256(path), **mask.provenance}
        for path, mask in zip(paths, masks, strict=True)
    ]
    count = {} if options.at_least is None else {"MinimumCount": options.at_least}
    chosen = _combined(options, np.array([mask.selected for mask in masks]))
    provenance = identity | {"Operation": options.operation, **count, "Of": origins, "Version": __version__}
    mask = UnitMask(masks[0].space, chosen, provenance)
    _check_some(mask, f"the {options.operation} of {', '.join(path.name for path in paths)} is empty", options)
    return mask, save_mask(mask, options.target, overwrite=options.overwrite)


@takes(ShowOptions)
def show_mask(options: ShowOptions) -> tuple[pd.DataFrame, str]:
    """Show where in the model the units of a mask lie.

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
    mask = load_mask(options.source, options.like)
    return profile(mask), show_text(mask, options.width)


def _mask_of_image(source: Path, selection: Selection, options: ConvertOptions) -> UnitMask:
    """Mask of the values of an image that pass."""
    if holds_p_values(source) and not selection.below:
        raise MaskError(f"{source} holds p values, where small ones count; add below=True, or use the map of z values")
    space, metadata = place(source, options.like)
    volume = read_volume(source, space, options.volume)
    with prefix_errors(source):
        values, background = split_volume(volume, space)
        if selection.below:
            values = tested_p_values(values, background, is_ours=read_origin(source).space is not None)
        selected = select_units(selection, values, background, space)
    was_mask = not selection.is_given and is_binary(volume)
    provenance = metadata if was_mask else _provenance(source, metadata, selection, options.volume)
    if n_untested := int(np.isnan(values).sum()):
        provenance |= {"UnitsNotTested" if selection.below else "NaNSetToZero": n_untested}
    mask = UnitMask(space, selected, provenance)
    if not mask.n_selected:
        why = _why_none(selection, values)
        _check_some(mask, f"no unit passes ({selection.text}) in {source.name}: {why}", options)
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


def _provenance(source: Path, metadata: Mapping[str, Any], selection: Selection, volume: int | None) -> dict[str, Any]:
    """Provenance of a mask made from a map: what is known of the map, and how units were chosen."""
    provenance = {key: value for key, value in metadata.items() if key not in {*SELECTION_KEYS, "Volume"}}
    entities = parse_name(source.name)[1]
    for key, entity in (("Contrast", "contrast"), ("Statistic", "stat")):
        if entity in entities:
            provenance.setdefault(key, entities[entity])
    provenance |= {"Source": source.name, "SourceSHA256": file_sha256(source)}
    provenance |= {} if volume is None else {"Volume": volume}
    return provenance | selection.to_json() | {"Version": __version__}


def _check_target(options: ConvertOptions | CombineOptions, sources: Sequence[Path]) -> None:
    """Raise if the target cannot be written, or is one of the files that are read."""
    like = [] if options.like is None else [Path(options.like)]
    check_target(Path(options.target), [*sources, *like], overwrite=options.overwrite)


def _check_some(mask: UnitMask, message: str, options: ConvertOptions | CombineOptions) -> None:
    """Raise if a mask chooses no unit: every later step would take it for an answer."""
    if not mask.n_selected and not options.allow_empty:
        raise MaskError(f"{message}; or keep the empty mask with allow_empty=True")


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


def _combined(options: CombineOptions, selected: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Apply the set operation to selections (n_masks, n_units)."""
    n_masks, n_choosing = len(selected), selected.sum(0)
    if options.operation == "complement":
        return np.asarray(n_choosing == 0)
    if options.operation == "difference":
        return np.asarray(selected[0] & (n_choosing == 1))
    needed = {"union": 1, "intersection": n_masks, "majority": n_masks // 2 + 1}.get(
        options.operation, options.at_least
    )
    return np.asarray(n_choosing >= needed)
