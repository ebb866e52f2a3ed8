"""Options that verbs share: which runs are taken, how much is done at a time, what may happen to what is there."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence
from functools import partial

from llm2bids.errors import DatasetError, SelectionError
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


def read_share(share: str | float) -> float:
    """Read a share of units as it is typed.

    >>> read_share("1%"), read_share("0.5 %"), read_share("0.01"), read_share(0.25)
    (0.01, 0.005, 0.01, 0.25)
    """
    text = str(share).strip()
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise SelectionError(f"{share!r} is no share of the units; give one such as 1% or 0.01") from error


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
