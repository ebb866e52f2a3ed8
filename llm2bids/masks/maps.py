"""Images that any program wrote: one volume read, turned onto the grid of a space, and its units chosen."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError, ImageDataError, SpatialImage
from nibabel.wrapstruct import WrapStructError

from llm2bids.bids.names import parse_name
from llm2bids.errors import MaskError, SpaceError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.space import Selection, UnitSpace

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".HEAD", ".BRIK.gz", ".BRIK", ".img.gz", ".img", ".hdr")
"""File names that nibabel is asked to read: NIfTI, AFNI, and the pairs of older SPM."""
_NIFTI_P_VALUE = 22
"""Intent code of p values (nifti1.h, NIFTI_INTENT_PVAL)."""
_CHUNK = 1 << 22
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,  # AFNI headers that lack an attribute
    OverflowError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    ImageDataError,
    WrapStructError,
)


def open_image(path: Path) -> SpatialImage:
    """Open an image of any format that nibabel reads; its voxels are read later."""
    try:
        image = nib.load(path)
    except _UNREADABLE as error:
        raise MaskError(f"{path} is no image that can be read ({_one_line(error)}); write the map again") from error
    if not isinstance(image, SpatialImage):
        raise MaskError(f"{path} holds a {type(image).__name__}, a volume is needed; give a NIfTI or AFNI map")
    return image


def read_volume(path: Path, space: UnitSpace, volume: int | None = None) -> NDArray[np.floating[Any]]:
    """Read one volume on the grid of a space.

    Axes that another program flipped or swapped are put back, which is exact; nothing is ever interpolated.

    `volume`: which volume of several, from 0 in the order of the file (AFNI's sub-brick number); axes of length 1, as
    in AFNI's 5-D buckets, do not count. Returns (x, y, z): scaled values in the precision of the file, float32 at
    least; NaN stays.
    """
    image = open_image(path)
    if sorted(image.shape[:3]) != sorted(space.shape):
        _check_grid(path, image, space)
    more_axes = tuple(image.shape[3:])
    number = _volume_number(path, int(np.prod(more_axes, dtype=np.int64)), volume)
    try:
        if path.suffix == ".gz":
            _read_to_end(path)
        values = np.asanyarray(image.dataobj[..., *np.unravel_index(number, more_axes, order="F")])
    except _UNREADABLE as error:
        raise MaskError(
            f"{path} cannot be read to its end ({_one_line(error)}): truncated or corrupted; copy it again"
        ) from error
    if values.dtype.kind not in "biuf":
        raise MaskError(f"{path} holds values of type {values.dtype}, real numbers are needed; write the map again")
    plain = SpatialImage(values.astype(np.promote_types(values.dtype, np.float32)), image.affine)
    try:
        turned = nib.as_closest_canonical(plain)
    except (OrientationError, np.linalg.LinAlgError):
        turned = plain  # its affine has no directions: the check says so
    _check_grid(path, turned, space)
    return np.asanyarray(turned.dataobj)


def holds_p_values(path: Path) -> bool:
    """Whether a map holds p values, by its name (``stat-p``) or NIfTI intent; FSL's ``corrp`` maps hold 1 - p."""
    header = open_image(path).header
    intent = int(header["intent_code"]) if isinstance(header, nib.Nifti1Header) else 0
    return intent == _NIFTI_P_VALUE or parse_name(path.name)[1].get("stat") == "p"


def is_binary(volume: NDArray[np.floating[Any]]) -> bool:
    """Whether a volume (x, y, z) is a mask: 0 or NaN, and at most one value more."""
    return len(np.unique(volume[(volume != 0) & ~np.isnan(volume)])) <= 1


def split_volume(
    volume: NDArray[np.floating[Any]], space: UnitSpace
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """Take the values of the units (n_units,) and of all other voxels (n_voxels,) off a volume (x, y, z)."""
    holds_unit = space.to_volumes(np.ones(space.n_units, bool)).T
    return space.from_volumes(volume.T), volume[~holds_unit]


def tested_p_values(
    values: NDArray[np.floating[Any]], background: NDArray[np.floating[Any]], *, is_ours: bool
) -> NDArray[np.floating[Any]]:
    """Set p-values (n_units,) to NaN where a unit was not tested.

    Our maps are 1 there. AFNI and nilearn write 0 there and in the `background`; where a background is 1 or NaN, 0 is
    the smallest p-value, as float32 ends at 1e-45.
    """
    if (values < 0).any() or (values > 1).any():
        raise MaskError(
            f"values from {np.nanmin(values):.6g} to {np.nanmax(values):.6g} found where p values, 0 to 1, were "
            "expected; leave out `below`"
        )
    if is_ours:
        return np.where(values == 1, np.nan, values)
    return values if background.any() else np.where(values == 0, np.nan, values)


def select_units(
    selection: Selection, values: NDArray[np.floating[Any]], background: NDArray[np.floating[Any]], space: UnitSpace
) -> NDArray[np.bool_]:
    """Choose units of a map (n_units,); raises if voxels of the `background` pass too, or if the map is no mask yet.

    A share is of the units tested. Where a statistic is 0 to the last digit nothing was tested: every program, ours
    too, writes 0 there.
    """
    tested = np.where(values == 0, np.nan, values) if selection.top and not selection.below else values
    selected = selection.select(tested)
    if not selection.below:
        level, outside = selection.strength(values)[selected], selection.strength(background)
        weakest = level.min() if selection.top and level.size else selection.bound
        if n_stray := np.count_nonzero((outside > selection.bound) & (outside >= weakest)):
            raise MaskError(
                f"{n_stray} voxels that hold no unit of {space.label} pass ({selection.text}); "
                "use a map of the same recording, masked with its brain mask"
            )
    if not selection.is_given and selected.all() and len(np.unique(values)) > 1:
        raise MaskError(
            f"all {space.n_units} units have a value other than 0, so this is no mask yet; give `threshold` or `top`"
        )
    return selected


def _volume_number(path: Path, n_volumes: int, volume: int | None) -> int:
    """Number of the volume to read; raises if the file holds several and none is chosen."""
    if volume is None and n_volumes != 1:
        raise MaskError(f"{path} holds {n_volumes} volumes, one is needed; set `volume` to 0 to {n_volumes - 1}")
    number = volume or 0
    if not 0 <= number < n_volumes:
        raise MaskError(f"volume {number} of {path} wanted, 0 to {n_volumes - 1} exist; pick one of them")
    return number


def _check_grid(path: Path, image: SpatialImage, space: UnitSpace) -> None:
    """Check the grid as `UnitSpace.check_grid` does, with the name of the file in the message."""
    try:
        space.check_grid(image)
    except SpaceError as error:
        raise SpaceError(f"{path}: {error}") from error


def _read_to_end(path: Path) -> None:
    """Read a gzip file to its end, where its checksum is compared; nibabel stops before."""
    with gzip.open(path) as file:
        while file.read(_CHUNK):
            pass


def _one_line(error: BaseException) -> str:
    """The message of an error in one line; nibabel's span several."""
    return " ".join(str(error).split())
