"""Picture of a whole run: every unit at every scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from llm2bids.plots.design import draw_events, explain_conditions, shorten, style_conditions
from llm2bids.plots.pictures import COLOURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_WIDTH: Final = 11.0
_TRACE: Final = 0.42
"""Height of a confound, in inches."""
_STRIP: Final = 0.22
_CARPET: Final = 4.6
_MAX_NAMES: Final = 24
"""Layers that have room for their names."""
_LONGEST: Final = 22
_COLOURS: Final = 11
"""Few enough that pictures stay small, odd so that 0 is white."""
_EXTREME: Final = 99.0
"""Percentile of the values that has the last colour."""
_LEAST: Final = 0.5
"""Standard deviations that have the last colour at least, lest noise look like signal."""


def draw_carpet(
    values: NDArray[np.float32],
    layers: NDArray[np.int64],
    names: Sequence[str],
    confounds: pd.DataFrame,
    events: pd.DataFrame | None = None,
    t_r: float = 1.0,
) -> Figure:
    """Draw a whole run at once: units as rows, scans as columns; above them confounds and conditions.

    After Power (2017, "A simple but useful way to assess fMRI scan qualities", NeuroImage 154) and fMRIPrep: jumps,
    drifts and whatever all units do together are seen at a glance.

    Parameters
    ----------
    values : ndarray, shape (n_rows, n_columns)
        Activations in standard deviations of the unit, from `llm2bids.reporting.activity.read_carpet`; NaN is grey.
    layers : ndarray of int, shape (n_rows,)
        Number of the layer of each row; rows of a layer lie together.
    names : sequence of str
        Names of the layers.
    confounds : DataFrame
        One row per scan; every column becomes a trace.
    events : DataFrame, optional
        ``onset``, ``duration`` (seconds), ``trial_type``: the strip of conditions.
    t_r : float
        Repetition time in seconds.

    Returns
    -------
    Figure
        Traces, strip and carpet over one axis of scans.
    """
    n_scans = len(confounds)
    heights = [*[_TRACE] * confounds.shape[1], *[_STRIP] * (events is not None), _CARPET]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 1.1), layout="constrained", dpi=110)
    figure.get_layout_engine().set(h_pad=0.02, hspace=0.0)  # type: ignore[union-attr,call-arg]
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0].tolist()
    for axes, name in zip(panels, confounds, strict=False):
        _draw_trace(axes, str(name), confounds[name].to_numpy(float))
    if events is not None:
        strip = panels[-2]
        styles = style_conditions(str(name) for name in events["trial_type"])
        draw_events(strip, events, styles, t_r=t_r)
        strip.set_ylim(-0.45, 0.45)
        _name(strip, "shown")
        strip.set_axisbelow(True)
        explain_conditions(figure, styles)
    _draw_rows(panels[-1], values, layers, names, n_scans)
    for axes in panels[:-1]:
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelbottom=False)
        axes.set_yticks([])
    return figure


def _draw_trace(axes: Axes, name: str, course: NDArray[np.float64]) -> None:
    """Draw a confound, with its name to the left and its range to the right."""
    axes.plot(np.arange(len(course)) + 0.5, course, color=COLOURS[0], linewidth=0.8)
    _name(axes, name)
    finite = course[np.isfinite(course)]
    form = ",.0f" if np.abs(finite).max(initial=0.0) >= 1000 else ".4g"  # noqa: PLR2004
    text = f"{finite.max():{form}}\n{finite.min():{form}}" if finite.size else "n/a"
    axes.annotate(text, (1, 0.5), (6, 0), xycoords="axes fraction", textcoords="offset points", va="center", fontsize=7)


def _name(axes: Axes, name: str) -> None:
    """Write the name of a panel to its left."""
    axes.set_ylabel(shorten(name, _LONGEST), rotation=0, ha="right", va="center", fontsize=8.5)


def _draw_rows(
    axes: Axes, values: NDArray[np.float32], layers: NDArray[np.int64], names: Sequence[str], n_scans: int
) -> None:
    """Draw the carpet, lines between layers, and the name of each layer in the middle of its rows."""
    sizes = np.abs(values[np.isfinite(values)])
    limit = max(float(np.percentile(sizes, _EXTREME)) if sizes.size else 0.0, _LEAST)
    image = axes.imshow(
        values,
        cmap=colormaps["PuOr_r"].resampled(_COLOURS).with_extremes(bad="#b0b0b0"),
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="none",
        extent=(0, n_scans, len(values), 0),
    )
    numbers, starts = np.unique(layers, return_index=True)
    ends = np.append(starts[1:], len(layers))
    axes.hlines(starts[1:], 0, n_scans, color="black", linewidth=0.6 if len(numbers) <= _MAX_NAMES else 0.3)
    ticks = slice(None, None, -(-len(numbers) // _MAX_NAMES))
    labels = [shorten(names[number], _LONGEST) for number in numbers]
    axes.set_yticks(((starts + ends) / 2)[ticks], labels[ticks], fontsize=8 if len(labels) <= _MAX_NAMES / 2 else 7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, n_scans)
    axes.set_xlabel("scan (one per token)")
    beyond = "both" if sizes.size and sizes.max() > limit else "neither"
    axes.figure.colorbar(image, ax=axes, label="standard deviations", extend=beyond, fraction=0.02, pad=0.01, aspect=30)
