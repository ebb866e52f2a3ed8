"""Names and common sidecar fields of the files of one analysis; reading maps back."""

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
    """Folder, entities and common sidecar fields of the files of one analysis.

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
        """Path of a file; further entities join those of the analysis."""
        session = f"ses-{entities['ses']}" if entities.get("ses") else ""
        folder = self.folder.parent / session / self.folder.name if session else self.folder
        return folder / format_name(suffix, **{**self.entities, **entities})

    def sidecar(self, description: str, metadata: Mapping[str, Any], **fields: object) -> dict[str, Any]:
        """Compose a sidecar; `metadata` joins the common fields under ``Llm2bids``, `fields` those at the top."""
        metadata = {**self.common["Llm2bids"], **metadata}
        return {"Description": description, **self.common, **fields, "Llm2bids": metadata}

    def spread(self, values: NDArray[Any], background: float = 0.0) -> NDArray[np.float32]:
        """Spread values of tested units (..., n_tested) over all units (..., n_units), without NaN or infinity."""
        signals = np.full((*values.shape[:-1], self.space.n_units), background, np.float32)
        signals[..., self.tested] = np.nan_to_num(values, nan=background, posinf=0.0, neginf=0.0)
        return signals


def read_map(path: Path, space: UnitSpace) -> NDArray[Any]:
    """Read a map or mask that an analysis wrote, shape (n_units,)."""
    try:
        return space.to_signals(nib.load(path))
    except _UNREADABLE as error:
        raise DatasetError(f"{path} cannot be read ({error}); analyse it again with overwrite=True") from error
