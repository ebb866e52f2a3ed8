"""How agreement grows with the number of runs and of prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.networks.agreement import correlations, halves, lengthened
from llm2bids.networks.chance import index_of
from llm2bids.networks.run_statistics import Maps, RunSums, t_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.networks.rules import NetworkRule
    from llm2bids.networks.run_statistics import RunContrast

_ROUNDING: Final = 1e-12
"""Relative spread of numbers that are all the same."""


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
        sides = [sums.pooled(_chosen([split[side] for split in splits], len(runs))) for side in (0, 1)]
        rows.append({"n": size, "n_prompts": round(size * n_prompts), **compare_halves(sides[0], sides[1], rule)})
    return _predicted(pd.DataFrame(rows))


def growth_with_prompts(
    runs: Sequence[RunContrast],
    weights: Mapping[str, float],
    rule: NetworkRule,
    n_splits: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Compare disjoint sets of 2, 4, 8 ... prompts of each condition of a task, whatever their runs.

    Returns as of `growth_with_runs`, with ``n`` prompts of each condition in each set. No row where there are fewer
    than four different prompts of a condition, or the contrast weighs none. A text that several runs show is in one set
    only.
    """
    prompts = pd.concat([run.prompts for run in runs], ignore_index=True)
    effects = np.concatenate([run.effects for run in runs])
    used = {kind: weight for kind, weight in weights.items() if weight}
    if not used:
        return pd.DataFrame()
    texts = {kind: prompts.loc[prompts["trial_type"] == kind, "stimulus"].unique() for kind in used}
    rows = []
    for size in _sizes(min(map(len, texts.values())) // 2):
        sides: tuple[list[Maps], list[Maps]] = ([], [])
        for _ in range(n_splits):
            drawn = {kind: rng.permutation(own) for kind, own in texts.items()}
            for side in (0, 1):
                kept = {kind: own[side * size : (side + 1) * size] for kind, own in drawn.items()}
                places = [
                    ((prompts["trial_type"] == kind) & prompts["stimulus"].isin(own)).to_numpy()
                    for kind, own in kept.items()
                ]
                sides[side].append(contrast_of_means([effects[place] for place in places], list(used.values())))
        compared = compare_halves(_stacked(sides[0]), _stacked(sides[1]), rule)
        rows.append({"n": size, "n_prompts": size * len(used), **compared})
    return _predicted(pd.DataFrame(rows))


def contrast_of_means(samples: Sequence[NDArray[np.floating[Any]]], weights: Sequence[float]) -> Maps:
    """Weigh the means of several groups of prompts, with one variance for all.

    `samples` (n_prompts, n_units): effects of the prompts of each condition.
    """
    values = [np.asarray(own, np.float64) for own in samples]
    effect = np.sum([weight * own.mean(0) for own, weight in zip(values, weights, strict=True)], axis=0)
    squares = np.sum([((own - own.mean(0)) ** 2).sum(0) for own in values], axis=0)
    power = 1 / sum(weight**2 / len(own) for own, weight in zip(values, weights, strict=True))
    dof = np.array([float(sum(len(own) - 1 for own in values))])
    total = squares + effect**2 * power  # of which t_of takes the part of the effect away again
    flat = total <= _ROUNDING**2 * np.sum([(own**2).sum(0) for own in values], axis=0)
    effect, total = np.where(flat, 0.0, effect), np.where(flat, 0.0, total)
    return Maps(effect[None], t_of((effect * power)[None], total[None], np.array([power]), dof), dof)


def compare_halves(one: Maps, other: Maps, rule: NetworkRule) -> dict[str, float]:
    """Compare pairs of maps.

    `one`, `other`: first and second map of each pair. Returns ``n_splits``, mean and standard deviation over pairs of
    Dice (0 where both are empty) and of the correlation of effects.
    """
    networks = rule.select(one), rule.select(other)
    sizes = [own.sum(1) for own in networks]
    dice = np.nan_to_num(index_of("dice", (networks[0] & networks[1]).sum(1), *sizes))
    alike = [float(correlations(np.stack(pair))[0, 1]) for pair in zip(one.effect, other.effect, strict=True)]
    spread = float(len(dice) > 1)
    return {
        "n_splits": len(dice),
        "dice": float(dice.mean()),
        "dice_sd": float(dice.std(ddof=1)) if spread else np.nan,
        "correlation": float(np.mean(alike)),
        "correlation_sd": float(np.std(alike, ddof=1)) if spread else np.nan,
    }


def _sizes(largest: int) -> list[int]:
    """2, 4, 8 ... and the largest."""
    powers = [2**power for power in range(1, 16) if 2**power < largest]
    return [*powers, largest] if largest > 1 else []


def _chosen(members: Sequence[Sequence[int]], n_runs: int) -> NDArray[np.bool_]:
    """One row of booleans per set of runs."""
    chosen = np.zeros((len(members), n_runs), bool)
    for row, own in zip(chosen, members, strict=True):
        row[list(own)] = True
    return chosen


def _stacked(maps: Sequence[Maps]) -> Maps:
    """Several maps below each other."""
    return Maps(*(np.concatenate([getattr(one, name) for one in maps]) for name in ("effect", "t", "dof")))


def _predicted(rows: pd.DataFrame) -> pd.DataFrame:
    """Add what the smallest sets let expect of the others."""
    if rows.empty:
        return rows
    times = rows["n"] / rows["n"].iloc[0]
    return rows.assign(predicted=[lengthened(float(rows["correlation"].iloc[0]), float(one)) for one in times])
