"""How well networks repeat: within tasks against between them, unit by unit, and with more runs and prompts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.bids.history import noted
from llm2bids.errors import InferenceError
from llm2bids.networks.answers import Answer
from llm2bids.networks.measures import (
    ROUNDING,
    correlations,
    icc,
    index_matrix,
    index_of,
    lengthened,
    quantiles_by_layer,
    rated_runs,
    within_and_between,
)
from llm2bids.networks.question import Question
from llm2bids.networks.resampling import exchanged_labels, halves, jackknife, p_at_least
from llm2bids.networks.rules import NetworkRule
from llm2bids.networks.run_statistics import Maps, RunSums, t_of
from llm2bids.networks.settings import ReliabilityOptions
from llm2bids.options import takes
from llm2bids.plots.reliability import draw_reliability

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.networks.network_set import NetworkSet
    from llm2bids.networks.run_statistics import RunContrast

GOOD: Final = 0.75
"""Intraclass correlation from which reliability is called good (Koo and Li 2016)."""
_SMALLEST: Final = {"dice": 0.0, "correlation": -1.0}
"""Smallest value of each measure of two runs; the largest is 1."""
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


@noted("networks reliability")
@takes(ReliabilityOptions)
def reliability(options: ReliabilityOptions) -> list[Answer]:
    """Measure how well networks repeat over runs and prompts.

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
    if options.rule is not None:
        NetworkRule.from_text(options.rule)  # raises before any result is read
    question = Question("reliability", options)
    return question.answer(Repeatability(networks, options) for networks in question.networks(options))


