"""Picture of how well tasks were told apart by their networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure

from llm2bids.plots.pictures import COLOURS, GREY, decimal, draw_matrix, split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_MARKERS: Final = {"mean-z": "o", "correlation": "s", "dice": "D", "decoder": "^"}
_CROWDED: Final = 8
"""Tasks beyond which matrices are larger and their texts smaller."""


def draw_identification(
    tasks: Sequence[str],
    summary: pd.DataFrame,
    counts: Mapping[tuple[str, str], NDArray[np.int64]],
    across: str,
) -> Figure:
    """Draw how well tasks were told apart, and which were mistaken for which.

    Parameters
    ----------
    tasks : sequence of str
        Names of the tasks.
    summary : DataFrame
        ``level``, ``score``, ``accuracy``, ``low``, ``high``, ``chance``, ``p``; levels in the order to draw.
    counts : mapping
        Confusion matrices (n_tasks, n_tasks) by level and score.
    across : str
        What was held out: run, session or subject.

    Returns
    -------
    Figure
        Accuracies on the left, one matrix per level (of the first score) on the right.
    """
    side = max(3.3, 0.42 * len(tasks) + 1.4)
    levels = list(dict.fromkeys(summary["level"]))
    figure = Figure(figsize=(4.6 + side * len(levels), side + 1.1), layout="constrained")
    accuracies, confusions = split(figure, (4.6, side * len(levels)), side_by_side=True)
    _draw_accuracies(accuracies.subplots(), summary, levels, across)
    first = str(summary["score"].iloc[0])
    panels = np.atleast_1d(confusions.subplots(1, len(levels), sharey=True))
    for axes, level in zip(panels, levels, strict=True):
        image = _draw_confusion(axes, tasks, counts[level, first], level)
    panels[0].set_ylabel("task that was shown")
    confusions.colorbar(image, ax=panels.tolist(), label="share of the row", shrink=0.7)
    confusions.suptitle(f"What was taken for what (by {first})", fontsize=10)
    figure.suptitle(f"Telling the task of a {across} from networks of other {across}s", fontsize=12)
    return figure


def _draw_accuracies(axes: Axes, summary: pd.DataFrame, levels: Sequence[str], across: str) -> None:
    """Draw accuracies with intervals, level by level."""
    names = list(dict.fromkeys(summary["score"]))
    for number, name in enumerate(names):
        scores = summary[summary["score"] == name].set_index("level").loc[list(levels)]
        places = np.arange(len(levels)) + (number - (len(names) - 1) / 2) * 0.17
        rate = scores["accuracy"].to_numpy()
        ends = np.clip([rate - scores["low"], scores["high"] - rate], 0, None)
        style: dict[str, Any] = {"color": COLOURS[number], "marker": _MARKERS.get(name, "o"), "linestyle": "none"}
        axes.errorbar(places, rate, yerr=ends, capsize=3, markersize=6, label=name, **style)
    chance = float(summary["chance"].iloc[0])
    axes.axhline(chance, color=GREY, linestyle="--", linewidth=1.2, label=f"chance ({decimal(chance)})")
    axes.set_xticks(range(len(levels)), [f"one {level}" for level in levels])
    axes.set_xlim(-0.5, len(levels) - 0.5)
    axes.set_ylim(0, 1.04)
    axes.set_ylabel("share told right (bars: 95 % interval)")
    axes.set_xlabel(f"what was told, from held-out {across}s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _draw_confusion(axes: Axes, tasks: Sequence[str], matrix: NDArray[np.int64], level: str) -> Any:
    """Draw the share of each row as colour and its count as number."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    texts = [[str(count) if count else "" for count in row] for row in matrix]
    image = draw_matrix(axes, shares, tasks, texts)
    axes.tick_params(labelsize=8 if len(tasks) <= _CROWDED else 7)
    axes.set_xlabel("told")
    axes.set_title(f"each {level} ({matrix.sum()})", fontsize=10)
    return image
