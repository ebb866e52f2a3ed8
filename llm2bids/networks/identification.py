"""Telling the task of a run from networks of other runs: scores, choice of a threshold, accuracy and its chance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from scipy.stats import beta
from scipy.stats import t as student

from llm2bids.errors import InferenceError
from llm2bids.networks.measures import standardized
from llm2bids.space.selection import ranks, strength

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.networks.rules import NetworkRule
    from llm2bids.networks.run_statistics import Maps, RunContrast, RunSums
    from llm2bids.space.selection import Tail

SCORES: Final = {
    "mean-z": "mean over the units of the network of the map's z over units, sign by sign",
    "correlation": "correlation of the map with that of the training runs, over all units",
    "dice": "Dice of the network with the strongest units of the map, as many",
}
"""How a map is compared with a network."""
LEVELS: Final = {
    "run": "the map of a whole run",
    "block": "a block of prompts against the other condition of its run",
    "prompt": "a prompt against the other condition of its run",
}
"""What is identified."""


@dataclass(frozen=True, eq=False)
class Items:
    """Maps whose task is to be told.

    - `maps` (n_items, n_units): what was active.
    - `runs` (n_items,): number of the run each is of.
    - `names`: what each is called within its run.
    """

    maps: NDArray[np.floating[Any]]
    runs: NDArray[np.int64]
    names: tuple[str, ...]

    @cached_property
    def standardized(self) -> NDArray[np.float64]:
        """Maps as z over units, shape (n_items, n_units); 0 for a map that is constant."""
        return np.nan_to_num(standardized(np.asarray(self.maps, np.float64)))

    @cached_property
    def _order(self) -> dict[str, NDArray[np.int32]]:
        """Ranks of the units by tail: they are needed again and again."""
        return {}

    def strongest(self, size: int, tail: Tail) -> NDArray[np.float32]:
        """Choose the strongest units of each map.

        Returns (n_items, n_units): 1 for those, 0 else.
        """
        if tail not in self._order:
            self._order[tail] = ranks(strength(self.standardized, tail)).astype(np.int32)
        return (self._order[tail] < size).astype(np.float32)

    def of_runs(self, chosen: NDArray[np.bool_]) -> Items:
        """Keep the items of some runs.

        `chosen` (n_runs,): which runs.
        """
        kept = chosen[self.runs]
        names = tuple(name for name, keep in zip(self.names, kept, strict=True) if keep)
        return Items(self.maps[kept], self.runs[kept], names)


def items_of(runs: Sequence[RunContrast], sums: RunSums, conditions: Mapping[str, float]) -> dict[str, Items]:
    """Make the maps to be identified.

    Returns by level: ``run`` (z of the run's own contrast), ``block`` and ``prompt`` (effects of the prompts of
    conditions with a positive weight, less the mean of those with a negative one).
    """
    blocks: list[NDArray[np.float64]] = []
    prompts: list[NDArray[np.float64]] = []
    of_block: list[tuple[int, str]] = []
    of_prompt: list[tuple[int, str]] = []
    for number, run in enumerate(runs):
        weights = np.array([conditions.get(f"{run.task}/{kind}", 0.0) for kind in run.prompts["trial_type"]])
        base = run.effects[weights < 0].mean(0) if (weights < 0).any() else 0.0
        shown = run.prompts[weights > 0]
        if shown.empty:
            raise InferenceError(
                f"{run.run} of task {run.task} has no prompt of positive weight in its contrast, by which the task "
                "could be told; choose a contrast of conditions such as on - off with --contrasts"
            )
        active = run.effects[weights > 0] - base
        prompts.append(active)
        of_prompt += [(number, f"prompt-{place + 1}") for place in np.flatnonzero(weights > 0)]
        of = shown["block"].to_numpy()
        for block in shown["block"].drop_duplicates():
            blocks.append(active[of == block].mean(0)[None])
            of_block.append((number, f"block-{block}"))
    own = sums.pooled(np.eye(len(runs)))
    return {
        "run": Items(own.z, np.arange(len(runs)), tuple("run" for _ in runs)),
        "block": Items(np.concatenate(blocks), *_split(of_block)),
        "prompt": Items(np.concatenate(prompts), *_split(of_prompt)),
    }


def _split(places: Sequence[tuple[int, str]]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Numbers of runs, and names."""
    return np.array([run for run, _ in places], np.int64), tuple(name for _, name in places)


