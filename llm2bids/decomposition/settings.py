"""Options of a decomposition."""

from __future__ import annotations

from argparse import ArgumentTypeError
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from llm2bids.errors import InferenceError
from llm2bids.options import option, options
from llm2bids.results.work import RunLabels, Work

ROBUST_Z: Final = 5.0
"""Robust z beyond which a unit belongs to a network: one normal value in 3.5 million is beyond it, so hardly a unit by
chance in any model of today."""
MAX_COMPONENTS: Final = 999
"""Largest number of components: numbers in file names have at most three digits."""


def read_components(text: str) -> int | str:
    """Read a number of components as it is typed.

    >>> read_components("12"), read_components("estimate")
    (12, 'estimate')
    """
    if text != "estimate" and not text.isdigit():
        raise ArgumentTypeError(f"{text!r} components found; give a number of 2 or more, or estimate")
    return text if text == "estimate" else int(text)


_decomposed = partial(option, group="how runs are decomposed")
_selected = partial(option, group="which units are a network")


@options
class DecompositionSettings:
    """How runs are decomposed, and which units of a map are a network."""

    method: Literal["fastica", "canica", "dictlearning"] = _decomposed(
        "FastICA of scikit-learn, or CanICA or DictLearning of nilearn, which are spatial and run without smoothing",
        default="fastica",
    )
    components: int | str = _decomposed(
        "number of components, or estimate: the dimensions that parallel analysis finds beyond noise",
        default="estimate",
        metavar="N",
        parse=read_components,
    )
    samples: Literal["prompt", "token"] = _decomposed(
        "what is decomposed: means over prompts, in which the noise of single words averages out, or tokens",
        default="prompt",
    )
    scale: Literal["prep", "none"] = _decomposed(
        "units in their standard deviations, or as recorded and only centred, so that the largest decide",
        default="prep",
    )
    by: Literal["subject", "group", "run", "layer"] = _decomposed(
        "what is decomposed together: all runs of a subject and site, those of all subjects of one geometry, each run, "
        "or each layer of a subject",
        default="subject",
    )
    axis: Literal["temporal", "spatial"] | None = _decomposed(
        "what is independent: time courses, whose maps may overlap, or maps; temporal by default, but the other "
        "methods than fastica are spatial",
        default=None,
    )
    seed: int = _decomposed("seed of every start and resample", default=0, metavar="N")
    z: float | None = _selected(
        "bound as plain z over units, e.g. 3.6; by default 5 by median and median absolute deviation, which a network "
        "does not shift: no unit of a network of 6% of all units can have a plain z above 4",
        default=None,
        metavar="Z",
    )
    tail: Literal["positive", "negative", "two"] = _selected(
        "tail of the map that is the network; the heavier is made positive", default="positive"
    )
    resamples: int = _decomposed(
        "refits with other seeds and with runs drawn with replacement, which say how stable components are",
        default=0,
        metavar="N",
    )

    def check(self) -> None:
        """Raise if a value is out of range, or if two options contradict each other."""
        if self.n_components is not None and not 1 < self.n_components <= MAX_COMPONENTS:
            raise InferenceError(f"{self.n_components} components asked for; use 2 to {MAX_COMPONENTS}, or estimate")
        if self.z is not None and not self.z > 0:
            raise InferenceError(f"z {self.z:g} found; use a number above 0, e.g. 3.6")
        if self.resamples < 0 or self.seed < 0:
            raise InferenceError("resamples or seed below 0 found; use 0 or more")
        if self.method != "fastica" and self.axis == "temporal":
            raise InferenceError(f'{self.method} is spatial by nature; use axis="spatial", or method="fastica"')

    @property
    def n_components(self) -> int | None:
        """Number of components; None to estimate it."""
        if isinstance(self.components, str):
            if self.components != "estimate":
                raise InferenceError(f"{self.components!r} components found; give a number of 2 or more, or estimate")
            return None
        return self.components

    @property
    def independent_axis(self) -> Literal["temporal", "spatial"]:
        """Axis along which components are independent."""
        return self.axis or ("temporal" if self.method == "fastica" else "spatial")

    @property
    def rule(self) -> str:
        """The bound of a network in words."""
        if self.z is None:
            return f"robust z (median and median absolute deviation over units) beyond {ROBUST_Z:g}"
        return f"z over units (mean and standard deviation) beyond {self.z:g}"

    def to_json(self) -> dict[str, Any]:
        """Describe the settings for sidecars."""
        return {
            "Method": self.method,
            "ComponentsAsked": self.components,
            "Samples": self.samples,
            "Scale": self.scale,
            "By": self.by,
            "Axis": self.independent_axis,
            "Seed": self.seed,
            "Threshold": self.rule,
            "Tail": self.tail,
            "Resamples": self.resamples,
            "SmoothingFWHM": None,
        }


@options
class ICAOptions(RunLabels, DecompositionSettings, Work):
    """Options of ``ica``."""

    bids_dir: str | Path = option("a raw dataset that prep has prepared", kw_only=False, place=True, metavar="BIDS_DIR")
    out_dir: str | Path | None = option(
        "derivative to make or to add to; BIDS_DIR/derivatives/ica by default",
        default=None,
        kw_only=False,
        place=True,
        metavar="OUT_DIR",
    )

    @property
    def home(self) -> Path:
        """Folder of the results."""
        return Path(self.bids_dir) / "derivatives" / "ica" if self.out_dir is None else Path(self.out_dir)
