"""Pictures of where networks lie in depth, and of how large their effects are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llm2bids.plots.layers import one_per_block
from llm2bids.plots.pictures import COLOURS, GREY, split

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

_PER_ROW: Final = 3
"""Panels of tasks side by side."""
_WIDTH: Final = 13.0
_LEVEL: Final = 0.05
_TICKS: Final = 16
"""Layers that have room for their numbers."""
_SIGNS: Final = {"positive": COLOURS[5], "negative": COLOURS[0]}
_MARKERS: Final = "osD^vP*X"


def draw_profiles(summary: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """Draw which share of each layer belongs to each network, its mean depth, and its effect in runs left out.

    Parameters
    ----------
    summary : DataFrame
        One row per task, as `llm2bids.networks.depth_profile.profile` gives it.
    layers : DataFrame
        One row per task and layer.

    Returns
    -------
    Figure
        One panel per task, two panels for all tasks below.
    """
    n_tasks = len(summary)
    n_columns = min(n_tasks, _PER_ROW)
    n_rows = -(-n_tasks // n_columns)
    heights = (2.15 * n_rows + 0.7, 0.3 * n_tasks + 1.6)
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.5), layout="constrained")
    above, below = split(figure, heights)
    panels = np.ravel(above.subplots(n_rows, n_columns, squeeze=False))
    for axes, (_, row) in zip(panels, summary.iterrows(), strict=False):
        _draw_layers(axes, row, layers[layers["task"] == row["task"]])
    name = axis_name(layers)
    _label_outer(panels[:n_tasks].tolist(), n_columns, f"layer: {name}", "% of the layer's units")
    for axes in panels[n_tasks:]:
        axes.set_axis_off()
    handles, labels = _first_legend(panels[:n_tasks].tolist())
    above.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8.5, frameon=False)
    depth_axes, effect_axes = below.subplots(1, 2, sharey=True)
    _draw_depth(depth_axes, summary)
    _draw_mean_effects(effect_axes, summary)
    n_tested = int(summary["tested"].iloc[0])
    figure.suptitle(
        f"Where the networks of tasks lie: share of the {n_tested:,} tested units, layer by layer", fontsize=13
    )
    return figure


def axis_name(layers: pd.DataFrame) -> str:
    """Say whether an axis counts blocks or hookpoints."""
    return (
        "number of the block, 0 is the first" if _one_per_block(layers) else "number of the hookpoint, 0 is the first"
    )


def _one_per_block(layers: pd.DataFrame) -> bool:
    """Check whether every layer is the only one of its block."""
    return one_per_block(list(layers.drop_duplicates("layer")["block"]))


def _number_layers(axes: Axes, layers: pd.DataFrame) -> None:
    """Number as many layers as have room."""
    rows = layers.drop_duplicates("layer").sort_values("layer")
    step = next(step for step in (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 100, 1000) if len(rows) <= step * _TICKS)
    tick_rows = rows.iloc[::step]
    axes.set_xticks(tick_rows["layer"], tick_rows["block" if _one_per_block(layers) else "layer"].astype(str))
    axes.set_xlim(rows["layer"].min() - 0.6, rows["layer"].max() + 0.6)


def _label_outer(panels: Sequence[Axes], n_columns: int, x_label: str, y_label: str) -> None:
    """Label axes only at the edge, lest labels are written into other panels."""
    for number, axes in enumerate(panels):
        if number % n_columns == 0:
            axes.set_ylabel(y_label)
        if number + n_columns >= len(panels):
            axes.set_xlabel(x_label)
        axes.spines[["top", "right"]].set_visible(False)


def _first_legend(panels: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Collect handles and labels of all panels, each label once."""
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries = dict(zip(labels, handles, strict=True)) | entries
    return list(entries.values()), list(entries)


