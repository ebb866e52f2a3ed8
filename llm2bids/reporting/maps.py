"""Networks of tasks: a viewer of the maps of a site, sizes over depth, and each analysis in turn.

The viewer shows maps on their slices, and any unit's value and time course. It asks nothing of the internet.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from llm2bids.bids.templates import raw_text, template_text
from llm2bids.errors import DatasetError, SpaceError
from llm2bids.networks.map_sets import read_result
from llm2bids.pages.analysis import analysis_panel
from llm2bids.pages.frame import Panel, figure_html, table_html
from llm2bids.plots import draw_sizes
from llm2bids.plots.layers import label_layers
from llm2bids.plots.pictures import as_png
from llm2bids.reporting.time_courses import STEPS, read_time_courses

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.networks.map_sets import Template
    from llm2bids.reporting.sources import Result, Sources
    from llm2bids.reporting.time_courses import TimeCourses
    from llm2bids.space import UnitSpace

_SIGNS: Final[Mapping[str, Literal[0, 1, -1]]] = {"two": 0, "positive": 1, "negative": -1}
_COURSES: Final = 6_000_000
"""Bytes of time courses on a page, shared by all sites."""


@dataclass(frozen=True, slots=True, eq=False)
class ViewerMap:
    """A map that the viewer offers.

    - `name`: its name in the list of maps.
    - `task`: label of the task whose time courses belong to it.
    - `values` (n_units,): one value per unit; NaN where there is none.
    - `network` (n_units,): units of the network that was made of the map.
    - `label`: the statistic, e.g. ``z``.
    - `threshold`: size from which units are in the network; without it all units are shown at first.
    - `tail`: sign of the values that can be in the network (one-tailed and F tests); 0 for both signs.
    """

    name: str
    task: str
    values: NDArray[np.floating[Any]]
    network: NDArray[np.bool_]
    label: str = "z"
    threshold: float | None = None
    tail: Literal[0, 1, -1] = 0


def maps_panel(sources: Sources, site: str, analyses: Sequence[Result]) -> Panel:
    """Show the networks of the tasks at one site: a viewer, sizes over depth, and a part per analysis."""
    results = [(analysis, read_result(analysis.path)) for analysis in analyses]
    titles = _titles(analyses)
    space = results[0][1].space
    maps = [
        _map(analysis, item, summary, title)
        for (analysis, map_set), title in zip(results, titles, strict=True)
        if map_set.space == space
        for item, summary in zip(map_set.items, analysis.fields["Found"], strict=True)
    ]
    runs = [run for run in sources.prepared.values() if run.volumes.entities.get("acq", "") == site]
    in_any_network = np.logical_or.reduce([item.network for item in maps])
    budget = _COURSES // len(sources.sites)
    courses = read_time_courses([run for run in runs if run.volumes.space == space], space, in_any_network, budget)
    anchor = f"maps-{site}" if site else "maps"
    parts = [
        replace(analysis_panel(analysis.path, analysis.fields, f"{anchor}-{number}"), title=f"Task {title}")
        for number, (analysis, title) in enumerate(zip(analyses, titles, strict=True))
    ]
    viewer = viewer_html(space, maps, courses, f"{anchor}-0")
    sizes = _sizes({item.name: item.network for item in maps}, space)
    return Panel(anchor, f"Networks, site {site or 'unnamed'}", f"{viewer}{sizes}", tuple(parts))


def _titles(analyses: Sequence[Result]) -> list[str]:
    """Name analyses by task, and by the folder of their results where two are of one task."""
    tasks = [str(analysis.fields["Task"]) for analysis in analyses]
    return [
        f"{task} ({analysis.root.name})" if tasks.count(task) > 1 else task
        for task, analysis in zip(tasks, analyses, strict=True)
    ]


def networks_html(analyses: Sequence[Result], page: str = "", subjects: Collection[str] = ()) -> str:
    """List the networks in a table: a row per subject, task, site and contrast.

    `page`: name of the page of a subject, with ``{}`` for its label, to which its rows link.
    """
    columns = ["subject", "task", "site", "contrast", "units found", "units tested", "correction", "level"]
    columns += ["results in"] if len({analysis.root for analysis in analyses}) > 1 else []
    rows = []
    for analysis in analyses:
        statistics = analysis.metadata["Statistics"]
        subject = analysis.fields.get("Subject", "group")
        for summary in analysis.fields["Found"]:
            cells = [subject, analysis.fields["Task"], analysis.site, summary["contrast"], f"{summary['n_selected']:,}"]
            cells += [f"{summary['n_tested']:,}", statistics["Correction"], f"{statistics['Alpha']:g}"]
            cells += [analysis.root.name]
            rows.append((cells[: len(columns)], page.format(subject) if subject in subjects else None))
    return table_html(columns, rows, {"subject", "task", "site", "contrast", "correction", "results in"})


def _map(result: Result, item: Template, summary: Mapping[str, object], title: str) -> ViewerMap:
    """Make a map for the viewer."""
    task = str(result.fields["Task"])
    threshold = summary["threshold"]
    size = float(threshold) if isinstance(threshold, int | float) else None
    tail = 1 if summary["test"] == "F" else _SIGNS[result.metadata["Statistics"]["Tail"]]  # F has no sign
    return ViewerMap(f"{title}, {summary['contrast']}", task, item.values, item.selected, "z", size, tail)


def _sizes(networks: Mapping[str, NDArray[np.bool_]], space: UnitSpace) -> str:
    """Draw sizes over depth side by side."""
    return figure_html(
        as_png(draw_sizes(networks, space)),
        f"Share of each layer in {len(networks)} networks",
        "Size of each network over depth: share of the units of a layer that are in it.",
        wide=True,
    )


def niivue_html() -> str:
    """Embed NiiVue with its licence, once per page; it draws nothing until a viewer asks for it."""
    licence, code = raw_text("niivue/LICENSE"), raw_text("niivue/niivue.umd.js")
    version = json.loads(raw_text("niivue/niivue.json"))["Version"]
    return f"<script>\n/*! NiiVue {version}\n\n{licence}*/\n{_inside_script(code)}</script>"


def viewer_html(space: UnitSpace, maps: Sequence[ViewerMap], courses: Mapping[str, TimeCourses], anchor: str) -> str:
    """Make the viewer of one site; the page needs `niivue_html` once.

    `anchor` is the id of the part of the page that shows the same maps as pictures. Scripts reach the viewer by it, as
    ``window.llm2bids[anchor]``.
    """
    if not maps:
        raise DatasetError(f"no map of site {space.site} found, at least one needed; leave the viewer out")
    if not re.fullmatch(r"[A-Za-z][\w-]*", anchor):
        raise DatasetError(f"anchor {anchor!r} found; use a letter, then letters, digits, - and _")
    content = {"space": _space_fields(space), "maps": [_map_fields(item, space) for item in maps], "steps": STEPS}
    blocks = [_json_html(f"{anchor}-viewer-maps", content)]
    blocks += [_json_html(f"{anchor}-viewer-course-{task}", _course_fields(item)) for task, item in courses.items()]
    options = "".join(f'<option value="{n}">{escape(item.name)}</option>' for n, item in enumerate(maps))
    body = template_text(
        "viewer.html",
        anchor=anchor,
        site=escape(space.site),
        options=options,
        last_layer=space.n_hookpoints - 1,
        last_channel=max(space.n_channels) - 1,
    )
    code = f'<script data-anchor="{anchor}">\n{_inside_script(raw_text("viewer.js"))}</script>'
    return "\n".join([f"<style>\n{raw_text('viewer.css')}</style>", body, *blocks, code])


def _inside_script(code: str) -> str:
    """Escape code that would end the script element it is in."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", code, flags=re.IGNORECASE)


