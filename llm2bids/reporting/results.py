"""What results say, each as a panel: answers about networks, components, lesions, and what was planted."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from llm2bids.bids.names import parse_name
from llm2bids.bids.tables import read_tsv
from llm2bids.masks import load_mask
from llm2bids.networks.map_sets import read_result
from llm2bids.networks.matching import iou_matrix
from llm2bids.networks.measures import index_of
from llm2bids.pages.frame import Panel, figure_html, table_html
from llm2bids.plots import draw_iou, draw_layers
from llm2bids.plots.pictures import as_png

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.reporting.sources import Result, Sources

_TITLES: Final = {
    "overlap": "Overlap",
    "reliability": "Reliability",
    "identify": "Identification",
    "profile": "Networks over depth",
    "connectivity": "Connectivity",
    "match": "Networks found again",
    "fingerprint": "Two models",
}
"""What a question is called, by the start of its label."""
_ROWS: Final = 40
"""Of a table that are shown."""
_COMPONENTS: Final = 6
"""Components whose maps are drawn, of each decomposition."""
_MAPS: Final = 24
"""Maps of components on a page: of many decompositions, such as one per run, each has fewer, the last none."""
_DIGITS: Final = 3


def frame_html(table: pd.DataFrame) -> str:
    """Lay out a table as it lies on disk.

    >>> frame_html(pd.DataFrame({"task": ["a"], "dice": ["0.123456"]})).partition("<tbody>")[2][:54]
    '<tr><td class="text">a</td><td>0.123</td></tr></tbody>'
    """
    numbers = {name: pd.to_numeric(table[name].replace("n/a", np.nan), errors="coerce") for name in table}
    text = [str(name) for name in table if (numbers[name].isna() & (table[name] != "n/a")).any()]
    shown = {name: table[name] if str(name) in text else numbers[name].map(_number) for name in table}
    rows = [
        ([str(cell) for cell in row], None) for row in zip(*(one.head(_ROWS) for one in shown.values()), strict=True)
    ]
    more = f'<p class="note">{len(table) - _ROWS} more rows are in the file.</p>' if len(table) > _ROWS else ""
    return table_html([str(name) for name in table], rows, text) + more


def _number(value: float) -> str:
    """A number with as many digits as are read."""
    if np.isnan(value):
        return "-"
    return f"{value:,.0f}" if value == round(value) else f"{value:.{_DIGITS}g}"


def answers_panel(answers: Sequence[Result]) -> Panel:
    """Show what was asked about networks.

    Returns one part per answer, with its figures and its table in short.
    """
    order = list(_TITLES)
    ordered = sorted(answers, key=lambda one: order.index(known) if (known := _known(one)) else len(order))
    return Panel("questions", "Questions about networks", "", tuple(_answer(one, n) for n, one in enumerate(ordered)))


def _asked(answer: Result) -> str:
    """Label of a question."""
    return parse_name(answer.path.name)[1].get("desc", "answer")


def _known(answer: Result) -> str | None:
    """The question that a label stands for; some labels say more than it."""
    return next((name for name in _TITLES if _asked(answer).startswith(name)), None)


def _answer(answer: Result, number: int) -> Panel:
    """Figures, the table in short, and what its columns mean."""
    stem, asked, known = answer.path.name.removesuffix("_networks.json"), _asked(answer), _known(answer)
    files = sorted(path for path in answer.path.parent.glob(f"{stem}_*") if path.suffix in (".png", ".tsv"))
    site = parse_name(answer.path.name)[1].get("acq")
    title = f"{_TITLES[known] if known else asked}{f', site {site}' if site else ''}"
    figures = [
        figure_html(path.read_bytes(), f"{title}: {path.stem}", f"{title}.", wide=True)
        for path in files
        if path.suffix == ".png"
    ]
    tables = [path for path in files if path.suffix == ".tsv" and "_run-" not in path.name]
    laid_out = [
        f"<details><summary>{escape(path.name)}</summary>{frame_html(read_tsv(path))}</details>" for path in tables
    ]
    return Panel(_anchor(answer, asked, number), title, "".join([*figures, *laid_out, _meanings(answer)]))


def _meanings(answer: Result) -> str:
    """What columns mean, as the sidecar says."""
    said = answer.fields.get("Columns", {})
    lines = "".join(f"<li><code>{escape(name)}</code>: {escape(text)}</li>" for name, text in said.items())
    return f"<details><summary>What the columns mean</summary><ul>{lines}</ul></details>" if said else ""


def _anchor(result: Result, name: str, number: int) -> str:
    """A place of its own on the page: folders of one name may hold files of one name."""
    return f"{name}-{number + 1}-{result.path.name.split('.')[0]}"


def components_panel(found: Sequence[Result]) -> Panel:
    """Show networks that were found without a task.

    Returns one part per decomposition: its table, and maps of the first components.
    """
    return Panel(
        "components",
        "Networks without a task",
        "",
        tuple(_components(one, n, _n_maps(n, len(found))) for n, one in enumerate(found)),
    )


def _n_maps(number: int, n_found: int) -> int:
    """How many maps of a decomposition have room."""
    return min(_COMPONENTS, max(1, _MAPS // n_found)) if number < _MAPS else 0


def _components(result: Result, number: int, n_maps: int) -> Panel:
    """A table of all components, and maps of the first."""
    read = read_result(result.path)
    table = read_tsv(result.path.with_name(result.fields["Components"].replace(".nii.gz", ".tsv")))
    asked = result.own["Decomposition"]
    about = (
        f"<p>{result.fields['NumberComponents']} components of {result.fields['NumberSamples']:,} samples "
        f"({escape(asked['Method'])}, {escape(asked['Samples'])}s as samples, by {escape(asked['By'])}); a unit is "
        f"in a network if it has a {escape(asked['Threshold'])} ({escape(asked['Tail'])} tail).</p>"
    )
    figures = [
        figure_html(
            as_png(draw_layers(one.values, one.selected, read.space)),
            f"Map of component {one.name}, layer by layer",
            f"Component {one.name.removeprefix('ica')}: {int(one.selected.sum())} units in its network (dots).",
            wide=True,
        )
        for one in read.items[:n_maps]
    ]
    more = (
        f"<details open><summary>Maps of the first {len(figures)} components</summary>{''.join(figures)}</details>"
        * bool(figures)
    )
    listed = f"<details><summary>All {len(table)} components</summary>{frame_html(table)}</details>"
    title = f"Components of {result.fields['Name'].replace('_', ', ')} ({result.root.name})"
    return Panel(_anchor(result, "components", number), title, about + more + listed + _meanings(result))


def lesions_panel(found: Sequence[Result]) -> Panel:
    """Show what a model cannot do without a network.

    Returns one part per folder: pictures and the table in short.
    """
    return Panel("lesions", "What networks do", "", tuple(_lesion(one, n) for n, one in enumerate(found)))


_PICTURES: Final = {
    "dissociation.png": "Every network against every text: change of bits per token once its units are lesioned.",
    "keep.png": "All units but those of the first networks lesioned: bits per token over units kept.",
}


def _lesion(result: Result, number: int) -> Panel:
    """Pictures, and tables in short."""
    folder, own = result.path.parent, result.own
    name = folder.relative_to(result.root.parent).as_posix()
    controls = own["Controls"]
    against = (
        f"{controls['Number']} random masks ({controls['Kind']}) each" if controls.get("Number") else "no random masks"
    )
    methods = dict.fromkeys(str(one["Method"]) for one in own.get("Lesions", []) or [own])
    about = f"<p>Model {escape(str(own.get('Model')))}, method {escape('; '.join(methods))}, {against}.</p>"
    figures = [
        figure_html((folder / file).read_bytes(), text, text, wide=True)
        for file, text in _PICTURES.items()
        if (folder / file).exists()
    ]
    files = [file for file in ("scores.tsv", "summary.tsv", "dissociation.tsv") if (folder / file).exists()]
    tables = [f"<details><summary>{file}</summary>{frame_html(read_tsv(folder / file))}</details>" for file in files]
    return Panel(
        _anchor(result, "lesions", number), f"Lesions: {name}", "".join([about, *figures, *tables, _meanings(result)])
    )


def planted_panel(sources: Sources, analyses: Sequence[Result], components: Sequence[Result]) -> Panel:
    """Hold what was found against what is known by construction.

    Returns A table, one row per planted network, and a picture of what components share with them.
    """
    rows, several = [], len({one.root for one in analyses}) > 1
    truths = [(parse_name(path.name)[1], load_mask(path)) for path in sources.truths]
    for named, truth in truths:
        task, site = named["task"], named.get("acq", "")
        alike = [one for one in analyses if (one.fields["Task"], one.site, one.space()) == (task, site, truth.space)]
        own: list[Result | None] = [*alike] or [None]
        for one in own:
            where = {"results in": one.root.name if one else "n/a"} if several else {}
            planted = {"task": task, "site": site, **where, "planted": truth.n_selected}
            rows.append({**planted, **_against(truth.selected, one)})
    figures = []
    for one in components:
        # what was found in a single run or layer is told elsewhere: here it would only be many pictures
        there = {named["task"]: mask.selected for named, mask in truths if mask.space == one.space()}
        if there and one.own["Decomposition"]["By"] == "subject":
            figures.append(_best(_shares(there, one), one))
    note = (
        '<p class="note"><strong>planted</strong>: units of the network, known by construction; <strong>found</strong> '
        "by <code>glm</code>, in any contrast; <strong>false</strong>: found and not planted; <strong>Dice</strong>: 1 "
        "where found and planted are the same.</p>"
    )
    return Panel("planted", "Planted against found", frame_html(pd.DataFrame(rows)) + note + "".join(figures))


def _against(truth: NDArray[np.bool_], result: Result | None) -> dict[str, object]:
    """What was found of a planted network, over all contrasts of its task."""
    if result is None:
        return {"found": "n/a", "false": "n/a", "Dice": "n/a"}
    network = read_result(result.path).selected.any(0)
    hits = int((network & truth).sum())
    size = int(network.sum())
    return {"found": size, "false": size - hits, "Dice": float(index_of("dice", hits, size, truth.sum()))}


def _shares(planted: Mapping[str, NDArray[np.bool_]], result: Result) -> pd.DataFrame:
    """Intersection over union of every component (rows) with planted networks (columns)."""
    read = read_result(result.path)
    iou = iou_matrix(read.selected, np.stack(list(planted.values())))
    return pd.DataFrame(iou, [one.name for one in read.items], list(planted))


def _best(shares: pd.DataFrame, result: Result) -> str:
    """What components share with planted networks."""
    return figure_html(
        as_png(draw_iou(shares.rename_axis("network").reset_index())),
        "Intersection over union of planted networks and the components most like them",
        f"Planted networks against networks found without a task ({result.root.name}, "
        f"site {result.site or 'unnamed'}): units in both over units in either.",
    )