def _draw_layers(axes: Axes, row: pd.Series[Any], layers: pd.DataFrame) -> None:
    """Draw bars of one network by sign, with chance, intervals and stars."""
    place, n_tested = layers["layer"].to_numpy(), layers["tested"].where(layers["tested"] > 0)
    if layers["null_low"].notna().any():
        edges: dict[str, Any] = {
            "bottom": 100 * layers["null_low"],
            "height": 100 * (layers["null_high"] - layers["null_low"]),
        }
        axes.bar(place, **edges, width=1, color="#d9d9d9", label="95 % of tasks without effect")
    base = np.zeros(len(place))
    for name, colour in _SIGNS.items() if "positive" in layers else ():
        height = (100 * layers[name] / n_tested).fillna(0).to_numpy()
        axes.bar(place, height, bottom=base, width=0.62, color=colour, label=f"{name} effect")
        base += height
    if "positive" not in layers:
        axes.bar(place, 100 * layers["share"], width=0.62, color=GREY, label="effect (F contrast: no sign)")
    axes.axhline(100 * layers["chance"].iloc[0], color="black", linestyle="--", linewidth=1, label="spread evenly")
    share = 100 * layers["share"]
    ends = np.clip([share - 100 * layers["low"], 100 * layers["high"] - share], 0, None)
    if np.isfinite(ends).any():
        style: dict[str, Any] = {"fmt": "none", "ecolor": "black", "elinewidth": 0.9, "capsize": 0}
        axes.errorbar(place, share, yerr=ends, **style, label="95 % interval over runs")
    top = 100 * layers["high"].fillna(layers["share"])
    for spot in np.flatnonzero(layers["p_corrected"] <= _LEVEL):
        high = float(max(top.iloc[spot], 100 * layers["null_high"].iloc[spot]))
        axes.annotate("*", (place[spot], high), ha="center", va="bottom", fontsize=9, annotation_clip=False)
    if (layers["p_corrected"] <= _LEVEL).any():
        axes.plot([], [], marker="$*$", linestyle="none", color="black", label="unlike tasks without effect, p < .05")
    axes.use_sticky_edges = False  # else the top of a bar is the top of the panel
    axes.margins(y=0.12)
    axes.autoscale_view()
    axes.set_ylim(bottom=0)
    _number_layers(axes, layers)
    axes.set_title(f"{row['task']}: {row['units']:,} units ({100 * row['share']:.2g} %)", fontsize=10)


