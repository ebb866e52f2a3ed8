"""Picture of what networks share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from llm2bids.plots.pictures import COLOURS, CROWDED, decimal, draw_matrix, split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

_MAX_BARS: Final = 20
"""Combinations of tasks with room for a bar."""


def draw_overlap(
    tasks: Sequence[str],
    dice: NDArray[np.float64],
    pairs: pd.DataFrame,
    combinations: Mapping[tuple[str, ...], int],
    space: str,
) -> Figure:
    """Draw Dice of every two networks, and how many units are in just these tasks' networks.

    Parameters
    ----------
    tasks : sequence of str
        Names of the networks.
    dice : ndarray, shape (n_tasks, n_tasks)
        Dice of every two networks.
    pairs : DataFrame
        ``task_a``, ``task_b``, ``dice_chance``, ``p_holm``, ``units_a``, ``units_b``.
    combinations : mapping
        Units of each combination of tasks and no other; the most frequent combination first.
    space : str
        Label of the space.

    Returns
    -------
    Figure
        Two panels.
    """
    n_tasks, n_bars = len(tasks), min(len(combinations), _MAX_BARS)
    side = max(3.4, 0.62 * n_tasks)
    widths = (side + 3.2, max(3.0, 0.34 * n_bars + 2.4))
    figure = Figure(figsize=(sum(widths), side + 2.6), layout=ConstrainedLayoutEngine(h_pad=0.1))
    matrix_part, bars_part = split(figure, widths, side_by_side=True)
    _draw_dice(matrix_part, tasks, dice, pairs)
    _draw_combinations(bars_part, tasks, combinations)
    figure.suptitle(f"Overlap of the networks of {n_tasks} tasks (units of space {space})", fontsize=12)
    return figure


def _draw_dice(figure: Any, tasks: Sequence[str], dice: NDArray[np.float64], pairs: pd.DataFrame) -> None:
    """Draw the matrix: Dice with chance in brackets, a star where it is more, and units on the diagonal."""
    n_tasks, place = len(tasks), {task: number for number, task in enumerate(tasks)}
    texts = [[""] * n_tasks for _ in tasks]
    off_diagonal = np.where(np.eye(n_tasks, dtype=bool), np.nan, dice)
    for pair in pairs.to_dict("records"):
        row, column = place[pair["task_a"]], place[pair["task_b"]]
        star = "*" if pair["p_holm"] <= 0.05 else ""  # noqa: PLR2004 - the usual level
        below = "" if n_tasks > CROWDED else f"\n({decimal(pair['dice_chance'])})"
        texts[row][column] = texts[column][row] = f"{decimal(pair['dice'])}{star}{below}"
        texts[row][row], texts[column][column] = f"{pair['units_a']:,}", f"{pair['units_b']:,}"
    axes = figure.subplots()
    largest = np.nanmax(off_diagonal) if np.isfinite(off_diagonal).any() else 1.0
    image = draw_matrix(axes, off_diagonal, tasks, texts, (0.0, max(0.1, float(np.ceil(10 * largest) / 10))))
    figure.colorbar(image, ax=axes, label="Dice (0: no unit shared, 1: the same units)", shrink=0.75)
    chance = "" if n_tasks > CROWDED else "(in brackets: by chance, units permuted within layers)\n"
    axes.set_title(
        f"Units shared by two tasks\n{chance}* more than tasks without effect share, p < .05 corrected\n"
        "diagonal: units of the network",
        fontsize=9,
    )


def _draw_combinations(figure: Any, tasks: Sequence[str], combinations: Mapping[tuple[str, ...], int]) -> None:
    """Draw units of each combination as bars, above dots that say which tasks it joins."""
    bars, dots = figure.subplots(2, 1, sharex=True, height_ratios=[1.4, max(0.5, 0.13 * len(tasks))])
    frequent = list(combinations.items())[:_MAX_BARS]
    places = range(len(frequent))
    image = bars.bar(places, [count for _, count in frequent], color=COLOURS[0], width=0.7)
    bars.bar_label(image, [f"{count:,}" for _, count in frequent], fontsize=8, padding=1)
    left_out = sum(list(combinations.values())[_MAX_BARS:])
    rest = f"; {len(combinations) - _MAX_BARS} rarer ones with {left_out:,} units not shown" if left_out else ""
    bars.set_title(f"Units in just these tasks' networks{rest}", fontsize=9)
    bars.set_ylabel("units")
    bars.margins(y=0.15)
    bars.spines[["top", "right"]].set_visible(False)
    bars.tick_params(axis="x", length=0, labelbottom=False)
    for row in range(0, len(tasks), 2):
        dots.axhspan(row - 0.5, row + 0.5, color="#f2f2f2", zorder=0)
    for place, (names, _) in enumerate(frequent):
        members = [row for row, task in enumerate(tasks) if task in names]
        dots.scatter([place] * len(tasks), range(len(tasks)), s=16, color="#cccccc", zorder=1)
        dots.scatter([place] * len(members), members, s=26, color="black", zorder=3)
        dots.plot([place, place], [min(members), max(members)], color="black", linewidth=1.4, zorder=2)
    dots.set_yticks(range(len(tasks)), tasks)
    dots.set_ylim(len(tasks) - 0.5, -0.5)
    dots.set_xlim(-0.6, max(len(frequent), 1) - 0.4)
    dots.set_xticks([])
    dots.set_xlabel("combinations of tasks (black dots),\nthe most frequent first")
    dots.tick_params(axis="y", length=0)
    for side in dots.spines.values():
        side.set_visible(False)
