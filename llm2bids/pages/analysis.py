"""One page per subject, and one for groups, that tells what was found; opens from the file system, offline."""

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

_UNITS_SHOWN: Final = 15
_TEXT: Final = frozenset({"hookpoint", "task", "site", "contrast"})
_NUMBERS: Final = {"effect": "#.3g", "z": ".2f", "p_corrected": "#.2g"}


def write_page(out: Dataset, place: str) -> Path:
    """Write the page of a subject or of the groups."""
    told = [(path, read_json(path)) for path in sorted((out.root / place).rglob(f"*_{SUMMARY}"))]
    contents = [
        ([summary["Task"], summary["Site"], *_counts(found)], f"#part{number}-{position}")
        for number, (_, summary) in enumerate(told)
        for position, found in enumerate(summary["Found"])
    ]
    head = ("task", "site", "contrast", "units found", "units tested", "|z| from")
    panels = [analysis_panel(path, summary, f"part{number}") for number, (path, summary) in enumerate(told)]
    title = f"{place}: units that answer to a task"
    return save_page(out.root / f"{place}.html", title, [table_html(head, contents, _TEXT), *panels])


def _counts(found: dict[str, Any]) -> list[str]:
    """Contrast, units found and tested, and threshold, as text."""
    threshold = "" if found["threshold"] is None else f"{found['threshold']:.2f}"
    return [found["contrast"], str(found["n_selected"]), str(found["n_tested"]), threshold]


def analysis_panel(path: Path, summary: dict[str, Any], anchor: str) -> Panel:
    """Tell what an analysis did and found.

    Returns one part per contrast: map, size over depth, strongest units.
    """
    space = UnitSpace.from_json(summary["Llm2bids"]["UnitSpace"])
    label = ", ".join(filter(None, (f"Task {summary['Task']}", summary["Site"] and f"site {summary['Site']}")))
    contrasts = tuple(
        _contrast(path.parent, found, space, f"{anchor}-{number}") for number, found in enumerate(summary["Found"])
    )
    return Panel(anchor, label, "\n".join([_about(summary), *_designs(path, summary)]), contrasts)


def _about(summary: dict[str, Any]) -> str:
    """How it was analysed, and what must not be claimed."""
    statistics = summary["Llm2bids"]["Statistics"]
    tested = f"{statistics['CorrectionDescription']}, level {statistics['Alpha']:g}, {tails_of(summary)}"
    made = _made(summary["Llm2bids"].get("Transformations", []))
    about = f"{_samples(summary)}. {statistics['InferenceDescription']}{made} Correction: {tested}."
    if statistics["Inference"] != "token":
        return f"<p>{escape(about)}</p>"
    return (
        f'<p>{escape(about)}</p><p class="warning">Inference over tokens: not calibrated. Tokens of one prompt are '
        "not independent, so that units are found where there is nothing. For claims use "
        "<code>--inference prompt</code>.</p>"
    )


def _designs(path: Path, summary: dict[str, Any]) -> list[str]:
    """Pictures of the design matrices."""
    home = path.parent.parent if path.parent.name == "func" else path.parent
    figures = []
    for name in summary["Files"]:
        if name.endswith("design.png") and (picture := home / name).exists():
            of = f" of {parsed}" if (parsed := parse_name(name)[1].get("contrast")) and "Runs" in summary else ""
            caption = f"Design matrix{of}: one row per prompt, scan or subject."
            figures.append(figure_html(picture.read_bytes(), f"Design matrix {picture.stem}", caption, wide=True))
    if not figures:
        return []
    return [f"<details><summary>Design matrix</summary>{''.join(figures)}</details>"]


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


def _contrast(folder: Path, found: dict[str, Any], space: UnitSpace, anchor: str) -> Panel:
    """One contrast: what was found, where, how strong."""
    z, network = read_map(folder / found["z_map"], space), read_map(folder / found["mask"], space) > 0
    name, n_selected, n_tested, threshold = _counts(found)
    share = found["n_selected"] / max(found["n_tested"], 1)
    text = (
        f"<p>{n_selected} of {n_tested} units tested ({share:.1%}) are in the network"
        f"{f', |z| from {threshold}' if threshold else ''}: <code>{escape(found['mask'])}</code>.</p>"
    )
    text += "".join(_top(one) for one in found.get("top", []))
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
        text += _strongest(folder / found["units"])
    return Panel(anchor, f"Contrast {name}", text)


def _strongest(path: Path) -> str:
    """The first units of a network."""
    units = read_tsv(path).head(_UNITS_SHOWN)
    rows = [
        [format(float(cell), _NUMBERS[name]) if name in _NUMBERS else cell for name, cell in one.items()]
        for one in units.to_dict("records")
    ]
    note = f"The {len(units)} strongest units; effect in standard deviations of the unit."
    return f'<p class="note">{note}</p>{table_html(list(units.columns), [(row, None) for row in rows], _TEXT)}'


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
