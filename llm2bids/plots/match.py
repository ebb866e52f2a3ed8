"""Pictures of two sets of networks: which match each other, and how often each recurs beside chance."""

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

_MAX_TEMPLATES: Final = 16
"""Templates with room for a row."""
_LEVEL: Final = 0.05
_LEAST: Final = 0.01
"""IoU that has room at least."""


def draw_match(
    pairs: pd.DataFrame, iou: NDArray[np.float64], assignment: NDArray[np.int64], names_b: Sequence[str], bound: float
) -> Figure:
    """Draw the IoU of templates with their matches, and how often each template recurs beside chance.

    Parameters
    ----------
    pairs : DataFrame
        ``template``, ``groups``, ``recurrence``, ``recurrence_chance``, ``recurrence_p_holm``, ``best_iou``,
        ``best_chance``, ``best_p``.
    iou : ndarray, shape (n_templates, n_networks)
        Of templates with the networks of B.
    assignment : ndarray of int, shape (n_templates,)
        Number of the match of each template; -1 without a match.
    names_b : sequence of str
        Names of the networks of B.
    bound : float
        IoU above which a network counts as found again.

    Returns
    -------
    Figure
        Two panels with the 16 templates that recur most. Where B is a single set nothing can recur, so the second panel
        shows the IoU of the network most like each template.
    """
    order = np.argsort(-pairs["recurrence"].to_numpy(), kind="stable")[:_MAX_TEMPLATES]
    numbers = np.sort(order)
    templates, matches = pairs.iloc[numbers], assignment[numbers][assignment[numbers] >= 0]
    matrix, names = iou[np.ix_(numbers, matches)], [names_b[number] for number in matches]
    side = max(2.8, 0.42 * len(numbers))
    figure = Figure(figsize=(side + 8.5, side + 3.0), layout="constrained")
    iou_axes, recurrence_axes = figure.subplots(1, 2, width_ratios=[side + 2.5, 4.5])
    texts = [[decimal(value) if value >= 0.005 else "0" for value in line] for line in matrix]  # noqa: PLR2004 - rounds to .00
    limits = (0.0, max(bound, float(matrix.max(initial=0.0))))
    image = draw_matrix(iou_axes, matrix, list(templates["template"]), texts, limits, columns=names)
    iou_axes.set_title(
        "Shared units over units of either (IoU):\ntemplates (rows), the match of each (columns)", fontsize=10
    )
    iou_axes.set_xlabel("networks of B")
    iou_axes.set_ylabel("templates: networks of A")
    figure.colorbar(image, ax=iou_axes, label="IoU", shrink=0.7)
    if templates["groups"].iloc[0] > 1:
        _draw_recurrence(recurrence_axes, templates, bound)
    else:
        _draw_best(recurrence_axes, templates)
    recurrence_axes.set_yticks(range(len(templates)), list(templates["template"]))
    recurrence_axes.set_ylim(len(templates) - 0.5, -0.5)
    recurrence_axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_iou(iou: pd.DataFrame) -> Figure:
    """Draw the networks of ``ica`` that share most with each planted network.

    Parameters
    ----------
    iou : DataFrame
        Planted networks as columns, networks of ``ica`` as rows, their names in the column ``network``.

    Returns
    -------
    Figure
        A matrix: one row per planted network, one column for the network most like each.
    """
    shares = iou.set_index("network").astype(float)
    best = shares.loc[list(dict.fromkeys(shares.idxmax()))]
    values, tasks = best.to_numpy().T, list(best.columns)
    texts = [[decimal(value) for value in row] for row in values]
    figure = Figure(figsize=(0.5 * len(best) + 2.6, 0.5 * len(tasks) + 1), layout="constrained", dpi=110)
    axes = figure.subplots()
    image = draw_matrix(axes, values, tasks, texts, columns=list(best.index))
    axes.set(xlabel="network found by ica", ylabel="planted network")
    figure.colorbar(image, ax=axes, label="IoU", shrink=0.75)
    return figure


def _draw_recurrence(axes: Axes, templates: pd.DataFrame, bound: float) -> None:
    """Draw in how many runs each template is found again."""
    groups = int(templates["groups"].iloc[0])
    _draw_bars(axes, templates["recurrence"], templates["recurrence_chance"], templates["recurrence_p_holm"], "{:.0f}")
    axes.set_xlim(-0.02 * groups, groups * 1.08)
    axes.set_xticks(np.unique(np.linspace(0, groups, 5).round().astype(int)))
    axes.set_xlabel(f"of {groups} runs or sets of B")
    axes.set_title(
        f"Found again (IoU above {bound:g})\norange: units permuted within layers\n"
        "* more than chance, p < .05 corrected",
        fontsize=10,
    )


def _draw_best(axes: Axes, templates: pd.DataFrame) -> None:
    """Draw how much each template shares with the network most like it: in a single set nothing can recur."""
    _draw_bars(axes, templates["best_iou"], templates["best_chance"], templates["best_p"], "{:.2f}")
    most = max(templates["best_iou"].max(), templates["best_chance"].max(), _LEAST)
    axes.set_xlim(-0.02 * most, 1.2 * most)
    axes.set_xlabel("IoU")
    axes.set_title(
        "The network of B that shares most\norange: units permuted within layers\n"
        "* more than chance, p < .05, not corrected",
        fontsize=10,
    )


def _draw_bars(axes: Axes, values: pd.Series, chance: pd.Series, p_values: pd.Series, form: str) -> None:
    """Draw a bar per template with its number, a star where it is more than chance, and a mark for chance."""
    bars = axes.barh(range(len(values)), values, color=COLOURS[0], height=0.6)
    labels = [form.format(value) + ("*" if p < _LEVEL else "") for value, p in zip(values, p_values, strict=True)]
    axes.bar_label(bars, labels, padding=6, fontsize=9)
    axes.scatter(chance, range(len(values)), marker="|", s=160, color=COLOURS[1], linewidth=3, zorder=3)
