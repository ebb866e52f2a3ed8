"""One way to ask a question about networks.

A verb says its name, how many steps its progress bar has, and how to answer for one set of networks::

    question = Question("overlap", options)
    return question.answer(Overlap(networks, options) for networks in question.networks(options, n_tasks=2))

The rest is the same for all: find the networks, check that no earlier answer is lost, show progress, write the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llm2bids.bids.dataset import Dataset
from llm2bids.networks.answers import check_new, publish
from llm2bids.networks.network_set import find_networks, with_tasks
from llm2bids.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from llm2bids.networks.answers import Answer, AnswerSource
    from llm2bids.networks.network_set import NetworkSet
    from llm2bids.networks.settings import NetworkOptions


class Options(Protocol):
    """Options that every question has."""

    @property
    def home(self) -> Path:
        """Results that the answers are added to."""

    @property
    def overwrite(self) -> bool:
        """Whether earlier answers may be replaced."""

    @property
    def progress(self) -> bool | None:
        """Whether to show a progress bar; None if the terminal decides."""


class Study(Protocol):
    """How a verb answers for one set of networks."""

    @property
    def networks(self) -> AnswerSource:
        """Networks that the answer is about."""

    @property
    def n_steps(self) -> int:
        """Steps of the progress bar."""

    def answer(self, tick: Callable[[int], object]) -> Answer:
        """Make all tables and figures; calls `tick` with the number of steps that were done."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question about networks.

    - `name`: in messages and at the progress bar, e.g. ``"identify"``.
    - `label`: in file names, where it is not the name, e.g. ``"identifysession"``.
    - `unit`: steps of the progress bar.
    - `hint`: what else to do where an answer may not be replaced.
    """

    name: str
    options: Options
    label: str = ""
    unit: str = "draws"
    hint: str = ""

    @property
    def out(self) -> Dataset:
        """Results that the answers are added to."""
        return Dataset(self.options.home, "derivative")

    def networks(self, options: NetworkOptions, n_tasks: int = 1, *, together: bool = False) -> list[NetworkSet]:
        """Find the sets of networks with enough tasks that have no answer yet, or whose answer may be replaced.

        `together`: all subjects are one set.
        """
        sets = find_networks(self.out.root, contrasts=options.contrasts, together=together, **options.labels)
        sets = with_tasks(sets, n_tasks, self.name)
        self.check_new(sets)
        return sets

    def check_new(self, sets: Iterable[AnswerSource]) -> None:
        """Raise if an answer is there that may not be replaced."""
        for networks in sets:
            entities = networks.entities(self.label or self.name)
            check_new(self.out, entities, overwrite=self.options.overwrite, hint=self.hint)

    def answer(self, studies: Iterable[Study]) -> list[Answer]:
        """Answer for every set of networks, and write each answer as soon as it is there."""
        waiting = list(studies)  # all are made, and raise what is wrong, before the first begins to work
        answers, total = [], sum(study.n_steps for study in waiting)
        visible = self.options.progress if total else False
        with progress_bar(self.unit, total, self.name, visible=visible) as bar:
            while waiting:
                study = waiting.pop(0)  # the data that a study has read go with it
                answers.append(publish(self.out, study.networks, study.answer(bar.update)))
        return answers
