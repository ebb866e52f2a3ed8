"""What all pictures share: colours that the colour-blind tell apart, matrices with numbers in them, files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from matplotlib import colormaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Colours that the colour-blind tell apart (Okabe and Ito)."""
GREY: Final = "#767676"
CROWDED: Final = 10
"""Rows of a matrix beyond which a cell has room for one number only."""
_DARK: Final = 0.5
"""Luminance below which text is white."""


def draw_matrix(
    axes: Axes,
    values: NDArray[np.float64],
    names: Sequence[str],
    texts: Sequence[Sequence[str]],
    limits: tuple[float, float] = (0.0, 1.0),
    colours: str = "cividis",
    columns: Sequence[str] | None = None,
) -> Any:
    """Draw a matrix with a text in every cell.

    Parameters
    ----------
    axes : Axes
        Where.
    values : ndarray, shape (n_rows, n_columns)
        NaN is left white.
    names : sequence of str
        Of rows, and of columns where these are the same.
    texts : sequence of sequence of str
        One per cell.
    limits : tuple of float
        Values of the first and the last colour.
    colours : str
        Name of a colour map.
    columns : sequence of str, optional
        Names of columns, where these are others.

    Returns
    -------
    AxesImage
        For a colour bar.
    """
    drawn = axes.imshow(values, vmin=limits[0], vmax=limits[1], cmap=colours, interpolation="none", aspect="equal")
    below = names if columns is None else columns
    axes.set_xticks(range(values.shape[1]), below, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(values)), names)
    scale, size = colormaps[colours], 9 if len(values) <= CROWDED else 6.5
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            value = values[row, column]
            share = 1.0 if np.isnan(value) else (value - limits[0]) / (limits[1] - limits[0])
            red, green, blue, _ = scale(float(np.clip(share, 0, 1)))
            luminance = 1.0 if np.isnan(value) else 0.299 * red + 0.587 * green + 0.114 * blue
            colour = "white" if luminance < _DARK else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    return drawn


def as_png(figure: Figure, dpi: float | Literal["figure"] = "figure") -> bytes:
    """Render a figure without a screen.

    Parameters
    ----------
    figure : Figure
        What to draw.
    dpi : float or "figure"
        Pixels per inch; those of the figure by default.

    Returns
    -------
    bytes
        A PNG without a date.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi, metadata={"Software": None})
    return picture.getvalue()


def decimal(value: float) -> str:
    """Write a share as papers do.

    Parameters
    ----------
    value : float
        Between -1 and 1, or NaN.

    Returns
    -------
    str
        Two digits without the 0 before the point.

    Examples
    --------
    >>> decimal(0.256), decimal(1.0), decimal(-0.5), decimal(float("nan"))
    ('.26', '1.00', '-.50', '-')
    """
    if np.isnan(value):
        return "-"
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text
