"""What the networks of several tasks share, against chance."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.bids.dataset import Dataset
from llm2bids.bids.history import noted_call
from llm2bids.errors import DesignError, InferenceError
from llm2bids.networks.agreement import jackknife
from llm2bids.networks.answers import Answer, files_of, refuse_existing, write_answer
from llm2bids.networks.chance import (
    INDICES,
    check_draws,
    combinations_of,
    index_matrix,
    index_of,
    matched_networks,
    p_at_least,
    shared_by_chance,
    shared_units,
    units_of_k,
    units_of_k_by_chance,
    units_per_layer,
)
from llm2bids.networks.network_set import find_networks, with_tasks
from llm2bids.networks.run_statistics import RunSums, SharedTexts, relabelled
from llm2bids.plots.overlap import draw_overlap
from llm2bids.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


@noted_call("networks overlap", files_of)
def overlap(  # noqa: PLR0913 - the arguments of the command
    out_dir: str | Path,
    *,
    participant_label: Sequence[str] = (),
    task_label: Sequence[str] = (),
    sites: Sequence[str] = (),
    contrasts: Sequence[str] = (),
    n_draws: int = 1000,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool | None = None,
) -> list[Answer]:
    """Say what the networks of every two tasks share, and what they would by chance.

    Parameters
    ----------
    out_dir : path-like
        What ``glm`` made, with two tasks or more.
    participant_label, task_label, sites, contrasts : sequence of str
        What to look at; all by default.
    n_draws : int
        Permutations of units, and exchanges of conditions.
    seed : int
        Which ones.
    overwrite : bool
        Replace an answer that is there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

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
    check_draws(n_draws)
    out = Dataset(Path(out_dir), "derivative")
    labels: dict[str, Any] = {"subjects": participant_label, "tasks": task_label, "sites": sites}
    asked = with_tasks(find_networks(out.root, **labels, contrasts=contrasts), 2, "overlap")
    refuse_existing(out, asked, "overlap", overwrite=overwrite)
    answers = []
    with progress_bar("draws", len(asked) * n_draws, "overlap", visible=progress) as bar:
        for networks in asked:
            answer = _answer(networks, n_draws, np.random.default_rng(seed), bar.update)
            answers.append(write_answer(out, networks, answer))
    return answers


def _answer(networks: NetworkSet, n_draws: int, rng: np.random.Generator, tick: Callable[[int], object]) -> Answer:
    """Compare the networks of one subject and site."""
    runs, why_not = _runs(networks)
    by_units = shared_by_chance(networks.selected, networks.layers, n_draws, rng)
    relabelled_shared, relabelled_of_k = _without_effect(networks, runs, n_draws, rng, tick)
    pairs = _pairs(networks, _widths(networks, runs), by_units, relabelled_shared)
    matrices = {name: index_matrix(name, networks.selected) for name in INDICES}
    combined = combinations_of(networks.selected, networks.tasks)
    tasks = networks.tasks
    tables = {
        "pairs": pairs[[name for name in _COLUMNS if name in pairs]],
        **{
            name.replace("_", ""): pd.DataFrame(matrix, columns=tasks).assign(task=tasks)[["task", *tasks]]
            for name, matrix in matrices.items()
        },
        "combinations": pd.DataFrame({"tasks": ["+".join(names) for names in combined], "units": combined.values()}),
        "shared": _of_k(networks, relabelled_of_k),
    }
    settings = {
        "Draws": n_draws,
        "Rule": networks.networks[0].rule.label,
        "Tail": networks.networks[0].tail,
        **({"NoExchangeOfConditions": why_not} if why_not else {}),
    }
    figures = {"figure": draw_overlap(tasks, matrices["dice"], pairs, combined, networks.space.label)}
    return Answer("overlap", ", ".join(networks.subjects), networks.site, tables, figures, settings, _COLUMNS)


def _pairs(
    networks: NetworkSet,
    widths: dict[tuple[int, int], float],
    by_units: NDArray[np.int64],
    by_labels: NDArray[np.int64] | None,
) -> pd.DataFrame:
    """Every two networks: what they share, its interval, and what chance gives, by units and by labels exchanged."""
    signs = np.stack([np.sign(one.map("effect")[networks.tested]) for one in networks.networks])
    shared = shared_units(networks.selected)
    rows = []
    for one, other in combinations(range(len(networks.networks)), 2):
        both = networks.selected[one] & networks.selected[other]
        row = _row(networks, shared, by_units, (one, other))
        row["same_sign"] = int((both & (signs[one] == signs[other])).sum())
        half = widths.get((one, other), np.nan)
        row["dice_low"], row["dice_high"] = np.clip([row["dice"] - half, row["dice"] + half], 0, 1).tolist()
        row["p"] = np.nan
        if by_labels is not None and row["units_a"] and row["units_b"]:
            row["p"] = float(p_at_least(shared[one, other], by_labels[:, one, other]))
        rows.append(row)
    pairs = pd.DataFrame(rows)
    pairs["dice_above_chance"] = pairs["dice"] - pairs["dice_chance"]
    pairs["p_holm"] = holm(pairs["p"].to_numpy())
    return pairs


