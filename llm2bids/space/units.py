"""Which unit is which voxel.

Glossary
--------
hookpoint
    A place in a model where numbers are read, such as the output of block 3; one slice of the volume.
channel
    An index within one hookpoint.
unit
    One channel of one hookpoint, numbered from 0 in C order: all channels of the first hookpoint, then the second.
fold
    The ``(x, y)`` rectangle on which the channels of one hookpoint lie, x fastest.
empty slice
    A slice of zeros below the first and above the last hookpoint. FEAT, SPM and AFNI tell brain from background by
    such voxels.

Voxel ``(i, j, k)`` holds channel ``i + X * j`` of hookpoint ``k - n_empty``. NIfTI stores x fastest, so one scan in
the file is the C-ordered ``(hookpoint, channel)`` array between zeros: writing is dumping, reading is a memory map.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce
from html import escape
from math import ceil, isqrt
from operator import index
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from llm2bids.errors import SpaceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nibabel.spatialimages import SpatialImage
    from numpy.typing import ArrayLike, NDArray

MIN_AXIS = 3
"""Voxels along x and y at least: FSL's smoothest, FEAT and TFCE fail on thinner volumes."""
MAX_ASPECT = 4
"""A fold longer than this many times its breadth is padded instead: slivers cannot be looked at."""
MIN_EMPTY = 0.025
"""Share of the box that is exactly 0 at least: FEAT takes the 2nd percentile as its floor."""


def fold(n_channels: int) -> tuple[int, int]:
    """Choose the most square rectangle for a number of channels.

    Returns ``(x, y)`` with ``x >= y >= 3`` and ``x * y >= n_channels``: the most square exact divisors, or where those
    are slivers (prime-like widths) the smallest near-square, whose last voxels stay empty.

    >>> fold(768), fold(4096), fold(50257), fold(1)
    ((32, 24), (64, 64), (225, 224), (3, 3))
    """
    root = isqrt(n_channels)
    y = next(y for y in range(root, 0, -1) if n_channels % y == 0)
    x = n_channels // y
    if x <= MAX_ASPECT * y and y >= MIN_AXIS:
        return x, y
    y = max(root, MIN_AXIS)
    return max(ceil(n_channels / y), MIN_AXIS), y


