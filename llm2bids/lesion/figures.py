"""Pictures of lesions: to be read without the code, by the colour-blind too."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_COLOURS: Final = "cividis"
_DARK: Final = 0.5
"""Luminance below which text is white."""
_CROWDED: Final = 8
"""Rows or columns beyond which a cell has room for one number."""
_LONGEST: Final = 28
"""Characters of a name that are shown."""
_LINES: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_MARKERS: Final = "osD^vPX"


def draw_dissociation(table: pd.DataFrame, title: str, n_controls: int) -> Figure:
    """Draw what every lesion does to every text.

    Parameters
    ----------
    table : DataFrame
        See `llm2bids.lesion.scores.dissociation`.
    title : str
        What was done.
    n_controls : int
        Random masks per lesion.

    Returns
    -------
    Figure
        A matrix, its numbers in the cells.
    """
    changes = _matrix(table, "change")
    percentiles = _matrix(table, "percentile")
    masks, texts = (list(dict.fromkeys(table[name])) for name in ("mask", "text"))
    crowded = max(changes.shape) > _CROWDED
    cell = 0.62 if crowded else 0.95
    figure = Figure(figsize=(cell * len(texts) + 4.2, cell * len(masks) + 3.2), layout="constrained")
    axes = figure.subplots()
    low, high = min(0.0, float(np.nanmin(changes))), max(0.1, float(np.nanmax(changes)))
    drawn = axes.imshow(changes, vmin=low, vmax=high, cmap=_COLOURS, interpolation="none", aspect="equal")
    axes.set_xticks(
        range(len(texts)), [_short(name) for name in texts], rotation=40, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(range(len(masks)), [_short(name) for name in masks])
    axes.set_xlabel("text that is read")
    axes.set_ylabel("network that is lesioned")
    for row, column in np.ndindex(changes.shape):
        change, percentile = float(changes[row, column]), float(percentiles[row, column])
        _write(axes, (row, column), change, percentile, (low, high), crowded=crowded)
    figure.colorbar(drawn, ax=axes, label="change of log2 perplexity (bits per token)", shrink=0.8)
    beyond = f"* more than all {n_controls} random masks of as many units"
    below = "" if crowded or not n_controls else "\nin brackets: percentage of random masks that do less harm"
    axes.set_title(f"{title}\n{beyond if n_controls else 'no random masks'}{below}", fontsize=9)
    return figure


def draw_curve(table: pd.DataFrame, title: str) -> Figure:
    """Draw how well the model does with ever more units kept.

    Parameters
    ----------
    table : DataFrame
        See `llm2bids.lesion.scores.tabulate`; its rows of bits per token are drawn.
    title : str
        What was done.

    Returns
    -------
    Figure
        One line per text; random masks as a grey band where there are any.
    """
    chosen = table[table["score"] == "bits_per_token"].sort_values("units", kind="stable")
    names = list(dict.fromkeys(chosen["text"]))
    n_columns = min(3, len(names))
    n_rows = -(-len(names) // n_columns)
    figure = Figure(figsize=(3.6 * n_columns + 0.6, 2.8 * n_rows + 0.8), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False)
    for number, panel in enumerate(panels.flat):
        if number >= len(names):
            panel.set_axis_off()
            continue
        own = chosen[chosen["text"] == names[number]]
        panel.axhline(own["before"].iloc[0], color="black", linestyle=":", label="intact")
        panel.plot(own["units"], own["after"], color=_LINES[0], marker=_MARKERS[0], label="masks kept")
        if own["control_mean"].notna().all():
            panel.plot(own["units"], own["control_mean"], color="#767676", marker="s", label="random, mean and 95 %")
            panel.fill_between(own["units"], own["control_low"], own["control_high"], color="#767676", alpha=0.3, lw=0)
        panel.set_title(_short(names[number]), fontsize=9)
        panel.set_xlabel("units kept")
        panel.set_ylabel("bits per token")
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def as_png(figure: Figure) -> bytes:
    """Render a figure without a screen.

    Parameters
    ----------
    figure : Figure
        What to draw.

    Returns
    -------
    bytes
        A PNG without a date.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return picture.getvalue()


def _matrix(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """Values by mask and text, in the order in which they come."""
    masks, texts = (list(dict.fromkeys(table[name])) for name in ("mask", "text"))
    matrix = np.full((len(masks), len(texts)), np.nan)
    for row in table.to_dict("records"):
        matrix[masks.index(row["mask"]), texts.index(row["text"])] = row[column]
    return matrix


def _write(
    axes: Axes, place: tuple[int, int], change: float, percentile: float, limits: tuple[float, float], *, crowded: bool
) -> None:
    """The number in a cell, and what part of the controls it beats."""
    low, high = limits
    red, green, blue, _ = colormaps[_COLOURS]((change - low) / (high - low))
    colour = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < _DARK else "black"
    rounded = f"{change:.1f}" if crowded else f"{change:.2f}"
    number = rounded.lstrip("-") if float(rounded) == 0 else rounded
    star = "*" if percentile == 100 else ""  # noqa: PLR2004 - per cent
    below = "" if crowded or np.isnan(percentile) else f"\n({percentile:.0f})"
    text: Any = f"{number}{star}{below}"
    axes.text(place[1], place[0], text, ha="center", va="center", color=colour, fontsize=7.5 if crowded else 9)


def _short(name: str) -> str:
    """A name that fits."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 12]}…{name[-11:]}"