def _runs(networks: NetworkSet) -> tuple[list[list[RunContrast]], str]:
    """What every prompt did, task by task; where that is not there, why."""
    try:
        return [network.runs(networks.tested) for network in networks.networks], ""
    except (InferenceError, DesignError) as error:
        return [], str(error)


def _without_effect(
    networks: NetworkSet,
    runs: list[list[RunContrast]],
    n_draws: int,
    rng: np.random.Generator,
    tick: Callable[[int], object],
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """Units shared, and units of k networks, when conditions are exchanged among the prompts of each run."""
    if not runs:
        tick(n_draws)
        return None, None
    counts = units_per_layer(networks.selected, networks.layers)
    texts = SharedTexts.from_runs([run for own in runs for run in own], n_draws)
    drawn = [
        matched_networks(relabelled(own, n_draws, rng, texts), count, networks.layers, network.tail)
        for own, count, network in zip(runs, counts, networks.networks, strict=True)
    ]
    shared, of_k = [], []
    for some in zip(*drawn, strict=True):
        stacked = np.stack(some, axis=1)
        shared.append(shared_units(stacked))
        of_k.append(units_of_k(stacked))
        tick(len(stacked))
    return np.concatenate(shared), np.concatenate(of_k)


def _widths(networks: NetworkSet, runs: list[list[RunContrast]]) -> dict[tuple[int, int], float]:
    """Half the widths of the intervals of Dice, from leaving out each run."""
    left_out: list[NDArray[np.bool_]] = []
    for network, own in zip(networks.networks, runs, strict=False):
        sums = RunSums.from_runs(own)
        chosen = np.concatenate([~np.eye(len(own), dtype=bool), np.ones((1, len(own)), bool)])
        if (chosen @ sums.dof < 2).any():  # noqa: PLR2004 - too little would be left for a contrast and its noise
            return {}
        left_out.append(network.rule.select(sums.pooled(chosen)))
    found = {}
    for one, other in combinations(range(len(left_out)), 2):
        n_one, n_other = len(left_out[one]) - 1, len(left_out[other]) - 1

        def dice(kept: NDArray[np.int64], one: int = one, other: int = other, n_one: int = n_one) -> float:
            """Dice without the run that is left out; the last row is the network of all runs."""
            gone = set(range(n_one + len(left_out[other]) - 1)) - set(kept.tolist())
            run = gone.pop() if gone else None
            a = left_out[one][run if run is not None and run < n_one else -1]
            b = left_out[other][run - n_one if run is not None and run >= n_one else -1]
            return float(index_of("dice", (a & b).sum(), a.sum(), b.sum()))

        _, low, high = jackknife(dice, [range(n_one), range(n_one, n_one + n_other)])
        found[one, other] = (high - low) / 2
    return found


def _row(
    networks: NetworkSet, shared: NDArray[np.int64], by_units: NDArray[np.int64], pair: tuple[int, int]
) -> dict[str, Any]:
    """What two networks share, and would if the units of every layer were permuted."""
    one, other = pair
    sizes = shared[one, one], shared[other, other]
    drawn = by_units[:, one, other]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "task_a": networks.tasks[one],
        "task_b": networks.tasks[other],
        "units_a": int(sizes[0]),
        "units_b": int(sizes[1]),
        "shared": int(shared[one, other]),
        **{name: float(index_of(name, shared[one, other], *sizes)) for name in INDICES},
        **{f"{name}_chance": float(np.mean(index_of(name, drawn, *sizes))) for name in INDICES},
        "chance_low": float(low),
        "chance_high": float(high),
        "p_units": float(p_at_least(shared[one, other], drawn)) if min(sizes) else np.nan,
    }


def _of_k(networks: NetworkSet, drawn: NDArray[np.int64] | None) -> pd.DataFrame:
    """Units that belong to k networks, or more where it is tested."""
    found, chance = units_of_k(networks.selected), units_of_k_by_chance(networks.selected, networks.layers)
    table = pd.DataFrame({"n_tasks": range(len(found)), "units": found, "chance": chance})
    if drawn is None:
        return table.assign(p=np.nan)
    at_least, drawn_at_least = found[::-1].cumsum()[::-1], drawn[:, ::-1].cumsum(1)[:, ::-1]
    p = p_at_least(at_least, drawn_at_least)
    p[:2] = np.nan  # as many units as before belong to none, and to one or more
    return table.assign(p=p)


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct p-values for their number.

    `p_values` (n_tests,): naN is no test. Returns (n_tests,): family-wise error (Holm 1979).

    >>> holm(np.array([0.01, 0.04, np.nan, 0.03])).round(3).tolist()
    [0.03, 0.06, nan, 0.06]
    """
    found = np.full(len(p_values), np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested])]
    factors = np.arange(len(order), 0, -1)
    found[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return found