@dataclass(frozen=True, eq=False)
class Repeatability:
    """Comparison of the runs of one subject and site."""

    networks: NetworkSet
    options: ReliabilityOptions

    @property
    def n_steps(self) -> int:
        """Exchanges of tasks."""
        return self.options.n_permutations

    @cached_property
    def rule(self) -> NetworkRule:
        """Which units are the network of a run."""
        rule = self.networks.networks[0].rule
        return rule if self.options.rule is None else NetworkRule.from_text(self.options.rule, tail=rule.tail)

    @cached_property
    def runs(self) -> list[RunContrast]:
        """Runs of all tasks; raises if a task has a single one."""
        runs = self.networks.runs()
        for task in self.networks.tasks:
            n_runs = sum(run.task == task for run in runs)
            if n_runs < 2:  # noqa: PLR2004 - nothing to compare with
                raise InferenceError(
                    f"{n_runs} run of task {task} found, reliability needs 2; record more, or leave the task out "
                    "with `task_label`"
                )
        return runs

    @cached_property
    def tasks(self) -> NDArray[np.str_]:
        """Task of each run."""
        return np.array([run.task for run in self.runs])

    @cached_property
    def by_task(self) -> dict[str, list[int]]:
        """Numbers of the runs of each task."""
        return {task: [int(n) for n in np.flatnonzero(self.tasks == task)] for task in self.networks.tasks}

    @cached_property
    def maps(self) -> Maps:
        """Maps of single runs."""
        return RunSums.from_runs(self.runs).pooled(np.eye(len(self.runs)))

    @cached_property
    def similarities(self) -> dict[str, NDArray[np.float64]]:
        """Similarity of every two runs, by measure."""
        return {
            "dice": np.nan_to_num(index_matrix("dice", self.rule.select(self.maps))),
            "correlation": correlations(self.maps.effect),
        }

    def answer(self, tick: Callable[[int], object]) -> Answer:
        """Make all tables and the figure."""
        rng = np.random.default_rng(self.options.seed)
        summary, layers_chance = self._summary(rng, tick)
        units, layers = self._iccs()
        if layers is not None and layers_chance is not None:
            layers = layers.merge(layers_chance, on=["measure", "layer"])
        growth = self._growth(rng)
        tables = {"summary": summary, "pairs": self._pairs(), "growth": growth}
        tables |= {} if units is None or layers is None else {"iccunits": units, "icclayers": layers}
        settings = {
            "Rule": self.rule.label,
            "Tail": self.rule.tail,
            "Permutations": self.options.n_permutations,
            "Splits": self.options.n_splits,
            "Seed": self.options.seed,
            "TextsInSeveralRuns": {task: self._n_repeated(numbers) for task, numbers in self.by_task.items()},
        }
        figure = draw_reliability(list(self.tasks), self.similarities, growth, layers, self.rule.label)
        subject = ", ".join(self.networks.subjects)
        return Answer("reliability", subject, self.networks.site, tables, {"figure": figure}, settings, _COLUMNS)

    def _n_repeated(self, numbers: list[int]) -> int:
        """Count the texts that more than one run of a task shows."""
        texts = pd.concat([self.runs[number].prompts["stimulus"].drop_duplicates() for number in numbers])
        return int(texts.duplicated().sum())

    def _pairs(self) -> pd.DataFrame:
        """Compare every two runs."""
        rows = [
            {
                "task_a": self.runs[a].task,
                "run_a": self.runs[a].run,
                "task_b": self.runs[b].task,
                "run_b": self.runs[b].run,
                **{name: float(matrix[a, b]) for name, matrix in self.similarities.items()},
            }
            for a, b in combinations(range(len(self.runs)), 2)
        ]
        return pd.DataFrame(rows)

    def _summary(
        self, rng: np.random.Generator, tick: Callable[[int], object]
    ) -> tuple[pd.DataFrame, pd.DataFrame | None]:
        """Compare within with between tasks; returns the summary, and what chance gives the ICC of each layer."""
        drawn, medians = self._by_chance(rng, tick)
        rows = [
            self._row(name, task, np.array(drawn[name]))
            for name in self.similarities
            for task in ("all", *self.by_task)
        ]
        iccs = self._icc_of(self.tasks)
        if iccs is not None:
            for name, value in _in_short(iccs).items():
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

    def _by_chance(
        self, rng: np.random.Generator, tick: Callable[[int], object]
    ) -> tuple[dict[str, list[float]], list[NDArray[np.float64]]]:
        """Exchange tasks among runs of the same name; returns all measures, and medians of ICCs (n_iccs, n_layers)."""
        names = [run.run for run in self.runs]
        drawn: dict[str, list[float]] = {name: [] for name in ("dice", "correlation", *_ICCS, *_GOOD)}
        medians: list[NDArray[np.float64]] = []
        for _ in range(self.options.n_permutations if len(self.by_task) > 1 else 0):
            labels = exchanged_labels(list(self.tasks), names, rng)
            for name, matrix in self.similarities.items():
                drawn[name].append(_difference(matrix, labels))
            iccs = self._icc_of(labels)
            if iccs is not None:
                medians.append(np.stack([self._by_layer(values) for values in iccs]))
                for name, value in _in_short(iccs).items():
                    drawn[name].append(value)
            tick(1)
        return drawn, medians

    def _row(self, measure: str, task: str, drawn: NDArray[np.float64]) -> dict[str, Any]:
        """Make a row of the summary: all tasks, or one against the others."""
        matrix, groups = self.similarities[measure], list(self.by_task.values())
        masked = matrix.copy()
        if task != "all":
            foreign = self.tasks != task
            masked[np.ix_(foreign, foreign)] = np.nan  # pairs of other tasks say nothing about this one
        within, between = within_and_between(masked, self.tasks)
        row = {"measure": measure, "task": task, "within": within, "between": between}
        if len(self.by_task) == 1:
            _, *ends = jackknife(lambda runs: _within(matrix, self.tasks, runs), groups)
            ends = np.clip(ends, _SMALLEST[measure], 1).tolist()
            return {**row, **dict(zip(("low", "high"), ends, strict=True))}
        value, *ends = jackknife(lambda runs: _difference(masked, self.tasks, runs), groups)
        largest = 1 - _SMALLEST[measure]
        low, high = np.clip(ends, -largest, largest).tolist()
        row |= {"difference": value, "low": low, "high": high}
        return row | ({"p": float(p_at_least(value, drawn))} if task == "all" else {})

    def _icc_of(self, labels: NDArray[np.str_]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """ICCs of every unit: tasks are what is rated, runs rate; None for a single task."""
        if len(self.by_task) < 2:  # noqa: PLR2004 - nothing to tell apart
            return None
        return icc(self.maps.effect[rated_runs(labels, [run.run for run in self.runs])])

    def _by_layer(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Median over the units of each layer."""
        layers = self.networks.layers
        return np.array([_median(values[layers == layer]) for layer in np.unique(layers)])

    def _iccs(self) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
        """Tables of the ICCs of every unit, and of their distribution in each layer."""
        iccs = self._icc_of(self.tasks)
        if iccs is None:
            return None, None
        space, units = self.networks.space, np.flatnonzero(self.networks.tested)
        hookpoints, channels = space.locate(units)
        table = pd.DataFrame(
            {
                "unit": units,
                "hookpoint": [space.hookpoints[number] for number in hookpoints],
                "block": np.asarray(space.blocks)[hookpoints],
                "channel": channels,
                **dict(zip(_ICCS, iccs, strict=True)),
            }
        )
        parts = [
            quantiles_by_layer(values, self.networks.layers, GOOD).assign(measure=name)
            for name, values in zip(_ICCS, iccs, strict=True)
        ]
        layers = pd.concat(parts, ignore_index=True)
        layers["hookpoint"] = [space.hookpoints[number] for number in layers["layer"]]
        return table, _with_first(layers, "measure", "layer", "hookpoint")

    def _growth(self, rng: np.random.Generator) -> pd.DataFrame:
        """Agreement of disjoint sets of runs, and of prompts, by their size."""
        parts = []
        for network in self.networks.networks:
            runs = [self.runs[number] for number in self.by_task[network.task]]
            tables = {
                "runs": growth_with_runs(runs, self.rule, self.options.n_splits, rng),
                "prompts": growth_with_prompts(runs, network.weights, self.rule, self.options.n_splits, rng),
            }
            parts += [table.assign(of=kind, task=network.task) for kind, table in tables.items() if len(table)]
        return _with_first(pd.concat(parts, ignore_index=True), "of", "task")


def growth_with_runs(
    runs: Sequence[RunContrast], rule: NetworkRule, n_splits: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Compare disjoint sets of 1, 2 ... runs of a task.

    Returns one row per size: ``n`` (runs in each set), ``n_prompts``, ``n_splits``, ``dice``, ``dice_sd``,
    ``correlation``, ``correlation_sd``, and ``predicted`` from the first row.
    """
    sums, rows = RunSums.from_runs(runs), []
    n_prompts = float(np.mean([len(run.prompts) for run in runs]))
    for size in range(1, len(runs) // 2 + 1):
        splits = halves(len(runs), size, n_splits, rng)
        sides = [sums.pooled(_membership([split[side] for split in splits], len(runs))) for side in (0, 1)]
        rows.append({"n": size, "n_prompts": round(size * n_prompts), **compare_halves(sides[0], sides[1], rule)})
    return _with_prediction(pd.DataFrame(rows))


def growth_with_prompts(
    runs: Sequence[RunContrast],
    weights: Mapping[str, float],
    rule: NetworkRule,
    n_splits: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Compare disjoint sets of 2, 4, 8 ... prompts of each condition of a task, whatever their runs.

    Returns the columns of `growth_with_runs`, with ``n`` prompts of each condition in each set. No row where there are
    fewer than four different prompts of a condition, or the contrast has no weights of conditions.
    """
    prompts = pd.concat([run.prompts for run in runs], ignore_index=True)
    effects = np.concatenate([run.effects for run in runs])
    conditions = {kind: weight for kind, weight in weights.items() if weight}
    if not conditions:
        return pd.DataFrame()
    texts = {kind: prompts.loc[prompts["trial_type"] == kind, "stimulus"].unique() for kind in conditions}
    rows = []
    for size in _sizes(min(map(len, texts.values())) // 2):
        sides: tuple[list[Maps], list[Maps]] = ([], [])
        for _ in range(n_splits):
            # texts are drawn, not prompts: one that several runs show would make the two sets alike
            drawn = {kind: rng.permutation(group) for kind, group in texts.items()}
            for side in (0, 1):
                places = [
                    ((prompts["trial_type"] == kind) & prompts["stimulus"].isin(_part(order, side, size))).to_numpy()
                    for kind, order in drawn.items()
                ]
                sides[side].append(contrast_of_means([effects[place] for place in places], list(conditions.values())))
        compared = compare_halves(_stacked(sides[0]), _stacked(sides[1]), rule)
        rows.append({"n": size, "n_prompts": size * len(conditions), **compared})
    return _with_prediction(pd.DataFrame(rows))


def contrast_of_means(samples: Sequence[NDArray[np.floating[Any]]], weights: Sequence[float]) -> Maps:
    """Weigh the means of several groups of prompts, with one variance for all.

    `samples`: effects of the prompts of each condition, (n_prompts, n_units) each.
    """
    groups = [np.asarray(sample, np.float64) for sample in samples]
    effect = np.sum([weight * group.mean(0) for group, weight in zip(groups, weights, strict=True)], axis=0)
    squares = np.sum([((group - group.mean(0)) ** 2).sum(0) for group in groups], axis=0)
    # variance of the contrast is sigma^2 sum(w^2 / n), as that of a regression on a regressor with x'x of its inverse
    power = 1 / sum(weight**2 / len(group) for group, weight in zip(groups, weights, strict=True))
    dof = np.array([float(sum(len(group) - 1 for group in groups))])
    total = squares + effect**2 * power  # t_of takes the part of the effect away again
    flat = total <= ROUNDING**2 * np.sum([(group**2).sum(0) for group in groups], axis=0)
    effect, total = np.where(flat, 0.0, effect), np.where(flat, 0.0, total)
    return Maps(effect[None], t_of((effect * power)[None], total[None], np.array([power]), dof), dof)


def compare_halves(first: Maps, second: Maps, rule: NetworkRule) -> dict[str, float]:
    """Compare the first and second map of each pair.

    Returns ``n_splits``, and mean and standard deviation over pairs of Dice (0 where both are empty) and of the
    correlation of effects.
    """
    networks = rule.select(first), rule.select(second)
    sizes = [units.sum(1) for units in networks]
    dice = np.nan_to_num(index_of("dice", (networks[0] & networks[1]).sum(1), *sizes))
    r = [float(correlations(np.stack(pair))[0, 1]) for pair in zip(first.effect, second.effect, strict=True)]
    several = len(dice) > 1
    return {
        "n_splits": len(dice),
        "dice": float(dice.mean()),
        "dice_sd": float(dice.std(ddof=1)) if several else np.nan,
        "correlation": float(np.mean(r)),
        "correlation_sd": float(np.std(r, ddof=1)) if several else np.nan,
    }


def _sizes(largest: int) -> list[int]:
    """2, 4, 8 ... and the largest."""
    powers = [2**power for power in range(1, 16) if 2**power < largest]
    return [*powers, largest] if largest > 1 else []


def _part(order: NDArray[Any], side: int, size: int) -> NDArray[Any]:
    """First or second set of texts of a random order."""
    return order[side * size : (side + 1) * size]


def _membership(sets: Sequence[Sequence[int]], n_runs: int) -> NDArray[np.bool_]:
    """Sets of runs as booleans (n_sets, n_runs)."""
    members = np.zeros((len(sets), n_runs), bool)
    for row, numbers in zip(members, sets, strict=True):
        row[list(numbers)] = True
    return members


def _stacked(maps: Sequence[Maps]) -> Maps:
    """Put several maps into one object."""
    return Maps(*(np.concatenate([getattr(part, name) for part in maps]) for name in ("effect", "t", "dof")))


def _with_prediction(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the correlation that the smallest sets let expect of larger ones."""
    if rows.empty:
        return rows
    times = rows["n"] / rows["n"].iloc[0]
    smallest = float(rows["correlation"].iloc[0])
    return rows.assign(predicted=[lengthened(smallest, float(factor)) for factor in times])


def _with_first(table: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Move some columns to the front."""
    return table[[*names, *(name for name in table if name not in names)]]


def _difference(
    similarity: NDArray[np.float64], tasks: NDArray[np.str_], runs: NDArray[np.int64] | None = None
) -> float:
    """Mean within tasks less mean between them, over some runs."""
    places = np.arange(len(tasks)) if runs is None else runs
    within, between = within_and_between(similarity[np.ix_(places, places)], tasks[places])
    return within - between


def _within(similarity: NDArray[np.float64], tasks: NDArray[np.str_], runs: NDArray[np.int64]) -> float:
    """Mean within tasks, over some runs."""
    return within_and_between(similarity[np.ix_(runs, runs)], tasks[runs])[0]


def _in_short(iccs: tuple[NDArray[np.float64], NDArray[np.float64]]) -> dict[str, float]:
    """Median of both ICCs over units, and shares of units that repeat well."""
    medians = {name: _median(values) for name, values in zip(_ICCS, iccs, strict=True)}
    return medians | {name: float((values >= GOOD).mean()) for name, values in zip(_GOOD, iccs, strict=True)}


def _median(values: NDArray[np.float64]) -> float:
    """Median without NaN; NaN where nothing else is."""
    numbers = values[~np.isnan(values)]
    return float(np.median(numbers)) if numbers.size else np.nan
