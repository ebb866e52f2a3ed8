"""What was recorded, before any statistics: the design over time, activity over depth, and runs on one sheet."""

from __future__ import annotations

import shlex
from html import escape
from typing import TYPE_CHECKING, Final

from llm2bids.bids.runs import read_events
from llm2bids.pages.frame import Panel, figure_html, table_html
from llm2bids.plots import draw_activity, draw_carpet, draw_design
from llm2bids.plots.layers import label_layers
from llm2bids.plots.pictures import as_png
from llm2bids.reporting.activity import measure_activity, read_carpet

if TYPE_CHECKING:
    import pandas as pd

    from llm2bids.bids.prepared import PreparedRun
    from llm2bids.bids.runs import BoldRun
    from llm2bids.reporting.activity import Activity
    from llm2bids.reporting.sources import Sources

_TRACES: Final = ("global_signal", "tok_surprisal", "tok_entropy", "tok_position")
"""Confounds above a carpet, as far as there are."""
_CARPETS: Final = 6
"""On a page: each is half a megabyte, and sites share them."""
_ROWS: Final = 300
"""Of a carpet."""
_MASSIVE: Final = 20
"""Massive units that are listed."""


def design_panel(sources: Sources) -> Panel:
    """Show what was shown when.

    Returns one picture of all runs; those of other sites were shown the same.
    """
    shown = {_label(run): run for run in reversed(sources.runs)}
    events = {label: _events(shown[label]) for label in reversed(shown)}
    figure = figure_html(
        as_png(draw_design(events, sources.runs[0].t_r)),
        f"Prompts of each condition over the scans of {len(events)} runs",
        "One row per run: what was shown when. A prompt is a span; each of its tokens is a scan.",
        wide=True,
    )
    return Panel("design", "Design", figure)


def signal_panel(sources: Sources, site: str) -> Panel:
    """Show what units of a site did.

    Returns mean and variance over depth, massive activations, and the first run of tasks as carpets.
    """
    runs = [run for run in sources.runs if run.entities.get("acq", "") == site]
    activity = measure_activity([run.bold for run in runs], runs[0].space)
    prepared: dict[str, PreparedRun] = {}
    for run in runs:
        if run.name in sources.prepared:
            prepared.setdefault(run.entities["task"], sources.prepared[run.name])
    anchor = f"signal-{site}" if site else "signal"
    n_carpets = max(1, _CARPETS // len(sources.sites))
    carpets = [_carpet(task, run) for task, run in list(prepared.items())[:n_carpets]]
    others = f"<details><summary>The first run of other tasks</summary>{''.join(carpets[1:])}</details>"
    shown = "".join(carpets[:1]) + (others if len(carpets) > 1 else "")
    command = escape(f"llm2bids prep {shlex.quote(str(sources.raw))}")
    missing = f"<p>Not prepared, or recorded anew since: <code>{command}</code> makes carpets possible.</p>"
    return Panel(anchor, f"Signal, site {site or 'unnamed'}", _activity(activity) + (shown or missing))


def _label(run: BoldRun) -> str:
    """Task and run, without the site."""
    return " ".join(run.entities[key] for key in ("ses", "task", "run") if key in run.entities)


def _events(run: BoldRun) -> pd.DataFrame:
    """What a run was shown."""
    return read_events(run.beside("events.tsv"), run.n_scans * run.t_r)


def _activity(activity: Activity) -> str:
    """Mean and variance over depth, and massive units by name."""
    massive = activity.massive.head(_MASSIVE)
    figure = figure_html(
        as_png(draw_activity(activity.table, activity.massive)),
        f"Mean and variance of activations in {len(activity.table)} layers",
        f"Mean and variance of the units of each layer, over {activity.n_scans:,} scans of "
        f"{len(activity.runs)} run{'s' * (len(activity.runs) > 1)}.",
        wide=True,
    )
    if massive.empty:
        none = "No unit is massive: none is 100 times as active as the median of its layer, and 10 at least."
        return f"{figure}<p>{none}</p>"
    columns = ["unit", "hookpoint", "channel", "mean", "times the median"]
    rows = [
        ([str(one["unit"]), one["hookpoint"], str(one["channel"]), f"{one['mean']:.3g}", f"{one['ratio']:,.0f}"], None)
        for one in massive.to_dict("records")
    ]
    more = f", the {len(massive)} largest of them" if len(massive) < len(activity.massive) else ""
    number = len(activity.massive)
    note = f"{number} massive unit{'s' * (number > 1)}{more}: such units decide norms and distances alone."
    return f"{figure}<p>{note}</p>{table_html(columns, rows, {'hookpoint'})}"


def _carpet(task: str, run: PreparedRun) -> str:
    """One run on one sheet."""
    values, layers = read_carpet(run.volumes.bold, run.volumes.space, max_rows=_ROWS)
    told = run.confounds[[name for name in _TRACES if name in run.confounds]]
    confounds = told.loc[:, told.max() > told.min()]  # of an encoder, surprisal and entropy are not there
    space = run.volumes.space
    names = label_layers(space.blocks, space.hookpoints)
    figure = draw_carpet(values, layers, names, confounds, run.events, run.volumes.t_r)
    caption = f"Task {task}, {run.label}: units by scans, above them confounds and the design."
    return figure_html(as_png(figure), f"Carpet plot of task {task}, {run.label}", caption, wide=True)
