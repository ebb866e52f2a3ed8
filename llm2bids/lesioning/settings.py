"""Options of ``lesion``: what is done to units, what is scored, and what it is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm2bids.errors import DatasetError, LesionError
from llm2bids.model.options import MODEL_METAVAR, LargeModelOptions
from llm2bids.options import option, options

if TYPE_CHECKING:
    from llm2bids.model.subject import ModelSource
    from llm2bids.space import UnitMask

_surgery = partial(option, group="what is done")
_scoring = partial(option, group="what is scored")
_controls = partial(option, group="random masks")
_work = partial(option, group="work", noted=False, default=False)


@options
class ControlOptions:
    """How random masks are drawn for every lesion."""

    controls: int = _controls("random masks per lesion", default=100, metavar="N")
    control: Literal["matched", "layer", "uniform"] = _controls(
        "what they share with the lesion: units per layer and activation, units per layer, or units overall",
        default="matched",
    )
    seed: int = _controls("seed of the draws", default=0, metavar="N")

    def check(self) -> None:
        """Raise if there is a negative number of random masks."""
        if self.controls < 0:
            raise LesionError(f"{self.controls} controls found; 0 or more needed, 100 for a percentile")


@options
class EvaluationOptions(LargeModelOptions):
    """How texts and tasks are put to the model."""

    answers: Literal["likelihood", "generate"] = _scoring(
        "take the likeliest option as the answer, or look for one in what the model says; without options the model "
        "always says its answer",
        default="likelihood",
    )
    new_tokens: int = _scoring("tokens generated at most", default=24, metavar="N")
    generations: int = _scoring(
        "texts of each file that are continued by the intact and the lesioned model, side by side",
        default=2,
        metavar="N",
    )
    window: int | None = _scoring("tokens read together (the context, 2048 at most)", default=None, metavar="N")
    stride: int | None = _scoring("tokens from one window to the next (half a window)", default=None, metavar="N")

    def check(self) -> None:
        """Raise if a number is too small."""
        for name, smallest in (("new_tokens", 1), ("generations", 0), ("batch_size", 1)):
            if getattr(self, name) < smallest:
                raise LesionError(f"{name} of {getattr(self, name)} found; {smallest} or more needed")

    def to_json(self) -> dict[str, Any]:
        """Describe the evaluation for a sidecar."""
        names = ("window", "stride", "answers", "new_tokens", "generations", "batch_size")
        return {name: getattr(self, name) for name in names}


@options
class LesionOptions(ControlOptions, EvaluationOptions):
    """Options of ``lesion``."""

    out_dir: str | Path = option(
        "folder for tables, pictures and sidecar", kw_only=False, place=True, metavar="OUT_DIR"
    )
    masks: Sequence[str | Path] | Mapping[str, UnitMask] = option(
        "masks of any format, all of this model; each is a lesion", flag="--mask", many=True, metavar="FILE"
    )
    model: ModelSource = option(
        "phantom, smollm2, a folder made by save_pretrained, a hub id, or a model in memory; it must predict the next "
        "token",
        default="phantom",
        metavar=MODEL_METAVAR,
    )
    text: Sequence[str | Path] = _scoring("text files in UTF-8, each one document", default=(), metavar="FILE")
    task: Sequence[str | Path] = _scoring(
        "task files: .tsv or .jsonl with prompt, answer and, to choose from, options (a|b|c)",
        default=(),
        flag="--task-file",
        metavar="FILE",
    )
    lines: bool = _scoring("take every line of a text file as a document", default=False)
    method: str = _surgery(
        "what is done to units: zero, mean, scale:X, add:X, or push:X (X times their mean)",
        default="zero",
        metavar="METHOD",
    )
    keep: bool = _surgery("do it to all units but those of the mask", default=False)
    union: Sequence[int] = _surgery(
        "numbers of masks: lesion the first so many together, not each by itself", default=(), metavar="N"
    )
    keep_union: Sequence[int] = _surgery(
        "the same, but do it to all units but those of the union", default=(), metavar="N"
    )
    positions: Literal["all", "prompt", "generated"] = _surgery(
        "at which tokens; prompt and generated for task files only, whose prompts end somewhere", default="all"
    )
    reference: str | Path | None = _controls(
        "text over which activations are averaged, for matching and for mean and push (what is scored)",
        default=None,
        metavar="FILE",
    )
    dissociation: bool = _scoring("lay out every mask against every text, as a table and a picture", default=False)
    like: str | Path | None = option(
        "image or sidecar of ours that says which voxel is which unit, for masks of other programs",
        default=None,
        metavar="FILE",
    )
    allow_overlap: bool = _scoring(
        "score networks on texts that defined them too; known are whole lines, documents and prompts", default=False
    )
    resume: bool = _work("go on with a study that was broken off; scores with the same settings stay")
    overwrite: bool = _work("replace what is there")
    progress: bool | None = _work("show a progress bar; by default if the terminal can", default=None, typed=False)

    def check(self) -> None:
        """Raise if both resume and overwrite are given."""
        if self.resume and self.overwrite:
            raise DatasetError("both resume=True and overwrite=True found; choose one")

    @property
    def home(self) -> Path:
        """Folder of the results."""
        return Path(self.out_dir)
