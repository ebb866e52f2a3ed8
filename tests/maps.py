"""A small space, a z map over it, and maps as llm2bids writes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import write_json
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPACE = UnitSpace.uniform("mlp", [f"h.{n}.mlp:out" for n in range(4)], 35)
IDENTITY = {"Model": "tiny", "Revision": "r1", "WeightsSHA256": "ab" * 32, "Dtype": "float32", "Site": "mlp"}
SUFFIXES = [".nii.gz", ".tsv", ".json", ".safetensors"]
VALUES = np.random.default_rng(0).normal(0, 2, SPACE.n_units).astype(np.float32)
"""A z map with both signs."""


def write_map(path: Path, values: NDArray[Any], **own: Any) -> Path:
    """A map as llm2bids writes it."""
    write_image(path, SPACE.to_image(values))
    write_json(
        path.with_name(path.name.replace(".nii.gz", ".json")), {"Llm2bids": own | {"UnitSpace": SPACE.to_json()}}
    )
    return path


def on_grid(values: NDArray[Any]) -> NDArray[Any]:
    """Values of units as a volume, voxel by voxel."""
    volume = np.zeros(SPACE.shape, values.dtype)
    for unit, value in enumerate(values):
        volume[SPACE.voxel_of(unit)] = value
    return volume
