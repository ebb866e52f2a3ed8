"""Options of verbs that run a model: which revision, where, how precise, how many texts at a time. Imports no torch."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from llm2bids.options import option, options

MODEL_METAVAR: Final = "phantom|smollm2|DIR|HUB_ID"
"""How ``--help`` writes what names a model."""
_model = partial(option, group="model")


@options
class ModelOptions:
    """How a model is loaded and run."""

    batch_size: int = _model("number of texts in the model at a time", default=8, metavar="N")
    revision: str | None = _model("branch, tag or commit of the hub", default=None, metavar="REV")
    device: str = _model("auto, or a device of torch: cpu, cuda, cuda:1, mps", default="auto", metavar="NAME")
    dtype: str = _model(
        "precision of the weights: float32, bfloat16 or float16; auto is float32 on a CPU, else the model's own",
        default="auto",
        metavar="NAME",
    )
    trust_remote_code: bool = _model("let code that comes with the model run", default=False)

    @property
    def loading(self) -> dict[str, Any]:
        """The options that `llm2bids.model.subject.load` takes."""
        names = ("revision", "device", "dtype", "trust_remote_code")
        return {name: getattr(self, name) for name in names}


@options
class DeviceMap:
    """How a model is spread over devices."""

    device_map: str | None = _model("auto spreads the model over several GPUs", default=None, metavar="MAP")


@options
class LargeModelOptions(ModelOptions, DeviceMap):
    """The same for a model that may need several GPUs."""

    @property
    def loading(self) -> dict[str, Any]:
        """The options that `llm2bids.model.subject.load` takes."""
        return {**super().loading, "device_map": self.device_map}
