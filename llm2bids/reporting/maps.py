"""Networks of tasks: the maps of a site to look at, their sizes over depth, and each analysis for itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from llm2bids.networks.map_sets import read_result
from llm2bids.pages.analysis import analysis_panel
from llm2bids.pages.frame import Panel, figure_html, table_html
from llm2bids.plots import draw_sizes
from llm2bids.plots.pictures import as_png
from llm2bids.reporting.time_courses import read_courses
from llm2bids.reporting.viewer import ViewerMap, viewer_html

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.networks.map_sets import Template
    from llm2bids.reporting.sources import Result, Sources
    from llm2bids.space import UnitSpace

_SIGNS: Final[Mapping[str, Literal[0, 1, -1]]] = {"two": 0, "positive": 1, "negative": -1}
_COURSES: Final = 6_000_000
"""Bytes of time courses on a page, which sites share."""


def maps_panel(sources: Sources, site: str, analyses: Sequence[Result]) -> Panel:
    """Show the networks of the tasks at one site.

    Returns A viewer, sizes over depth, and a part per analysis.
    """
    found = [(one, read_result(one.path)) for one in analyses]
    titles = _titles(analyses)
    space = found[0][1].space
    told = [(one, read.items, title) for (one, read), title in zip(found, titles, strict=True) if read.space == space]
    maps = [
        _map(one, item, of, title)
        for one, items, title in told
        for item, of in zip(items, one.fields["Found"], strict=True)
    ]
    runs = [run for run in sources.prepared.values() if run.volumes.entities.get("acq", "") == site]
    anyone = np.logical_or.reduce([one.network for one in maps])
    budget = _COURSES // len(sources.sites)
    courses = read_courses([run for run in runs if run.volumes.space == space], space, anyone, budget)
    anchor = f"maps-{site}" if site else "maps"
    parts = [
        replace(analysis_panel(one.path, one.fields, f"{anchor}-{number}"), title=f"Task {title}")
        for number, (one, title) in enumerate(zip(analyses, titles, strict=True))
    ]
    viewer = viewer_html(space, maps, courses, f"{anchor}-0")
    sizes = _sizes({one.name: one.network for one in maps}, space)
    return Panel(anchor, f"Networks, site {site or 'unnamed'}", f"{viewer}{sizes}", tuple(parts))


def _titles(analyses: Sequence[Result]) -> list[str]:
    """Tasks, each with the folder of its results where another has results of the same task."""
    tasks = [str(one.fields["Task"]) for one in analyses]
    return [
        f"{task} ({one.root.name})" if tasks.count(task) > 1 else task
        for task, one in zip(tasks, analyses, strict=True)
    ]


def found_html(analyses: Sequence[Result], page: str = "", subjects: Collection[str] = ()) -> str:
    """List what was found.

    `page`: name of the page of a subject with ``{}`` for its label, to which rows lead. Returns HTML: a row per
    subject, task, site and contrast.
    """
    columns = ["subject", "task", "site", "contrast", "units found", "units tested", "correction", "level"]
    columns += ["results in"] if len({one.root for one in analyses}) > 1 else []
    rows = []
    for one in analyses:
        asked = one.own["Statistics"]
        who = one.fields.get("Subject", "group")
        for found in one.fields["Found"]:
            cells = [who, one.fields["Task"], one.site, found["contrast"], f"{found['n_selected']:,}"]
            cells += [f"{found['n_tested']:,}", asked["Correction"], f"{asked['Alpha']:g}"]
            cells += [one.root.name]
            rows.append((cells[: len(columns)], page.format(who) if who in subjects else None))
    return table_html(columns, rows, {"subject", "task", "site", "contrast", "correction", "results in"})


def _map(result: Result, item: Template, found: Mapping[str, object], title: str) -> ViewerMap:
    """A map for the viewer."""
    task = str(result.fields["Task"])
    threshold = found["threshold"]
    least = float(threshold) if isinstance(threshold, int | float) else None
    tail = 1 if found["test"] == "F" else _SIGNS[result.own["Statistics"]["Tail"]]  # F is large or it is not
    return ViewerMap(f"{title}, {found['contrast']}", task, item.values, item.selected, "z", least, tail)


def _sizes(networks: Mapping[str, NDArray[np.bool_]], space: UnitSpace) -> str:
    """Sizes over depth, side by side."""
    return figure_html(
        as_png(draw_sizes(networks, space)),
        f"Share of each layer in {len(networks)} networks",
        "Size of each network over depth: share of the units of a layer that are in it.",
        wide=True,
    )