def _json_html(identifier: str, content: Mapping[str, Any]) -> str:
    """Embed data as JSON that no text in it can end."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escape(identifier)}">{text}</script>'


def _packed(values: NDArray[Any]) -> str:
    """Compress numbers to text, little-endian and without a date, so that equal numbers give equal text."""
    payload = values.astype(values.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(gzip.compress(payload, 6, mtime=0)).decode()


def _space_fields(space: UnitSpace) -> dict[str, Any]:
    """Describe a space as the viewer needs it to lay units on slices."""
    return {
        "site": space.site,
        "hookpoints": space.hookpoints,
        "blocks": space.blocks,
        "names": label_layers(space.blocks, space.hookpoints),
        "channels": space.n_channels,
        "shape": space.shape,
        "empty": space.n_empty,
    }


def _map_fields(viewer_map: ViewerMap, space: UnitSpace) -> dict[str, Any]:
    """Describe a map, with its values in single precision, as its file holds them."""
    for what, array in {"values": viewer_map.values, "a network": viewer_map.network}.items():
        if array.shape != (space.n_units,):
            raise SpaceError(
                f"{what} of shape {array.shape} found in map {viewer_map.name}, ({space.n_units},) needed for "
                f"{space.label}; pass one per unit"
            )
    return {
        "name": viewer_map.name,
        "task": viewer_map.task,
        "label": viewer_map.label,
        "threshold": viewer_map.threshold,
        "tail": viewer_map.tail,
        "values": _packed(viewer_map.values.astype(np.float32)),
        "network": _packed(viewer_map.network.astype(np.uint8)),
    }


def _course_fields(courses: TimeCourses) -> dict[str, Any]:
    """Describe the time courses of a task, unit by unit."""
    return {
        "description": courses.description,
        "scans": courses.n_scans,
        "runs": [
            {
                "label": run.label,
                "scans": run.n_scans,
                "prompts": [(prompt.start, prompt.n_scans, prompt.trial_type) for prompt in run.prompts],
            }
            for run in courses.runs
        ],
        "units": _packed(courses.units.astype(np.int32)),
        "points": _packed(courses.points),
    }
