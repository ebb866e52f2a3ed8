"""Options of ``glm``: how effects are estimated and tested, which contrasts, which design over subjects."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Final, Literal

from llm2bids.errors import InferenceError
from llm2bids.options import option, options, sidecar_fields
from llm2bids.results.work import RunLabels, Work, read_share

UNITS_OF_INFERENCE: Final = {
    "prompt": "Prompts are the samples: one effect per prompt, compared over prompts and runs; a text that is shown "
    "again is no new sample.",
    "run": "Prompts are the samples within each run; runs are combined by fixed effects, weighted by their precision "
    "as if it were known. Finds somewhat too much, the fewer prompts per run the more.",
    "token": "Tokens are the samples, with AR(1) noise. Tokens of one prompt are not independent: too many units are "
    "found where there is nothing.",
}
"""The samples of each kind of inference."""
CORRECTIONS: Final = {
    "fdr": "Benjamini-Hochberg false discovery rate over units",
    "bonferroni": "family-wise error, Bonferroni over units",
    "maxt": "family-wise error, permutation of the largest |t| over units",
    "none": "uncorrected",
}
"""The error rate that each correction controls."""
_NEIGHBOURS: Final = (
    "neighbouring voxels are neighbours on the page only (units of a layer can be permuted without changing the model)"
)


_estimated = partial(option, group="how effects are estimated")
_tested = partial(option, group="how effects are tested")
_over_subjects = partial(option, group="over subjects")


@options
class GLMSettings:
    """How effects are estimated and tested."""

    inference: Literal["prompt", "run", "token"] = _estimated(
        "the samples; only prompt is calibrated: tokens of one prompt are not independent, so token finds too many "
        "units",
        default="prompt",
        sidecar="Inference",
    )
    level: Literal["prompt", "prompt-mean"] = _estimated(
        "how the effect of a prompt is estimated: by a model of its tokens with AR(1) noise, or as the mean over its "
        "tokens, which is the same model with independent noise",
        default="prompt",
    )
    drift: Literal["cosine", "none"] = _estimated("slow drift to remove", default="cosine", sidecar="Drift")
    high_pass: float | None = _estimated(
        "cutoff of the drift in Hz, instead of the one fitted to the design",
        default=None,
        metavar="HZ",
        sidecar="HighPassAskedHz",
    )
    confounds: Sequence[str] = _estimated(
        "columns of confounds, or wildcards such as 'cosine*'", default=(), metavar="NAME", sidecar="FurtherConfounds"
    )
    correction: Literal["fdr", "bonferroni", "maxt", "none"] = _tested(
        "correction for testing many units", default="fdr", sidecar="Correction"
    )
    alpha: float = _tested("level of the test", default=0.05, metavar="P", sidecar="Alpha")
    tail: Literal["two", "positive", "negative"] = _tested(
        "sign of the effects to look for", default="two", sidecar="Tail"
    )
    n_permutations: int = _tested("permutations of maxt", default=1000, metavar="N")
    seed: int = _tested("seed of maxt", default=0, metavar="N")
    drop_missing: bool = _estimated(
        "leave out runs that lack a condition, or subjects that lack a contrast, instead of an error",
        default=False,
        sidecar="DropMissing",
    )
    reference: Literal["task", "dataset"] = option(
        "what the pattern of a contrast is compared with: its other condition, or all prompts of the other tasks too, "
        "which makes it specific",
        default="task",
        group="patterns",
    )
    top: Sequence[float] = _tested(
        "shares of the tested units, e.g. 1% or 0.01: masks of the units with the largest statistic, uncorrected",
        default=(),
        metavar="SHARE",
        parse=read_share,
    )

    def check(self) -> None:
        """Raise if a value is out of range or two options contradict each other."""
        if not 0 < self.alpha < 1:
            raise InferenceError(f"alpha {self.alpha} found; a level between 0 and 1 needed, e.g. 0.05")
        if self.high_pass is not None and not 0 < self.high_pass < inf:
            raise InferenceError(
                f'a high-pass cutoff of {self.high_pass} Hz found; more than 0 needed, or drift="none"'
            )
        if self.high_pass is not None and self.drift == "none":
            raise InferenceError("a high-pass cutoff and no drift asked for; choose one")
        if self.inference == "token" and self.level == "prompt-mean":
            raise InferenceError(
                'means of prompts and inference over tokens asked for; use inference="prompt" or inference="run"'
            )
        if self.correction == "maxt" and self.inference != "prompt":
            raise InferenceError(
                f'permutation with inference="{self.inference}" asked for, but only prompts can be exchanged; use '
                'inference="prompt", or correction="bonferroni"'
            )
        if not 0 <= self.seed < 2**32:
            raise InferenceError(f"seed {self.seed} found; a whole number from 0 to {2**32 - 1} needed")
        if self.correction == "maxt" and self.n_permutations < 1 / self.alpha:
            raise InferenceError(
                f"{self.n_permutations} permutations found; level {self.alpha:g} needs {1 / self.alpha:.0f} at least"
            )
        if self.top:
            from llm2bids.space.selection import check_shares  # noqa: PLC0415 - numpy is not needed for --help

            check_shares(self.top)

    @property
    def noise_model(self) -> str:
        """Noise model of the first level, as nilearn names it."""
        return "ols" if self.level == "prompt-mean" else "ar1"

    @property
    def label(self) -> str:
        """Value of the BIDS entity ``desc`` of the networks, e.g. ``fdr05``."""
        name = "uncorrected" if self.correction == "none" else self.correction
        return name + f"{self.alpha:.10f}".split(".")[1].rstrip("0").ljust(2, "0")

    def to_json(self) -> dict[str, Any]:
        """Fields that describe the settings in sidecars."""
        prompts = {} if self.inference == "token" else {"EffectOfPrompt": self.level}
        inference = {
            "InferenceDescription": UNITS_OF_INFERENCE[self.inference],
            **prompts,
            "NoiseModel": self.noise_model,
        }
        correction = {"CorrectionDescription": CORRECTIONS[self.correction]}
        fields = sidecar_fields(self, Inference=inference, Correction=correction)
        permutations = {"Permutations": self.n_permutations, "Seed": self.seed} if self.correction == "maxt" else {}
        return {**fields, **permutations, **({"Top": list(self.top)} if self.top else {})}


@options
class GLMOptions(RunLabels, GLMSettings, Work):
    """Options of ``glm``."""

    bids_dir: str | Path = option("a raw dataset that prep has prepared", kw_only=False, place=True, metavar="BIDS_DIR")
    out_dir: str | Path | None = option(
        "folder of the results, new or existing; BIDS_DIR/derivatives/glm by default",
        default=None,
        kw_only=False,
        place=True,
        metavar="OUT_DIR",
    )
    analysis_level: Literal["participant", "group"] = option(
        "each subject, task and site by itself, or over the subjects whose results are in the output",
        default="participant",
        kw_only=False,
        place=True,
        metavar="LEVEL",
    )
    model: str | Path | None = option(
        "BIDS Stats Model, instead of BIDS_DIR/code/models/model-<task>_smdl.json",
        default=None,
        metavar="FILE",
        group="contrasts",
    )
    contrasts: Sequence[str] = option(
        "contrasts instead of those of the model, e.g. 'on - off' or 'name=on - off'",
        default=(),
        metavar="EXPR",
        group="contrasts",
    )
    compare: str | None = _over_subjects(
        "column of participants.tsv with two values, whose subjects are compared", default=None, metavar="COLUMN"
    )
    pairs: str | None = _over_subjects(
        "column of participants.tsv that pairs the subjects to compare", default=None, metavar="COLUMN"
    )
    covariates: Sequence[str] = _over_subjects(
        "columns of participants.tsv with numbers, centred", default=(), metavar="COLUMN"
    )
    smoothing_fwhm: float | None = _tested("refused: neighbouring voxels are no neighbours", default=None, metavar="MM")
    cluster_threshold: int | None = _tested("refused for the same reason", default=None, metavar="K")

    @property
    def home(self) -> Path:
        """Folder of the results."""
        return Path(self.bids_dir) / "derivatives" / "glm" if self.out_dir is None else Path(self.out_dir)

    def check(self) -> None:
        """Raise if an option belongs to the other level, or takes neighbouring voxels for neighbouring units."""
        if self.smoothing_fwhm:
            raise InferenceError(f"smoothing asked for, but {_NEIGHBOURS}; leave it out")
        if self.cluster_threshold:
            raise InferenceError(f"clusters asked for, but {_NEIGHBOURS}; use fdr, bonferroni or maxt")
        if self.analysis_level == "participant" and (self.compare or self.pairs or self.covariates):
            raise InferenceError("compare, pairs or covariates asked for a single subject; use the level group")
        if self.analysis_level == "group" and self.contrasts:
            raise InferenceError("contrasts of conditions asked for a group; ask them at the level participant first")
