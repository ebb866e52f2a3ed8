"""Decoding the task of held-out runs: by networks of the other runs, and by a linear decoder as the reference."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from nilearn.decoding import Decoder
from scipy.stats import beta
from scipy.stats import t as student
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold

from llm2bids.errors import InferenceError
from llm2bids.networks.measures import standardized
from llm2bids.networks.settings import SCORES
from llm2bids.space.selection import ranks, strength

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.networks.rules import NetworkRule
    from llm2bids.networks.run_statistics import Maps, RunContrast, RunSums
    from llm2bids.space import UnitSpace
    from llm2bids.space.selection import Tail

LEVELS: Final = {
    "run": "the map of a whole run",
    "block": "a block of prompts against the other condition of its run",
    "prompt": "a prompt against the other condition of its run",
}
"""What is identified."""
_SCREENED: Final = 20
"""Percent of the units on which the linear decoder is trained: nilearn's default."""
_MIN_BLOCKS: Final = 3
"""Fewest blocks of two tasks for which an F statistic exists."""


@dataclass(frozen=True, eq=False)
class Items:
    """Maps whose task is predicted.

    - `maps` (n_items, n_units): activity or contrast of each item.
    - `runs` (n_items,): number of the run that each item belongs to.
    - `names`: name of each item within its run.
    """

    maps: NDArray[np.floating[Any]]
    runs: NDArray[np.int64]
    names: tuple[str, ...]

    @cached_property
    def standardized(self) -> NDArray[np.float64]:
        """Maps as z over units, shape (n_items, n_units); 0 for a map that is constant."""
        return np.nan_to_num(standardized(np.asarray(self.maps, np.float64)))

    @cached_property
    def _ranks(self) -> dict[str, NDArray[np.int32]]:
        """Ranks of the units by tail, computed once: every permutation needs them again."""
        return {}

    def strongest(self, size: int, tail: Tail) -> NDArray[np.float32]:
        """Mark the `size` strongest units of each map with 1, all others with 0; shape (n_items, n_units)."""
        if tail not in self._ranks:
            self._ranks[tail] = ranks(strength(self.standardized, tail)).astype(np.int32)
        return (self._ranks[tail] < size).astype(np.float32)

    def of_runs(self, chosen: NDArray[np.bool_]) -> Items:
        """Select the items of some runs; `chosen` has shape (n_runs,)."""
        members = chosen[self.runs]
        names = tuple(name for name, member in zip(self.names, members, strict=True) if member)
        return Items(self.maps[members], self.runs[members], names)


def items_by_level(runs: Sequence[RunContrast], sums: RunSums, conditions: Mapping[str, float]) -> dict[str, Items]:
    """Compute the maps whose task is predicted.

    `conditions`: contrast weight of ``"task/condition"``. Returns by level: ``run`` (z of the run's own contrast),
    ``block`` and ``prompt`` (effects of the prompts of conditions with a positive weight, less the mean effect of those
    with a negative one).
    """
    block_maps: list[NDArray[np.float64]] = []
    prompt_maps: list[NDArray[np.float64]] = []
    block_labels: list[tuple[int, str]] = []
    prompt_labels: list[tuple[int, str]] = []
    for number, run in enumerate(runs):
        weights = np.array([conditions.get(f"{run.task}/{kind}", 0.0) for kind in run.prompts["trial_type"]])
        # The mean of the other condition is subtracted, else items would differ by the baseline of their run.
        baseline = run.effects[weights < 0].mean(0) if (weights < 0).any() else 0.0
        blocks = run.prompts["block"].to_numpy()[weights > 0]
        if not len(blocks):
            raise InferenceError(
                f"{run.run} of task {run.task} has no prompt of positive weight in its contrast, so that its task "
                "cannot be predicted; choose a contrast of conditions such as on - off with `contrasts`"
            )
        active = run.effects[weights > 0] - baseline
        prompt_maps.append(active)
        prompt_labels += [(number, f"prompt-{place + 1}") for place in np.flatnonzero(weights > 0)]
        for block in dict.fromkeys(blocks):
            block_maps.append(active[blocks == block].mean(0)[None])
            block_labels.append((number, f"block-{block}"))
    run_maps = sums.pooled(np.eye(len(runs)))
    return {
        "run": Items(run_maps.z, np.arange(len(runs)), tuple("run" for _ in runs)),
        "block": Items(np.concatenate(block_maps), *_split(block_labels)),
        "prompt": Items(np.concatenate(prompt_maps), *_split(prompt_labels)),
    }


