"""What verbs that run a model share: the options that say which one exactly, and how it is loaded and run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

_DTYPES: Final = "auto, float32, bfloat16, float16 (%(default)s)"


def add_model_options(
    group: argparse._ArgumentGroup, batch: str, dtype: str = _DTYPES, *, device_map: bool = True
) -> None:
    """Add the options of a model."""
    group.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help=f"{batch} in the model at a time (%(default)s)"
    )
    group.add_argument("--revision", metavar="REV", help="branch, tag or commit of the hub")
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps (%(default)s)")
    group.add_argument("--dtype", default="auto", metavar="NAME", help=dtype)
    if device_map:
        group.add_argument("--device-map", metavar="MAP", help="auto spreads the model over several GPUs")
    group.add_argument("--trust-remote-code", action="store_true", help="let code that comes with the model run")
