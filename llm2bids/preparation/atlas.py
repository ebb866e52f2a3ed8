"""Which slice is which layer, as an atlas that every labels masker takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from llm2bids.bids.nifti import write_image
from llm2bids.bids.tables import write_json, write_tsv
from llm2bids.bids.templates import template_json

if TYPE_CHECKING:
    from llm2bids.bids.dataset import Dataset
    from llm2bids.space import UnitSpace


def add_atlas(dataset: Dataset, space: UnitSpace) -> None:
    """Write the atlas of a space unless it is there; call with the lock held."""
    stem = f"tpl-{space.label}/anat/tpl-{space.label}_atlas-layers_dseg"
    image = dataset.root / f"{stem}.nii.gz"
    if image.exists():
        return
    labels = np.repeat(np.arange(1, space.n_hookpoints + 1), space.n_channels)
    write_json(dataset.root / f"{stem}.json", template_json("atlas_dseg.json", space=space.label))
    write_tsv(dataset.root / f"{stem}.tsv", layer_table(space))
    write_image(image, space.to_image(labels))


def layer_table(space: UnitSpace) -> pd.DataFrame:
    """List the layers of a space.

    Returns columns ``index`` (label in the atlas, from 1), ``name``, ``block``, ``n_units``; one row per hookpoint.
    """
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
