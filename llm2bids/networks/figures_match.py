"""Picture of two sets of networks: who is whose match, and in how many runs each is found again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.figure import Figure

from llm2bids.pictures import COLOURS, GREY, decimal, draw_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

_SHOWN: Final = 16
"""Templates with room for a row."""


def draw_match(
    pairs: pd.DataFrame, iou: NDArray[np.float64], assigned: NDArray[np.int64], names_b: Sequence[str], bound: float
) -> Figure:
    """Draw the IoU of templates with the matches of all, and their recurrence beside chance.

    Parameters
    ----------
    pairs : DataFrame
        ``template``, ``groups``, ``recurrence``, ``recurrence_chance``, ``recurrence_p_holm``.
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
        Two panels; with more than 16 templates those that recur most.
    """
    order = np.argsort(-pairs["recurrence"].to_numpy(), kind="stable")[:_SHOWN]
    rows = np.sort(order)
    shown, kept = pairs.iloc[rows], assigned[rows][assigned[rows] >= 0]
    matrix, names = iou[np.ix_(rows, kept)], [names_b[number] for number in kept]
    side = max(2.8, 0.55 * len(rows))
    figure = Figure(figsize=(2 * side + 7.0, side + 3.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    texts = [[decimal(value) if value >= 0.005 else "0" for value in line] for line in matrix]  # noqa: PLR2004 - rounds to .00
    drawn = draw_matrix(left, matrix, list(shown["template"]), texts, columns=names)
    left.set_title(
        "Shared units over units of either (IoU):\ntemplates (rows), the match of each (columns)", fontsize=10
    )
    left.set_xlabel("networks of B")
    left.set_ylabel("templates: networks of A")
    figure.colorbar(drawn, ax=left, label="IoU", shrink=0.7)
    places = np.arange(len(shown))
    groups = int(shown["groups"].iloc[0])
    bars = right.barh(places, shown["recurrence"], color=COLOURS[0], height=0.6)
    stars = ["*" if p <= 0.05 else "" for p in shown["recurrence_p_holm"]]  # noqa: PLR2004 - the usual level
    labels = [f"{count}{star}" for count, star in zip(shown["recurrence"], stars, strict=True)]
    right.bar_label(bars, labels, padding=4, fontsize=9)
    right.scatter(shown["recurrence_chance"], places, marker="|", s=160, color=GREY, linewidth=2.5, zorder=3)
    right.set_yticks(places, list(shown["template"]))
    right.set_ylim(len(shown) - 0.5, -0.5)
    right.set_xlim(0, groups * 1.08)
    right.set_xticks(np.unique(np.linspace(0, groups, 5).round().astype(int)))
    right.spines[["top", "right"]].set_visible(False)
    right.set_xlabel(f"of {groups} runs or sets of B")
    right.set_title(
        f"Found again (IoU above {bound:g})\ngrey mark: by chance, units permuted within layers\n"
        "* more than chance, p < .05 corrected",
        fontsize=10,
    )
    return figure