def _draw_depth(axes: Axes, summary: pd.DataFrame) -> None:
    """Draw the centre of mass of every network, of its units and weighted by |z|."""
    places = np.arange(len(summary))
    kinds = (
        ("depth", "every unit alike", "o", COLOURS[0], -0.13),
        ("depth_by_z", "units by |z|", "D", COLOURS[1], 0.13),
    )
    for name, label, marker, colour, shift in kinds:
        ends = [summary[name] - summary[f"{name}_low"], summary[f"{name}_high"] - summary[name]]
        style: dict[str, Any] = {"fmt": marker, "color": colour, "markersize": 5, "elinewidth": 1.2, "label": label}
        axes.errorbar(summary[name], places + shift, xerr=np.clip(np.nan_to_num(ends), 0, None), **style)
    axes.axvline(summary["depth_chance"].iloc[0], color="black", linestyle="--", linewidth=1, label="spread evenly")
    stars = [f"{task} *" if p <= _LEVEL else task for task, p in zip(summary["task"], summary["depth_p"], strict=True)]
    axes.set_yticks(places, stars)
    axes.set_ylim(len(summary) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("depth (0: first layer, 1: last layer; bars: 95 % interval over runs)")
    axes.set_title("Mean depth of the network (* unlike tasks without effect, p < .05)", fontsize=10)
    _finish_rows(axes, len(summary))


def _draw_mean_effects(axes: Axes, summary: pd.DataFrame) -> None:
    """Draw effects in the runs that chose units beside those in runs that did not."""
    places = np.arange(len(summary))
    in_sample, held_out = summary["effect_chosen"], summary["effect_held_out"]
    axes.set_title("Mean effect of the network's units", fontsize=10)
    axes.set_xlabel("effect in standard deviations of the unit (text: by how much it shrinks)")
    if held_out.isna().all():
        axes.text(
            0.5, 0.5, "needs two runs and\neffects of prompts", ha="center", va="center", transform=axes.transAxes
        )
        axes.set_xticks([])
        _finish_rows(axes, len(summary))
        return
    axes.hlines(places, held_out, in_sample, color=GREY, linewidth=1)
    axes.scatter(
        in_sample,
        places,
        s=30,
        facecolor="white",
        edgecolor=COLOURS[0],
        label="in the runs that chose the units",
        zorder=3,
    )
    ends = [held_out - summary["held_out_low"], summary["held_out_high"] - held_out]
    style: dict[str, Any] = {"fmt": "o", "color": COLOURS[0], "markersize": 5, "elinewidth": 1.2}
    axes.errorbar(
        held_out, places, xerr=np.clip(np.nan_to_num(ends), 0, None), **style, label="in a run left out (bars: 95 %)"
    )
    axes.axvline(0, color=GREY, linewidth=0.8)
    highest = float(np.nanmax([in_sample.max(), summary["held_out_high"].fillna(held_out).max()]))
    lowest = float(np.nanmin([0.0, summary["held_out_low"].min()]))
    axes.set_xlim(lowest - 0.03 * (highest - lowest), highest + 0.16 * (highest - lowest))
    for place, value in zip(places, summary["shrinkage"], strict=True):
        text = "-" if np.isnan(value) else f"{round(-100 * value) + 0:+d} %".replace("+0", "0")
        axes.text(highest + 0.15 * (highest - lowest), float(place), text, ha="right", va="center", fontsize=9)
    _finish_rows(axes, len(summary))


def _finish_rows(axes: Axes, n_rows: int) -> None:
    """Draw stripes behind rows, and the legend below."""
    for row in range(0, n_rows, 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if axes.get_legend_handles_labels()[0]:
        bottom = 0.55 / (0.3 * n_rows + 1.0)
        axes.legend(fontsize=8.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -bottom), ncols=3)


def draw_effects(effects: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """Draw how large the effects of the units of each network are, layer by layer.

    Parameters
    ----------
    effects : DataFrame
        Quantiles by task, layer and sign.
    layers : DataFrame
        One row per task and layer, with mean effects in runs left out.

    Returns
    -------
    Figure
        One panel per task.
    """
    tasks = list(dict.fromkeys(layers["task"]))
    n_columns = min(len(tasks), _PER_ROW)
    n_rows = -(-len(tasks) // n_columns)
    figure = Figure(figsize=(_WIDTH, 2.4 * n_rows + 1.2), layout="constrained")
    panels = np.ravel(figure.subplots(n_rows, n_columns, squeeze=False))
    for axes, task in zip(panels, tasks, strict=False):
        _draw_quantiles(axes, effects[effects["task"] == task], layers[layers["task"] == task])
        axes.set_title(task, fontsize=10)
    _label_outer(panels[: len(tasks)].tolist(), n_columns, f"layer: {axis_name(layers)}", "effect (sd of the unit)")
    for axes in panels[len(tasks) :]:
        axes.set_axis_off()
    handles, labels = _first_legend(panels[: len(tasks)].tolist())
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    figure.suptitle("How large the effects of the networks' units are, layer by layer", fontsize=13)
    return figure


def _draw_quantiles(axes: Axes, effects: pd.DataFrame, layers: pd.DataFrame) -> None:
    """Draw boxes by sign, and the mean effects in the runs that chose units and in runs left out."""
    for name, colour in _SIGNS.items():
        quantiles = effects[effects["sign"] == name]
        if quantiles.empty:
            continue
        axes.vlines(quantiles["layer"].astype(float), quantiles["q05"], quantiles["q95"], color=colour, linewidth=1)
        box: dict[str, Any] = {"bottom": quantiles["q25"], "height": quantiles["q75"] - quantiles["q25"]}
        label = f"{name} units: 25 to 75 %, line 5 to 95 %, thick line median"
        axes.bar(quantiles["layer"], **box, width=0.5, color=colour, alpha=0.55, label=label)
        axes.hlines(quantiles["q50"], quantiles["layer"] - 0.3, quantiles["layer"] + 0.3, color=colour, linewidth=2)
    held_out = layers.dropna(subset=["effect_held_out"])
    if len(held_out):
        place = held_out["layer"]
        small = len(layers) > _TICKS
        size: dict[str, Any] = {"linestyle": "none", "markersize": 2.5 if small else 4, "color": "black"}
        axes.plot(
            place, held_out["effect_chosen"], marker="_", **size, label="mean |effect| in the runs that chose the units"
        )
        label = "mean in runs left out, with the sign of the others"
        axes.plot(place, held_out["effect_held_out"], marker="D", **size, label=label)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.use_sticky_edges = False  # else boxes at the edge are cut
    axes.autoscale_view()
    _number_layers(axes, layers)


def draw_sites(summary: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """Draw in which layers the networks lie, site by site.

    Parameters
    ----------
    summary, layers : DataFrame
        As for `draw_profiles`, with a column ``site``.

    Returns
    -------
    Figure
        A map of tasks and layers per site, and mean depths below.
    """
    tasks, sites = list(dict.fromkeys(summary["task"])), list(dict.fromkeys(summary["site"]))
    n_columns = min(len(sites), _PER_ROW)
    n_rows = -(-len(sites) // n_columns)
    heights = ((0.28 * len(tasks) + 1.0) * n_rows + 0.3, 0.3 * len(tasks) + 1.7)
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.5), layout="constrained")
    above, below = split(figure, heights)
    panels = np.ravel(above.subplots(n_rows, n_columns, squeeze=False, sharey=True))
    times = layers.assign(times=(layers["share"] / layers["chance"].where(layers["chance"] > 0)).fillna(0.0))
    largest = max(float(times["times"].max()), 2.0)
    for axes, site in zip(panels, sites, strict=False):
        site_layers = times[times["site"] == site]
        values = site_layers.pivot_table(index="task", columns="layer", values="times", sort=False).reindex(tasks)
        image = axes.imshow(
            values, vmin=0, vmax=largest, cmap="cividis", aspect="auto", interpolation="none", origin="upper"
        )
        axes.set_yticks(range(len(tasks)), tasks)
        _number_layers(axes, site_layers)
        axes.set_xlabel(axis_name(site_layers).partition(",")[0].replace("number of the ", ""))
        axes.set_title(f"site {site}", fontsize=10)
    for axes in panels[len(sites) :]:
        axes.set_axis_off()
    above.colorbar(image, ax=panels.tolist(), label="times as many units as if spread evenly", fraction=0.03, pad=0.01)
    _draw_site_depths(below.subplots(), summary, sites, tasks)
    figure.suptitle("In which layers the networks of tasks lie, site by site (layer 0 is the first)", fontsize=13)
    return figure


def _draw_site_depths(axes: Axes, summary: pd.DataFrame, sites: Sequence[str], tasks: Sequence[str]) -> None:
    """Draw the centre of mass of every network at every site."""
    for number, site in enumerate(sites):
        depths = summary[summary["site"] == site].set_index("task").reindex(list(tasks))
        shift = (number - (len(sites) - 1) / 2) * 0.7 / len(sites)
        ends = [depths["depth"] - depths["depth_low"], depths["depth_high"] - depths["depth"]]
        style: dict[str, Any] = {
            "fmt": _MARKERS[number % len(_MARKERS)],
            "color": COLOURS[number % len(COLOURS)],
            "markersize": 5,
            "elinewidth": 1,
        }
        places = np.arange(len(tasks)) + shift
        axes.errorbar(
            depths["depth"], places, xerr=np.clip(np.nan_to_num(ends), 0, None), **style, label=f"site {site}"
        )
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("mean depth of the network's units (0: first layer, 1: last layer; bars: 95 % interval over runs)")
    _finish_rows(axes, len(tasks))
