"""Pictures of lesions: what each does to each text, and how well a model does with few units left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.figure import Figure

from llm2bids.bids.names import short_names
from llm2bids.plots.pictures import COLOURS, GREY, draw_matrix

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_CROWDED: Final = 8
"""Rows or columns beyond which a cell has room for one number."""
_LONGEST: Final = 28
"""Characters of a name that are shown."""


def draw_dissociation(table: pd.DataFrame, title: str, n_controls: int) -> Figure:
    """Draw what every lesion does to every text.

    Parameters
    ----------
    table : DataFrame
        From `llm2bids.lesioning.scores.dissociation`.
    title : str
        Model and method.
    n_controls : int
        Random masks per lesion.

    Returns
    -------
    Figure
        A matrix with its numbers in the cells.
    """
    changes = _matrix(table, "change")
    percentiles = _matrix(table, "percentile")
    masks, texts = (list(dict.fromkeys(table[name])) for name in ("mask", "text"))
    crowded = max(changes.shape) > _CROWDED
    cell = 0.62 if crowded else 0.95
    figure = Figure(figsize=(cell * len(texts) + 4.2, cell * len(masks) + 3.2), layout="constrained")
    axes = figure.subplots()
    low, high = min(0.0, float(np.nanmin(changes))), max(0.1, float(np.nanmax(changes)))
    cells = [
        [_text(*pair, crowded=crowded) for pair in zip(*rows, strict=True)]
        for rows in zip(changes.tolist(), percentiles.tolist(), strict=True)
    ]
    networks = [_short(name) for name in short_names(masks)]
    image = draw_matrix(axes, changes, networks, cells, (low, high), columns=[_short(name) for name in texts])
    axes.set_xlabel("text that is read")
    axes.set_ylabel("network that is lesioned")
    figure.colorbar(image, ax=axes, label="change of log2 perplexity (bits per token)", shrink=0.8)
    beyond = f"* more than all {n_controls} random masks of as many units"
    below = "" if crowded or not n_controls else "\nin brackets: percentage of random masks that do less harm"
    axes.set_title(f"{title}\n{beyond if n_controls else 'no random masks'}{below}", fontsize=9)
    return figure


def draw_curve(table: pd.DataFrame, title: str) -> Figure:
    """Draw how well the model does with ever more units kept.

    Parameters
    ----------
    table : DataFrame
        From `llm2bids.lesioning.scores.tabulate`; its rows of bits per token are drawn.
    title : str
        Model and method.

    Returns
    -------
    Figure
        One panel per text; random masks in grey where there are any.
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
        scores = chosen[chosen["text"] == names[number]]
        panel.axhline(scores["before"].iloc[0], color="black", linestyle=":", label="intact")
        line = "-" if scores["units"].is_unique else ""  # masks of one size do not lie on one curve
        panel.plot(scores["units"], scores["after"], color=COLOURS[0], marker="o", linestyle=line, label="masks kept")
        if scores["control_mean"].notna().all():
            reach = [scores["control_mean"] - scores["control_low"], scores["control_high"] - scores["control_mean"]]
            look = {"color": GREY, "marker": "s", "linestyle": line, "capsize": 3}
            label = "random units kept, mean and 95 %"
            panel.errorbar(scores["units"], scores["control_mean"], np.maximum(reach, 0), label=label, **look)
        panel.set_title(_short(names[number]), fontsize=9)
        panel.set_xlabel("units kept")
        panel.set_ylabel("bits per token")
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def _matrix(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """Arrange values by mask and text, in the order in which they come."""
    masks, texts = (list(dict.fromkeys(table[name])) for name in ("mask", "text"))
    matrix = np.full((len(masks), len(texts)), np.nan)
    for row in table.to_dict("records"):
        matrix[masks.index(row["mask"]), texts.index(row["text"])] = row[column]
    return matrix


def _text(change: float, percentile: float, *, crowded: bool) -> str:
    """Write the change and, in brackets, the percentage of controls that do less harm."""
    rounded = f"{change:.1f}" if crowded else f"{change:.2f}"
    number = rounded.lstrip("-") if float(rounded) == 0 else rounded
    star = "*" if percentile == 100 and float(rounded) > 0 else ""  # noqa: PLR2004 - per cent
    below = "" if crowded or np.isnan(percentile) else f"\n({percentile:.0f})"
    return f"{number}{star}{below}"


def _short(name: str) -> str:
    """Shorten a name, and keep its end."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 12]}…{name[-11:]}"
