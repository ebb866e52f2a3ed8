"""Picture of two models whose networks are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from matplotlib.figure import Figure

from llm2bids.plots.pictures import COLOURS, GREY, decimal, draw_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

_MAX_PAIRS: Final = 20
"""Pairs with room for a row."""
_SMALL: Final = 0.001


def draw_fingerprint(
    matches: pd.DataFrame,
    rho: pd.DataFrame,
    scores: NDArray[np.float64],
    score: Mapping[str, Any],
    models: tuple[str, str],
    bound: float,
) -> Figure:
    """Draw the correlations of the best pairs of networks, and the score beside chance.

    Parameters
    ----------
    matches : DataFrame
        ``network_a``, ``network_b``, the best pair first.
    rho : DataFrame, shape (n_networks_a, n_networks_b)
        Absolute correlations.
    scores : ndarray, shape (n_draws,)
        Scores with texts permuted.
    score : mapping
        ``score``, ``score_p``, ``strong``, ``pairs``, ``texts``, ``level``.
    models : tuple of str
        Names of the models.
    bound : float
        Correlation above which a pair counts as strong.

    Returns
    -------
    Figure
        Two panels.
    """
    pairs = matches.iloc[:_MAX_PAIRS]
    values = rho.loc[list(pairs["network_a"]), list(pairs["network_b"])].to_numpy()
    texts = [[decimal(value) for value in line] for line in values]
    side = max(3.5, 0.4 * len(pairs))
    figure = Figure(figsize=(side + 6.5, side + 2.2), layout="constrained")
    matrix_axes, score_axes = figure.subplots(1, 2, width_ratios=[side + 2, 4.5])
    image = draw_matrix(matrix_axes, values, list(pairs["network_a"]), texts)
    matrix_axes.set_xticks(range(len(pairs)), list(pairs["network_b"]))
    more = f" ({len(pairs)} best of {len(matches)} pairs)" if len(matches) > len(pairs) else ""
    matrix_axes.set_title(f"Networks that run alike{more}\npairs on the diagonal, the best first", fontsize=10)
    matrix_axes.set_ylabel(f"networks of A: {models[0]}")
    matrix_axes.set_xlabel(f"networks of B: {models[1]}")
    figure.colorbar(image, ax=matrix_axes, label="absolute Spearman correlation", shrink=0.7)
    score_axes.hist(scores, bins=30, color=GREY, label="texts permuted between the models")
    score_axes.axvline(score["score"], color=COLOURS[5], linewidth=2.5, label="score")
    score_axes.set_xlim(0, min(1.0, 1.3 * max(score["score"], scores.max(initial=0.0))) or 1.0)
    score_axes.locator_params(axis="x", nbins=5)
    score_axes.margins(y=0.3)
    score_axes.set_xlabel("mean absolute correlation of the pairs")
    score_axes.set_ylabel("permutations")
    score_axes.legend(fontsize=8, frameon=False)
    p_value = f"p = {score['score_p']:.3f}" if score["score_p"] >= _SMALL else f"p < {_SMALL:g}"
    score_axes.set_title(
        f"Score {decimal(score['score'])}, {p_value}\n{score['strong']} of {score['pairs']} pairs above "
        f"{bound:g}; {score['texts']} texts, by {score['level']}",
        fontsize=10,
    )
    score_axes.spines[["top", "right"]].set_visible(False)
    return figure
