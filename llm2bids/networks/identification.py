"""Identify the task of held-out runs from the networks of other runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from llm2bids.bids.history import noted
from llm2bids.errors import InferenceError
from llm2bids.networks.answers import Answer
from llm2bids.networks.question import Question
from llm2bids.networks.resampling import exchanged_labels, p_at_least
from llm2bids.networks.rules import NetworkRule
from llm2bids.networks.run_statistics import RunSums
from llm2bids.networks.settings import SCORES, IdentifyOptions
from llm2bids.networks.task_decoding import (
    LEVELS,
    Experiment,
    accuracy_interval,
    confusion,
    decode,
    items_by_level,
)
from llm2bids.options import takes
from llm2bids.plots.identification import draw_identification

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from llm2bids.networks.network_set import NetworkSet
    from llm2bids.networks.run_statistics import RunContrast

DECODER: Final = "decoder"
"""Name of the linear decoder among the scores."""
_COLUMNS: Final = {
    "level": "What was identified: " + "; ".join(f"{name}, {text}" for name, text in LEVELS.items()) + ".",
    "score": "How: " + "; ".join(f"{name}, {text}" for name, text in SCORES.items()) + f"; {DECODER}, a linear support "
    "vector machine (nilearn) trained on the blocks of the training runs.",
    "n_items": "Items told.",
    "accuracy": "Share told right. In folds: share of the prompts of training runs told right by the rule chosen, each "
    "run held out in turn.",
    "low": "Lower end of its 95 % interval; items of one run are not taken for independent.",
    "high": "Upper end.",
    "chance": "Mean accuracy when tasks are exchanged among runs of the same number, and all is done anew; of the "
    "decoder one over the number of tasks.",
    "p": "How often such exchanges tell as many or more right; n/a for the decoder, which would take too long.",
    "task": "Task that was shown.",
    "told": "Task that it was taken for.",
    "count": "How many items.",
    "subject": "Subject.",
    "run": "Run.",
    "item": "Block or prompt of the run.",
    "held_out": "Runs, session or subject that networks were not made of.",
    "rule": "Which units of the training map were the network; chosen by the training runs alone.",
    "texts_seen": "Texts of the held-out runs that training runs of the same task show too.",
}


@noted("networks identify")
@takes(IdentifyOptions)
def identify(options: IdentifyOptions) -> list[Answer]:
    """Identify the task of runs from the networks of other runs.

    Returns
    -------
    list of Answer
        One per subject (with ``across="subject"`` for all) and site, with tables ``summary``, ``confusion``,
        ``predictions`` and ``folds``, and a figure.

    Raises
    ------
    LLM2BIDSError
        If there are too few tasks, runs, sessions or subjects, if training runs show the held-out texts, or if a file
        is missing.
    """
    rules = [NetworkRule.from_text(text) for text in options.thresholds]
    question = Question("identify", options, options.label)
    network_sets = question.networks(options, 2, together=options.across == "subject")
    return question.answer(IdentificationStudy.from_networks(networks, rules, options) for networks in network_sets)


@dataclass(frozen=True, eq=False)
class IdentificationStudy:
    """Identification of the task of runs at one site, of one subject or of several."""

    networks: NetworkSet
    runs: tuple[RunContrast, ...]
    rules: tuple[NetworkRule, ...]
    options: IdentifyOptions

    @classmethod
    def from_networks(
        cls, networks: NetworkSet, rules: Sequence[NetworkRule], options: IdentifyOptions
    ) -> IdentificationStudy:
        """Read the runs of networks; raise if their tasks cannot be identified."""
        tail = networks.networks[0].tail
        study = cls(networks, tuple(networks.runs()), tuple(replace(rule, tail=tail) for rule in rules), options)
        study.check()
        return study

    @property
    def n_steps(self) -> int:
        """Number of permutations."""
        return self.options.n_permutations

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Number of the task of each run."""
        return np.array([self.networks.tasks.index(run.task) for run in self.runs])

    @cached_property
    def groups(self) -> NDArray[np.str_]:
        """Group that each run is held out with."""
        return np.array([getattr(run, self.options.across) for run in self.runs])

    @cached_property
    def cells(self) -> list[str]:
        """Exchangeability cell of each run: tasks are exchanged among runs of one subject, session and number."""
        return [f"{run.subject}/{run.run}" for run in self.runs]

    @cached_property
    def experiment(self) -> Experiment:
        """Cross-validation over the runs."""
        sums = RunSums.from_runs(self.runs)
        weights = {
            f"{network.task}/{condition}": weight
            for network in self.networks.networks
            for condition, weight in network.weights.items()
        }
        items = items_by_level(self.runs, sums, weights)
        parts = np.array([run.run for run in self.runs])
        scores = tuple(self.options.scores)
        scores, tail = tuple(self.options.scores), self.rules[0].tail
        return Experiment(sums, items, self.groups, self.rules, parts, scores, tail)

    def check(self) -> None:
        """Raise if a task has a single group, or if held-out texts are in the training runs too."""
        for number, task in enumerate(self.networks.tasks):
            n_groups = len(np.unique(self.groups[self.labels == number]))
            if n_groups < 2:  # noqa: PLR2004 - one to train on, one to hold out
                raise InferenceError(
                    f"task {task} of {self.networks.name} has {n_groups} {self.options.across}, 2 needed to hold one "
                    "out; record more, or leave the task out with `task_label`"
                )
        n_seen, n_texts = self._count_texts()
        if n_seen and not self.options.allow_overlap:
            raise InferenceError(
                f"{n_seen} of {n_texts} texts of held-out runs are in the training runs of the same task too, so that "
                "texts may be told, not tasks; record runs with other texts, or use allow_overlap=True"
            )

    def _count_texts(self) -> tuple[int, int]:
        """Count the texts that runs of the same task in other groups show too, and all texts; summed over runs."""
        texts = [set(run.prompts["stimulus"]) for run in self.runs]
        n_seen = 0
        for number, run_texts in enumerate(texts):
            training = (self.labels == self.labels[number]) & (self.groups != self.groups[number])
            training_texts: set[str] = set().union(*(texts[run] for run in np.flatnonzero(training)))
            n_seen += len(run_texts & training_texts)
        return n_seen, sum(map(len, texts))

    def answer(self, tick: Callable[[int], object]) -> Answer:
        """Compute all tables, and the figure."""
        rng = np.random.default_rng(self.options.seed)
        experiment, tasks = self.experiment, self.networks.tasks
        result = experiment.identify(self.labels, rng)
        predictions = dict(result.predictions)
        if self.options.decoder:
            names = [tasks[label] for label in self.labels]
            decoded = decode(
                experiment.items, names, (self.groups, experiment.parts), self.networks.space, self.networks.tested
            )
            predictions |= {
                (level, DECODER): np.array([tasks.index(name) for name in predicted])
                for level, predicted in decoded.items()
            }
        summary = self._summary(predictions, self._permuted_accuracies(rng, tick))
        counts = {
            key: confusion(self._true_labels(key[0]), predicted, len(tasks)) for key, predicted in predictions.items()
        }
        n_seen, n_texts = self._count_texts()
        settings = {
            "Across": self.options.across,
            "Thresholds": [rule.label for rule in self.rules],
            "Tail": self.rules[0].tail,
            "Permutations": self.options.n_permutations,
            "Seed": self.options.seed,
            "TextsSeen": n_seen,
            "TextsShown": n_texts,
        }
        tables = {
            "summary": summary,
            "confusion": self._confusion(counts),
            "predictions": self._predictions(predictions, result.scores),
            "folds": result.folds,
        }
        figure = draw_identification(tasks, summary, counts, self.options.across)
        subject = ", ".join(self.networks.subjects)
        return Answer(self.options.label, subject, self.networks.site, tables, {"figure": figure}, settings, _COLUMNS)

    def _true_labels(self, level: str) -> NDArray[np.int64]:
        """True task of each item of a level."""
        labels: NDArray[np.int64] = self.labels[self.experiment.items[level].runs]
        return labels

    def _permuted_accuracies(
        self, rng: np.random.Generator, tick: Callable[[int], object]
    ) -> dict[tuple[str, str], NDArray[np.float64]]:
        """Compute accuracies with tasks exchanged among runs, shape (n_permutations,), by level and score.

        Networks and rules are chosen anew for each permutation, so that the choice itself is part of chance.
        """
        names, tasks = [self.networks.tasks[label] for label in self.labels], self.networks.tasks
        accuracies: dict[tuple[str, str], list[float]] = {}
        for _ in range(self.options.n_permutations):
            labels = np.array([tasks.index(name) for name in exchanged_labels(names, self.cells, rng)])
            for key, value in self.experiment.accuracies(labels, self.experiment.identify(labels, rng)).items():
                accuracies.setdefault(key, []).append(value)
            tick(1)
        return {key: np.array(values) for key, values in accuracies.items()}

    def _summary(
        self,
        predictions: dict[tuple[str, str], NDArray[np.int64]],
        permuted: dict[tuple[str, str], NDArray[np.float64]],
    ) -> pd.DataFrame:
        """Accuracy of every level and score."""
        rows = []
        for (level, name), predicted in predictions.items():
            correct = predicted == self._true_labels(level)
            accuracy, low, high = accuracy_interval(correct, self.experiment.items[level].runs)
            chance = permuted.get((level, name))
            rows.append(
                {
                    "level": level,
                    "score": name,
                    "n_items": len(predicted),
                    "accuracy": accuracy,
                    "low": low,
                    "high": high,
                    "chance": 1 / len(self.networks.tasks) if chance is None else float(chance.mean()),
                    "p": np.nan if chance is None else float(p_at_least(accuracy, chance)),
                }
            )
        order = {name: number for number, name in enumerate([*SCORES, DECODER])}
        rows.sort(key=lambda row: (list(LEVELS).index(str(row["level"])), order[str(row["score"])]))
        return pd.DataFrame(rows)

    def _confusion(self, counts: dict[tuple[str, str], NDArray[np.int64]]) -> pd.DataFrame:
        """Confusion matrices, one row per cell."""
        tasks = self.networks.tasks
        return pd.DataFrame(
            [
                {"level": level, "score": name, "task": task, "told": predicted, "count": int(matrix[row, column])}
                for (level, name), matrix in counts.items()
                for row, task in enumerate(tasks)
                for column, predicted in enumerate(tasks)
            ]
        )

    def _predictions(
        self, predictions: dict[tuple[str, str], NDArray[np.int64]], scores: dict[tuple[str, str], NDArray[np.float64]]
    ) -> pd.DataFrame:
        """True task, predicted task and scores of every item."""
        tasks, parts = self.networks.tasks, []
        for (level, name), predicted in predictions.items():
            items = self.experiment.items[level]
            table = pd.DataFrame(
                {
                    "level": level,
                    "score": name,
                    "subject": [self.runs[run].subject for run in items.runs],
                    "run": [self.runs[run].run for run in items.runs],
                    "item": items.names,
                    "task": [tasks[label] for label in self._true_labels(level)],
                    "told": [tasks[label] for label in predicted],
                }
            )
            values = scores.get((level, name))
            if values is not None:
                finite = np.where(np.isfinite(values), values, np.nan)
                table = table.assign(**{f"score_{task}": finite[:, column] for column, task in enumerate(tasks)})
            parts.append(table)
        return pd.concat(parts, ignore_index=True)
