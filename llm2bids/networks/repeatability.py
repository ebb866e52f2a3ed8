"""How well networks repeat: within tasks against between them, unit by unit, and with more runs and prompts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.bids.dataset import Dataset
from llm2bids.bids.history import noted_call
from llm2bids.errors import InferenceError
from llm2bids.networks.agreement import (
    correlations,
    exchanged_labels,
    icc,
    jackknife,
    quantiles_by_layer,
    rated_runs,
    within_and_between,
)
from llm2bids.networks.answers import Answer, files_of, refuse_existing, write_answer
from llm2bids.networks.chance import index_matrix, p_at_least
from llm2bids.networks.learning_curve import growth_with_prompts, growth_with_runs
from llm2bids.networks.network_set import find_networks
from llm2bids.networks.rules import NetworkRule
from llm2bids.networks.run_statistics import Maps, RunSums
from llm2bids.plots.reliability import draw_reliability
from llm2bids.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from llm2bids.networks.network_set import NetworkSet
    from llm2bids.networks.run_statistics import RunContrast

GOOD: Final = 0.75
"""Intraclass correlation that is called good (Koo and Li 2016)."""
_SMALLEST: Final = {"dice": 0.0, "correlation": -1.0}
"""The least that a measure of two runs can be; the most is 1."""
_ICCS: Final = ("icc21", "icc31")
_GOOD: Final = ("good21", "good31")
_COLUMNS: Final = {
    "task_a": "Task of one run.",
    "run_a": "The run.",
    "task_b": "Task of the other run.",
    "run_b": "The other run.",
    "task": "Task; all for their mean.",
    "measure": "dice: of the networks of single runs; correlation: of their maps of effects over units; "
    "icc21, icc31: median over units; good21, good31: share of units whose ICC is .75 or more.",
    "dice": "Dice of the networks of two runs, or two sets of runs or prompts, all chosen by the same rule; 0 where "
    "both are empty.",
    "correlation": "Correlation of their maps of effects over all tested units; no threshold.",
    "within": "Mean over pairs of runs of one task; of ICCs the number itself.",
    "between": "Mean over pairs of a run of this task and one of another.",
    "difference": "within less between; 0 for tasks that do not differ.",
    "low": "Lower end of its 95 % interval: jackknife over runs.",
    "high": "Upper end.",
    "p": "How often the difference, or the median ICC, is as large or larger when tasks are exchanged among runs of "
    "the same number.",
    "of": "What a set is made of: runs, or prompts of all runs.",
    "n": "Runs, or prompts of each condition, in each of the two sets.",
    "n_prompts": "Prompts in each of the two sets.",
    "n_splits": "Pairs of sets.",
    "dice_sd": "Standard deviation over pairs of sets, which are not independent.",
    "correlation_sd": "The same for the correlation.",
    "predicted": "Correlation expected from that of the smallest sets (Spearman and Brown).",
    "layer": "Number of the hookpoint, 0 is the first.",
    "hookpoint": "Name of the hookpoint.",
    "block": "Number of the block, 0 is the first.",
    "channel": "Number within the hookpoint.",
    "unit": "Number of the unit.",
    "icc21": "ICC(2,1): agreement of single runs about how much each task changes the unit.",
    "icc31": "ICC(3,1): the same, means of runs set aside.",
    "n_units": "Units of the layer.",
    "mean": "Mean over units.",
    "good": "Share of the units whose ICC is .75 or more.",
    "chance": "95th percentile over exchanges of the layer's median.",
    **{f"q{cut:02d}": f"{cut} % of the units are below." for cut in (5, 25, 50, 75, 95)},
}


@noted_call("networks reliability", files_of)
def reliability(  # noqa: PLR0913 - the arguments of the command
    out_dir: str | Path,
    *,
    participant_label: Sequence[str] = (),
    task_label: Sequence[str] = (),
    sites: Sequence[str] = (),
    contrasts: Sequence[str] = (),
    rule: str | None = None,
    n_permutations: int = 1000,
    n_splits: int = 20,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool | None = None,
) -> list[Answer]:
    """Say how well networks repeat.

    Parameters
    ----------
    out_dir : path-like
        What ``glm`` made, with two runs or more.
    participant_label, task_label, sites, contrasts : sequence of str
        What to look at; all by default.
    rule : str, optional
        Which units are the network of a run or half: a share such as ``"5%"``, ``"fdr"``, ``"bonferroni"``; by default
        as ``glm`` chose them.
    n_permutations : int
        Exchanges of tasks among runs.
    n_splits : int
        Pairs of sets of runs or prompts for each size.
    seed : int
        Which ones.
    overwrite : bool
        Replace an answer that is there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

    Returns
    -------
    list of Answer
        One per subject and site, with tables ``summary``, ``pairs`` (of runs), ``growth`` (with runs and prompts),
        ``iccunits`` and ``icclayers``, and a figure.

    Raises
    ------
    LLM2BIDSError
        If a task has a single run, or a file is missing.
    """
    if n_permutations < 1 or n_splits < 1:
        raise InferenceError(f"{min(n_permutations, n_splits)} permutations or splits asked for; 1 or more needed")
    out = Dataset(Path(out_dir), "derivative")
    labels: dict[str, Any] = {"subjects": participant_label, "tasks": task_label, "sites": sites}
    asked = find_networks(out.root, **labels, contrasts=contrasts)
    chosen = None if rule is None else NetworkRule.from_text(rule)  # refuses before anything is read
    refuse_existing(out, asked, "reliability", overwrite=overwrite)
    answers = []
    with progress_bar("draws", len(asked) * n_permutations, "reliability", visible=progress) as bar:
        for networks in asked:
            own = networks.networks[0].rule
            used = own if chosen is None else NetworkRule(chosen.name, chosen.level, own.tail)
            study = _Study(networks, tuple(networks.runs()), used, n_permutations, n_splits, seed)
            answers.append(write_answer(out, networks, study.answer(bar.update)))
    return answers


@dataclass(frozen=True, eq=False)
class _Study:
    """The runs of one subject and site, and how they are compared."""

    networks: NetworkSet
    runs: tuple[RunContrast, ...]
    rule: NetworkRule
    n_permutations: int
    n_splits: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse single runs."""
        for task, own in self.by_task.items():
            if len(own) < 2:  # noqa: PLR2004 - nothing to compare with
                raise InferenceError(
                    f"{len(own)} run of task {task} found, reliability needs 2; record more, or leave the task out "
                    "with --task-label"
                )

    @cached_property
    def tasks(self) -> NDArray[np.str_]:
        """Task of each run."""
        return np.array([run.task for run in self.runs])

    @cached_property
    def by_task(self) -> dict[str, list[int]]:
        """Numbers of the runs of each task."""
        return {task: [int(n) for n in np.flatnonzero(self.tasks == task)] for task in self.networks.tasks}

    @cached_property
    def sums(self) -> RunSums:
        """Of each run."""
        return RunSums.from_runs(self.runs)

    @cached_property
    def maps(self) -> Maps:
        """Of each run."""
        return self.sums.pooled(np.eye(len(self.runs)))

    @cached_property
    def similarities(self) -> dict[str, NDArray[np.float64]]:
        """Of every two runs, by measure."""
        return {
            "dice": np.nan_to_num(index_matrix("dice", self.rule.select(self.maps))),
            "correlation": correlations(self.maps.effect),
        }

    def answer(self, tick: Callable[[int], object]) -> Answer:
        """All tables, and the figure."""
        rng = np.random.default_rng(self.seed)
        summary, layers_chance = self._compared(rng, tick)
        units, layers = self._iccs()
        if layers is not None and layers_chance is not None:
            layers = layers.merge(layers_chance, on=["measure", "layer"])
        growth = self._growth(rng)
        tables = {"summary": summary, "pairs": self._pairs(), "growth": growth}
        tables |= {} if units is None or layers is None else {"iccunits": units, "icclayers": layers}
        settings = {
            "Rule": self.rule.label,
            "Tail": self.rule.tail,
            "Permutations": self.n_permutations,
            "Splits": self.n_splits,
            "Seed": self.seed,
            "TextsInSeveralRuns": {task: self._repeated(own) for task, own in self.by_task.items()},
        }
        figure = draw_reliability(list(self.tasks), self.similarities, growth, layers, self.rule.label)
        subject = ", ".join(self.networks.subjects)
        return Answer("reliability", subject, self.networks.site, tables, {"figure": figure}, settings, _COLUMNS)

    def _repeated(self, own: list[int]) -> int:
        """Texts that more than one run of a task shows."""
        shown = pd.concat([self.runs[number].prompts["stimulus"].drop_duplicates() for number in own])
        return int(shown.duplicated().sum())

    def _pairs(self) -> pd.DataFrame:
        """Every two runs."""
        rows = [
            {
                "task_a": self.runs[one].task,
                "run_a": self.runs[one].run,
                "task_b": self.runs[other].task,
                "run_b": self.runs[other].run,
                **{name: float(matrix[one, other]) for name, matrix in self.similarities.items()},
            }
            for one, other in combinations(range(len(self.runs)), 2)
        ]
        return pd.DataFrame(rows)

    def _compared(
        self, rng: np.random.Generator, tick: Callable[[int], object]
    ) -> tuple[pd.DataFrame, pd.DataFrame | None]:
        """Within against between, with intervals and p-values; and what chance gives the ICC of each layer."""
        cells = [run.run for run in self.runs]
        drawn: dict[str, list[float]] = {name: [] for name in ("dice", "correlation", *_ICCS, *_GOOD)}
        medians: list[NDArray[np.float64]] = []
        for _ in range(self.n_permutations if len(self.by_task) > 1 else 0):
            labels = exchanged_labels(list(self.tasks), cells, rng)
            for name, matrix in self.similarities.items():
                drawn[name].append(_difference(matrix, labels))
            found = self._icc_of(labels)
            if found is not None:
                medians.append(np.stack([self._by_layer(one) for one in found]))
                for name, value in _in_short(found).items():
                    drawn[name].append(value)
            tick(1)
        rows = [
            self._row(name, task, np.array(drawn[name]))
            for name in self.similarities
            for task in ("all", *self.by_task)
        ]
        found = self._icc_of(self.tasks)
        if found is not None:
            for name, value in _in_short(found).items():
                p = float(p_at_least(value, np.array(drawn[name]))) if drawn[name] else np.nan
                rows.append({"measure": name, "task": "all", "within": value, "p": p})
        chance = None
        if medians:
            bounds = np.quantile(np.stack(medians), 0.95, axis=0)
            numbers = np.unique(self.networks.layers)
            chance = pd.DataFrame(
                [
                    {"measure": name, "layer": int(layer), "chance": float(bounds[row, column])}
                    for row, name in enumerate(_ICCS)
                    for column, layer in enumerate(numbers)
                ]
            )
        return pd.DataFrame(rows), chance

    def _row(self, measure: str, task: str, drawn: NDArray[np.float64]) -> dict[str, Any]:
        """One line of the summary: all tasks, or one against the others."""
        matrix, groups = self.similarities[measure], list(self.by_task.values())
        masked = matrix.copy()
        if task != "all":
            foreign = self.tasks != task
            masked[np.ix_(foreign, foreign)] = np.nan
        within, between = within_and_between(masked, self.tasks)
        row = {"measure": measure, "task": task, "within": within, "between": between}
        if len(self.by_task) == 1:
            _, *ends = jackknife(lambda kept: _within(matrix, self.tasks, kept), groups)
            ends = np.clip(ends, _SMALLEST[measure], 1).tolist()
            return {**row, **dict(zip(("low", "high"), ends, strict=True))}
        value, *ends = jackknife(lambda kept: _difference(masked, self.tasks, kept), groups)
        largest = 1 - _SMALLEST[measure]
        low, high = np.clip(ends, -largest, largest).tolist()
        row |= {"difference": value, "low": low, "high": high}
        return row | ({"p": float(p_at_least(value, drawn))} if task == "all" else {})

    def _icc_of(self, labels: NDArray[np.str_]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """ICC of every unit: tasks are what is rated, runs rate; None for a single task."""
        if len(self.by_task) < 2:  # noqa: PLR2004 - nothing to tell apart
            return None
        return icc(self.maps.effect[rated_runs(labels, [run.run for run in self.runs])])

    def _by_layer(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Median over the units of each layer."""
        layers = self.networks.layers
        return np.array([_median(values[layers == layer]) for layer in np.unique(layers)])

    def _iccs(self) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
        """ICC of every unit, and its distribution in each layer."""
        found = self._icc_of(self.tasks)
        if found is None:
            return None, None
        space, units = self.networks.space, np.flatnonzero(self.networks.tested)
        hookpoints, channels = space.locate(units)
        table = pd.DataFrame(
            {
                "unit": units,
                "hookpoint": [space.hookpoints[number] for number in hookpoints],
                "block": np.asarray(space.blocks)[hookpoints],
                "channel": channels,
                **dict(zip(_ICCS, found, strict=True)),
            }
        )
        layers = [
            quantiles_by_layer(one, self.networks.layers, GOOD).assign(measure=name)
            for name, one in zip(_ICCS, found, strict=True)
        ]
        whole = pd.concat(layers, ignore_index=True)
        whole["hookpoint"] = [space.hookpoints[number] for number in whole["layer"]]
        first = ["measure", "layer", "hookpoint"]
        return table, whole[[*first, *(name for name in whole if name not in first)]]

    def _growth(self, rng: np.random.Generator) -> pd.DataFrame:
        """Agreement of disjoint sets of runs, and of prompts."""
        parts = []
        for network in self.networks.networks:
            own = [self.runs[number] for number in self.by_task[network.task]]
            grown = {
                "runs": growth_with_runs(own, self.rule, self.n_splits, rng),
                "prompts": growth_with_prompts(own, network.weights, self.rule, self.n_splits, rng),
            }
            parts += [table.assign(of=of, task=network.task) for of, table in grown.items() if len(table)]
        whole = pd.concat(parts, ignore_index=True)
        return whole[["of", "task", *(name for name in whole if name not in {"of", "task"})]]


def _difference(
    similarity: NDArray[np.float64], tasks: NDArray[np.str_], kept: NDArray[np.int64] | None = None
) -> float:
    """Mean within tasks less mean between them, over the runs kept."""
    places = np.arange(len(tasks)) if kept is None else kept
    within, between = within_and_between(similarity[np.ix_(places, places)], tasks[places])
    return within - between


def _in_short(found: tuple[NDArray[np.float64], NDArray[np.float64]]) -> dict[str, float]:
    """Median of both ICCs over units, and shares of units that repeat well."""
    medians = {name: _median(one) for name, one in zip(_ICCS, found, strict=True)}
    return medians | {name: float((one >= GOOD).mean()) for name, one in zip(_GOOD, found, strict=True)}


def _median(values: NDArray[np.float64]) -> float:
    """Median of what is there; NaN where nothing is."""
    there = values[~np.isnan(values)]
    return float(np.median(there)) if there.size else np.nan


def _within(similarity: NDArray[np.float64], tasks: NDArray[np.str_], kept: NDArray[np.int64]) -> float:
    """Mean within tasks, over the runs kept."""
    return within_and_between(similarity[np.ix_(kept, kept)], tasks[kept])[0]
