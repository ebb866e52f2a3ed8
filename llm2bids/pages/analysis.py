"""The page of a subject or a group: design, maps, networks and strongest units of every analysis."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

from llm2bids.bids.names import parse_name
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.pages.frame import Panel, figure_html, save_page, table_html
from llm2bids.plots.layers import draw_layers, draw_profile
from llm2bids.plots.pictures import as_png
from llm2bids.results.summaries import SUMMARY, tails_of
from llm2bids.results.targets import read_map
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llm2bids.bids.dataset import Dataset

_MAX_UNITS: Final = 15
_TEXT: Final = frozenset({"hookpoint", "task", "site", "contrast"})
_NUMBERS: Final = {"effect": "#.3g", "z": ".2f", "p_corrected": "#.2g"}


def write_page(out: Dataset, place: str) -> Path:
    """Write the page of a subject or of the groups; `place` is its folder in the derivative."""
    summaries = [(path, read_json(path)) for path in sorted((out.root / place).rglob(f"*_{SUMMARY}"))]
    contents = [
        ([summary["Task"], summary["Site"], *_counts(entry)], f"#part{number}-{position}")
        for number, (_, summary) in enumerate(summaries)
        for position, entry in enumerate(summary["Found"])
    ]
    head = ("task", "site", "contrast", "units found", "units tested", "|z| from")
    panels = [analysis_panel(path, summary, f"part{number}") for number, (path, summary) in enumerate(summaries)]
    title = f"{place}: units that answer to a task"
    return save_page(out.root / f"{place}.html", title, [table_html(head, contents, _TEXT), *panels])


def _counts(entry: dict[str, Any]) -> list[str]:
    """Contrast, units found and tested, and threshold, as text."""
    threshold = "" if entry["threshold"] is None else f"{entry['threshold']:.2f}"
    return [entry["contrast"], str(entry["n_selected"]), str(entry["n_tested"]), threshold]


def analysis_panel(path: Path, summary: dict[str, Any], anchor: str) -> Panel:
    """Describe an analysis; each contrast is a panel with map, size over depth and strongest units."""
    space = UnitSpace.from_json(summary["Llm2bids"]["UnitSpace"])
    label = ", ".join(filter(None, (f"Task {summary['Task']}", summary["Site"] and f"site {summary['Site']}")))
    contrasts = tuple(
        _contrast_panel(path.parent, entry, space, f"{anchor}-{number}")
        for number, entry in enumerate(summary["Found"])
    )
    return Panel(anchor, label, "\n".join([_methods(summary), *_designs(path, summary)]), contrasts)


def _methods(summary: dict[str, Any]) -> str:
    """How the data were analysed, with a warning if tokens were the samples."""
    statistics = summary["Llm2bids"]["Statistics"]
    tested = f"{statistics['CorrectionDescription']}, level {statistics['Alpha']:g}, {tails_of(summary)}"
    columns = _transformations(summary["Llm2bids"].get("Transformations", []))
    text = f"{_data(summary)}. {statistics['InferenceDescription']}{columns} Correction: {tested}."
    if statistics["Inference"] != "token":
        return f"<p>{escape(text)}</p>"
    return (
        f'<p>{escape(text)}</p><p class="warning">Inference over tokens: not calibrated. Tokens of one prompt are '
        "not independent, so that units are found where there is nothing. For claims use "
        "<code>--inference prompt</code>.</p>"
    )


def _designs(path: Path, summary: dict[str, Any]) -> list[str]:
    """Pictures of the design matrices, folded away."""
    home = path.parent.parent if path.parent.name == "func" else path.parent
    figures = []
    for name in summary["Files"]:
        if name.endswith("design.png") and (picture := home / name).exists():
            contrast = parse_name(name)[1].get("contrast") if "Runs" in summary else None
            caption = f"Design matrix{f' of {contrast}' if contrast else ''}: one row per prompt, scan or subject."
            figures.append(figure_html(picture.read_bytes(), f"Design matrix {picture.stem}", caption, wide=True))
    if not figures:
        return []
    return [f"<details><summary>Design matrix</summary>{''.join(figures)}</details>"]


def _data(summary: dict[str, Any]) -> str:
    """Model and runs of a subject, or subjects and models of a group."""
    metadata, space = summary["Llm2bids"], summary["Space"]
    if "Runs" in summary:
        return f"Model {_model(metadata)}, space {space}, runs {', '.join(summary['Runs'])}"
    subjects = [f"{label} ({_model(identity)})" for label, identity in metadata["Subjects"].items()]
    dropped = f"; left out {', '.join(metadata['SubjectsDropped'])}" if metadata["SubjectsDropped"] else ""
    return f"Space {space}, {len(subjects)} subjects: {', '.join(subjects)}{dropped}"


def _model(identity: dict[str, Any]) -> str:
    """A model and its revision."""
    return " ".join(str(identity[key]) for key in ("Model", "Revision") if identity.get(key))


def _contrast_panel(folder: Path, entry: dict[str, Any], space: UnitSpace, anchor: str) -> Panel:
    """Results of one contrast: size of the network, map, share of each layer, strongest units."""
    z, network = read_map(folder / entry["z_map"], space), read_map(folder / entry["mask"], space) > 0
    name, n_selected, n_tested, threshold = _counts(entry)
    share = entry["n_selected"] / max(entry["n_tested"], 1)
    text = (
        f"<p>{n_selected} of {n_tested} units tested ({share:.1%}) are in the network"
        f"{f', |z| from {threshold}' if threshold else ''}: <code>{escape(entry['mask'])}</code>.</p>"
    )
    text += "".join(map(_top_share, entry.get("top", [])))
    text += _pattern(entry["pattern"]) if entry.get("pattern") else ""
    text += figure_html(
        as_png(draw_layers(z, network, space)),
        f"z map of contrast {name}, layer by layer",
        "z of every unit, one panel per layer (x and y fold its channels and mean nothing); dots mark the network, "
        "grey holds no unit.",
        wide=True,
    )
    if network.any():
        text += figure_html(
            as_png(draw_profile(network, space)),
            f"Share of each layer in the network of {name}",
            "Share of the units of each layer that are in the network.",
        )
        text += _strongest(folder / entry["units"])
    return Panel(anchor, f"Contrast {name}", text)


def _strongest(path: Path) -> str:
    """Table of the strongest units of a network."""
    units = read_tsv(path).head(_MAX_UNITS)
    rows = [
        [format(float(cell), _NUMBERS[name]) if name in _NUMBERS else cell for name, cell in row.items()]
        for row in units.to_dict("records")
    ]
    note = f"The {len(units)} strongest units; effect in standard deviations of the unit."
    return f'<p class="note">{note}</p>{table_html(list(units.columns), [(row, None) for row in rows], _TEXT)}'


def _top_share(top: dict[str, Any]) -> str:
    """Size of an uncorrected mask of the units with the largest statistic."""
    threshold = "" if top["threshold"] is None else f", |z| from {top['threshold']:.2f}"
    return (
        f"<p>Top {100 * top['share']:g} % of the units tested, uncorrected: {top['n_selected']} units{threshold}, of "
        f"which {top['n_outside']} are not in the network: <code>{escape(top['mask'])}</code>.</p>"
    )


def _pattern(pattern: dict[str, Any]) -> str:
    """Measures of a pattern on clusters it was not fitted on, over all hookpoints."""
    if pattern["auc"] is None:
        measures = "not judged, since a condition has a single cluster of texts"
    else:
        measures = (
            f"AUC {pattern['auc']:.3f} [{pattern['auc_low']:.3f}, {pattern['auc_high']:.3f}], cosine of halves "
            f"{pattern['cosine_halves']:.2f} (ceiling {pattern['noise_ceiling']:.2f}), crossnobis distance "
            f"{pattern['crossnobis']:.3g}, p = {pattern['p']:.2g}, on clusters of texts that it was not fitted on"
        )
    return f"<p>Pattern: {measures}: <code>{escape(pattern['filter'])}</code>.</p>"


def _transformations(instructions: Sequence[dict[str, Any]]) -> str:
    """Columns that the model makes from its conditions, as a sentence."""
    products = [
        f"{step['Output'][0]} = {' × '.join(step['Input'])}" for step in instructions if step["Name"] == "Product"
    ]
    bins = [
        f"{', '.join(step['Input'])} in bins of tokens from {', '.join(map(str, step['FIRDelays']))}"
        for step in instructions
        if step["Name"] == "Convolve"
    ]
    return f" Columns made of conditions: {'; '.join([*products, *bins])}." if instructions else ""
