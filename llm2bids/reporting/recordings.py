"""What was recorded, before any statistics: the design over time, activity over depth, and carpets of runs."""

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

_CONFOUNDS: Final = ("global_signal", "tok_surprisal", "tok_entropy", "tok_position")
"""Confounds that are drawn above a carpet."""
_MAX_CARPETS: Final = 6
"""Most carpets on a page, shared by all sites: each takes half a megabyte."""
_CARPET_ROWS: Final = 300
"""Most rows of a carpet."""
_MAX_MASSIVE: Final = 20
"""Most massive units that are listed."""


def design_panel(sources: Sources) -> Panel:
    """Draw what each run was shown and when; runs of other sites were shown the same."""
    first_runs = {_label(run): run for run in reversed(sources.runs)}
    events = {label: _events(first_runs[label]) for label in reversed(first_runs)}
    figure = figure_html(
        as_png(draw_design(events, sources.runs[0].t_r)),
        f"Prompts of each condition over the scans of {len(events)} runs",
        "One row per run: what was shown when. A prompt is a span; each of its tokens is a scan.",
        wide=True,
    )
    return Panel("design", "Design", figure)


def signal_panel(sources: Sources, site: str) -> Panel:
    """Show mean and variance over depth at one site, its massive units, and the first run of each task as a carpet."""
    runs = [run for run in sources.runs if run.entities.get("acq", "") == site]
    activity = measure_activity([run.bold for run in runs], runs[0].space)
    prepared: dict[str, PreparedRun] = {}
    for run in runs:
        if run.name in sources.prepared:
            prepared.setdefault(run.entities["task"], sources.prepared[run.name])
    anchor = f"signal-{site}" if site else "signal"
    n_carpets = max(1, _MAX_CARPETS // len(sources.sites))
    carpets = [_carpet(task, run) for task, run in list(prepared.items())[:n_carpets]]
    others = f"<details><summary>The first run of other tasks</summary>{''.join(carpets[1:])}</details>"
    carpets_html = "".join(carpets[:1]) + (others if len(carpets) > 1 else "")
    command = escape(f"llm2bids prep {shlex.quote(str(sources.raw))}")
    missing = f"<p>Not prepared, or recorded anew since: <code>{command}</code> makes carpets possible.</p>"
    return Panel(anchor, f"Signal, site {site or 'unnamed'}", _activity(activity) + (carpets_html or missing))


def _label(run: BoldRun) -> str:
    """Name a run by session, task and number, without the site."""
    return " ".join(run.entities[key] for key in ("ses", "task", "run") if key in run.entities)


def _events(run: BoldRun) -> pd.DataFrame:
    """Read the events of a run."""
    return read_events(run.beside("events.tsv"), run.n_scans * run.t_r)


def _activity(activity: Activity) -> str:
    """Draw mean and variance over depth, and list massive units."""
    massive = activity.massive.head(_MAX_MASSIVE)
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
        ([str(row["unit"]), row["hookpoint"], str(row["channel"]), f"{row['mean']:.3g}", f"{row['ratio']:,.0f}"], None)
        for row in massive.to_dict("records")
    ]
    more = f", the {len(massive)} largest of them" if len(massive) < len(activity.massive) else ""
    number = len(activity.massive)
    note = f"{number} massive unit{'s' * (number > 1)}{more}: such units decide norms and distances alone."
    return f"{figure}<p>{note}</p>{table_html(columns, rows, {'hookpoint'})}"


def _carpet(task: str, run: PreparedRun) -> str:
    """Draw a run as a carpet."""
    values, layers = read_carpet(run.volumes.bold, run.volumes.space, max_rows=_CARPET_ROWS)
    traces = run.confounds[[name for name in _CONFOUNDS if name in run.confounds]]
    confounds = traces.loc[:, traces.max() > traces.min()]  # an encoder has no surprisal and no entropy
    space = run.volumes.space
    names = label_layers(space.blocks, space.hookpoints)
    figure = draw_carpet(values, layers, names, confounds, run.events, run.volumes.t_r)
    caption = f"Task {task}, {run.label}: units by scans, above them confounds and the design."
    return figure_html(as_png(figure), f"Carpet plot of task {task}, {run.label}", caption, wide=True)
