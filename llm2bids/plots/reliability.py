"""Picture of how well networks repeat over runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure

from llm2bids.plots.pictures import COLOURS, GREY, split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_STYLES: Final = ("-", "--", ":", "-.")
_MARKERS: Final = "osD^vP*X"


def draw_reliability(
    tasks: Sequence[str],
    similarities: Mapping[str, NDArray[np.float64]],
    growth: pd.DataFrame,
    layers: pd.DataFrame | None,
    rule: str,
) -> Figure:
    """Draw how well networks repeat.

    Parameters
    ----------
    tasks : sequence of str
        Task of each run; runs of one task together.
    similarities : mapping
        ``dice`` and ``correlation`` of every two runs, each (n_runs, n_runs).
    growth : DataFrame
        ``of``, ``task``, ``n``, ``correlation``, ``dice``.
    layers : DataFrame or None
        Quantiles of ICC(3,1) per layer; None with a single task.
    rule : str
        How networks were chosen.

    Returns
    -------
    Figure
        Two matrices above, growth and layers below.
    """
    figure = Figure(figsize=(13, 10.5), layout="constrained")
    above, below = split(figure, (1.15, 1))
    panels = above.subplots(1, 2).tolist()
    _draw_runs(panels[0], similarities["dice"], tasks, f"Dice of the networks of two runs ({rule})", (0.0, 1.0))
    bound = float(np.nanmax(np.abs(similarities["correlation"] - np.eye(len(tasks)))))
    limit = max(0.1, float(np.ceil(10 * bound) / 10))
    title = "Correlation of the effects of two runs (all units)"
    _draw_runs(panels[1], similarities["correlation"], tasks, title, (-limit, limit))
    bottom = below.subplots(1, 3, width_ratios=[1, 1, 1.1])
    for axes, varied, label in zip(
        bottom, ("runs", "prompts"), ("runs in each of two sets", "prompts per condition in each set"), strict=False
    ):
        _draw_growth(axes, growth[growth["of"] == varied], label)
    _draw_layers(bottom[2], layers)
    handles, labels = bottom[1].get_legend_handles_labels()
    if not handles:
        handles, labels = bottom[0].get_legend_handles_labels()
    below.legend(handles, labels, loc="outside lower left", ncols=6, fontsize=8, frameon=False)
    figure.suptitle("How well networks repeat", fontsize=13)
    return figure


def _draw_runs(
    axes: Axes, values: NDArray[np.float64], tasks: Sequence[str], title: str, limits: tuple[float, float]
) -> None:
    """Draw a matrix of runs, with lines between tasks and the name of each task in the middle of its runs."""
    colours = "cividis" if limits[0] == 0 else "PuOr_r"
    off_diagonal = np.where(np.eye(len(values), dtype=bool), np.nan, values)
    image = axes.imshow(off_diagonal, vmin=limits[0], vmax=limits[1], cmap=colours, interpolation="none")
    names = list(dict.fromkeys(tasks))
    starts = [tasks.index(name) for name in names]
    ends = [*starts[1:], len(tasks)]
    for start in starts[1:]:
        axes.axhline(start - 0.5, color="white" if limits[0] == 0 else "black", linewidth=1)
        axes.axvline(start - 0.5, color="white" if limits[0] == 0 else "black", linewidth=1)
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    axes.set_xticks(middles, names, rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_yticks(middles, names, fontsize=9)
    axes.tick_params(length=0)
    axes.set_title(f"{title}\none row and column per run; a run with itself is left white", fontsize=10)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label=title.partition(" ")[0])


def _draw_growth(axes: Axes, growth: pd.DataFrame, label: str) -> None:
    """Draw how far two sets of runs or prompts agree, against their size."""
    for number, (task, curve) in enumerate(growth.groupby("task", sort=False)):
        style: dict[str, Any] = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": _STYLES[number // len(COLOURS) % len(_STYLES)],
            "marker": _MARKERS[number % len(_MARKERS)],
        }
        axes.plot(curve["n"], curve["correlation"], label=task, markersize=5, linewidth=1.5, **style)
    if len(growth):
        sizes = sorted(growth["n"].unique())
        if label.startswith("prompts"):
            axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        low = float(growth["correlation"].min())
        axes.set_ylim(min(-0.02, low - 0.05), 1.02)
    else:
        axes.text(0.5, 0.5, "too few to compare", ha="center", va="center", transform=axes.transAxes, color=GREY)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel(label)
    axes.set_ylabel("correlation of their maps of effects")
    axes.set_title(f"Two sets of {label.partition(' ')[0]} of one task", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_layers(axes: Axes, layers: pd.DataFrame | None) -> None:
    """Draw the distribution of ICC(3,1) over the units of each layer."""
    axes.set_title("Single units: ICC(3,1) of runs over tasks", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if layers is None:
        axes.text(0.5, 0.5, "needs two tasks", ha="center", va="center", transform=axes.transAxes, color=GREY)
        return
    quantiles = layers[layers["measure"] == "icc31"]
    place = quantiles["layer"].to_numpy()
    axes.fill_between(
        place, quantiles["q05"], quantiles["q95"], color=COLOURS[0], alpha=0.2, linewidth=0, label="5 to 95 % of units"
    )
    axes.fill_between(
        place, quantiles["q25"], quantiles["q75"], color=COLOURS[0], alpha=0.45, linewidth=0, label="25 to 75 %"
    )
    axes.plot(place, quantiles["q50"], color=COLOURS[0], marker="o", markersize=4, label="median")
    if "chance" in quantiles:
        axes.plot(
            place, quantiles["chance"], color="black", linestyle="--", linewidth=1.2, label="median by chance, 95 %"
        )
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel("layer (number of the hookpoint, 0 is the first)")
    axes.set_ylabel("ICC(3,1)")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylim(min(-0.1, float(quantiles["q05"].min()) - 0.05), 1.02)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
