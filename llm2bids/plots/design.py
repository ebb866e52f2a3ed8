"""Pictures of designs: what runs were shown and when, and the matrix of a general linear model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from llm2bids.plots.pictures import BASELINES, COLOURS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd
    from matplotlib.axes import Axes

OTHERS: Final = "others"
"""Name under which conditions without a look of their own share one."""
_PLAIN: Final = "#dcdcdc"
_FILLS: Final = COLOURS[:7]
_HATCHES: Final = ("", "////", "....", "xxxx")
"""Colours are repeated with these."""
_WIDTH: Final = 11.0
_TALLEST: Final = 14.0
"""Most inches for the rows of all runs."""
_LABELS: Final = 72
"""Runs that have room for their names in this height."""
_LONGEST: Final = 26
"""Characters of a name that are shown."""
_MATRIX_LABELS: Final = 48
"""Columns or rows of a design matrix that have room for their names."""
_BORDER: Final = 0.2
"""Share of an event that its borders may take, lest they hide its colour."""


def draw_design(runs: Mapping[str, pd.DataFrame], t_r: float = 1.0) -> Figure:
    """Draw what every run was shown, scan by scan: one row per run, one box per event in the colour of its condition.

    Parameters
    ----------
    runs : mapping
        Events of each run by its label: ``onset``, ``duration`` (seconds), ``trial_type``.
    t_r : float
        Repetition time in seconds.

    Returns
    -------
    Figure
        One panel.
    """
    styles = style_conditions(str(name) for events in runs.values() for name in events["trial_type"])
    names = [shorten(label, 2 * _LONGEST) for label in runs]
    height = min(0.3 * len(runs), _TALLEST) + 0.2 * -(-len(styles) // 5) + 1.2
    figure = Figure(figsize=(_WIDTH, height), layout="constrained", dpi=110)
    axes = figure.subplots()
    for row, events in enumerate(runs.values()):
        draw_events(axes, events, styles, row, t_r)
    ends = [float((events["onset"] + events["duration"]).max()) / t_r for events in runs.values() if len(events)]
    axes.set_xlim(0, max(ends, default=1.0))
    axes.set_ylim(len(runs) - 0.5, -0.5)
    ticks = slice(None, None, -(-len(runs) // _LABELS))
    axes.set_yticks(range(len(runs))[ticks], names[ticks], fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("scan (one per token)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    explain_conditions(figure, styles)
    return figure


def draw_design_matrix(matrix: pd.DataFrame) -> Figure:
    """Draw a design matrix.

    Parameters
    ----------
    matrix : DataFrame, shape (n_rows, n_regressors)
        The design; rows with names, such as subjects, are labelled.

    Returns
    -------
    Figure
        One row per row of the design, one column per regressor.
    """
    n_rows, n_columns = matrix.shape
    width, height = min(max(3.5 + 0.28 * n_columns, 4.5), 14), min(max(2 + 0.25 * n_rows, 3), 5.5)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    relative = matrix / matrix.abs().max().replace(0, 1)
    image = axes.imshow(relative, aspect="auto", cmap="PuOr_r", vmin=-1, vmax=1, interpolation="none")
    columns = range(0, n_columns, -(-n_columns // _MATRIX_LABELS))  # more would be written over each other
    names = [str(matrix.columns[number]) for number in columns]
    axes.set_xticks(columns, names, rotation=90 if max(map(len, names)) > 1 else 0, fontsize=8)
    if n_rows <= _MATRIX_LABELS and all(isinstance(name, str) for name in matrix.index):
        axes.set_yticks(range(n_rows), matrix.index, fontsize=8)
    else:
        axes.set_ylabel("row")
        axes.locator_params(axis="y", integer=True)
    figure.colorbar(image, ax=axes, label="relative to the largest")
    return figure


def style_conditions(conditions: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Choose the look of each condition (arguments of a patch): baselines grey, others coloured, then also hatched.

    Conditions come as they were shown, with repetition. Of more than 28 (baselines aside) the most frequent 28 have a
    look each, and all others share that of `OTHERS`.
    """
    counts: dict[str, int] = {}
    for name in conditions:
        counts[name] = counts.get(name, 0) + 1
    if len(counts) > len(COLOURS):
        counts = dict(sorted(counts.items()))
    tasks = [name for name in counts if name not in BASELINES]
    room = len(_FILLS) * len(_HATCHES)
    often = set(sorted(tasks, key=lambda name: -counts[name])[:room])
    numbers = {name: number for number, name in enumerate(name for name in tasks if name in often)}
    styles: dict[str, dict[str, Any]] = {}
    for name in counts:
        if name in numbers:
            row, column = divmod(numbers[name], len(_FILLS))
            styles[name] = {"facecolor": _FILLS[column], "hatch": _HATCHES[row]}
        elif name in BASELINES:
            styles[name] = {"facecolor": _PLAIN, "hatch": ""}
    if len(tasks) > room:
        styles[OTHERS] = {"facecolor": "#8c8c8c", "hatch": "\\\\\\"}
    return styles


def draw_events(
    axes: Axes, events: pd.DataFrame, styles: Mapping[str, Mapping[str, Any]], row: float = 0.0, t_r: float = 1.0
) -> None:
    """Draw events as boxes with borders at height `row`; the x axis counts scans."""
    conditions = events["trial_type"].map(lambda name: str(name) if str(name) in styles else OTHERS)
    width = axes.get_position().width * axes.figure.get_figure(root=True).get_figwidth() * 72
    border = min(1.0, _BORDER * width / max(len(events), 1))
    for name, group in events.groupby(conditions, sort=False):
        spans = [(onset / t_r, duration / t_r) for onset, duration in group[["onset", "duration"]].to_numpy(float)]
        look: dict[str, Any] = {"edgecolor": "white", "linewidth": border} | dict(styles[str(name)])
        axes.broken_barh(spans, (row - 0.4, 0.8), **look)


def explain_conditions(figure: Figure, styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Put a legend of conditions below a figure with constrained layout."""
    handles = [
        Patch(edgecolor="white", linewidth=0, label=shorten(name, _LONGEST), **look) for name, look in styles.items()
    ]
    longest = min(max(map(len, styles), default=1), _LONGEST)
    n_columns = max(1, min(len(handles), int(_WIDTH * 10 / (longest + 6))))
    figure.legend(handles=handles, loc="outside lower center", ncols=n_columns, fontsize=8.5, frameon=False)


def shorten(name: str, longest: int) -> str:
    """Leave out the middle of a name that is longer than `longest` characters.

    >>> shorten("a_very_long_condition", 12)
    'a_very…ition'
    """
    half = longest // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[len(name) - (longest - half - 1) :]}"
