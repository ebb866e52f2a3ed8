"""Picture of how active layers are, and of massive units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure

from llm2bids.plots.layers import label_layers
from llm2bids.plots.pictures import COLOURS, GREY

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_LINES: Final = tuple(colour for colour in COLOURS[1:] if colour != "#F0E442")
"""Without yellow, which is lost on white, and the blue of the layers."""
_MARKERS: Final = "D^vP*Xs"
_NAMED: Final = 6
"""Massive channels that have room for their names."""
_TICKS: Final = 12


def draw_activity(table: pd.DataFrame, massive: pd.DataFrame) -> Figure:
    """Draw mean, magnitude and variance of every layer, and mark massive units.

    Parameters
    ----------
    table : DataFrame
        One row per layer: see `llm2bids.reporting.activity.Activity`.
    massive : DataFrame
        One row per massive unit, the largest ratio first.

    Returns
    -------
    Figure
        Three panels: mean, magnitude (log scale) with massive units, variance (log scale).
    """
    channels = list(dict.fromkeys(massive["channel"]))
    n_lines = len(channels[:_NAMED]) + (len(channels) > _NAMED)
    labels = label_layers(list(table["block"]), list(table["hookpoint"]))
    figure = Figure(figsize=(11, 3.5 + 0.18 * -(-n_lines // 2)), layout="constrained", dpi=110)
    left, middle, right = figure.subplots(1, 3)
    places = np.arange(len(table))
    left.axhline(0, color=GREY, linewidth=0.6)
    left.plot(places, table["mean"], color=COLOURS[0], marker="o", markersize=4)
    left.set_title("mean activation", fontsize=10)
    for axes, name in ((middle, "magnitude"), (right, "variance")):
        axes.plot(places, _positive(table[name]), color=COLOURS[0], marker="o", markersize=4, label="mean of units")
        look: dict[str, Any] = {"linestyle": "--", "marker": "o", "markersize": 4, "markerfacecolor": "white"}
        median = _positive(table[f"{name}_median"])
        axes.plot(places, median, color=COLOURS[0], label="median of units", **look)
        axes.set_yscale("log", nonpositive="mask")
    middle.set_title("mean |activation|, massive units marked", fontsize=10)
    right.set_title("variance over scans", fontsize=10)
    _mark_massive(middle, list(table["hookpoint"]), massive, labels)
    for axes in (left, middle, right):
        _number_layers(axes, labels)
    handles, texts = middle.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    return figure


def _positive(values: pd.Series) -> pd.Series:
    """What a log scale can show."""
    return values.where(values > 0)


def _mark_massive(axes: Axes, hookpoints: list[str], massive: pd.DataFrame, labels: list[str]) -> None:
    """Massive units at their magnitude, one mark per channel, named at their largest ratio."""
    channels = list(dict.fromkeys(massive["channel"]))
    for number, channel in enumerate(channels):
        own = massive[massive["channel"] == channel]
        strongest = own.iloc[0]
        places = [hookpoints.index(name) for name in own["hookpoint"]]
        look: dict[str, Any] = {"linestyle": "", "markersize": 6.5, "markeredgecolor": "black", "markeredgewidth": 0.5}
        where = labels[hookpoints.index(strongest["hookpoint"])]
        if number < _NAMED:
            name = f"{where}, channel {channel}: ×{strongest['ratio']:,.0f}{_layers(len(own))}"
            colour, marker = _LINES[number % len(_LINES)], _MARKERS[number % len(_MARKERS)]
            axes.plot(places, own["magnitude"], marker=marker, color=colour, label=name, **look)
        else:
            rest = f"{len(channels) - _NAMED} more massive channels" if number == _NAMED else None
            axes.plot(places, own["magnitude"], marker=".", color=GREY, label=rest, **look)


def _layers(n_layers: int) -> str:
    """In how many layers a channel is massive."""
    return f" (massive in {n_layers} layers)" if n_layers > 1 else ""


def _number_layers(axes: Axes, labels: list[str]) -> None:
    """Numbers of blocks below, or names that stand upright."""
    by_block = all(label.startswith("block ") for label in labels)
    shown = range(0, len(labels), -(-len(labels) // _TICKS))
    texts = [labels[place].removeprefix("block ") if by_block else labels[place] for place in shown]
    axes.set_xticks(shown, texts, rotation=0 if by_block else 90, fontsize=9 if by_block else 7)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_xlabel("block" if by_block else "hookpoint")
    axes.spines[["top", "right"]].set_visible(False)
