"""One page per subject, and one for groups, that tells what was found; opens from the file system, offline."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Any, Final

import nibabel as nib
import numpy as np

from llm2bids.bids.tables import read_json, read_tsv, write_bytes
from llm2bids.bids.templates import template_text
from llm2bids.glm.output import SUMMARY, as_png
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from llm2bids.bids.dataset import Dataset

_PANELS_PER_ROW: Final = 8
_UNITS_SHOWN: Final = 15


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
    """
    summaries = sorted((out.root / place).rglob(f"*_{SUMMARY}"))
    body = "\n".join(_section(path, read_json(path)) for path in summaries)
    title = f"{place}: units that answer to a task"
    return write_bytes(out.root / f"{place}.html", template_text("glm_page.html", title=title, body=body).encode())


def _section(path: Path, summary: dict[str, Any]) -> str:
    """One analysis."""
    own, statistics = summary["Llm2bids"], summary["Llm2bids"]["Statistics"]
    label = " ".join(filter(None, (f"Task {summary['Task']}", summary["Site"] and f"site {summary['Site']}")))
    shown = summary.get("Runs") or summary.get("Subjects", [])
    what = "runs" if "Runs" in summary else "subjects"
    model = f"{own.get('Model')} ({own.get('Revision')}), " if "Model" in own else ""
    tested = f"{statistics['CorrectionDescription']}, level {statistics['Alpha']:g}, {statistics['Tail']}-tailed"
    about = (
        f"{model}space {summary['Space']}, {len(shown)} {what}: {', '.join(shown)}. "
        f"{statistics['InferenceDescription']} Correction: {tested}."
    )
    parts = [f"<h2>{escape(label)}</h2>", f"<p>{escape(about)}</p>"]
    if statistics["Inference"] == "token":
        parts.append(
            '<p class="warning">Inference over tokens: not calibrated. Tokens of one prompt are not independent '
            "samples, so that units are found where there is nothing. Use <code>--inference prompt</code> for claims.</p>"
        )
    space = UnitSpace.from_json(own["UnitSpace"])
    parts += [_contrast(path.parent, found, space) for found in summary["Found"]]
    parts += [
        f"<figure>{_image(picture.read_bytes(), f'Design matrix {picture.stem}')}<figcaption>Design matrix, "
        f"{escape(picture.stem)}: one row per prompt, scan or subject.</figcaption></figure>"
        for name in summary["Files"]
        if name.endswith("design.png") and (picture := path.with_name(name)).exists()
    ]
    return "\n".join(parts)


def _contrast(folder: Path, found: dict[str, Any], space: UnitSpace) -> str:
    """One contrast: what was found, where, how strong."""
    z = space.to_signals(nib.load(folder / found["z_map"]))
    network = space.to_signals(nib.load(folder / found["mask"])) > 0
    units = read_tsv(folder / found["units"])
    share = found["n_selected"] / max(found["n_tested"], 1)
    limit = f", |z| from {found['threshold']:.2f}" if found["threshold"] is not None else ""
    text = (
        f"<h3>Contrast {escape(found['contrast'])}</h3><p>{found['n_selected']} of {found['n_tested']} units tested "
        f"({share:.1%}) are in the network{limit}: <code>{escape(found['mask'])}</code>.</p>"
    )
    caption = (
        "z of every unit, one panel per layer (x and y fold its channels and mean nothing); dots mark the network."
    )
    panels = _image(as_png(draw_layers(z, network, space)), f"z map of contrast {found['contrast']}, layer by layer")
    bars = _image(as_png(draw_profile(network, space)), f"Share of each layer in the network of {found['contrast']}")
    text += f"<figure>{panels}<figcaption>{caption}</figcaption></figure>"
    text += f"<figure>{bars}<figcaption>Share of the units of each layer that are in the network.</figcaption></figure>"
    return text + (_table(units.head(_UNITS_SHOWN)) if len(units) else "")


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
    from matplotlib.figure import Figure  # noqa: PLC0415 - pictures come last

    x, y, _ = space.shape
    n_rows = -(-space.n_hookpoints // _PANELS_PER_ROW)
    n_columns = min(space.n_hookpoints, _PANELS_PER_ROW)
    height = min(10.0 / n_columns * y / x, 2.5) + 0.45
    figure = Figure(figsize=(10.5, n_rows * height + 0.5), layout="constrained", dpi=110)
    panels = np.ravel(figure.subplots(n_rows, n_columns, squeeze=False))
    limit = max(float(np.abs(z).max()), 1.0)
    volume, chosen = space.to_volumes(z), space.to_volumes(network)
    dot = max(0.5, 220 / (n_columns * x))
    for number, panel in enumerate(panels):
        if number >= space.n_hookpoints:
            panel.set_axis_off()
            continue
        place = number + space.n_empty
        drawn = panel.imshow(
            volume[place], cmap="PuOr_r", vmin=-limit, vmax=limit, origin="lower", interpolation="none"
        )
        rows, columns = chosen[place].nonzero()
        panel.plot(columns, rows, ".", color="black", markersize=dot)
        panel.set(title=f"{space.site} {space.blocks[number]}", xticks=[], yticks=[])
        panel.title.set_fontsize(9)
    figure.colorbar(drawn, ax=list(panels), label="z", shrink=0.9)
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

    starts = space.starts()
    share = 100 * np.add.reduceat(network.astype(float), starts) / np.asarray(space.n_channels)
    figure = Figure(figsize=(7, 2.2), layout="constrained", dpi=110)
    axes = figure.subplots()
    axes.bar(range(space.n_hookpoints), share, color="#542788")
    step = max(1, space.n_hookpoints // 24)
    shown = range(0, space.n_hookpoints, step)
    axes.set_xticks(shown, [str(space.blocks[number]) for number in shown])
    axes.set(xlabel=f"block ({space.site})", ylabel="units in network (%)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _table(units: pd.DataFrame) -> str:
    """The strongest units."""
    head = "".join(f"<th>{escape(name)}</th>" for name in units.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in units.to_numpy())
    note = f'<p class="note">The {len(units)} strongest units; effect in standard deviations of the unit.</p>'
    return f"{note}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _image(png: bytes, text: str) -> str:
    """A picture inside the page."""
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
