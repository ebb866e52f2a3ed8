"""Picture of how networks go together over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from llm2bids.plots.pictures import BASELINES, GREY, LINES, decimal, draw_matrix, split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_CROWDED: Final = 7
"""Up to so many networks cells have room for intervals."""
_SCANS: Final = 600
"""Most scans of a time course that are drawn: more would be a black band."""
_TINTS: Final = ("#cfe3f1", "#fbe3b8", "#c9e9de", "#f3dbe8", "#e3e3e3", "#ffffff")
_PLAIN: Final = ("#dcdcdc", "#ffffff")
_SPREAD: Final = 5.0
"""Standard deviations between two lines: about what they reach up and down."""
_LEAST: Final = 0.2
"""Smallest correlation that the last colour may stand for."""


def draw_connectivity(
    networks: pd.DataFrame,
    means: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]],
    example: tuple[str, NDArray[np.float64], pd.DataFrame, float],
    method: str,
) -> Figure:
    """Draw correlations of networks, and the time courses of one run.

    Parameters
    ----------
    networks : DataFrame
        ``task``, ``units`` and ``used`` (units in the time course) of each network.
    means : mapping
        ``correlation`` and ``partial``: mean over runs, lower and upper end of its interval, each of shape
        (n_networks, n_networks).
    example : tuple
        Name of a run, its time courses (n_scans, n_networks), its events, and its repetition time in seconds.
    method : str
        How time courses were made, for the title.

    Returns
    -------
    Figure
        Two matrices above, time courses below.
    """
    tasks = networks["task"].tolist()
    n_tasks = len(tasks)
    side = max(3.0, (0.78 if n_tasks <= _CROWDED else 0.5) * n_tasks)
    width = max(2 * (side + 2.6), 11.0)
    heights = (side + 1.9, 0.5 * n_tasks + 1.4)
    figure = Figure(figsize=(width, sum(heights) + 0.7), layout=ConstrainedLayoutEngine(h_pad=0.1))
    above, below = split(figure, heights)
    panels = above.subplots(1, 2)
    titles = {"correlation": "Correlation", "partial": "Partial correlation (all other networks held constant)"}
    apart = ~np.eye(n_tasks, dtype=bool)
    largest = max(float(np.abs(mean[apart]).max()) for mean, _, _ in means.values())
    limit = max(_LEAST, float(np.ceil(10 * largest) / 10))
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        image = _draw_matrix(axes, tasks, means[name], limit, title)
    above.colorbar(image, ax=panels.tolist(), label="correlation", shrink=0.75, pad=0.01)
    labels = [
        f"{task} ({n_used:,} of {n_units:,} units)"
        for task, n_used, n_units in networks[["task", "used", "units"]].to_numpy()
    ]
    _draw_courses(below.subplots(), labels, *example)
    above.suptitle(f"How the networks of {n_tasks} tasks go together over time\n{method}", fontsize=12)  # makes room
    return figure


def _draw_matrix(
    axes: Axes,
    tasks: Sequence[str],
    mean: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    limit: float,
    title: str,
) -> Any:
    """Draw a matrix with numbers and intervals; the diagonal stays white."""
    values, low, high = (np.round(part, 2) + 0.0 for part in mean)  # no -.00
    alone = np.eye(len(tasks), dtype=bool)
    texts = [["" for _ in tasks] for _ in tasks]
    for row, column in zip(*np.nonzero(~alone), strict=True):
        texts[row][column] = decimal(values[row, column])
        if len(tasks) <= _CROWDED and np.isfinite(low[row, column]):
            texts[row][column] += f"\n{decimal(low[row, column])} to {decimal(high[row, column])}"
    image = draw_matrix(axes, np.where(alone, np.nan, values), tasks, texts, (-limit, limit), "PuOr_r")
    sure = (mean[1] > 0) | (mean[2] < 0)
    for text, (row, column) in zip(axes.texts, np.ndindex(values.shape), strict=True):
        text.set_fontsize(7.5)
        text.set_fontweight("bold" if sure[row, column] else "normal")
    below = "" if len(tasks) > _CROWDED else ", below its 95 % interval"
    axes.set_title(f"{title}\nmean over runs{below}; bold: the interval leaves out 0", fontsize=9.5)
    return image


def _draw_courses(
    axes: Axes, labels: Sequence[str], name: str, courses: NDArray[np.float64], events: pd.DataFrame, t_r: float
) -> None:
    """Draw one line per network, each in its own standard deviations, over the conditions of the run."""
    excerpt = courses[:_SCANS]
    deviations = excerpt / np.maximum(courses.std(0), np.finfo(float).tiny)
    times = (np.arange(len(excerpt)) + 0.5) * t_r
    handles = _shade(axes, events, len(excerpt) * t_r)
    for number in range(len(labels)):
        colour = LINES[number % len(LINES)]
        axes.axhline(-_SPREAD * number, color=GREY, linewidth=0.4)
        axes.plot(times, deviations[:, number] - _SPREAD * number, color=colour, linewidth=0.8)
    axes.set_yticks([-_SPREAD * number for number in range(len(labels))], labels)
    axes.set_ylim(-_SPREAD * (len(labels) - 0.3), 0.7 * _SPREAD)
    axes.set_xlim(0, len(excerpt) * t_r)
    axes.set_xlabel("time (s; one scan is one token)" if t_r == 1 else "time (s)")
    part = "" if len(excerpt) == len(courses) else f", first {len(excerpt)} of {len(courses)} scans"
    shades = "" if handles or len(set(events["trial_type"])) == 1 else "; shades: conditions in turn"
    axes.set_title(
        f"Time courses of the networks in one run ({name}{part}), each scaled to its own spread{shades}", fontsize=10
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if handles:
        axes.legend(
            handles=handles, fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="shown"
        )


def _shade(axes: Axes, events: pd.DataFrame, end: float) -> list[Patch]:
    """Colour the background by condition, or grey and white in turn where there are too many, and return the legend."""
    kinds = list(dict.fromkeys(events["trial_type"]))
    starts = events[(events["trial_type"] != events["trial_type"].shift()).to_numpy()]
    ends = (events["onset"] + events["duration"])[(events["trial_type"] != events["trial_type"].shift(-1)).to_numpy()]
    crowded = len(kinds) > len(_TINTS)
    tints = _TINTS if len(kinds) > len(_PLAIN) else _PLAIN
    ordered = sorted(kinds, key=lambda kind: kind in BASELINES)
    colours = {kind: tints[place] for place, kind in enumerate(ordered)} if not crowded else {}
    for number, (onset, stop, kind) in enumerate(zip(starts["onset"], ends, starts["trial_type"], strict=True)):
        if onset < end and kinds != ["n/a"]:
            colour = colours.get(kind, _PLAIN[number % 2])
            axes.axvspan(onset, min(stop, end), color=colour, linewidth=0, zorder=0)
    if crowded or kinds == ["n/a"]:
        return []
    return [Patch(facecolor=colours[kind], edgecolor=GREY, linewidth=0.5, label=kind) for kind in ordered]