@dataclass(frozen=True, slots=True)
class UnitSpace:
    """The grid on which the units of one site of a model lie.

    Parameters
    ----------
    site : str
        Where in each block the units live, e.g. ``"block"``; letters and digits.
    hookpoints : tuple of str
        Names of the places read, in depth order, e.g. ``"transformer.h.0:out"``.
    n_channels : tuple of int
        Channels of each hookpoint, in the same order.

    Raises
    ------
    SpaceError
        If there is no hookpoint, a name repeats, or a width is below 1.

    Examples
    --------
    >>> space = UnitSpace.uniform("block", [f"h.{n}:out" for n in range(12)], 768)
    >>> space.label, space.shape, space.n_units
    ('L12C768block', (32, 24, 14), 9216)
    >>> space.voxel_of(769)
    (1, 0, 2)
    >>> space.unit_at((1, 0, 2))
    769
    """

    site: str
    hookpoints: tuple[str, ...]
    n_channels: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raise if the hookpoints make no grid."""
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", self.site):
            raise SpaceError(
                f"site {self.site!r} found; letters and digits needed, a letter first: rename it, e.g. 'mlp'"
            )
        if not self.hookpoints or len(self.hookpoints) != len(self.n_channels):
            raise SpaceError(
                f"{len(self.hookpoints)} hookpoints and {len(self.n_channels)} widths found; "
                "give one width per hookpoint, at least one"
            )
        if len(set(self.hookpoints)) != len(self.hookpoints):
            raise SpaceError("a hookpoint is named twice; name each once")
        if min(self.n_channels) < 1:
            raise SpaceError(f"a hookpoint with {min(self.n_channels)} channels found; each needs 1 or more")

    @classmethod
    def uniform(cls, site: str, hookpoints: Sequence[str], n_channels: int) -> UnitSpace:
        """Make a space whose hookpoints all have the same width.

        Parameters
        ----------
        site : str
            Where in each block the units live.
        hookpoints : sequence of str
            Names in depth order.
        n_channels : int
            Channels of every hookpoint.

        Returns
        -------
        UnitSpace
            The grid.
        """
        return cls(site, tuple(hookpoints), (index(n_channels),) * len(hookpoints))

    @property
    def n_hookpoints(self) -> int:
        """Number of slices that hold units."""
        return len(self.hookpoints)

    @property
    def n_units(self) -> int:
        """Number of units, all hookpoints together."""
        return sum(self.n_channels)

    @property
    def n_empty(self) -> int:
        """Empty slices at each end: the fewest, at least 1, that leave 2.5 % of the box at 0."""
        x, y = fold(max(self.n_channels))
        n_empty = 1
        while 1 - self.n_units / (x * y * (self.n_hookpoints + 2 * n_empty)) < MIN_EMPTY:
            n_empty += 1
        return n_empty

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y and z."""
        return (*fold(max(self.n_channels)), self.n_hookpoints + 2 * self.n_empty)

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel indices to millimetres, shape (4, 4): 1 mm, RAS, so that coordinates are voxel indices."""
        return np.eye(4)

    @property
    def label(self) -> str:
        """Value of the BIDS entity ``space``; equal labels mean equal grids.

        Hookpoints of unequal widths add a checksum of the widths.
        """
        widths = "" if len(set(self.n_channels)) == 1 else f"w{_checksum(self.n_channels):08x}"
        return f"L{self.n_hookpoints}C{max(self.n_channels)}{widths}{self.site}"

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of the block each hookpoint lies in: the first number of its module path, else -1."""
        paths = (name.split(":")[0].split(".") for name in self.hookpoints)
        return tuple(int(next((part for part in path if part.isdigit()), -1)) for path in paths)

    def __repr__(self) -> str:
        """One line: label, units and hookpoints."""
        return f"<UnitSpace {self.label}: {self.n_units} units of {self.n_hookpoints} hookpoints>"

    def _repr_html_(self) -> str:
        """A table of the units of each hookpoint, for notebooks."""
        rows = zip(self.blocks, self.hookpoints, self.n_channels, strict=True)
        return html_table(repr(self), ("block", "hookpoint", "units"), rows)

    def locate(self, units: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the hookpoint and the channel of units.

        Parameters
        ----------
        units : array_like of int, shape (n,)
            Unit numbers, 0 to ``n_units - 1``.

        Returns
        -------
        hookpoint : ndarray of int, shape (n,)
            Index into ``hookpoints``.
        channel : ndarray of int, shape (n,)
            Index within the hookpoint.

        Raises
        ------
        SpaceError
            If a number is outside the space.
        """
        numbers = whole_numbers(units, "unit numbers")
        if numbers.size and (numbers.min() < 0 or numbers.max() >= self.n_units):
            raise SpaceError(f"unit numbers must be 0 to {self.n_units - 1} in {self.label}; leave out the others")
        starts = self.starts()
        hookpoint = np.searchsorted(starts, numbers, side="right") - 1
        return hookpoint, numbers - starts[hookpoint]

    def voxel_of(self, unit: int) -> tuple[int, int, int]:
        """Give the voxel of a unit.

        Parameters
        ----------
        unit : int
            Unit number.

        Returns
        -------
        tuple of int
            Voxel ``(i, j, k)``.

        Raises
        ------
        SpaceError
            If the number is outside the space.
        """
        hookpoint, channel = self.locate([unit])
        x = self.shape[0]
        return int(channel[0] % x), int(channel[0] // x), int(hookpoint[0]) + self.n_empty

    def unit_at(self, voxel: Sequence[int]) -> int:
        """Give the unit of a voxel.

        Parameters
        ----------
        voxel : sequence of int
            ``(i, j, k)``.

        Returns
        -------
        int
            Unit number.

        Raises
        ------
        SpaceError
            If the voxel lies outside the grid or holds no unit.
        """
        i, j, k = (index(v) for v in voxel)
        x, y, z = self.shape
        hookpoint, channel = k - self.n_empty, i + x * j
        inside = 0 <= i < x and 0 <= j < y and 0 <= k < z
        if not inside or not 0 <= hookpoint < self.n_hookpoints or channel >= self.n_channels[hookpoint]:
            raise SpaceError(f"voxel {(i, j, k)} holds no unit of {self.label} with grid {self.shape}; pick one inside")
        return int(self.starts()[hookpoint]) + channel

    def split(self, values: ArrayLike) -> list[NDArray[Any]]:
        """Split values by hookpoint.

        Parameters
        ----------
        values : array_like, shape (..., n_units)
            One value per unit in the last axis.

        Returns
        -------
        list of ndarray, shape (..., n_channels)
            One view per hookpoint; joined along the last axis they are `values` again.

        Raises
        ------
        SpaceError
            If the last axis is not ``n_units`` long.

        Examples
        --------
        >>> space = UnitSpace("mlp", ("h.0:out", "h.1:out"), (3, 2))
        >>> [part.tolist() for part in space.split([0, 1, 2, 3, 4])]
        [[0, 1, 2], [3, 4]]
        """
        return np.split(self._per_unit(values, "values"), self.starts()[1:], axis=-1)

    def to_volumes(self, signals: ArrayLike) -> NDArray[Any]:
        """Put signals on the grid, in the order in which the file holds them.

        Parameters
        ----------
        signals : array_like, shape (..., n_units)
            One value per unit and scan.

        Returns
        -------
        ndarray, shape (..., z, y, x)
            C-ordered, same dtype, 0 where no unit is. Its bytes are the NIfTI payload.

        Raises
        ------
        SpaceError
            If the last axis is not ``n_units`` long.
        """
        values = self._per_unit(signals, "signals")
        x, y, z = self.shape
        volumes = np.zeros((*values.shape[:-1], z, y * x), values.dtype)
        for slice_number, part in enumerate(self.split(values), self.n_empty):
            volumes[..., slice_number, : part.shape[-1]] = part
        return volumes.reshape(*values.shape[:-1], z, y, x)

    def from_volumes(self, volumes: ArrayLike) -> NDArray[Any]:
        """Take signals off the grid: the inverse of `to_volumes`.

        Parameters
        ----------
        volumes : array_like, shape (..., z, y, x)
            C-ordered volumes.

        Returns
        -------
        ndarray, shape (..., n_units)
            One value per unit and scan.

        Raises
        ------
        SpaceError
            If the last three axes are not the grid.
        """
        values = np.asarray(volumes)
        if values.shape[-3:] != self.shape[::-1]:
            raise SpaceError(f"volumes of grid {values.shape[-3:][::-1]} found, {self.shape} needed for {self.label}")
        rows = values.reshape(*values.shape[:-2], values.shape[-2] * values.shape[-1])
        slices = enumerate(self.n_channels, self.n_empty)
        return np.concatenate([rows[..., number, :width] for number, width in slices], axis=-1)

    def to_image(self, signals: ArrayLike, t_r: float = 1.0) -> nib.Nifti1Image:
        """Make a NIfTI image of signals.

        Parameters
        ----------
        signals : array_like, shape (n_units,) or (n_scans, n_units)
            One value per unit, or per scan and unit. Booleans become uint8, 64-bit and 16-bit floats float32, other
            integers int32: types that FSL, AFNI and SPM all read.
        t_r : float
            Repetition time in seconds, for 4-D images.

        Returns
        -------
        Nifti1Image
            3-D or 4-D image, 1 mm, RAS, sform and qform code 1.

        Raises
        ------
        SpaceError
            If the shape does not fit, or whole numbers need more than 32 bits.
        """
        values = np.asarray(signals)
        if values.ndim not in (1, 2):
            raise SpaceError(f"signals with {values.ndim} axes found; pass (n_units,) or (n_scans, n_units)")
        stored = values.astype(_storable(values.dtype), copy=False)
        if stored.dtype == np.int32 and not np.array_equal(stored, values):
            raise SpaceError("whole numbers beyond 32 bits found, which NIfTI tools do not read; pass floats")
        volumes = self.to_volumes(stored)
        image = nib.Nifti1Image(volumes.T, self.affine)
        image.set_sform(self.affine, code=1)
        image.set_qform(self.affine, code=1)
        image.header.set_xyzt_units("mm", "sec")
        if values.ndim == 2:  # noqa: PLR2004 - a scan axis
            image.header["pixdim"][4] = t_r
        return image

    def to_signals(self, image: SpatialImage) -> NDArray[Any]:
        """Read signals from an image: the inverse of `to_image`.

        Parameters
        ----------
        image : nibabel image, shape (x, y, z) or (x, y, z, n_scans)
            On this space's grid.

        Returns
        -------
        ndarray, shape (n_units,) or (n_scans, n_units)
            One value per unit, or per scan and unit.

        Raises
        ------
        SpaceError
            If shape or affine differ from the grid.
        """
        self.check_grid(image)
        return self.from_volumes(np.asanyarray(image.dataobj).T)

    def check_grid(self, image: SpatialImage) -> None:
        """Raise if an image lies on another grid.

        Parameters
        ----------
        image : nibabel image
            Any 3-D or 4-D image.

        Raises
        ------
        SpaceError
            If shape or affine differ from the grid.
        """
        if image.shape[:3] != self.shape:
            raise SpaceError(
                f"an image of {image.shape[:3]} voxels found, {self.shape} needed for space {self.label}; "
                "use a map made from a recording of the same geometry"
            )
        if image.affine is None or not np.allclose(image.affine, self.affine, atol=1e-3):
            raise SpaceError(
                f"an image on the right grid but with another affine found; space {self.label} has 1 mm voxels at the "
                "origin; do not resample or reorient maps"
            )

    def mask_image(self) -> nib.Nifti1Image:
        """Make the mask of all voxels that hold a unit.

        Returns
        -------
        Nifti1Image
            uint8, 1 where a unit is.
        """
        return self.to_image(np.ones(self.n_units, bool))

    def to_json(self) -> dict[str, Any]:
        """Describe the space so that `from_json` rebuilds it exactly.

        Returns
        -------
        dict
            ``Label``, ``Site``, ``Hookpoints``, ``Channels`` (one number where all are equal), ``Shape``,
            ``EmptySlices``.
        """
        equal = len(set(self.n_channels)) == 1
        return {
            "Label": self.label,
            "Site": self.site,
            "Hookpoints": list(self.hookpoints),
            "Channels": self.n_channels[0] if equal else list(self.n_channels),
            "Shape": list(self.shape),
            "EmptySlices": self.n_empty,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> UnitSpace:
        """Rebuild a space.

        Parameters
        ----------
        fields : mapping
            What `to_json` gave.

        Returns
        -------
        UnitSpace
            The same space.

        Raises
        ------
        SpaceError
            If a key is missing, or label and shape contradict the rest.
        """
        missing = {"Label", "Site", "Hookpoints", "Channels", "Shape"} - set(fields)
        if missing:
            raise SpaceError(f"a unit space without {', '.join(sorted(missing))} found; take it from a bold.json")
        hookpoints, widths = tuple(fields["Hookpoints"]), fields["Channels"]
        widths = (widths,) * len(hookpoints) if isinstance(widths, int) else tuple(widths)
        space = cls(fields["Site"], hookpoints, widths)
        if space.label != fields["Label"] or list(space.shape) != list(fields["Shape"]):
            raise SpaceError(
                f"a unit space labelled {fields['Label']} with grid {fields['Shape']} found, but its parts make "
                f"{space.label} with grid {list(space.shape)}; it was edited: take it from the recording again"
            )
        return space

    def starts(self) -> NDArray[np.int64]:
        """Give the number of the first unit of each hookpoint.

        Returns
        -------
        ndarray of int, shape (n_hookpoints,)
            Unit numbers.
        """
        return np.concatenate([[0], np.cumsum(self.n_channels[:-1], dtype=np.int64)])

    def _per_unit(self, values: ArrayLike, what: str) -> NDArray[Any]:
        """Values as an array; raise if its last axis is not the units of this space."""
        array = np.asarray(values)
        if array.ndim == 0 or array.shape[-1] != self.n_units:
            raise SpaceError(
                f"{what} of shape {array.shape} found, (..., {self.n_units}) needed for {self.label}; "
                "pass one value per unit"
            )
        return array


def whole_numbers(values: ArrayLike, what: str) -> NDArray[np.int64]:
    """Read numbers of units or channels (...), also from floats or text; raise if one is no whole number."""
    array = np.asarray(values)
    try:
        numbers = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise SpaceError(f"{what} must be whole numbers ({error}); mend the table") from error
    if array.dtype == np.bool_ or not np.array_equal(numbers, np.round(numbers)):
        raise SpaceError(
            f"{what} must be whole numbers, {array.dtype} with fractions or booleans found; mend the table"
        )
    return numbers.astype(np.int64)


def html_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a small table in HTML; all of its text is escaped."""
    lines = [f"<caption>{escape(caption)}</caption>", _html_row("th", header), *(_html_row("td", row) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def _html_row(tag: str, cells: Sequence[object]) -> str:
    """One row of a table in HTML."""
    return f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"


def _storable(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The NIfTI type, read by FSL, AFNI and SPM alike, for an array type."""
    if dtype.type in {np.bool_, np.uint8}:
        return np.dtype(np.uint8)
    if np.issubdtype(dtype, np.integer):
        return np.dtype(np.int32)
    if np.issubdtype(dtype, np.floating):
        return np.dtype(np.float32)
    raise SpaceError(f"values of type {dtype} found; real numbers or booleans needed")


def _checksum(numbers: Sequence[int]) -> int:
    """FNV-1a hash of numbers in 32 bits, the same on every machine."""
    return reduce(lambda state, number: (state ^ number) * 0x01000193 & 0xFFFFFFFF, numbers, 0x811C9DC5)
