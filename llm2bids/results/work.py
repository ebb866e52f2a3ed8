"""Options that verbs share: which runs, how many processes, and whether existing results stay or are replaced."""

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
    """Subjects, tasks and sites to take; all by default."""

    participant_label: Sequence[str] = _labels("subjects", metavar="LABEL")
    task_label: Sequence[str] = _labels("tasks", metavar="LABEL")
    sites: Sequence[str] = _labels("sites", metavar="SITE")

    @property
    def labels(self) -> dict[str, Sequence[str]]:
        """The labels by keyword: ``subjects``, ``tasks`` and ``sites``."""
        return {"subjects": self.participant_label, "tasks": self.task_label, "sites": self.sites}


def processes(text: str) -> int:
    """Read a number of processes from the command line: 1 or more, or -1 for all."""
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
    """Number of processes, and whether existing results stay or are replaced."""

    n_jobs: int = _work("processes; -1 for all", default=1, metavar="N", parse=processes)
    resume: bool = _work("leave complete and current results alone, and do the rest", default=False)
    overwrite: bool = _work("replace existing results", default=False)
    progress: bool | None = _work("show a progress bar; by default if the terminal can", default=None, typed=False)

    def check(self) -> None:
        """Raise if resume contradicts overwrite, or the number of processes is 0."""
        if self.resume and self.overwrite:
            raise DatasetError("both resume=True and overwrite=True found; choose one")
        if self.n_jobs == 0:
            raise DatasetError("0 processes found; use 1 or more, or -1 for as many as there are processors")
