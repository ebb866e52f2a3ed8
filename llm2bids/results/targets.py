"""Where the files of one analysis go and what all of them say; maps of ours read back."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from llm2bids.bids.names import format_name
from llm2bids.errors import DatasetError, SpaceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.space import UnitSpace

_UNREADABLE: Final = (OSError, EOFError, zlib.error, ImageFileError, SpaceError)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the files of one analysis go, and what all of them say.

    - `entities`: BIDS entities of all files.
    - `space`: which voxel is which unit.
    - `tested` (n_units,): units that were tested.
    - `common`: fields of every sidecar: ``Sources``, ``SpatialReference``, and under ``Llm2bids`` model, site and
      settings.
    """

    folder: Path
    entities: Mapping[str, str]
    space: UnitSpace
    tested: NDArray[np.bool_]
    common: Mapping[str, Any]

    def path(self, suffix: str, **entities: str | None) -> Path:
        """Name a file."""
        session = f"ses-{entities['ses']}" if entities.get("ses") else ""
        folder = self.folder.parent / session / self.folder.name if session else self.folder
        return folder / format_name(suffix, **{**self.entities, **entities})

    def sidecar(self, description: str, own: Mapping[str, Any], **fields: object) -> dict[str, Any]:
        """Compose a sidecar."""
        both = {**self.common["Llm2bids"], **own}
        return {"Description": description, **self.common, **fields, "Llm2bids": both}

    def spread(self, values: NDArray[Any], background: float = 0.0) -> NDArray[np.float32]:
        """Put values of tested units among all units.

        `values` (..., n_tested): one per tested unit. Returns (..., n_units): finite.
        """
        whole = np.full((*values.shape[:-1], self.space.n_units), background, np.float32)
        whole[..., self.tested] = np.nan_to_num(values, nan=background, posinf=0.0, neginf=0.0)
        return whole


def read_map(path: Path, space: UnitSpace) -> NDArray[Any]:
    """Read a map or mask of ours.

    Returns (n_units,): as the file has it.
    """
    try:
        return space.to_signals(nib.load(path))
    except _UNREADABLE as error:
        raise DatasetError(f"{path} cannot be read ({error}); analyse it again with --overwrite") from error
