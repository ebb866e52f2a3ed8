"""Atlas of the layers of a space, for any labels masker: one label per hookpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import write_json, write_tsv
from llm2bids.bids.templates import template_json

if TYPE_CHECKING:
    from pathlib import Path

    from llm2bids.bids.dataset import Dataset
    from llm2bids.space import UnitSpace


def atlas_files(root: Path, space: UnitSpace) -> list[Path]:
    """Image, table and sidecar of the atlas of a space in a derivative."""
    stem = root / f"tpl-{space.label}" / "anat" / f"tpl-{space.label}_atlas-layers_dseg"
    return [stem.with_name(f"{stem.name}.{ending}") for ending in ("nii.gz", "tsv", "json")]


def add_atlas(dataset: Dataset, space: UnitSpace) -> None:
    """Write the atlas of a space unless it exists; call with the lock held."""
    image, table, sidecar = atlas_files(dataset.root, space)
    if image.exists():
        return
    labels = np.repeat(np.arange(1, space.n_hookpoints + 1), space.n_channels)
    write_json(sidecar, template_json("atlas_dseg.json", space=space.label))
    write_tsv(table, layer_table(space))
    write_image(image, space.to_image(labels))  # last, since its existence says that the atlas is complete


def layer_table(space: UnitSpace) -> pd.DataFrame:
    """Table of the layers of a space: ``index`` (label in the atlas, from 1), ``name``, ``block``, ``n_units``."""
    blocks = space.blocks
    names = [
        f"{space.site} {block}" if blocks.count(block) == 1 else name
        for block, name in zip(blocks, space.hookpoints, strict=True)
    ]
    return pd.DataFrame(
        {
            "index": range(1, space.n_hookpoints + 1),
            "name": names,
            "block": [block if block >= 0 else "n/a" for block in blocks],
            "n_units": space.n_channels,
        }
    )
