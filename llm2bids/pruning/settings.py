"""Options of ``prune``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llm2bids.errors import PruneError
from llm2bids.model.options import MODEL_METAVAR, ModelOptions
from llm2bids.options import option, options

if TYPE_CHECKING:
    from llm2bids.model.subject import ModelSource
    from llm2bids.space import UnitMask

_units = partial(option, group="what goes")


@options
class PruneOptions(ModelOptions):
    """Options of ``prune``."""

    model: ModelSource = option(
        "the model the mask was made of: phantom, smollm2, a folder made by save_pretrained, a hub id, or a model in "
        "memory, which stays as it is",
        kw_only=False,
        metavar=MODEL_METAVAR,
    )
    mask: str | Path | UnitMask = option("units to take out, of site neuron or head", kw_only=False, metavar="FILE")
    out: str | Path = option("folder to write", kw_only=False, metavar="DIR")
    like: str | Path | None = option(
        "image or sidecar of ours that says which voxel is which unit, for masks of other programs",
        default=None,
        metavar="FILE",
    )
    keep: bool = _units("keep the units of the mask and take out all others", default=False)
    protect_first: int = _units("the first N blocks lose nothing", default=0, metavar="N")
    protect_last: int = _units("the last N blocks lose nothing", default=0, metavar="N")
    pad: bool = _units(
        "write the model also where it cannot be made smaller, with the units that are to go set to 0", default=False
    )
    compensate_bias: bool = _units(
        "add what the units contributed on average over the text to the biases of the maps that read them",
        default=False,
    )
    text: str | Path | None = _units(
        "text file on which perplexity is reported, before and after", default=None, metavar="FILE"
    )
    dtype: str = option(
        "precision to load and save in: float32, bfloat16 or float16; auto saves in that of the model's files",
        default="auto",
        metavar="NAME",
        group="model",
    )
    overwrite: bool = option("replace a model that prune wrote there", default=False, group="work", noted=False)

    def check(self) -> None:
        """Raise if biases are to make up for units, and there is no text to average over."""
        if self.compensate_bias and self.text is None:
            raise PruneError("compensate_bias=True without texts found; give the file to average over as `text`")

    @property
    def home(self) -> Path:
        """Folder of the smaller model."""
        return Path(self.out)
