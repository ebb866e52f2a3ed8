"""The page of the demo: what was planted, what was found, and what the model cannot do without it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from matplotlib.figure import Figure

from llm2bids.demo.commands import CONTROLS
from llm2bids.glm.page import draw_layers
from llm2bids.pages import figure_html, save_page, table_html
from llm2bids.pictures import as_png, decimal, draw_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from llm2bids.space import UnitMask

_TITLE: Final = "A language model in the scanner: planted against found"
_SUBJECT_PAGE: Final = "glm/sub-phantom.html"
_GROUPS: Final = (("", 1), ("planted", 1), ("found by glm", 3), ("by ica", 1), ("once silenced", 2))
_COLUMNS: Final = {
    "task": "task",
    "planted": "units",
    "found": "units",
    "false": "false",
    "dice": "Dice",
    "iou": "IoU",
    "bits": "bits",
    "percentile": "percentile",
}
"""Columns of the table that are shown, and what they are called below `_GROUPS`."""
_FORMATS: Final = {"dice": ".2f", "iou": ".2f", "bits": "+.1f", "percentile": ".0f"}
_ABOUT: Final = """\
<p>A language model lay in the scanner: it was shown prompts on six topics, and every token that it wrote became one
scan, every one of its units one voxel of a BIDS dataset. The model is a <em>phantom</em>, a transformer in which a
network of units was planted for each topic, so that it is known what an analysis should find. Here the planted networks
stand beside those that <code>glm</code> found, which is told when each topic was shown, beside those that
<code>ica</code> found, which is not told, and beside what the model can no longer do when the networks that
<code>glm</code> found are silenced.</p>"""
_TERMS: Final = """\
<p class="note"><strong>planted</strong>: units of the task's network, of {units}, known by construction.</p>
<p class="note"><strong>found by glm</strong>: units that answer to the task at a false discovery rate of .05;
<em>false</em>: those of them that were not planted, a share of {share:.3f} on average over these tasks; <em>Dice</em>:
1 where found and planted are the same.</p>
<p class="note"><strong>by ica</strong>: of its {components} networks the one most like the planted one; <em>IoU</em>:
units in both over units in either, 1 where they are the same.</p>
<p class="note"><strong>once silenced</strong>: how many <em>bits</em> per token texts on the topic cost more, texts
that no run has shown, when all units that glm found are held at 0; <em>percentile</em>: percentage of {controls} random
masks that do less harm, each with as many units of like activation in every layer. Such masks change the bits by
{least:+.2f} to {most:+.2f}, their means task by task.</p>"""
_BY_HAND: Final = """\
<h2>The same by hand</h2>
<p>The texts that no run has shown are in <code>derivatives/texts</code>, one file per topic. <code>mask convert</code>
makes a network ready for hooks in PyTorch; the demo does so for every task.</p>
<ol>{steps}</ol>"""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What the pictures of the page show.

    Parameters
    ----------
    task : str
        Whose map is shown.
    z : ndarray, shape (n_units,)
        The map that ``glm`` made.
    planted : UnitMask
        Its planted network.
    iou : DataFrame
        Planted networks as columns, networks of ``ica`` as rows, their names in the column ``network``.
    dissociation : bytes
        Picture of what each lesion does to each text.
    """

    task: str
    z: NDArray[np.float64]
    planted: UnitMask
    iou: pd.DataFrame
    dissociation: bytes


def write_page(path: Path, table: pd.DataFrame, evidence: Evidence, commands: Sequence[str]) -> Path:
    """Write the page.

    Parameters
    ----------
    path : Path
        The file, in the folder of the derivatives.
    table : DataFrame
        See `llm2bids.demo.Demo`.
    evidence : Evidence
        What the pictures show.
    commands : sequence of str
        What to type to do the same by hand.

    Returns
    -------
    Path
        The same file.
    """
    parts = [
        _ABOUT,
        _summary(table),
        *_found(evidence),
        *_components(evidence.iou),
        *_silenced(evidence.dissociation),
        _BY_HAND.format(steps="".join(f"<li><code>{escape(line)}</code></li>" for line in commands)),
    ]
    return save_page(path, _TITLE, parts)


def draw_iou(iou: pd.DataFrame) -> Figure:
    """Draw what planted networks share with the networks of ``ica`` most like them.

    Parameters
    ----------
    iou : DataFrame
        See `Evidence`.

    Returns
    -------
    Figure
        A matrix with one row per planted network, and one column for the network most like each.
    """
    shares = iou.set_index("network").astype(float)
    best = shares.loc[list(dict.fromkeys(shares.idxmax()))]
    values, tasks = best.to_numpy().T, list(best.columns)
    texts = [[decimal(value) for value in row] for row in values]
    figure = Figure(figsize=(0.5 * len(best) + 2.6, 0.5 * len(tasks) + 1), layout="constrained", dpi=110)
    axes = figure.subplots()
    drawn = draw_matrix(axes, values, tasks, texts, columns=list(best.index))
    axes.set(xlabel="network found by ica", ylabel="planted network")
    figure.colorbar(drawn, ax=axes, label="IoU", shrink=0.75)
    return figure


def _summary(table: pd.DataFrame) -> str:
    """The numbers, and what they mean."""
    rows = [
        [format(row[name], _FORMATS[name]) if name in _FORMATS else str(row[name]) for name in _COLUMNS]
        for row in table.to_dict("records")
    ]
    terms = _TERMS.format(
        units=table["units"].max(),
        share=(table["false"] / table["found"].clip(lower=1)).mean(),
        components=table["components"].max(),
        controls=CONTROLS,
        least=table["random_bits"].min(),
        most=table["random_bits"].max(),
    )
    return table_html(list(_COLUMNS.values()), [(row, None) for row in rows], {"task"}, _GROUPS) + terms


def _found(evidence: Evidence) -> list[str]:
    """The map of one task, with dots on what was planted."""
    task = evidence.task
    return [
        "<h2>Found by glm</h2>",
        figure_html(
            as_png(draw_layers(evidence.z, evidence.planted.selected, evidence.planted.space)),
            f"z map of task {task} in panels, one per block of the model, with dots on the units that were planted",
            f"Task {task}: how strongly every unit answers (z), one panel per block of the model; dots mark the units "
            "that were planted. x and y fold the channels of a block and mean nothing.",
            wide=True,
        ),
        f'<p><a href="{_SUBJECT_PAGE}">All that glm found</a>: maps, designs and the strongest units of each task.</p>',
    ]


def _components(iou: pd.DataFrame) -> list[str]:
    """What planted networks share with components."""
    return [
        "<h2>Found by ica, without a task</h2>",
        figure_html(
            as_png(draw_iou(iou)),
            "Matrix of planted networks and the networks of ica most like them: shared units over units of either",
            "Shared units over units of either (IoU): 1 where the two are the same. Networks that were planted with "
            "common units, as those of medical imaging and pathology, share these with each other's component.",
        ),
    ]


def _silenced(picture: bytes) -> list[str]:
    """What each lesion does to each text."""
    return [
        "<h2>What a network does</h2>",
        figure_html(
            picture,
            "Matrix of silenced networks and texts on every topic: the bits per token that each text costs more",
            "How many bits per token each text costs more when a network that glm found is held at 0. Where the "
            "diagonal stands out, each network carries its own topic and no other: a double dissociation.",
            wide=True,
        ),
    ]
