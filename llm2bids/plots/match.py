"""Pictures of two sets of networks: who is whose match, and how often each is found again beside chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.figure import Figure

from llm2bids.plots.pictures import COLOURS, decimal, draw_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_SHOWN: Final = 16
"""Templates with room for a row."""
_LEVEL: Final = 0.05
_LEAST: Final = 0.01
"""IoU that has room at least."""


def draw_match(
    pairs: pd.DataFrame, iou: NDArray[np.float64], assigned: NDArray[np.int64], names_b: Sequence[str], bound: float
) -> Figure:
    """Draw the IoU of templates with the matches of all, and their recurrence beside chance.

    Parameters
    ----------
    pairs : DataFrame
        ``template``, ``groups``, ``recurrence``, ``recurrence_chance``, ``recurrence_p_holm``, ``best_iou``,
        ``best_chance``, ``best_p``.
    iou : ndarray, shape (n_templates, n_networks)
        Of templates with the networks of B.
    assigned : ndarray of int, shape (n_templates,)
        Number of the match of each template; -1 where it has none.
    names_b : sequence of str
        Names of the networks of B.
    bound : float
        IoU above which a network is found again.

    Returns
    -------
    Figure
        Two panels; with more than 16 templates those that recur most. In place of recurrence, where B is a single set:
        the IoU of the network most like each template beside chance.
    """
    order = np.argsort(-pairs["recurrence"].to_numpy(), kind="stable")[:_SHOWN]
    rows = np.sort(order)
    shown, kept = pairs.iloc[rows], assigned[rows][assigned[rows] >= 0]
    matrix, names = iou[np.ix_(rows, kept)], [names_b[number] for number in kept]
    side = max(2.8, 0.42 * len(rows))
    figure = Figure(figsize=(side + 8.5, side + 3.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[side + 2.5, 4.5])
    texts = [[decimal(value) if value >= 0.005 else "0" for value in line] for line in matrix]  # noqa: PLR2004 - rounds to .00
    limits = (0.0, max(bound, float(matrix.max(initial=0.0))))
    drawn = draw_matrix(left, matrix, list(shown["template"]), texts, limits, columns=names)
    left.set_title(
        "Shared units over units of either (IoU):\ntemplates (rows), the match of each (columns)", fontsize=10
    )
    left.set_xlabel("networks of B")
    left.set_ylabel("templates: networks of A")
    figure.colorbar(drawn, ax=left, label="IoU", shrink=0.7)
    if shown["groups"].iloc[0] > 1:
        _draw_recurrence(right, shown, bound)
    else:
        _draw_best(right, shown)
    right.set_yticks(range(len(shown)), list(shown["template"]))
    right.set_ylim(len(shown) - 0.5, -0.5)
    right.spines[["top", "right"]].set_visible(False)
    return figure


def draw_iou(iou: pd.DataFrame) -> Figure:
    """Draw what planted networks share with the networks of ``ica`` most like them.

    Parameters
    ----------
    iou : DataFrame
        Planted networks as columns, networks of ``ica`` as rows, their names in the column ``network``.

    Returns
    -------
    Figure
        A matrix with one row per planted network, and one column for the network most like each.
    """
    shares = iou.set_index("network").astype(float)
    best = shares.loc[list(dict.fromkeys(shares.idxmax()))]
    values, tasks = best.to_numpy().T, list(best.columns)
    texts = [[decimal(value) for value in row] for row in values]
    figure = Figure(figsize=(0.5 * len(best) + 2.6, 0.5 * len(tasks) + 1), layout="constrained", dpi=110)
    axes = figure.subplots()
    drawn = draw_matrix(axes, values, tasks, texts, columns=list(best.index))
    axes.set(xlabel="network found by ica", ylabel="planted network")
    figure.colorbar(drawn, ax=axes, label="IoU", shrink=0.75)
    return figure


def _draw_recurrence(axes: Axes, shown: pd.DataFrame, bound: float) -> None:
    """In how many runs each template is found again."""
    groups = int(shown["groups"].iloc[0])
    _draw_bars(axes, shown["recurrence"], shown["recurrence_chance"], shown["recurrence_p_holm"], "{:.0f}")
    axes.set_xlim(-0.02 * groups, groups * 1.08)
    axes.set_xticks(np.unique(np.linspace(0, groups, 5).round().astype(int)))
    axes.set_xlabel(f"of {groups} runs or sets of B")
    axes.set_title(
        f"Found again (IoU above {bound:g})\norange: units permuted within layers\n"
        "* more than chance, p < .05 corrected",
        fontsize=10,
    )


def _draw_best(axes: Axes, shown: pd.DataFrame) -> None:
    """How much each template shares with the network that is most like it: in a single set nothing recurs."""
    _draw_bars(axes, shown["best_iou"], shown["best_chance"], shown["best_p"], "{:.2f}")
    most = max(shown["best_iou"].max(), shown["best_chance"].max(), _LEAST)
    axes.set_xlim(-0.02 * most, 1.2 * most)
    axes.set_xlabel("IoU")
    axes.set_title(
        "The network of B that shares most\norange: units permuted within layers\n"
        "* more than chance, p < .05, not corrected",
        fontsize=10,
    )


def _draw_bars(axes: Axes, values: pd.Series, chance: pd.Series, p_values: pd.Series, form: str) -> None:
    """A bar per template with its number, a star where it is more than chance, and a mark for chance."""
    bars = axes.barh(range(len(values)), values, color=COLOURS[0], height=0.6)
    labels = [form.format(value) + ("*" if p < _LEVEL else "") for value, p in zip(values, p_values, strict=True)]
    axes.bar_label(bars, labels, padding=6, fontsize=9)
    axes.scatter(chance, range(len(values)), marker="|", s=160, color=COLOURS[1], linewidth=3, zorder=3)
