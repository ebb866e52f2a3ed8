"""Pictures of a map or a network, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from llm2bids.plots.design import shorten
from llm2bids.plots.pictures import GREY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from llm2bids.space import UnitSpace

_PANELS_PER_ROW: Final = 8
_WIDTH: Final = 10.5
"""Width of the picture of a map, in inches."""
_PIXELS_PER_UNIT: Final = 3
"""Unless the picture becomes too large."""
_COLOURS: Final = 31
"""Few enough that pictures stay small, odd so that 0 is white."""
_EXTREME: Final = 99.5
"""Percentile of units above which colours differ no more, lest a few units leave all others white."""
_DARK: Final = 0.6
"""Share of the limit from which a colour is so dark that a mark on it must be white."""
_ROOM: Final = 2.5
"""Points: in smaller units a white mark would hide the colour instead of standing out from it."""
_TICKS: Final = 24
_PER_ROW: Final = 3
"""Tasks side by side."""
_LONGEST: Final = 30
"""Letters of a task."""
_TITLE: Final = 18
"""Letters that fit above a panel."""


def draw_layers(z: NDArray[np.float64], network: NDArray[np.bool_], space: UnitSpace) -> Figure:
    """Draw a map layer by layer.

    Parameters
    ----------
    z : ndarray, shape (n_units,)
        The map.
    network : ndarray of bool, shape (n_units,)
        Units to mark with dots.
    space : UnitSpace
        Which voxel is which unit.

    Returns
    -------
    Figure
        One panel per hookpoint, in depth order.
    """
    x, y, _ = space.shape
    n_columns = min(space.n_hookpoints, _PANELS_PER_ROW)
    n_rows = -(-space.n_hookpoints // n_columns)
    panel = min((_WIDTH - 1) / n_columns, 3.5 * x / y, 5.0)
    dpi = float(np.clip(_PIXELS_PER_UNIT * x / panel, 110, 160))
    size = n_columns * panel + 1, n_rows * (panel * y / x + 0.35) + 0.3
    figure = Figure(figsize=size, layout="constrained", dpi=dpi)
    panels = np.ravel(figure.subplots(n_rows, n_columns, squeeze=False))
    limit = max(float(np.percentile(np.abs(z), _EXTREME)), 1.0)
    colours = colormaps["PuOr_r"].resampled(_COLOURS).with_extremes(bad="#cccccc")
    volume, dots_volume = space.to_volumes(z), space.to_volumes(network)
    volume = np.where(space.to_volumes(np.ones(space.n_units, bool)), volume, np.nan)
    layers = slice(space.n_empty, space.n_empty + space.n_hookpoints)
    titles = label_layers(space.blocks, space.hookpoints)
    for axes, values, dots, title in zip(panels, volume[layers], dots_volume[layers], titles, strict=False):
        image = axes.imshow(values, cmap=colours, vmin=-limit, vmax=limit, origin="lower", interpolation="none")
        _mark(axes, dots, np.abs(values) > _DARK * limit, 72 * panel / x)
        axes.set_title(title, fontsize=9)
        axes.set(xticks=[], yticks=[])
    for axes in panels[space.n_hookpoints :]:
        axes.set_axis_off()
    beyond = "both" if np.abs(z).max() > limit else "neither"
    figure.colorbar(image, ax=list(panels), label="z", extend=beyond, fraction=0.03, pad=0.01, aspect=12)
    return figure


def draw_profile(network: NDArray[np.bool_], space: UnitSpace) -> Figure:
    """Draw the size of a network over depth.

    Parameters
    ----------
    network : ndarray of bool, shape (n_units,)
        The network.
    space : UnitSpace
        Which voxel is which unit.

    Returns
    -------
    Figure
        One bar per hookpoint.
    """
    share = _shares(network, space)
    figure = Figure(figsize=(7, 2.4), layout="constrained", dpi=110)
    axes = figure.subplots()
    axes.bar(range(space.n_hookpoints), share, color="#542788", width=0.8)
    by_block = number_layers(axes, space.blocks, space.hookpoints, _TICKS)
    axes.set(
        xlabel=f"block, site {space.site}" if by_block else f"hookpoint, site {space.site}",
        ylabel="units found (%)",
        xlim=(-0.75, space.n_hookpoints - 0.25),
        ylim=(0, max(1.05 * share.max(), 1.0)),
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_sizes(networks: Mapping[str, NDArray[np.bool_]], space: UnitSpace) -> Figure:
    """Draw the sizes of several networks over depth, side by side on one scale.

    Parameters
    ----------
    networks : mapping of ndarray of bool, shape (n_units,)
        The network of each task.
    space : UnitSpace
        Which voxel is which unit.

    Returns
    -------
    Figure
        One panel per task, one bar per hookpoint.
    """
    n_columns = min(len(networks), _PER_ROW)
    n_rows = -(-len(networks) // n_columns)
    figure = Figure(figsize=(_WIDTH, 1.75 * n_rows + 0.6), layout="constrained", dpi=110)
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True)
    most = 0.0
    for axes, (task, network) in zip(panels.flat, networks.items(), strict=False):
        share = _shares(network, space)
        most = max(most, float(share.max()))
        axes.bar(range(space.n_hookpoints), share, color="#542788", width=0.8)
        if not network.any():
            axes.text(0.5, 0.5, "no unit", ha="center", va="center", transform=axes.transAxes, color=GREY)
        axes.set_title(f"{shorten(task, _LONGEST)}: {int(network.sum()):,} units", fontsize=10)
        number_layers(axes, space.blocks, space.hookpoints, _TICKS // 2)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set(xlim=(-0.75, space.n_hookpoints - 0.25), ylim=(0, max(1.05 * most, 1.0)))
    by_block = one_per_block(space.blocks)
    for number, axes in enumerate(panels.flat):
        axes.set_visible(number < len(networks))
        axes.xaxis.set_tick_params(labelbottom=number + n_columns >= (len(networks) if by_block else len(panels.flat)))
    figure.supxlabel(f"block, site {space.site}" if by_block else f"hookpoint, site {space.site}", fontsize=10)
    figure.supylabel("units found (%)", fontsize=10)
    return figure


def label_layers(blocks: Sequence[int], hookpoints: Sequence[str]) -> list[str]:
    """Name layers by their block (-1: in none) where every block has one, else by what fits of their hookpoint.

    >>> label_layers([0, 1], ["h.0:out", "h.1:out"]), label_layers([0, -1], ["h.0:out", "lm_head:out"])
    (['block 0', 'block 1'], ['h.0:out', 'lm_head:out'])
    >>> label_layers([0, 0], ["model.layers.0.mlp.down_projection:in", "model.layers.0.attn:out"])
    ['mlp.down_…ction:in', 'attn:out']
    """
    if one_per_block(blocks):
        return [f"block {number}" for number in blocks]
    parts = [name.split(".") for name in hookpoints]
    levels = enumerate(zip(*parts, strict=False))
    n_common = next((number for number, level in levels if len(set(level)) > 1), min(map(len, parts)) - 1)
    if n_common:  # the number of the block comes next, and must stay
        return [shorten(".".join(path[n_common:]), _TITLE) for path in parts]
    return [name if len(name) <= _TITLE else f"…{name[1 - _TITLE :].lstrip('.')}" for name in hookpoints]


def number_layers(axes: Axes, blocks: Sequence[int], hookpoints: Sequence[str], max_ticks: int) -> bool:
    """Number blocks below an axis, or write names of hookpoints upright; return whether blocks are numbered."""
    names, by_block = label_layers(blocks, hookpoints), one_per_block(blocks)
    ticks = range(0, len(names), -(-len(names) // max_ticks))
    labels = [names[number].removeprefix("block ") for number in ticks]
    axes.set_xticks(ticks, labels, rotation=0 if by_block else 90, fontsize=9 if by_block else 7)
    return by_block


def _mark(axes: Axes, marked: NDArray[np.bool_], dark: NDArray[np.bool_], size: float) -> None:
    """Put dots on units, in the shade that stands out; a unit is `size` points wide."""
    dark = dark & (size >= _ROOM)
    for on, colour in ((marked & ~dark, "black"), (marked & dark, "white")):
        rows, columns = on.nonzero()
        axes.plot(columns, rows, "o", color=colour, markersize=float(np.clip(0.4 * size, 0.7, 4)), markeredgewidth=0)


def _shares(network: NDArray[np.bool_], space: UnitSpace) -> NDArray[np.float64]:
    """Compute the per cent of the units of each hookpoint that are in a network."""
    share: NDArray[np.float64] = np.add.reduceat(network.astype(float), space.starts()) / np.asarray(space.n_channels)
    return 100 * share


def one_per_block(blocks: Sequence[int]) -> bool:
    """Check whether each hookpoint is the only one of its block."""
    return min(blocks) >= 0 and len(set(blocks)) == len(blocks)
