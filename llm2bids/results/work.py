"""Options that verbs share: which runs are taken, how much is done at a time, what may happen to what is there."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence
from functools import partial

from llm2bids.errors import DatasetError
from llm2bids.options import option, options

_labels = partial(option, group="which runs (all)", default=())
_work = partial(option, group="work", noted=False)


@options
class RunLabels:
    """Which runs are taken."""

    participant_label: Sequence[str] = _labels("subjects", metavar="LABEL")
    task_label: Sequence[str] = _labels("tasks", metavar="LABEL")
    sites: Sequence[str] = _labels("sites", metavar="SITE")

    @property
    def labels(self) -> dict[str, Sequence[str]]:
        """The same by kind: ``subjects``, ``tasks`` and ``sites``."""
        return {"subjects": self.participant_label, "tasks": self.task_label, "sites": self.sites}


def processes(text: str) -> int:
    """Read a number of processes as it is typed: 1 or more, or -1 for all."""
    number = int(text)
    if number < 1 and number != -1:
        raise ArgumentTypeError(f"{text} processes found; 1 or more needed, or -1 for all")
    return number


@options
class Work:
    """How much is done at a time, and what may happen to what is there."""

    n_jobs: int = _work("processes; -1 for all", default=1, metavar="N", parse=processes)
    resume: bool = _work("leave alone what is there and up to date, do the rest", default=False)
    overwrite: bool = _work("replace what is there", default=False)
    progress: bool | None = _work("show a progress bar; by default if the terminal can", default=None, typed=False)

    def check(self) -> None:
        """Raise if both resume and overwrite are asked for, or no process."""
        if self.resume and self.overwrite:
            raise DatasetError("both resume=True and overwrite=True found; choose one")
        if self.n_jobs == 0:
            raise DatasetError("0 processes found; use 1 or more, or -1 for as many as there are processors")
