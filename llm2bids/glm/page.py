"""One page per subject, and one for groups, that tells what was found; opens from the file system, offline."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.bids.names import parse_name
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.glm.members import read_map
from llm2bids.glm.output import SUMMARY
from llm2bids.pages import figure_html, save_page, table_html
from llm2bids.pictures import as_png
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from llm2bids.bids.dataset import Dataset

_PANELS_PER_ROW: Final = 8
_WIDTH: Final = 10.5
"""Of the picture of a map, in inches."""
_PIXELS_PER_UNIT: Final = 3
"""If the picture does not become too large."""
_COLOURS: Final = 31
"""Few enough that pictures stay small, odd so that 0 is white."""
_EXTREME: Final = 99.5
"""Percentile of units above which colours differ no more, lest a few units leave all others white."""
_DARK: Final = 0.6
"""Share of the limit from which a colour is so dark that a mark on it must be white."""
_ROOM: Final = 2.5
"""Points: in smaller units a white mark would hide the colour instead of standing out from it."""
_UNITS_SHOWN: Final = 15
_TICKS: Final = 24
_TITLE: Final = 18
"""Letters that fit above a panel."""
_TAILS: Final = {"two": "two-tailed", "positive": "positive effects only", "negative": "negative effects only"}
_TEXT: Final = frozenset({"hookpoint", "task", "site", "contrast"})
_NUMBERS: Final = {"effect": "#.3g", "z": ".2f", "p_corrected": "#.2g"}


def write_page(out: Dataset, place: str) -> Path:
    """Write the page of a subject or of the groups.

    Parameters
    ----------
    out : Dataset
        The results.
    place : str
        Folder of the subject, or ``group``.

    Returns
    -------
    Path
        ``sub-x.html`` or ``group.html``.

    Raises
    ------
    DatasetError
        If a result cannot be read.
    """
    told = [(path, read_json(path)) for path in sorted((out.root / place).rglob(f"*_{SUMMARY}"))]
    contents = [
        ([summary["Task"], summary["Site"], *_counts(found)], f"#part{number}-{position}")
        for number, (_, summary) in enumerate(told)
        for position, found in enumerate(summary["Found"])
    ]
    head = ("task", "site", "contrast", "units found", "units tested", "|z| from")
    sections = [_section(path, summary, f"part{number}") for number, (path, summary) in enumerate(told)]
    parts = [table_html(head, contents, _TEXT), *sections]
    return save_page(out.root / f"{place}.html", f"{place}: units that answer to a task", parts)


def draw_layers(z: NDArray[np.float64], network: NDArray[np.bool_], space: UnitSpace) -> Figure:
    """Draw a map layer by layer.

    Parameters
    ----------
    z : ndarray, shape (n_units,)
        The map.
    network : ndarray of bool, shape (n_units,)
        Units to mark.
    space : UnitSpace
        Which voxel is which unit.

    Returns
    -------
    Figure
        One panel per hookpoint, in depth order.
    """
    from matplotlib import colormaps  # noqa: PLC0415 - pictures come last
    from matplotlib.figure import Figure  # noqa: PLC0415

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
    volume, chosen = space.to_volumes(z), space.to_volumes(network)
    volume = np.where(space.to_volumes(np.ones(space.n_units, bool)), volume, np.nan)
    own = slice(space.n_empty, space.n_empty + space.n_hookpoints)
    for axes, values, marked, title in zip(panels, volume[own], chosen[own], _titles(space), strict=False):
        drawn = axes.imshow(values, cmap=colours, vmin=-limit, vmax=limit, origin="lower", interpolation="none")
        _mark(axes, marked, np.abs(values) > _DARK * limit, 72 * panel / x)
        axes.set_title(title, fontsize=9)
        axes.set(xticks=[], yticks=[])
    for axes in panels[space.n_hookpoints :]:
        axes.set_axis_off()
    beyond = "both" if np.abs(z).max() > limit else "neither"
    figure.colorbar(drawn, ax=list(panels), label="z", extend=beyond, fraction=0.03, pad=0.01, aspect=12)
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
    from matplotlib.figure import Figure  # noqa: PLC0415

    share = 100 * np.add.reduceat(network.astype(float), space.starts()) / np.asarray(space.n_channels)
    figure = Figure(figsize=(7, 2.4), layout="constrained", dpi=110)
    axes = figure.subplots()
    axes.bar(range(space.n_hookpoints), share, color="#542788", width=0.8)
    shown = range(0, space.n_hookpoints, -(-space.n_hookpoints // _TICKS))
    named = _by_block(space)
    labels = [str(space.blocks[number]) if named else _titles(space)[number] for number in shown]
    axes.set_xticks(shown, labels, rotation=0 if named else 90, fontsize=9 if named else 7)
    axes.set(
        xlabel=f"block, site {space.site}" if named else f"hookpoint, site {space.site}",
        ylabel="units found (%)",
        xlim=(-0.75, space.n_hookpoints - 0.25),
        ylim=(0, max(1.05 * share.max(), 1.0)),
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _mark(axes: Axes, marked: NDArray[np.bool_], dark: NDArray[np.bool_], size: float) -> None:
    """Dots on units, in the shade that stands out; a unit is `size` points wide."""
    dark = dark & (size >= _ROOM)
    for on, colour in ((marked & ~dark, "black"), (marked & dark, "white")):
        rows, columns = on.nonzero()
        axes.plot(columns, rows, "o", color=colour, markersize=float(np.clip(0.4 * size, 0.7, 4)), markeredgewidth=0)


def _by_block(space: UnitSpace) -> bool:
    """Whether each hookpoint is the only one of its block."""
    return min(space.blocks) >= 0 and len(set(space.blocks)) == space.n_hookpoints


def _titles(space: UnitSpace) -> list[str]:
    """What each hookpoint is called in pictures."""
    if _by_block(space):
        return [f"block {number}" for number in space.blocks]
    return [name if len(name) <= _TITLE else f"…{name[1 - _TITLE :].lstrip('.')}" for name in space.hookpoints]


def _counts(found: dict[str, Any]) -> list[str]:
    """Contrast, units found and tested, and threshold, as text."""
    threshold = "" if found["threshold"] is None else f"{found['threshold']:.2f}"
    return [found["contrast"], str(found["n_selected"]), str(found["n_tested"]), threshold]


def _section(path: Path, summary: dict[str, Any], anchor: str) -> str:
    """One analysis."""
    statistics = summary["Llm2bids"]["Statistics"]
    label = ", ".join(filter(None, (f"Task {summary['Task']}", summary["Site"] and f"site {summary['Site']}")))
    tested = f"{statistics['CorrectionDescription']}, level {statistics['Alpha']:g}, {_TAILS[statistics['Tail']]}"
    made = _made(summary["Llm2bids"].get("Transformations", []))
    about = f"{_samples(summary)}. {statistics['InferenceDescription']}{made} Correction: {tested}."
    parts = [f"<h2>{escape(label)}</h2>", f"<p>{escape(about)}</p>"]
    if statistics["Inference"] == "token":
        parts.append(
            '<p class="warning">Inference over tokens: not calibrated. Tokens of one prompt are not independent, so '
            "that units are found where there is nothing. For claims use <code>--inference prompt</code>.</p>"
        )
    space = UnitSpace.from_json(summary["Llm2bids"]["UnitSpace"])
    parts += [
        _contrast(path.parent, found, space, f"{anchor}-{number}") for number, found in enumerate(summary["Found"])
    ]
    home = path.parent.parent if path.parent.name == "func" else path.parent
    for name in summary["Files"]:
        if name.endswith("design.png") and (picture := home / name).exists():
            of = f" of {parsed}" if (parsed := parse_name(name)[1].get("contrast")) and "Runs" in summary else ""
            caption = f"Design matrix{of}: one row per prompt, scan or subject."
            parts.append(figure_html(picture.read_bytes(), f"Design matrix {picture.stem}", caption, wide=True))
    return "\n".join(parts)


def _samples(summary: dict[str, Any]) -> str:
    """Which model and runs, or which models, an analysis is of."""
    own, space = summary["Llm2bids"], summary["Space"]
    if "Runs" in summary:
        return f"Model {_model(own)}, space {space}, runs {', '.join(summary['Runs'])}"
    named = [f"{label} ({_model(identity)})" for label, identity in own["Subjects"].items()]
    left_out = f"; left out {', '.join(own['SubjectsDropped'])}" if own["SubjectsDropped"] else ""
    return f"Space {space}, {len(named)} subjects: {', '.join(named)}{left_out}"


def _model(identity: dict[str, Any]) -> str:
    """A model and its revision."""
    return " ".join(str(identity[key]) for key in ("Model", "Revision") if identity.get(key))


def _contrast(folder: Path, found: dict[str, Any], space: UnitSpace, anchor: str) -> str:
    """One contrast: what was found, where, how strong."""
    z, network = read_map(folder / found["z_map"], space), read_map(folder / found["mask"], space) > 0
    name, n_selected, n_tested, threshold = _counts(found)
    share = found["n_selected"] / max(found["n_tested"], 1)
    text = (
        f'<h3 id="{anchor}">Contrast {escape(name)}</h3><p>{n_selected} of {n_tested} units tested ({share:.1%}) are '
        f"in the network{f', |z| from {threshold}' if threshold else ''}: <code>{escape(found['mask'])}</code>.</p>"
    )
    text += "".join(_top(one) for one in found.get("top", []))
    text += figure_html(
        as_png(draw_layers(z, network, space)),
        f"z map of contrast {name}, layer by layer",
        "z of every unit, one panel per layer (x and y fold its channels and mean nothing); dots mark the network, "
        "grey holds no unit.",
        wide=True,
    )
    if not network.any():
        return text
    text += figure_html(
        as_png(draw_profile(network, space)),
        f"Share of each layer in the network of {name}",
        "Share of the units of each layer that are in the network.",
    )
    units = read_tsv(folder / found["units"]).head(_UNITS_SHOWN)
    rows = [
        [format(float(cell), _NUMBERS[name]) if name in _NUMBERS else cell for name, cell in one.items()]
        for one in units.to_dict("records")
    ]
    note = f"The {len(units)} strongest units; effect in standard deviations of the unit."
    return f'{text}<p class="note">{note}</p>{table_html(list(units.columns), [(row, None) for row in rows], _TEXT)}'


def _top(one: dict[str, Any]) -> str:
    """A share of the units with the largest statistic, and that it is no test."""
    least = "" if one["threshold"] is None else f", |z| from {one['threshold']:.2f}"
    return (
        f"<p>Top {100 * one['share']:g} % of the units tested, uncorrected: {one['n_selected']} units{least}, of which "
        f"{one['n_outside']} are not in the network: <code>{escape(one['mask'])}</code>.</p>"
    )


def _made(instructions: Sequence[dict[str, Any]]) -> str:
    """What the model makes of its conditions."""
    products = [f"{one['Output'][0]} = {' × '.join(one['Input'])}" for one in instructions if one["Name"] == "Product"]
    bins = [
        f"{', '.join(one['Input'])} in bins of tokens from {', '.join(map(str, one['FIRDelays']))}"
        for one in instructions
        if one["Name"] == "Convolve"
    ]
    return f" Columns made of conditions: {'; '.join([*products, *bins])}." if instructions else ""
