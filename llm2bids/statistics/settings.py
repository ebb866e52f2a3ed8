"""How effects are estimated and tested; refuses what means nothing for units of a model."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, Final, Literal

from llm2bids.errors import InferenceError, did_you_mean
from llm2bids.space.selection import check_shares

UNITS_OF_INFERENCE: Final = {
    "prompt": "Prompts are the samples: one effect per prompt, compared over prompts and runs; a text that is shown "
    "again is no new sample.",
    "run": "Prompts are the samples within each run; runs are combined by fixed effects, weighted by their precision "
    "as if it were known. Finds somewhat too much, the fewer prompts per run the more.",
    "token": "Tokens are the samples, with AR(1) noise. Tokens of one prompt are not independent: too many units are "
    "found where there is nothing.",
}
"""What each kind of inference takes as a sample."""
CORRECTIONS: Final = {
    "fdr": "Benjamini-Hochberg false discovery rate over units",
    "bonferroni": "family-wise error, Bonferroni over units",
    "maxt": "family-wise error, permutation of the largest |t| over units",
    "none": "uncorrected",
}
"""What is controlled."""
_NEIGHBOURS: Final = (
    "neighbouring voxels are neighbours on the page only (units of a layer can be permuted without changing the model)"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How effects are estimated and tested.

    - `level`: how the effect of a prompt is estimated: by a model of its tokens with AR(1) noise, or as the mean over
      its tokens, which is the same model with independent noise.
    - `drift`: whether slow drifts are removed.
    - `high_pass`: their cutoff in Hz; None for the one that fits the design.
    - `confounds`: further confounds, as names or wildcards.
    - `alpha`: level of the test, between 0 and 1.
    - `tail`: which effects are looked for.
    - `drop_missing`: whether a run without a condition is left out of contrasts that need it, instead of an error.
    - `top`: shares of the tested units to write beside the corrected network: those with the largest statistic.
    """

    inference: Literal["prompt", "run", "token"] = "prompt"
    level: Literal["prompt", "prompt-mean"] = "prompt"
    drift: Literal["cosine", "none"] = "cosine"
    high_pass: float | None = None
    confounds: tuple[str, ...] = ()
    correction: Literal["fdr", "bonferroni", "maxt", "none"] = "fdr"
    alpha: float = 0.05
    tail: Literal["two", "positive", "negative"] = "two"
    n_permutations: int = 1000
    seed: int = 0
    drop_missing: bool = False
    top: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse unknown choices and contradictions."""
        choices = {
            "inference": (self.inference, UNITS_OF_INFERENCE),
            "level": (self.level, ("prompt", "prompt-mean")),
            "drift": (self.drift, ("cosine", "none")),
            "correction": (self.correction, CORRECTIONS),
            "tail": (self.tail, ("two", "positive", "negative")),
        }
        for name, (found, known) in choices.items():
            if found not in known:
                raise InferenceError(f"{name} {found!r} found; {did_you_mean(str(found), known)}use {', '.join(known)}")
        if not 0 < self.alpha < 1:
            raise InferenceError(f"alpha {self.alpha} found; a level between 0 and 1 needed, e.g. 0.05")
        if self.high_pass is not None and not 0 < self.high_pass < inf:
            raise InferenceError(
                f"a high-pass cutoff of {self.high_pass} Hz found; more than 0 needed, or --drift none"
            )
        if self.high_pass is not None and self.drift == "none":
            raise InferenceError("a high-pass cutoff and no drift asked for; choose one")
        if self.inference == "token" and self.level == "prompt-mean":
            raise InferenceError("means of prompts and inference over tokens asked for; use --inference prompt or run")
        if self.correction == "maxt" and self.inference != "prompt":
            raise InferenceError(
                f"permutation with --inference {self.inference} asked for, but only prompts can be exchanged; use "
                "--inference prompt, or --correction bonferroni"
            )
        if not 0 <= self.seed < 2**32:
            raise InferenceError(f"seed {self.seed} found; a whole number from 0 to {2**32 - 1} needed")
        if self.correction == "maxt" and self.n_permutations < 1 / self.alpha:
            raise InferenceError(
                f"{self.n_permutations} permutations found; level {self.alpha:g} needs {1 / self.alpha:.0f} at least"
            )
        check_shares(self.top)

    @property
    def noise_model(self) -> str:
        """The noise model of the first level, as nilearn names it."""
        return "ols" if self.level == "prompt-mean" else "ar1"

    @property
    def label(self) -> str:
        """Value of the BIDS entity ``desc`` of the networks found, e.g. ``fdr05``."""
        name = "uncorrected" if self.correction == "none" else self.correction
        return name + f"{self.alpha:.10f}".split(".")[1].rstrip("0").ljust(2, "0")

    def to_json(self) -> dict[str, Any]:
        """Describe the settings for a sidecar."""
        permuted = {"Permutations": self.n_permutations, "Seed": self.seed} if self.correction == "maxt" else {}
        prompts = {} if self.inference == "token" else {"EffectOfPrompt": self.level}
        return {
            "Inference": self.inference,
            "InferenceDescription": UNITS_OF_INFERENCE[self.inference],
            **prompts,
            "NoiseModel": self.noise_model,
            "Drift": self.drift,
            "HighPassAskedHz": self.high_pass,
            "FurtherConfounds": list(self.confounds),
            "Correction": self.correction,
            "CorrectionDescription": CORRECTIONS[self.correction],
            "Alpha": self.alpha,
            "Tail": self.tail,
            "DropMissing": self.drop_missing,
            **permuted,
            **({"Top": list(self.top)} if self.top else {}),
        }


def refuse_neighbours(smoothing_fwhm: float | None, cluster_threshold: int | None) -> None:
    """Refuse what takes neighbouring voxels for neighbouring units.

    `smoothing_fwhm`: width of a smoothing kernel in mm.
    """
    if smoothing_fwhm:
        raise InferenceError(f"smoothing asked for, but {_NEIGHBOURS}; leave it out")
    if cluster_threshold:
        raise InferenceError(f"clusters asked for, but {_NEIGHBOURS}; use fdr, bonferroni or maxt")
