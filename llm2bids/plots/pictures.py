"""What all pictures share: colours that the colour-blind can tell apart, matrices with numbers, and PNG files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from matplotlib import colormaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Colours that the colour-blind tell apart (Okabe and Ito)."""
LINES: Final = tuple(colour for colour in COLOURS if colour != "#F0E442")
"""Colours without yellow, which is lost on white."""
GREY: Final = "#767676"
BASELINES: Final = frozenset({"off", "n/a", "baseline", "rest", "control"})
"""Conditions that are drawn plain."""
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
    """Draw `values` (n_rows, n_columns) with a text in every cell; NaN stays white. Return the image for a colour bar.

    `names` are those of the rows, and of the columns unless `columns` are given.
    """
    image = axes.imshow(values, vmin=limits[0], vmax=limits[1], cmap=colours, interpolation="none", aspect="equal")
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
    return image


def split(figure: Figure, sizes: tuple[float, float], *, side_by_side: bool = False) -> tuple[SubFigure, SubFigure]:
    """Split a figure into two parts of these relative sizes, one below the other or side by side."""
    shape, ratios = ((1, 2), "width_ratios") if side_by_side else ((2, 1), "height_ratios")
    grid = figure.add_gridspec(*shape, **{ratios: sizes})  # type: ignore[arg-type]
    return figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])


def as_png(figure: Figure, dpi: float | Literal["figure"] = "figure") -> bytes:
    """Render a figure without a screen, as the bytes of a PNG that holds no date."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi, metadata={"Software": None})
    return picture.getvalue()


def decimal(value: float) -> str:
    """Write a share between -1 and 1 as papers do, with two digits and no 0 before the point.

    >>> decimal(0.256), decimal(1.0), decimal(-0.5), decimal(float("nan"))
    ('.26', '1.00', '-.50', '-')
    """
    if np.isnan(value):
        return "-"
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text