def _split(labels: Sequence[tuple[int, str]]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Split labels into numbers of runs, and names."""
    return np.array([run for run, _ in labels], np.int64), tuple(name for _, name in labels)


def score(name: str, items: Items, maps: Maps, networks: NDArray[np.bool_], tail: Tail = "two") -> NDArray[np.float64]:
    """Compare items with the networks of training runs.

    `maps`: of the training runs, one per network. `networks` (n_networks, n_units): units selected from these maps;
    ``"correlation"`` does not use them. Returns (n_items, n_networks): larger is more similar; minus infinity for an
    empty network.
    """
    if name == "correlation":
        # The mean product of two standardized maps is Pearson's correlation.
        similarity: NDArray[np.float64] = items.standardized @ np.nan_to_num(standardized(maps.t)).T / maps.t.shape[1]
        return similarity
    sizes = networks.sum(1)
    if name == "mean-z":
        # Units that the task deactivates count with the opposite sign, so both tails speak for the task.
        signed = networks * np.sign(maps.t)
        scores = items.standardized @ signed.T / np.maximum(sizes, 1)
    else:
        # Both sets have `size` units, so Dice, 2 |A and B| / (|A| + |B|), is the share of common units.
        scores = np.empty((len(items.maps), len(networks)))
        for size in np.unique(sizes):
            same = sizes == size
            scores[:, same] = items.strongest(size, tail) @ networks[same].T.astype(np.float32) / max(size, 1)
    return np.where(sizes > 0, scores, -np.inf)


def most_similar(scores: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose the network with the largest score for each item.

    `scores` (n_items, n_networks): larger is more similar. Returns (n_items,): number of the network.
    """
    largest = scores >= scores.max(1, keepdims=True)
    # Ties are broken at random: taking the first would favour the first task, and bias accuracy at chance.
    numbers: NDArray[np.int64] = np.argmax(largest * rng.uniform(0.5, 1.0, scores.shape), axis=1)
    return numbers


@dataclass(frozen=True, eq=False)
class Identification:
    """Predicted tasks of held-out runs.

    - `predictions`: number of the predicted task of each item, shape (n_items,), by level and score.
    - `scores`: scores, shape (n_items, n_tasks), by level and score.
    - `folds`: one row per fold and score: ``held_out``, ``score``, ``rule`` chosen, ``accuracy`` of the rule on the
      training runs (NaN where there was no choice).
    """

    predictions: dict[tuple[str, str], NDArray[np.int64]]
    scores: dict[tuple[str, str], NDArray[np.float64]]
    folds: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Experiment:
    """Nested cross-validation over runs.

    - `items`: by level.
    - `groups` (n_runs,): runs of one group are held out together.
    - `rules`: thresholds among which the training runs choose.
    - `parts` (n_runs,): runs of one part are held out together while a rule is chosen, where the training runs are of a
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
        """Predict the task of every run from the others.

        `labels` (n_runs,): number of the task of each run. Labels of a held-out group are not used while it is held
        out.
        """
        n_tasks = int(labels.max()) + 1
        keys = [(level, name) for level in self.items for name in self.scores]
        predictions = {key: np.full(len(self.items[key[0]].maps), -1) for key in keys}
        scores = {key: np.full((len(self.items[key[0]].maps), n_tasks), np.nan) for key in keys}
        folds = []
        for group in np.unique(self.groups):
            held_out = self.groups == group
            maps = self.sums.pooled(_training_runs(labels, ~held_out, n_tasks))
            chosen, order = self._choose_rules(labels, group, rng), ranks(strength(maps.t, self.tail))
            for name in self.scores:
                rule, accuracy = chosen.get(name, (self.rules[0], np.nan))
                label = "all units" if name == "correlation" else rule.label
                folds.append({"held_out": group, "score": name, "rule": label, "accuracy": accuracy})
                networks = rule.select(maps, order)
                for level, items in self.items.items():
                    places = held_out[items.runs]
                    values = score(name, self._held_out_items[level, group], maps, networks, self.tail)
                    scores[level, name][places] = values
                    predictions[level, name][places] = most_similar(values, rng)
        return Identification(predictions, scores, pd.DataFrame(folds))

    def accuracies(self, labels: NDArray[np.int64], result: Identification) -> dict[tuple[str, str], float]:
        """Compute the share of items predicted correctly; `labels` (n_runs,) are the true tasks of the runs."""
        return {
            (level, name): float((predicted == labels[self.items[level].runs]).mean())
            for (level, name), predicted in result.predictions.items()
        }

    @cached_property
    def _held_out_items(self) -> dict[tuple[str, str], Items]:
        """Items of each group, by level and group."""
        return {
            (level, group): items.of_runs(self.groups == group)
            for level, items in self.items.items()
            for group in np.unique(self.groups)
        }

    @cached_property
    def _inner_folds(self) -> dict[str, list[tuple[NDArray[np.bool_], Items]]]:
        """Folds within the training runs, by held-out group: runs to train on, and prompts to test."""
        folds: dict[str, list[tuple[NDArray[np.bool_], Items]]] = {}
        for group in np.unique(self.groups):
            training = self.groups != group
            several = len(np.unique(self.groups[training])) > 1
            names = self.groups if several else self.parts
            for name in np.unique(names[training]):
                testing = training & (names == name)
                if (training & ~testing).any():
                    prompts = self.items["prompt"].of_runs(testing)
                    folds.setdefault(group, []).append((training & ~testing, prompts))
        return folds

    def _choose_rules(
        self, labels: NDArray[np.int64], group: str, rng: np.random.Generator
    ) -> dict[str, tuple[NetworkRule, float]]:
        """Choose for each score the rule that predicts prompts of the training runs best, by inner cross-validation.

        Choosing on the held-out group itself would make its accuracy too large, so nothing of it is used. Empty where
        there is no choice: one rule, or too few runs to leave every task training runs.
        """
        if len(self.rules) == 1:
            return {}
        names = [name for name in self.scores if name != "correlation"]
        n_tasks = int(labels.max()) + 1
        folds = [
            fold for fold in self._inner_folds.get(group, []) if _training_runs(labels, fold[0], n_tasks).any(1).all()
        ]
        if not folds:
            return {}
        hits, n_items = np.zeros((len(names), len(self.rules))), 0
        for training, items in folds:
            maps = self.sums.pooled(_training_runs(labels, training, n_tasks))
            order = ranks(strength(maps.t, self.tail))
            n_items += len(items.maps)
            for column, rule in enumerate(self.rules):
                networks = rule.select(maps, order)
                for row, name in enumerate(names):
                    predicted = most_similar(score(name, items, maps, networks, self.tail), rng)
                    hits[row, column] += (predicted == labels[items.runs]).sum()
        chosen = hits.argmax(1)
        return {
            name: (self.rules[chosen[row]], float(hits[row, chosen[row]] / n_items)) for row, name in enumerate(names)
        }


def _training_runs(labels: NDArray[np.int64], training: NDArray[np.bool_], n_tasks: int) -> NDArray[np.bool_]:
    """Mark the training runs of each task, shape (n_tasks, n_runs)."""
    chosen: NDArray[np.bool_] = (labels == np.arange(n_tasks)[:, None]) & training
    return chosen


def confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64], n_tasks: int) -> NDArray[np.int64]:
    """Count predicted tasks by true task.

    `labels`, `predicted` (n_items,): numbers of tasks. Returns (n_tasks, n_tasks): rows are true, columns predicted.

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts = np.zeros((n_tasks, n_tasks), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def accuracy_interval(
    correct: NDArray[np.bool_], runs: NDArray[np.int64], level: float = 0.95
) -> tuple[float, float, float]:
    """Compute an accuracy and its confidence interval, which allows for dependence of the items of one run.

    `correct` (n_items,): whether each item was predicted correctly. `runs` (n_items,): run of each item. Returns
    `accuracy`, `low`, `high`: Clopper and Pearson's interval at the effective number of items (Korn and Graubard 1998,
    Survey Methodology 24).

    >>> [round(value, 3) for value in accuracy_interval(np.array([True] * 9 + [False]), np.arange(10))]
    [0.9, 0.555, 0.997]
    """
    n_items, rate = len(correct), float(correct.mean())
    numbers, sizes = np.unique(runs, return_counts=True)
    # With all items correct, or none, no variance can be estimated: each run counts as one item.
    n_effective, tail = float(len(numbers)), (1 - level) / 2
    if 0 < rate < 1 and len(numbers) > 1:
        # The design effect: variance of the accuracy with runs as clusters, over that of independent items.
        excess = np.array([(correct[runs == run] - rate).sum() for run in numbers])
        clustered = len(numbers) / (len(numbers) - 1) * (excess**2).sum() / n_items**2
        independent = rate * (1 - rate) / n_items
        # Few runs leave the clustered variance uncertain: the ratio of quantiles of Student's t widens the interval.
        few_runs = (student.isf(tail, len(numbers) - 1) / student.isf(tail, n_items - 1)) ** 2
        # Items are at best independent, and at worst those of a run are copies of one.
        n_effective = n_items / np.clip(clustered / independent * few_runs, 1.0, sizes.max())
    hits, misses = rate * n_effective, (1 - rate) * n_effective
    low = float(beta.ppf(tail, hits, misses + 1)) if hits > 0 else 0.0
    high = float(beta.isf(tail, hits + 1, misses)) if misses > 0 else 1.0
    return rate, low, high


def decode(
    items: Mapping[str, Items],
    labels: Sequence[str],
    groups: tuple[NDArray[np.str_], NDArray[np.str_]],
    space: UnitSpace,
    tested: NDArray[np.bool_],
) -> dict[str, NDArray[np.str_]]:
    """Predict the task of held-out runs by a linear support vector machine, trained on blocks of the other runs.

    `labels`: task of each run. `groups` (n_runs,): groups, of which each is held out in turn, and their parts, by which
    the penalty is chosen where one group is left to train on (`_splits`). `tested` (n_units,): units of the maps.
    Returns the predicted task of each item, shape (n_items,), by level.

    `nilearn.decoding.Decoder`, with the default fifth of the units with the largest F over training blocks.
    """
    names = np.array(labels)
    predicted = {level: np.empty(len(part.maps), names.dtype) for level, part in items.items()}
    mask = space.to_image(tested)
    blocks = items["block"]
    outer, parts = groups
    for group in np.unique(outer):
        training = (outer != group)[blocks.runs]
        runs = blocks.runs[training]
        inner = outer[runs] if len(np.unique(outer[runs])) > 1 else parts[runs]
        decoder = Decoder(
            estimator="svc",
            mask=mask,
            cv=_splits(names[runs], inner),
            scoring="accuracy",
            screening_percentile=_SCREENED if len(runs) >= _MIN_BLOCKS else 100,
            standardize=None,
            smoothing_fwhm=None,
            n_jobs=1,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", UserWarning)  # nilearn's advice on masks that are no brains
            decoder.fit(_image(blocks, training, space, tested), names[runs])
            for level, part in items.items():
                held_out = (outer == group)[part.runs]
                if held_out.any():
                    predicted[level][held_out] = decoder.predict(_image(part, held_out, space, tested))
    return predicted


def _splits(names: NDArray[np.str_], inner: NDArray[np.str_]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Split the training blocks for the choice of the penalty.

    `names`, `inner` (n_blocks,): task and group of each block. Each group is held out whose absence leaves every task
    something to train on; else halves of the blocks; else, where even these are too few, all blocks train and test.
    """
    groups = [inner == group for group in np.unique(inner)]
    splits = [(np.flatnonzero(~testing), np.flatnonzero(testing)) for testing in groups]
    usable = [split for split in splits if _trainable(names, split[0])]
    if not usable and np.unique(names, return_counts=True)[1].min() > 1:
        usable = [split for split in StratifiedKFold(2).split(names, names) if _trainable(names, split[0])]
    everything = np.arange(len(names))
    return usable or [(everything, everything)]


def _trainable(names: NDArray[np.str_], training: NDArray[np.int64]) -> bool:
    """Check that there are blocks of every task, and one more for the F by which units are screened."""
    return set(names[training]) == set(names) and len(training) >= _MIN_BLOCKS


def _image(items: Items, rows: NDArray[np.bool_], space: UnitSpace, tested: NDArray[np.bool_]) -> object:
    """Return maps as a 4-D image, scaled over units as for the scores of networks."""
    values = np.zeros((int(rows.sum()), space.n_units), np.float32)
    values[:, tested] = items.standardized[rows]
    return space.to_image(values)
