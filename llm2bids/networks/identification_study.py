"""Which task was shown in a run, told from networks of other runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd

from llm2bids.bids.dataset import Dataset
from llm2bids.bids.history import noted_call
from llm2bids.errors import InferenceError, did_you_mean
from llm2bids.networks.answers import Answer, files_of, refuse_existing, write_answer
from llm2bids.networks.decoder import decode
from llm2bids.networks.identification import (
    LEVELS,
    SCORES,
    Experiment,
    accuracy_interval,
    confusion,
    items_of,
)
from llm2bids.networks.network_set import find_networks, with_tasks
from llm2bids.networks.resampling import exchanged_labels, p_at_least
from llm2bids.networks.rules import NetworkRule
from llm2bids.networks.run_statistics import RunSums
from llm2bids.plots.identification import draw_identification
from llm2bids.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from llm2bids.networks.network_set import NetworkSet
    from llm2bids.networks.run_statistics import RunContrast

THRESHOLDS: Final = ("1%", "0.5%", "2%", "5%", "10%")
"""Shares of the units among which training runs choose."""
DECODER: Final = "decoder"
"""What the linear decoder is called among scores."""
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


@noted_call("networks identify", files_of)
def identify(  # noqa: PLR0913 - the arguments of the command
    glm_dir: str | Path,
    *,
    participant_label: Sequence[str] = (),
    task_label: Sequence[str] = (),
    sites: Sequence[str] = (),
    contrasts: Sequence[str] = (),
    across: Literal["run", "session", "subject"] = "run",
    scores: Sequence[str] = tuple(SCORES),
    thresholds: Sequence[str] = THRESHOLDS,
    decoder: bool = True,
    allow_overlap: bool = False,
    n_permutations: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool | None = None,
) -> list[Answer]:
    """Tell which task was shown from runs that did not define the networks.

    Parameters
    ----------
    glm_dir : path-like
        What ``glm`` made, with two tasks or more.
    participant_label, task_label, sites, contrasts : sequence of str
        What to look at; all by default.
    across : {"run", "session", "subject"}
        What is held out together: the runs of one number, of one session, or of one subject. Subjects are models of
        one geometry, such as fine-tunes of one base.
    scores : sequence of str
        Of ``"mean-z"``, ``"correlation"`` and ``"dice"``.
    thresholds : sequence of str
        Which units are a network: shares such as ``"1%"``, ``"fdr"``, ``"bonferroni"``. Of several the training runs
        choose, by holding out each of them in turn; what is held out by then is never looked at.
    decoder : bool
        Whether a linear decoder is trained too.
    allow_overlap : bool
        Tell tasks although texts of held-out runs are in the training runs too.
    n_permutations : int
        Exchanges of tasks among runs.
    seed : int
        Which ones; breaks ties.
    overwrite : bool
        Replace an answer that is there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

    Returns
    -------
    list of Answer
        One per subject (with ``across="subject"`` for all) and site, with tables ``summary``, ``confusion``,
        ``predictions`` and ``folds``, and a figure.

    Raises
    ------
    LLM2BIDSError
        If there are too few tasks, runs, sessions or subjects, training runs show the held-out texts, or a file is
        missing.
    """
    rules = tuple(NetworkRule.from_text(text) for text in thresholds)
    _check_choices(across, scores, rules, n_permutations)
    out = Dataset(Path(glm_dir), "derivative")
    labels: dict[str, Any] = {"subjects": participant_label, "tasks": task_label, "sites": sites}
    found = find_networks(out.root, **labels, contrasts=contrasts, together=across == "subject")
    asked = with_tasks(found, 2, "identification")
    refuse_existing(out, asked, _question(across), overwrite=overwrite)
    studies = []
    for networks in asked:
        tail = networks.networks[0].tail
        own = tuple(replace(rule, tail=tail) for rule in rules)
        study = _Study(networks, tuple(networks.runs()), own, tuple(scores), across, seed)
        study.check(allow_overlap=allow_overlap)
        studies.append(study)
    answers = []
    with progress_bar("draws", len(studies) * n_permutations, "identify", visible=progress) as bar:
        for study in studies:
            answer = study.answer(n_permutations, lambda: bar.update(1), decoder=decoder)
            answers.append(write_answer(out, study.networks, answer))
    return answers


def _question(across: str) -> str:
    """How the question is called in file names."""
    return "identify" if across == "run" else f"identify{across}"


def _check_choices(across: str, scores: Sequence[str], rules: Sequence[NetworkRule], n_permutations: int) -> None:
    """Refuse what is no choice."""
    if across not in {"run", "session", "subject"}:
        raise InferenceError(f"across {across!r} found; use run, session or subject")
    if unknown := set(scores) - set(SCORES):
        near = did_you_mean(min(unknown), SCORES)
        raise InferenceError(f"score {min(unknown)!r} found; {near}use {', '.join(SCORES)}")
    if not scores or not rules:
        raise InferenceError("no score or no threshold asked for; give one of each at least")
    if n_permutations < 1:
        raise InferenceError(f"{n_permutations} permutations asked for; 1 or more needed")


@dataclass(frozen=True, eq=False)
class _Study:
    """The runs of one subject, or several, at one site."""

    networks: NetworkSet
    runs: tuple[RunContrast, ...]
    rules: tuple[NetworkRule, ...]
    scores: tuple[str, ...]
    across: str
    seed: int

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Number of the task of each run."""
        return np.array([self.networks.tasks.index(run.task) for run in self.runs])

    @cached_property
    def groups(self) -> NDArray[np.str_]:
        """What each run is held out with."""
        named = {
            "run": [run.run for run in self.runs],
            "session": [run.session for run in self.runs],
            "subject": [run.subject for run in self.runs],
        }
        return np.array(named[self.across])

    @cached_property
    def cells(self) -> list[str]:
        """Among which runs tasks are exchanged: those of one number, session and subject."""
        return [f"{run.subject}/{run.run}" for run in self.runs]

    @cached_property
    def experiment(self) -> Experiment:
        """Maps to be told, and what they are told by."""
        sums = RunSums.from_runs(self.runs)
        weights = {
            f"{network.task}/{condition}": weight
            for network in self.networks.networks
            for condition, weight in network.weights.items()
        }
        items = items_of(self.runs, sums, weights)
        parts = np.array([run.run for run in self.runs])
        return Experiment(sums, items, self.groups, self.rules, parts, self.scores, self.rules[0].tail)

    def check(self, *, allow_overlap: bool) -> None:
        """Refuse what cannot be told apart, or only by its texts."""
        for number, task in enumerate(self.networks.tasks):
            found = np.unique(self.groups[self.labels == number])
            if len(found) < 2:  # noqa: PLR2004 - one to train, one to tell
                raise InferenceError(
                    f"task {task} of {self.networks.name} has {len(found)} {self.across}, 2 needed to hold one out; "
                    f"record more, or leave the task out with --task-label"
                )
        seen, shown = self._texts_seen()
        if seen.sum() and not allow_overlap:
            raise InferenceError(
                f"{int(seen.sum())} of {int(shown.sum())} texts of held-out runs are in the training runs of the same "
                "task too, so that texts may be told, not tasks; record runs with other texts, or use --allow-overlap"
            )

    def _texts_seen(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Texts of each run that runs of its task in other groups show too, and all texts of it."""
        texts = [set(run.prompts["stimulus"]) for run in self.runs]
        seen = np.zeros(len(texts), np.int64)
        for number, own in enumerate(texts):
            others = (self.labels == self.labels[number]) & (self.groups != self.groups[number])
            training: set[str] = set().union(*(texts[other] for other in np.flatnonzero(others)))
            seen[number] = len(own & training)
        return seen, np.array([len(own) for own in texts])

    def answer(self, n_permutations: int, tick: Callable[[], object], *, decoder: bool) -> Answer:
        """All tables, and the figure."""
        rng = np.random.default_rng(self.seed)
        experiment, tasks = self.experiment, self.networks.tasks
        found = experiment.identify(self.labels, rng)
        told = dict(found.predictions)
        if decoder:
            names = [tasks[label] for label in self.labels]
            decoded = decode(
                experiment.items, names, (self.groups, experiment.parts), self.networks.space, self.networks.tested
            )
            told |= {(level, DECODER): np.array([tasks.index(name) for name in own]) for level, own in decoded.items()}
        drawn = self._by_chance(n_permutations, rng, tick)
        summary = self._summary(told, drawn)
        counts = {key: confusion(self._true(key[0]), own, len(tasks)) for key, own in told.items()}
        seen, shown = self._texts_seen()
        settings = {
            "Across": self.across,
            "Thresholds": [rule.label for rule in self.rules],
            "Tail": self.rules[0].tail,
            "Permutations": n_permutations,
            "Seed": self.seed,
            "TextsSeen": int(seen.sum()),
            "TextsShown": int(shown.sum()),
        }
        tables = {
            "summary": summary,
            "confusion": self._confusion(counts),
            "predictions": self._predictions(told, found.scores),
            "folds": found.folds,
        }
        figure = draw_identification(tasks, summary, counts, self.across)
        subject = ", ".join(self.networks.subjects)
        return Answer(
            _question(self.across), subject, self.networks.site, tables, {"figure": figure}, settings, _COLUMNS
        )

    def _true(self, level: str) -> NDArray[np.int64]:
        """True task of each item of a level."""
        true: NDArray[np.int64] = self.labels[self.experiment.items[level].runs]
        return true

    def _by_chance(
        self, n_permutations: int, rng: np.random.Generator, tick: Callable[[], object]
    ) -> dict[tuple[str, str], NDArray[np.float64]]:
        """Accuracies when tasks are exchanged among runs, networks made anew and rules chosen anew."""
        names, tasks = [self.networks.tasks[label] for label in self.labels], self.networks.tasks
        drawn: dict[tuple[str, str], list[float]] = {}
        for _ in range(n_permutations):
            labels = np.array([tasks.index(name) for name in exchanged_labels(names, self.cells, rng)])
            for key, value in self.experiment.accuracies(labels, self.experiment.identify(labels, rng)).items():
                drawn.setdefault(key, []).append(value)
            tick()
        return {key: np.array(values) for key, values in drawn.items()}

    def _summary(
        self, told: dict[tuple[str, str], NDArray[np.int64]], drawn: dict[tuple[str, str], NDArray[np.float64]]
    ) -> pd.DataFrame:
        """Accuracy of every level and score."""
        rows = []
        for (level, name), own in told.items():
            right = own == self._true(level)
            accuracy, low, high = accuracy_interval(right, self.experiment.items[level].runs)
            chance = drawn.get((level, name))
            rows.append(
                {
                    "level": level,
                    "score": name,
                    "n_items": len(own),
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
        """What was taken for what, one row per cell."""
        tasks = self.networks.tasks
        return pd.DataFrame(
            [
                {"level": level, "score": name, "task": task, "told": other, "count": int(matrix[row, column])}
                for (level, name), matrix in counts.items()
                for row, task in enumerate(tasks)
                for column, other in enumerate(tasks)
            ]
        )

    def _predictions(
        self, told: dict[tuple[str, str], NDArray[np.int64]], scores: dict[tuple[str, str], NDArray[np.float64]]
    ) -> pd.DataFrame:
        """Every item, what it was taken for, and its scores."""
        tasks, parts = self.networks.tasks, []
        for (level, name), own in told.items():
            items = self.experiment.items[level]
            table = pd.DataFrame(
                {
                    "level": level,
                    "score": name,
                    "subject": [self.runs[run].subject for run in items.runs],
                    "run": [self.runs[run].run for run in items.runs],
                    "item": items.names,
                    "task": [tasks[label] for label in self._true(level)],
                    "told": [tasks[label] for label in own],
                }
            )
            values = scores.get((level, name))
            if values is not None:
                finite = np.where(np.isfinite(values), values, np.nan)
                table = table.assign(**{f"score_{task}": finite[:, column] for column, task in enumerate(tasks)})
            parts.append(table)
        return pd.concat(parts, ignore_index=True)
