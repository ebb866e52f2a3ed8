"""Panels of results: answers about networks, components, lesions, and planted against found networks."""

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
"""Title of each question about networks, by the start of its label."""
_PICTURES: Final = {
    "dissociation.png": "Every network against every text: change of bits per token once its units are lesioned.",
    "keep.png": "All units but those of the first networks lesioned: bits per token over units kept.",
}
"""Captions of the pictures that ``lesion`` draws."""
_MAX_ROWS: Final = 40
"""Most rows of a table that are shown."""
_MAX_MAPS: Final = 6
"""Most maps that are drawn of a decomposition."""
_MAX_MAPS_PER_PAGE: Final = 24
"""Most maps of components on a page: where there are many decompositions, each has fewer, and the last none."""
_DIGITS: Final = 3


def frame_html(table: pd.DataFrame) -> str:
    """Lay out a table as it is on disk, with numbers rounded.

    >>> frame_html(pd.DataFrame({"task": ["a"], "dice": ["0.123456"]})).partition("<tbody>")[2][:54]
    '<tr><td class="text">a</td><td>0.123</td></tr></tbody>'
    """
    numbers = {name: pd.to_numeric(table[name].replace("n/a", np.nan), errors="coerce") for name in table}
    text = [str(name) for name in table if (numbers[name].isna() & (table[name] != "n/a")).any()]
    columns = {name: table[name] if str(name) in text else numbers[name].map(_number) for name in table}
    rows = [
        ([str(cell) for cell in row], None)
        for row in zip(*(column.head(_MAX_ROWS) for column in columns.values()), strict=True)
    ]
    note = f'<p class="note">{len(table) - _MAX_ROWS} more rows are in the file.</p>' if len(table) > _MAX_ROWS else ""
    return table_html([str(name) for name in table], rows, text) + note


def _number(value: float) -> str:
    """Round a number to the digits that are read."""
    if np.isnan(value):
        return "-"
    return f"{value:,.0f}" if value == round(value) else f"{value:.{_DIGITS}g}"


def answers_panel(answers: Sequence[Result]) -> Panel:
    """Show answers to questions about networks, a part each."""
    order = list(_TITLES)
    ordered = sorted(
        answers, key=lambda answer: order.index(question) if (question := _question(answer)) else len(order)
    )
    return Panel(
        "questions", "Questions about networks", "", tuple(_answer(answer, n) for n, answer in enumerate(ordered))
    )


def _label(answer: Result) -> str:
    """Read the label of a question from the name of its answer."""
    return parse_name(answer.path.name)[1].get("desc", "answer")


def _question(answer: Result) -> str | None:
    """Find the question to which a label belongs; some labels say more than the question."""
    return next((name for name in _TITLES if _label(answer).startswith(name)), None)


def _answer(answer: Result, number: int) -> Panel:
    """Show figures and tables of an answer, and the meaning of its columns."""
    stem, label, question = answer.path.name.removesuffix("_networks.json"), _label(answer), _question(answer)
    files = sorted(path for path in answer.path.parent.glob(f"{stem}_*") if path.suffix in (".png", ".tsv"))
    site = parse_name(answer.path.name)[1].get("acq")
    title = f"{_TITLES[question] if question else label}{f', site {site}' if site else ''}"
    figures = [
        figure_html(path.read_bytes(), f"{title}: {path.stem}", f"{title}.", wide=True)
        for path in files
        if path.suffix == ".png"
    ]
    tables = [path for path in files if path.suffix == ".tsv" and "_run-" not in path.name]
    laid_out = [
        f"<details><summary>{escape(path.name)}</summary>{frame_html(read_tsv(path))}</details>" for path in tables
    ]
    return Panel(_anchor(answer, label, number), title, "".join([*figures, *laid_out, _meanings(answer)]))


def _meanings(answer: Result) -> str:
    """List the meaning of columns from the sidecar."""
    meanings = answer.fields.get("Columns", {})
    lines = "".join(f"<li><code>{escape(name)}</code>: {escape(text)}</li>" for name, text in meanings.items())
    return f"<details><summary>What the columns mean</summary><ul>{lines}</ul></details>" if meanings else ""


def _anchor(result: Result, name: str, number: int) -> str:
    """Make an anchor that is unique on the page: folders of one name may hold files of one name."""
    return f"{name}-{number + 1}-{result.path.name.split('.')[0]}"


def components_panel(results: Sequence[Result]) -> Panel:
    """Show networks found without a task: for each decomposition a table, and maps of its first components."""
    return Panel(
        "components",
        "Networks without a task",
        "",
        tuple(_components(result, n, _n_maps(n, len(results))) for n, result in enumerate(results)),
    )


