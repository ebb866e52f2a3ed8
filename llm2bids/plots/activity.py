"""Picture of how active layers are, with massive units marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure

from llm2bids.plots.layers import label_layers, number_layers
from llm2bids.plots.pictures import COLOURS, GREY, LINES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_LINES: Final = LINES[1:]
"""Without the blue of the layers."""
_MARKERS: Final = "D^vP*Xs"
_MAX_NAMES: Final = 6
"""Massive channels that have room for their names."""
_TICKS: Final = 12


def draw_activity(table: pd.DataFrame, massive: pd.DataFrame) -> Figure:
    """Draw mean, magnitude (mean absolute value) and variance of every layer, and mark massive units.

    Parameters
    ----------
    table : DataFrame
        One row per layer, as in `llm2bids.reporting.activity.Activity`.
    massive : DataFrame
        One row per massive unit, the largest ratio first.

    Returns
    -------
    Figure
        Three panels; magnitude and variance on log scales.
    """
    channels = list(dict.fromkeys(massive["channel"]))
    n_lines = len(channels[:_MAX_NAMES]) + (len(channels) > _MAX_NAMES)
    labels = label_layers(list(table["block"]), list(table["hookpoint"]))
    figure = Figure(figsize=(11, 3.5 + 0.18 * -(-n_lines // 2)), layout="constrained", dpi=110)
    means, magnitudes, variances = figure.subplots(1, 3)
    places = np.arange(len(table))
    means.axhline(0, color=GREY, linewidth=0.6)
    means.plot(places, table["mean"], color=COLOURS[0], marker="o", markersize=4)
    means.set_title("mean activation", fontsize=10)
    for axes, name in ((magnitudes, "magnitude"), (variances, "variance")):
        axes.plot(places, _positive(table[name]), color=COLOURS[0], marker="o", markersize=4, label="mean of units")
        look: dict[str, Any] = {"linestyle": "--", "marker": "o", "markersize": 4, "markerfacecolor": "white"}
        median = _positive(table[f"{name}_median"])
        axes.plot(places, median, color=COLOURS[0], label="median of units", **look)
        axes.set_yscale("log", nonpositive="mask")
    magnitudes.set_title("mean |activation|, massive units marked", fontsize=10)
    variances.set_title("variance over scans", fontsize=10)
    _mark_massive(magnitudes, list(table["hookpoint"]), massive, labels)
    for axes in (means, magnitudes, variances):
        by_block = number_layers(axes, list(table["block"]), list(table["hookpoint"]), _TICKS)
        axes.set_xlim(-0.6, len(labels) - 0.4)
        axes.set_xlabel("block" if by_block else "hookpoint")
        axes.spines[["top", "right"]].set_visible(False)
    handles, texts = magnitudes.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    return figure


def _positive(values: pd.Series) -> pd.Series:
    """Leave out what a log scale cannot show."""
    return values.where(values > 0)


def _mark_massive(axes: Axes, hookpoints: list[str], massive: pd.DataFrame, labels: list[str]) -> None:
    """Mark massive units at their magnitude: one mark per channel, named by the layer of its largest ratio."""
    channels = list(dict.fromkeys(massive["channel"]))
    for number, channel in enumerate(channels):
        units = massive[massive["channel"] == channel]
        strongest = units.iloc[0]
        places = [hookpoints.index(name) for name in units["hookpoint"]]
        look: dict[str, Any] = {"linestyle": "", "markersize": 6.5, "markeredgecolor": "black", "markeredgewidth": 0.5}
        where = labels[hookpoints.index(strongest["hookpoint"])]
        if number < _MAX_NAMES:
            name = f"{where}, channel {channel}: ×{strongest['ratio']:,.0f}{_layers(len(units))}"
            colour, marker = _LINES[number % len(_LINES)], _MARKERS[number % len(_MARKERS)]
            axes.plot(places, units["magnitude"], marker=marker, color=colour, label=name, **look)
        else:
            rest = f"{len(channels) - _MAX_NAMES} more massive channels" if number == _MAX_NAMES else None
            axes.plot(places, units["magnitude"], marker=".", color=GREY, label=rest, **look)


def _layers(n_layers: int) -> str:
    """Say in how many layers a channel is massive."""
    return f" (massive in {n_layers} layers)" if n_layers > 1 else ""