def score(name: str, items: Items, maps: Maps, networks: NDArray[np.bool_], tail: Tail = "two") -> NDArray[np.float64]:
    """Compare maps with networks.

    `networks` (n_networks, n_units): made of them; not used by ``"correlation"``. Returns (n_items, n_networks): more
    is more alike; minus infinity for an empty network.
    """
    if name == "correlation":
        alike: NDArray[np.float64] = items.standardized @ np.nan_to_num(standardized(maps.t)).T / maps.t.shape[1]
        return alike
    sizes = networks.sum(1)
    if name == "mean-z":
        signed = networks * np.sign(maps.t)
        found = items.standardized @ signed.T / np.maximum(sizes, 1)
    else:
        found = np.empty((len(items.maps), len(networks)))
        for size in np.unique(sizes):
            same = sizes == size
            found[:, same] = items.strongest(size, tail) @ networks[same].T.astype(np.float32) / max(size, 1)
    return np.where(sizes > 0, found, -np.inf)


def best(scores: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose the network that is most alike; ties at random.

    `scores` (n_items, n_networks): more is more alike. Returns (n_items,): number of the network.
    """
    largest = scores >= scores.max(1, keepdims=True)
    found: NDArray[np.int64] = np.argmax(largest * rng.uniform(0.5, 1.0, scores.shape), axis=1)
    return found


@dataclass(frozen=True, eq=False)
class Identification:
    """How the task of held-out runs was told.

    - `predictions`: number of the task each item was taken for, shape (n_items,), by level and score.
    - `scores`: scores, shape (n_items, n_tasks), by level and score.
    - `folds`: one row per fold and score: ``held_out``, ``score``, ``rule`` chosen, ``accuracy`` of the rule on the
      training runs (NaN where there was no choice).
    """

    predictions: dict[tuple[str, str], NDArray[np.int64]]
    scores: dict[tuple[str, str], NDArray[np.float64]]
    folds: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Experiment:
    """Runs, the maps in them, and which are held out together.

    - `groups` (n_runs,): runs of one group are held out together.
    - `rules`: among which the training runs choose.
    - `parts` (n_runs,): runs of one part are held out together while rules are chosen, where the training runs are of a
      single group.
    """

    sums: RunSums
    items: Mapping[str, Items]
    groups: NDArray[np.str_]
    rules: tuple[NetworkRule, ...]
    parts: NDArray[np.str_]
    scores: tuple[str, ...] = tuple(SCORES)
    tail: Tail = "two"

    def identify(self, labels: NDArray[np.int64], rng: np.random.Generator) -> Identification:
        """Tell the task of every run from the others.

        `labels` (n_runs,): number of the task of each run. Those of a held-out group are not looked at while it is held
        out.
        """
        n_tasks = int(labels.max()) + 1
        keys = [(level, name) for level in self.items for name in self.scores]
        predictions = {key: np.full(len(self.items[key[0]].maps), -1) for key in keys}
        scores = {key: np.full((len(self.items[key[0]].maps), n_tasks), np.nan) for key in keys}
        folds = []
        for group in np.unique(self.groups):
            held_out = self.groups == group
            maps = self.sums.pooled(_choices(labels, ~held_out, n_tasks))
            chosen, order = self._choose(labels, group, rng), ranks(strength(maps.t, self.tail))
            for name in self.scores:
                rule, accuracy = chosen.get(name, (self.rules[0], np.nan))
                told_by = "all units" if name == "correlation" else rule.label
                folds.append({"held_out": group, "score": name, "rule": told_by, "accuracy": accuracy})
                networks = rule.select(maps, order)
                for level, whole in self.items.items():
                    places = held_out[whole.runs]
                    found = score(name, self._held_out[level, group], maps, networks, self.tail)
                    scores[level, name][places] = found
                    predictions[level, name][places] = best(found, rng)
        return Identification(predictions, scores, pd.DataFrame(folds))

    def accuracies(self, labels: NDArray[np.int64], found: Identification) -> dict[tuple[str, str], float]:
        """Say which share of the items was told right.

        `labels` (n_runs,): true tasks of the runs.
        """
        return {
            (level, name): float((told == labels[self.items[level].runs]).mean())
            for (level, name), told in found.predictions.items()
        }

    @cached_property
    def _held_out(self) -> dict[tuple[str, str], Items]:
        """Items of each group, by level."""
        return {
            (level, group): whole.of_runs(self.groups == group)
            for level, whole in self.items.items()
            for group in np.unique(self.groups)
        }

    @cached_property
    def _inner(self) -> dict[str, list[tuple[NDArray[np.bool_], Items]]]:
        """Training runs, and prompts to test on, for each choice while a group is held out."""
        folds: dict[str, list[tuple[NDArray[np.bool_], Items]]] = {}
        for group in np.unique(self.groups):
            left = self.groups != group
            several = len(np.unique(self.groups[left])) > 1
            names = self.groups if several else self.parts
            for name in np.unique(names[left]):
                testing = left & (names == name)
                if (left & ~testing).any():
                    whole = self.items["prompt"].of_runs(testing)
                    folds.setdefault(group, []).append((left & ~testing, whole))
        return folds

    def _choose(
        self, labels: NDArray[np.int64], group: str, rng: np.random.Generator
    ) -> dict[str, tuple[NetworkRule, float]]:
        """The rule by which each score tells the prompts of training runs best, some of them held out in turn.

        Nothing of the runs that the caller holds out is looked at. Empty where there is nothing to choose by: one
        rule, or not enough runs that each task has training runs left.
        """
        if len(self.rules) == 1:
            return {}
        choosing = [name for name in self.scores if name != "correlation"]
        n_tasks = int(labels.max()) + 1
        folds = [fold for fold in self._inner.get(group, []) if _choices(labels, fold[0], n_tasks).any(1).all()]
        if not folds:
            return {}
        hits, n_items = np.zeros((len(choosing), len(self.rules))), 0
        for training, items in folds:
            maps = self.sums.pooled(_choices(labels, training, n_tasks))
            order = ranks(strength(maps.t, self.tail))
            n_items += len(items.maps)
            for column, rule in enumerate(self.rules):
                networks = rule.select(maps, order)
                for row, name in enumerate(choosing):
                    told = best(score(name, items, maps, networks, self.tail), rng)
                    hits[row, column] += (told == labels[items.runs]).sum()
        chosen = hits.argmax(1)
        return {
            name: (self.rules[chosen[row]], float(hits[row, chosen[row]] / n_items))
            for row, name in enumerate(choosing)
        }


def _choices(labels: NDArray[np.int64], training: NDArray[np.bool_], n_tasks: int) -> NDArray[np.bool_]:
    """Which runs the network of each task is made of, shape (n_tasks, n_runs)."""
    chosen: NDArray[np.bool_] = (labels == np.arange(n_tasks)[:, None]) & training
    return chosen


def confusion(labels: NDArray[np.int64], told: NDArray[np.int64], n_tasks: int) -> NDArray[np.int64]:
    """Count what was taken for what.

    `labels`, `told` (n_items,): true and told tasks. Returns (n_tasks, n_tasks): rows are true, columns told.

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    found = np.zeros((n_tasks, n_tasks), np.int64)
    np.add.at(found, (labels, told), 1)
    return found


def accuracy_interval(
    right: NDArray[np.bool_], runs: NDArray[np.int64], level: float = 0.95
) -> tuple[float, float, float]:
    """Give an accuracy and its interval, with items of one run not taken for independent.

    `right` (n_items,): whether each item was told right. `runs` (n_items,): which run each is of. Returns `low, high`
    clopper and Pearson's interval, for as many independent items as have the variance found between runs, less where
    few runs leave that variance uncertain, and not less than as if items of a run were one; for as many as there are
    runs where all items are right, or none.

    Korn and Graubard 1998, with their ratio of quantiles of Student's t.

    >>> [round(value, 3) for value in accuracy_interval(np.array([True] * 9 + [False]), np.arange(10))]
    [0.9, 0.555, 0.997]
    """
    n_items, rate = len(right), float(right.mean())
    numbers, sizes = np.unique(runs, return_counts=True)
    n_effective, tail = float(len(numbers)), (1 - level) / 2
    if 0 < rate < 1 and len(numbers) > 1:
        excess = np.array([(right[runs == run] - rate).sum() for run in numbers])
        variance = len(numbers) / (len(numbers) - 1) * (excess**2).sum() / n_items**2
        simple = rate * (1 - rate) / n_items
        few = (student.isf(tail, len(numbers) - 1) / student.isf(tail, n_items - 1)) ** 2
        n_effective = n_items / np.clip(variance / simple * few, 1.0, sizes.max())
    hits, misses = rate * n_effective, (1 - rate) * n_effective
    low = float(beta.ppf(tail, hits, misses + 1)) if hits > 0 else 0.0
    high = float(beta.isf(tail, hits + 1, misses)) if misses > 0 else 1.0
    return rate, low, high