def _n_maps(number: int, n_results: int) -> int:
    """Decide how many maps of a decomposition fit on the page."""
    return min(_MAX_MAPS, max(1, _MAX_MAPS_PER_PAGE // n_results)) if number < _MAX_MAPS_PER_PAGE else 0


def _components(result: Result, number: int, n_maps: int) -> Panel:
    """Show a decomposition: its method, maps of its first components, and a table of all."""
    map_set = read_result(result.path)
    table = read_tsv(result.path.with_name(result.fields["Components"].replace(".nii.gz", ".tsv")))
    settings = result.metadata["Decomposition"]
    method = (
        f"<p>{result.fields['NumberComponents']} components of {result.fields['NumberSamples']:,} samples "
        f"({escape(settings['Method'])}, {escape(settings['Samples'])}s as samples, by {escape(settings['By'])}); a "
        f"unit is in a network if it has a {escape(settings['Threshold'])} ({escape(settings['Tail'])} tail).</p>"
    )
    figures = [
        figure_html(
            as_png(draw_layers(item.values, item.selected, map_set.space)),
            f"Map of component {item.name}, layer by layer",
            f"Component {item.name.removeprefix('ica')}: {int(item.selected.sum())} units in its network (dots).",
            wide=True,
        )
        for item in map_set.items[:n_maps]
    ]
    maps_html = (
        f"<details open><summary>Maps of the first {len(figures)} components</summary>{''.join(figures)}</details>"
        * bool(figures)
    )
    table_of_all = f"<details><summary>All {len(table)} components</summary>{frame_html(table)}</details>"
    title = f"Components of {result.fields['Name'].replace('_', ', ')} ({result.root.name})"
    return Panel(_anchor(result, "components", number), title, method + maps_html + table_of_all + _meanings(result))


def lesions_panel(results: Sequence[Result]) -> Panel:
    """Show what a model cannot do without a network, a part per folder."""
    return Panel("lesions", "What networks do", "", tuple(_lesion(result, n) for n, result in enumerate(results)))


def _lesion(result: Result, number: int) -> Panel:
    """Show pictures and tables of a lesion."""
    folder, metadata = result.path.parent, result.metadata
    name = folder.relative_to(result.root.parent).as_posix()
    controls = metadata["Controls"]
    against = (
        f"{controls['Number']} random masks ({controls['Kind']}) each" if controls.get("Number") else "no random masks"
    )
    methods = dict.fromkeys(str(lesion["Method"]) for lesion in metadata.get("Lesions", []) or [metadata])
    method = f"<p>Model {escape(str(metadata.get('Model')))}, method {escape('; '.join(methods))}, {against}.</p>"
    figures = [
        figure_html((folder / file).read_bytes(), text, text, wide=True)
        for file, text in _PICTURES.items()
        if (folder / file).exists()
    ]
    files = [file for file in ("scores.tsv", "summary.tsv", "dissociation.tsv") if (folder / file).exists()]
    tables = [f"<details><summary>{file}</summary>{frame_html(read_tsv(folder / file))}</details>" for file in files]
    return Panel(
        _anchor(result, "lesions", number), f"Lesions: {name}", "".join([method, *figures, *tables, _meanings(result)])
    )


def planted_panel(sources: Sources, analyses: Sequence[Result], components: Sequence[Result]) -> Panel:
    """Compare networks that were found with those that were planted, in a table and in a picture per decomposition."""
    rows, several_folders = [], len({analysis.root for analysis in analyses}) > 1
    truths = [(parse_name(path.name)[1], load_mask(path)) for path in sources.truths]
    for entities, truth in truths:
        task, site = entities["task"], entities.get("acq", "")
        place = (task, site, truth.space)
        matches: list[Result | None] = [
            analysis for analysis in analyses if (analysis.fields["Task"], analysis.site, analysis.space()) == place
        ]
        for analysis in matches or [None]:
            where = {"results in": analysis.root.name if analysis else "n/a"} if several_folders else {}
            planted = {"task": task, "site": site, **where, "planted": truth.n_selected}
            rows.append({**planted, **_recovery(truth.selected, analysis)})
    figures = []
    for result in components:
        # Decompositions of single runs or layers would add many pictures here; they have a part elsewhere.
        planted_here = {entities["task"]: mask.selected for entities, mask in truths if mask.space == result.space()}
        if planted_here and result.metadata["Decomposition"]["By"] == "subject":
            figures.append(_iou_figure(_shares(planted_here, result), result))
    note = (
        '<p class="note"><strong>planted</strong>: units of the network, known by construction; <strong>found</strong> '
        "by <code>glm</code>, in any contrast; <strong>false</strong>: found and not planted; <strong>Dice</strong>: 1 "
        "where found and planted are the same.</p>"
    )
    return Panel("planted", "Planted against found", frame_html(pd.DataFrame(rows)) + note + "".join(figures))


def _recovery(truth: NDArray[np.bool_], result: Result | None) -> dict[str, object]:
    """Count the units of a planted network that were found, over all contrasts of its task."""
    if result is None:
        return {"found": "n/a", "false": "n/a", "Dice": "n/a"}
    network = read_result(result.path).selected.any(0)
    hits = int((network & truth).sum())
    size = int(network.sum())
    return {"found": size, "false": size - hits, "Dice": float(index_of("dice", hits, size, truth.sum()))}


def _shares(planted: Mapping[str, NDArray[np.bool_]], result: Result) -> pd.DataFrame:
    """Compute intersection over union of every component (rows) with planted networks (columns)."""
    map_set = read_result(result.path)
    iou = iou_matrix(map_set.selected, np.stack(list(planted.values())))
    return pd.DataFrame(iou, [component.name for component in map_set.items], list(planted))


def _iou_figure(shares: pd.DataFrame, result: Result) -> str:
    """Draw which components share most with planted networks."""
    return figure_html(
        as_png(draw_iou(shares.rename_axis("network").reset_index())),
        "Intersection over union of planted networks and the components most like them",
        f"Planted networks against networks found without a task ({result.root.name}, "
        f"site {result.site or 'unnamed'}): units in both over units in either.",
    )
