"""How networks without a task are looked for; refuses what means nothing for units of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from llm2bids.errors import InferenceError, did_you_mean

CHOICES: Final = {
    "method": ("fastica", "canica", "dictlearning"),
    "samples": ("prompt", "token"),
    "scale": ("prep", "none"),
    "by": ("subject", "group", "run", "layer"),
    "axis": ("temporal", "spatial"),
    "tail": ("positive", "negative", "two"),
}
"""What may be asked for; the first is the default."""
ROBUST_Z: Final = 5.0
"""Robust z beyond which a unit belongs to a network: one normal value in 3.5 million is beyond, so none is expected by
chance in any model of today, whatever the size of the network."""
MAX_COMPONENTS: Final = 999
"""Components whose numbers fit into file names."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How networks without a task are looked for.

    - `method`: fastICA of scikit-learn; CanICA or DictLearning of nilearn, which are spatial by nature.
    - `components`: their number; None for the number that parallel analysis finds.
    - `samples`: what a row is: the mean of a unit over a prompt, or a token.
    - `scale`: units in their standard deviations as ``prep`` wrote them, or as recorded and only centred.
    - `axis`: what is independent: time courses over samples, or maps over units. Only FastICA has both.
    - `seed`: of every start and resample.
    - `z`: units whose map, as z over units, is beyond; None for a robust z beyond 5.
    - `tail`: which tail of a map is the network; the heavier is positive.
    - `resamples`: refits for the stability of components.
    """

    method: Literal["fastica", "canica", "dictlearning"] = "fastica"
    components: int | None = None
    samples: Literal["prompt", "token"] = "prompt"
    scale: Literal["prep", "none"] = "prep"
    by: Literal["subject", "group", "run", "layer"] = "subject"
    axis: Literal["temporal", "spatial"] = "temporal"
    seed: int = 0
    z: float | None = None
    tail: Literal["positive", "negative", "two"] = "positive"
    resamples: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name, allowed in CHOICES.items():
            if (found := getattr(self, name)) not in allowed:
                raise InferenceError(
                    f"{name} {found!r} found; {did_you_mean(str(found), allowed)}use {', '.join(allowed)}"
                )
        if self.components is not None and not 1 < self.components <= MAX_COMPONENTS:
            raise InferenceError(f"{self.components} components asked for; use 2 to {MAX_COMPONENTS}, or estimate")
        if self.z is not None and not self.z > 0:
            raise InferenceError(f"z {self.z:g} found; use a number above 0, e.g. 3.6")
        if self.resamples < 0 or self.seed < 0:
            raise InferenceError("resamples or seed below 0 found; use 0 or more")
        if self.method != "fastica" and self.axis == "temporal":
            raise InferenceError(f"{self.method} is spatial by nature; ask for it with --axis spatial, or for fastica")

    @property
    def rule(self) -> str:
        """How units of a network are chosen, in words."""
        if self.z is None:
            return f"robust z (median and median absolute deviation over units) beyond {ROBUST_Z:g}"
        return f"z over units (mean and standard deviation) beyond {self.z:g}"

    def to_json(self) -> dict[str, Any]:
        """Describe the settings."""
        return {
            "Method": self.method,
            "ComponentsAsked": "estimate" if self.components is None else self.components,
            "Samples": self.samples,
            "Scale": self.scale,
            "By": self.by,
            "Axis": self.axis,
            "Seed": self.seed,
            "Threshold": self.rule,
            "Tail": self.tail,
            "Resamples": self.resamples,
            "SmoothingFWHM": None,
        }
