"""Options of a recording: what is shown to which model, how, and where it is written. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from llm2bids.errors import RecordError
from llm2bids.model.options import MODEL_METAVAR, LargeModelOptions
from llm2bids.options import option, options
from llm2bids.task import Design

if TYPE_CHECKING:
    from llm2bids.model.subject import ModelSource
    from llm2bids.task import Task

Mode = Literal["generate", "read"]

COLDEST: Final = 0.01
"""Lowest temperature but for 0; logits divided by less would overflow."""

_shown = partial(option, group="what is recorded")
_drawn = partial(option, group="how tokens are drawn")
_files = partial(option, group="files")


@options
class Protocol(Design):
    """How a task is shown and recorded: all that the numbers depend on but task and model."""

    mode: Literal["generate", "read"] | None = _shown(
        "whether scans are the tokens that the model generates after each prompt, or the tokens of the prompt "
        "(generate; read for localizers)",
        default=None,
    )
    tokens: int = _shown("tokens to generate per prompt", default=24, metavar="N")
    temperature: float | None = _drawn(
        "0 takes the likeliest token (what the model's makers advise)", default=None, metavar="X"
    )
    top_p: float | None = _drawn("draw among the likeliest tokens of this probability", default=None, metavar="P")
    top_k: int | None = _drawn("draw among this number of likeliest tokens; 0 for all", default=None, metavar="K")
    nonfinite: Literal["error", "zero"] = _files(
        "stop at NaN and infinity, or write 0 and count them in the sidecar", default="error"
    )
    compress: bool = _files(
        "whether volumes are compressed; without compression they can be memory-mapped", default=True
    )

    def check(self) -> None:
        """Raise if a value is out of range."""
        if self.tokens < 1:
            raise RecordError(f"{self.tokens} tokens per prompt asked for; 1 or more needed")
        if self.temperature is not None and self.temperature != 0 and not COLDEST <= self.temperature < inf:
            raise RecordError(
                f"a temperature of {self.temperature} found; 0 (likeliest token), or {COLDEST} or more needed"
            )
        if self.top_k is not None and self.top_k < 0:
            raise RecordError(f"a top-k of {self.top_k} found; 0 (all tokens) or more needed")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise RecordError(f"a top-p of {self.top_p} found; a number above 0 up to 1 needed")
        if self.seed < 0:
            raise RecordError(f"seed {self.seed} found; 0 or more needed")

    def mode_of(self, task: Task) -> Mode:
        """Return whether the scans of a task are tokens that the model generates or reads."""
        return self.mode or task.mode


@options
class RecordOptions(Protocol, LargeModelOptions):
    """Options of ``record``."""

    bids_dir: str | Path = option("dataset to make or to add to", kw_only=False, place=True, metavar="BIDS_DIR")
    model: ModelSource = option(
        "phantom, smollm2 (see llm2bids fetch), a folder made by save_pretrained, or a hub id; in Python also a "
        "Subject, or a loaded model with its tokenizer: (model, tokenizer)",
        default="phantom",
        kw_only=False,
        metavar=MODEL_METAVAR,
        group="what is recorded",
    )
    task: str | Path | Sequence[str | Path] = option(
        "built-in tasks or families (see llm2bids tasks), or .yaml or .tsv files",
        default=("nencka2023",),
        kw_only=False,
        metavar="NAME|FILE",
        group="what is recorded",
    )
    subject: str | None = _shown(
        "subject label, letters and digits (made from the model's name)", default=None, metavar="LABEL"
    )
    sites: Sequence[str] = _shown(
        "of block, attn, mlp, neuron and head, all in one pass", default=("block",), metavar="SITE"
    )
    hookpoints: Sequence[str] = _shown(
        "further module paths, written as site LABEL (custom)", default=(), metavar="[LABEL=]GLOB[:in|:out]"
    )
    authors: Sequence[str] = _files("authors of a new dataset", default=(), metavar="NAME")
    resume: bool = _files("leave complete runs alone, record the others", default=False, noted=False)
    overwrite: bool = _files("replace runs that are there", default=False, noted=False)
    progress: bool | None = _files(
        "show a progress bar; by default if the terminal can", default=None, noted=False, typed=False
    )

    @property
    def home(self) -> Path:
        """Folder of the dataset."""
        return Path(self.bids_dir)

    def check(self) -> None:
        """Raise if both resume and overwrite are asked for, or no prompt at a time."""
        if self.resume and self.overwrite:
            raise RecordError("both resume=True and overwrite=True found; choose one")
        if self.batch_size < 1:
            raise RecordError(f"a batch size of {self.batch_size} found; 1 or more needed")
