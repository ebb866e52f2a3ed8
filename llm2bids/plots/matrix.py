"""Picture of a design matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from matplotlib.figure import Figure

if TYPE_CHECKING:
    import pandas as pd

_LABELS: Final = 48
"""Columns or rows of a design that have room for their names."""


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
    scaled = matrix / matrix.abs().max().replace(0, 1)
    drawn = axes.imshow(scaled, aspect="auto", cmap="PuOr_r", vmin=-1, vmax=1, interpolation="none")
    columns = range(0, n_columns, -(-n_columns // _LABELS))  # more would be written over each other
    names = [str(matrix.columns[number]) for number in columns]
    axes.set_xticks(columns, names, rotation=90 if max(map(len, names)) > 1 else 0, fontsize=8)
    if n_rows <= _LABELS and all(isinstance(name, str) for name in matrix.index):
        axes.set_yticks(range(n_rows), matrix.index, fontsize=8)
    else:
        axes.set_ylabel("row")
        axes.locator_params(axis="y", integer=True)
    figure.colorbar(drawn, ax=axes, label="relative to the largest")
    return figure
