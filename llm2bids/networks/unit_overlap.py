"""What the networks of several tasks share, against chance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.bids.history import noted
from llm2bids.errors import DesignError, InferenceError
from llm2bids.networks.answers import Answer
from llm2bids.networks.measures import (
    INDICES,
    combinations_of,
    index_matrix,
    index_of,
    shared_units,
    units_of_k,
    units_per_layer,
)
from llm2bids.networks.question import Question
from llm2bids.networks.resampling import (
    holm,
    jackknife,
    matched_networks,
    p_at_least,
    shared_by_chance,
    units_of_k_by_chance,
)
from llm2bids.networks.run_statistics import RunSums, SharedTexts, relabelled
from llm2bids.networks.settings import OverlapOptions
from llm2bids.options import takes
from llm2bids.plots.overlap import draw_overlap

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from llm2bids.networks.network_set import NetworkSet
    from llm2bids.networks.run_statistics import RunContrast

_COLUMNS: Final = {
    "task_a": "One task.",
    "task_b": "Another.",
    "units_a": "Units of the network of task_a.",
    "units_b": "Units of the network of task_b.",
    "shared": "Units in both.",
    "same_sign": "Units in both whose effects have the same sign.",
    **{name: text.capitalize() + "." for name, text in INDICES.items()},
    "dice_low": "Lower end of the 95 % interval of Dice: jackknife over the runs of both tasks.",
    "dice_high": "Upper end.",
    **{
        f"{name}_chance": f"Mean of {name} when the units of every layer are permuted, so that each network keeps its "
        "number of units per layer."
        for name in INDICES
    },
    "dice_above_chance": "dice less dice_chance: large networks share much by chance.",
    "chance_low": "Lower end of the central 95 % of the shared units under these permutations.",
    "chance_high": "Upper end.",
    "p_units": "How often these permutations share as many units or more. Units that go together in any map of the "
    "model, such as one channel of the residual stream in all layers, make it too small: it takes units for "
    "independent.",
    "p": "How often two tasks without effect share as many or more: conditions are exchanged among the prompts of each "
    "run, and the strongest units of each layer taken, as many as the network has there. Units keep their dependence, "
    "and a text that both tasks show is exchanged in both. "
    "n/a where a network is empty or the effects of prompts are not there.",
    "p_holm": "p, corrected for the number of pairs (Holm).",
    "tasks": "Tasks whose networks hold these units, and no other task's does; joined by +.",
    "n_tasks": "Number of networks a unit belongs to.",
    "units": "Units found there.",
    "chance": "Expected when the units of every layer are permuted.",
}


@noted("networks overlap")
@takes(OverlapOptions)
def overlap(options: OverlapOptions) -> list[Answer]:
    """Compare the networks of every two tasks: what they share, and what they would share by chance.

    Returns
    -------
    list of Answer
        One per subject and site, with tables ``pairs``, ``dice``, ``jaccard``, ``overlapcoefficient`` (matrices),
        ``combinations`` and ``shared`` (units by number of tasks), and a figure.

    Raises
    ------
    LLM2BIDSError
        If there are fewer than two tasks, or a file is missing.
    """
    question = Question("overlap", options)
    return question.answer(Overlap(networks, options) for networks in question.networks(options, n_tasks=2))


@dataclass(frozen=True, eq=False)
class Overlap:
    """Overlap of the networks of one subject and site."""

    networks: NetworkSet
    options: OverlapOptions

    @property
    def n_steps(self) -> int:
        """Draws."""
        return self.options.n_draws

    @cached_property
    def runs(self) -> tuple[list[list[RunContrast]], str]:
        """Effects of single prompts, run by run for each task; where they are missing, the reason."""
        try:
            return [network.runs(self.networks.tested) for network in self.networks.networks], ""
        except (InferenceError, DesignError) as error:
            return [], str(error)

    def answer(self, tick: Callable[[int], object]) -> Answer:
        """Make all tables and the figure."""
        networks, rng = self.networks, np.random.default_rng(self.options.seed)
        by_units = shared_by_chance(networks.selected, networks.layers, self.options.n_draws, rng)
        relabelled_shared, relabelled_of_k = self._without_effect(rng, tick)
        pairs = self._pairs(by_units, relabelled_shared)
        matrices = {name: index_matrix(name, networks.selected) for name in INDICES}
        combined = combinations_of(networks.selected, networks.tasks)
        tasks = networks.tasks
        tables = {
            "pairs": pairs[[name for name in _COLUMNS if name in pairs]],
            **{
                name.replace("_", ""): pd.DataFrame(matrix, columns=tasks).assign(task=tasks)[["task", *tasks]]
                for name, matrix in matrices.items()
            },
            "combinations": pd.DataFrame(
                {"tasks": ["+".join(names) for names in combined], "units": combined.values()}
            ),
            "shared": self._of_k(relabelled_of_k),
        }
        reason = self.runs[1]
        settings = {
            "Draws": self.options.n_draws,
            "Rule": networks.networks[0].rule.label,
            "Tail": networks.networks[0].tail,
            **({"NoExchangeOfConditions": reason} if reason else {}),
        }
        figures = {"figure": draw_overlap(tasks, matrices["dice"], pairs, combined, networks.space.label)}
        return Answer("overlap", ", ".join(networks.subjects), networks.site, tables, figures, settings, _COLUMNS)

    def _without_effect(
        self, rng: np.random.Generator, tick: Callable[[int], object]
    ) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
        """Units shared, and units of k networks, when conditions are exchanged among the prompts of each run."""
        n_draws, runs = self.options.n_draws, self.runs[0]
        if not runs:
            tick(n_draws)
            return None, None
        layers = self.networks.layers
        counts = units_per_layer(self.networks.selected, layers)
        texts = SharedTexts.from_runs([run for of_task in runs for run in of_task], n_draws)
        # as many of the strongest units in each layer as the network has there: chance differs in which they are
        drawn = [
            matched_networks(relabelled(of_task, n_draws, rng, texts), count, layers, network.tail)
            for of_task, count, network in zip(runs, counts, self.networks.networks, strict=True)
        ]
        shared, of_k = [], []
        for networks in zip(*drawn, strict=True):
            stacked = np.stack(networks, axis=1)
            shared.append(shared_units(stacked))
            of_k.append(units_of_k(stacked))
            tick(len(stacked))
        return np.concatenate(shared), np.concatenate(of_k)

    def _pairs(self, by_units: NDArray[np.int64], by_labels: NDArray[np.int64] | None) -> pd.DataFrame:
        """Compare every two networks with chance, by units and by labels exchanged."""
        networks = self.networks
        signs = np.stack([np.sign(network.map("effect")[networks.tested]) for network in networks.networks])
        shared = shared_units(networks.selected)
        widths = self._widths()
        rows = []
        for a, b in combinations(range(len(networks.networks)), 2):
            in_both = networks.selected[a] & networks.selected[b]
            row = self._row(shared, by_units, (a, b))
            row["same_sign"] = int((in_both & (signs[a] == signs[b])).sum())
            half = widths.get((a, b), np.nan)
            row["dice_low"], row["dice_high"] = np.clip([row["dice"] - half, row["dice"] + half], 0, 1).tolist()
            row["p"] = np.nan
            if by_labels is not None and row["units_a"] and row["units_b"]:
                row["p"] = float(p_at_least(shared[a, b], by_labels[:, a, b]))
            rows.append(row)
        pairs = pd.DataFrame(rows)
        pairs["dice_above_chance"] = pairs["dice"] - pairs["dice_chance"]
        pairs["p_holm"] = holm(pairs["p"].to_numpy())
        return pairs

    def _row(self, shared: NDArray[np.int64], by_units: NDArray[np.int64], pair: tuple[int, int]) -> dict[str, Any]:
        """Compare two networks with permutations of the units of every layer."""
        a, b = pair
        sizes = shared[a, a], shared[b, b]
        drawn = by_units[:, a, b]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return {
            "task_a": self.networks.tasks[a],
            "task_b": self.networks.tasks[b],
            "units_a": int(sizes[0]),
            "units_b": int(sizes[1]),
            "shared": int(shared[a, b]),
            **{name: float(index_of(name, shared[a, b], *sizes)) for name in INDICES},
            **{f"{name}_chance": float(np.mean(index_of(name, drawn, *sizes))) for name in INDICES},
            "chance_low": float(low),
            "chance_high": float(high),
            "p_units": float(p_at_least(shared[a, b], drawn)) if min(sizes) else np.nan,
        }

    def _widths(self) -> dict[tuple[int, int], float]:
        """Half the widths of the intervals of Dice, by leaving out each run of both tasks."""
        without: list[NDArray[np.bool_]] = []  # networks without each run, the last of all runs, task by task
        for network, runs in zip(self.networks.networks, self.runs[0], strict=False):
            sums = RunSums.from_runs(runs)
            chosen = np.concatenate([~np.eye(len(runs), dtype=bool), np.ones((1, len(runs)), bool)])
            if (chosen @ sums.dof < 2).any():  # noqa: PLR2004 - too little for a contrast and its noise
                return {}
            without.append(network.rule.select(sums.pooled(chosen)))
        return {pair: _half_width(without[pair[0]], without[pair[1]]) for pair in combinations(range(len(without)), 2)}

    def _of_k(self, drawn: NDArray[np.int64] | None) -> pd.DataFrame:
        """Count units of exactly k networks; p-values are of k or more."""
        counts = units_of_k(self.networks.selected)
        chance = units_of_k_by_chance(self.networks.selected, self.networks.layers)
        table = pd.DataFrame({"n_tasks": range(len(counts)), "units": counts, "chance": chance})
        if drawn is None:
            return table.assign(p=np.nan)
        at_least, drawn_at_least = counts[::-1].cumsum()[::-1], drawn[:, ::-1].cumsum(1)[:, ::-1]
        p = p_at_least(at_least, drawn_at_least)
        p[:2] = np.nan  # every unit is in 0 or more, and the union, 1 or more, is large where little is shared
        return table.assign(p=p)


def _half_width(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Half the width of the jackknife interval of Dice.

    `a`, `b` (n_runs + 1, n_units): the network of a task without each run; in the last row that of all runs.
    """
    n_a, n_b = len(a) - 1, len(b) - 1

    def dice(remaining: NDArray[np.int64]) -> float:
        """Dice without the run that is left out, if any."""
        removed = set(range(n_a + n_b)) - set(remaining.tolist())
        run = removed.pop() if removed else None
        units_a = a[run if run is not None and run < n_a else -1]
        units_b = b[run - n_a if run is not None and run >= n_a else -1]
        return float(index_of("dice", (units_a & units_b).sum(), units_a.sum(), units_b.sum()))

    _, low, high = jackknife(dice, [range(n_a), range(n_a, n_a + n_b)])
    return (high - low) / 2
