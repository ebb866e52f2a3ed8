"""A choice of units: as an image, a table, JSON or safetensors, and in set operations."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm2bids.errors import SpaceError, did_you_mean
from llm2bids.space.units import UnitSpace, html_table, whole_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    import nibabel as nib
    import pandas as pd
    from nibabel.spatialimages import SpatialImage
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True, eq=False)
class UnitMask:
    """A choice of units: a network, a lesion, the truth of a phantom.

    Parameters
    ----------
    space : UnitSpace
        Where the units live.
    selected : ndarray of bool, shape (n_units,)
        True for the units chosen.
    provenance : mapping
        Where it comes from: model, revision, contrast, threshold and the like; JSON values.

    Raises
    ------
    SpaceError
        If the shape does not fit the space.

    Examples
    --------
    >>> space = UnitSpace.uniform("mlp", ["h.0:out", "h.1:out"], 9)
    >>> late = UnitMask.from_units(space, [9, 10])
    >>> (late | UnitMask.from_units(space, [0])).table()["channel"].tolist()
    [0, 0, 1]
    >>> (~late).n_selected
    16
    """

    space: UnitSpace
    selected: NDArray[np.bool_]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise if the selection is not one boolean per unit."""
        if self.selected.dtype != np.bool_ or self.selected.shape != (self.space.n_units,):
            raise SpaceError(
                f"a selection of {self.selected.dtype} {self.selected.shape} found; {self.space.label} needs one "
                f"boolean per unit: bool ({self.space.n_units},)"
            )

    @property
    def n_selected(self) -> int:
        """Number of units chosen."""
        return int(self.selected.sum())

    @property
    def units(self) -> NDArray[np.int64]:
        """Numbers of the units chosen, ascending, shape (n_selected,)."""
        return np.flatnonzero(self.selected)

    @property
    def n_per_hookpoint(self) -> NDArray[np.int64]:
        """Number of units chosen at each hookpoint, shape (n_hookpoints,)."""
        return np.add.reduceat(self.selected, self.space.starts(), dtype=np.int64)

    def __repr__(self) -> str:
        """One line: label of the space, and how many of its units are chosen."""
        return f"<UnitMask {self.space.label}: {self.n_selected} of {self.space.n_units} units>"

    def _repr_html_(self) -> str:
        """A table of the units chosen at each hookpoint, for notebooks."""
        space = self.space
        rows = zip(space.blocks, space.hookpoints, space.n_channels, self.n_per_hookpoint, strict=True)
        return html_table(repr(self), ("block", "hookpoint", "units", "selected"), rows)

    @classmethod
    def from_units(cls, space: UnitSpace, units: ArrayLike, provenance: Mapping[str, Any] | None = None) -> UnitMask:
        """Choose units by number.

        Parameters
        ----------
        space : UnitSpace
            Where the units live.
        units : array_like of int, shape (n,)
            Unit numbers; repeats are harmless.
        provenance : mapping, optional
            Where the choice comes from.

        Returns
        -------
        UnitMask
            The choice.

        Raises
        ------
        SpaceError
            If a number is outside the space.
        """
        numbers = whole_numbers(units, "unit numbers")
        space.locate(numbers)  # raises if a number is outside the space
        selected = np.zeros(space.n_units, bool)
        selected[numbers] = True
        return cls(space, selected, provenance or {})

    @classmethod
    def from_image(
        cls,
        image: SpatialImage,
        space: UnitSpace,
        threshold: float | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> UnitMask:
        """Choose units by an image of any program.

        Parameters
        ----------
        image : nibabel image, shape (x, y, z)
            A mask or a map on the grid of `space`.
        space : UnitSpace
            Where the units live.
        threshold : float, optional
            Choose values above it; without one, all that are not 0.
        provenance : mapping, optional
            Where the choice comes from.

        Returns
        -------
        UnitMask
            The choice.

        Raises
        ------
        SpaceError
            If the grid differs, the image is 4-D or holds NaN, or it chooses voxels that hold no unit.
        """
        space.check_grid(image)
        volume = np.squeeze(np.asanyarray(image.dataobj))
        if volume.shape != space.shape:
            raise SpaceError(
                f"an image of shape {image.shape} found, one volume needed; pick one with nibabel or fslroi"
            )
        if np.isnan(volume).any():
            raise SpaceError("an image with NaN found; write 0 there before making a mask of it")
        chosen = volume != 0 if threshold is None else volume > threshold
        selected = space.from_volumes(chosen.T)
        stray = int(chosen.sum()) - int(selected.sum())
        if stray:
            raise SpaceError(f"{stray} chosen voxels hold no unit of {space.label}; mask the map with the brain mask")
        return cls(space, selected, provenance or {})

    def to_image(self) -> nib.Nifti1Image:
        """Make the mask an image.

        Returns
        -------
        Nifti1Image
            uint8, 1 where a unit is chosen.
        """
        return self.space.to_image(self.selected)

    def table(self) -> pd.DataFrame:
        """List the units chosen.

        Returns
        -------
        DataFrame
            Columns ``unit``, ``hookpoint`` (name), ``block``, ``channel``; one row per unit, ascending.
        """
        import pandas as pd  # noqa: PLC0415 - recording a model needs no table of units

        hookpoint, channel = self.space.locate(self.units)
        return pd.DataFrame(
            {
                "unit": self.units,
                "hookpoint": [self.space.hookpoints[h] for h in hookpoint],
                "block": np.asarray(self.space.blocks, np.int64)[hookpoint],
                "channel": channel,
            }
        )

    @classmethod
    def from_table(cls, table: pd.DataFrame, space: UnitSpace, provenance: Mapping[str, Any] | None = None) -> UnitMask:
        """Choose the units a table lists: the inverse of `table`.

        Parameters
        ----------
        table : DataFrame
            Columns ``hookpoint`` and ``channel``; others are ignored.
        space : UnitSpace
            Where the units live.
        provenance : mapping, optional
            Where the choice comes from.

        Returns
        -------
        UnitMask
            The choice.

        Raises
        ------
        SpaceError
            If a column is missing, or a hookpoint or channel is not of this space.
        """
        missing = {"hookpoint", "channel"} - set(table.columns)
        if missing:
            raise SpaceError(f"a table without column {', '.join(sorted(missing))} found; hookpoint and channel needed")
        if table["hookpoint"].isna().any():
            raise SpaceError(f"{table['hookpoint'].isna().sum()} rows without a hookpoint found; fill them in")
        channels = table.groupby("hookpoint", sort=False)["channel"]
        return cls._from_channels(space, {str(name): group.to_numpy() for name, group in channels}, provenance)

    def to_json(self) -> dict[str, Any]:
        """Describe the mask so that `from_json` rebuilds it exactly.

        Returns
        -------
        dict
            ``Space``, ``Units`` (hookpoint name to channels), ``Provenance``.
        """
        hookpoint, channel = self.space.locate(self.units)
        units = {self.space.hookpoints[h]: channel[hookpoint == h].tolist() for h in np.unique(hookpoint)}
        return {"Space": self.space.to_json(), "Units": units, "Provenance": dict(self.provenance)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> UnitMask:
        """Rebuild a mask.

        Parameters
        ----------
        fields : mapping
            What `to_json` gave.

        Returns
        -------
        UnitMask
            The same mask.

        Raises
        ------
        SpaceError
            If a key is missing or a unit is not of the space.
        """
        missing = {"Space", "Units"} - set(fields)
        if missing:
            raise SpaceError(f"a mask without {', '.join(sorted(missing))} found; take it from UnitMask.to_json")
        return cls._from_channels(UnitSpace.from_json(fields["Space"]), fields["Units"], fields.get("Provenance"))

    def save(self, path: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Save the mask; `llm2bids.masks.load_mask` reads it again.

        Parameters
        ----------
        path : path-like
            File ending in ``.nii.gz`` or ``.tsv``, which get a ``.json`` beside them, ``.json`` or ``.safetensors``.
        overwrite : bool
            Replace files that are there.

        Returns
        -------
        list of Path
            The files, the mask itself first.

        Raises
        ------
        MaskError
            If the name ends otherwise, a file is there, or the folder cannot be written.
        """
        # sidecars are BIDS, of which a space knows nothing: the room of masks writes them
        paths: list[Path] = import_module("llm2bids.masks").save_mask(self, path, overwrite=overwrite)
        return paths

    def to_safetensors(self, path: str | Path) -> Path:
        """Save one boolean tensor per hookpoint, with space and provenance in the metadata.

        Parameters
        ----------
        path : path-like
            File to write; an existing one is replaced.

        Returns
        -------
        Path
            The file.
        """
        from safetensors.numpy import save_file  # noqa: PLC0415 - only masks bound for hooks need it

        parts = dict(zip(self.space.hookpoints, self.space.split(self.selected), strict=True))
        metadata = {"space": json.dumps(self.space.to_json()), "provenance": json.dumps(dict(self.provenance))}
        partial = Path(path).with_name(f".{Path(path).name}.part")
        try:
            save_file({name: part.copy() for name, part in parts.items()}, partial, metadata)
            return partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def from_safetensors(cls, path: str | Path) -> UnitMask:
        """Load what `to_safetensors` saved.

        Parameters
        ----------
        path : path-like
            File to read.

        Returns
        -------
        UnitMask
            The same mask.

        Raises
        ------
        SpaceError
            If the file does not hold a mask.
        """
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - see to_safetensors

        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                space = UnitSpace.from_json(json.loads(metadata["space"]))
                parts = [file.get_tensor(name) for name in space.hookpoints]
            provenance = json.loads(metadata.get("provenance", "{}"))
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise SpaceError(f"{path} is no mask ({error}); save one with UnitMask.to_safetensors") from error
        if tuple(map(len, parts)) != space.n_channels:
            raise SpaceError(f"{path} is no mask (its tensors do not fit its space); save it again")
        return cls(space, np.concatenate(parts), provenance)

    def __or__(self, other: UnitMask) -> UnitMask:
        """Units in either mask."""
        return self._combined(other, np.logical_or, "union")

    def __and__(self, other: UnitMask) -> UnitMask:
        """Units in both masks."""
        return self._combined(other, np.logical_and, "intersection")

    def __sub__(self, other: UnitMask) -> UnitMask:
        """Units in this mask and not in the other."""
        return self._combined(other, np.greater, "difference")

    def __invert__(self) -> UnitMask:
        """Units not in the mask."""
        return UnitMask(self.space, ~self.selected, {"Operation": "complement", "Of": [dict(self.provenance)]})

    def _combined(self, mask: UnitMask, operator: np.ufunc, operation: str) -> UnitMask:
        """Mask of a set operation with another; raises if the masks are of two spaces."""
        if self.space != mask.space:
            raise SpaceError(
                f"masks of two spaces found, {self.space.label} and {mask.space.label}; "
                "combine masks of one model and site only"
            )
        sources = [dict(self.provenance), dict(mask.provenance)]
        selected = operator(self.selected, mask.selected)
        return UnitMask(self.space, selected, {"Operation": operation, "Of": sources})

    @classmethod
    def _from_channels(
        cls, space: UnitSpace, channels: Mapping[str, Any], provenance: Mapping[str, Any] | None
    ) -> UnitMask:
        """Mask from channel numbers by hookpoint name."""
        unknown = set(channels) - set(space.hookpoints)
        if unknown:
            near = did_you_mean(str(min(unknown)), space.hookpoints)
            raise SpaceError(
                f"hookpoint {min(unknown)} is not of space {space.label}; {near}use a mask of the same model"
            )
        selected = np.zeros(space.n_units, bool)
        for name, width, start in zip(space.hookpoints, space.n_channels, space.starts(), strict=True):
            numbers = whole_numbers(channels.get(name, []), f"channels of {name}")
            if outside := numbers[(numbers < 0) | (numbers >= width)].tolist():
                raise SpaceError(f"channel {outside[0]} of {name} found, 0 to {width - 1} exist; check the table")
            selected[start + numbers] = True
        return cls(space, selected, provenance or {})
