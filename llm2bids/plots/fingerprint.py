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

_SHOWN: Final = 20
"""Pairs with room for a row."""
_SMALL: Final = 0.001


def draw_fingerprint(
    matches: pd.DataFrame,
    rho: pd.DataFrame,
    scores: NDArray[np.float64],
    told: Mapping[str, Any],
    models: tuple[str, str],
    bound: float,
) -> Figure:
    """Draw the correlations of the best pairs, and the score beside chance.

    Parameters
    ----------
    matches : DataFrame
        ``network_a``, ``network_b``, the best first.
    rho : DataFrame, shape (n_one, n_other)
        Absolute correlations.
    scores : ndarray, shape (n_draws,)
        Scores when texts are permuted.
    told : mapping
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
    shown = matches.iloc[:_SHOWN]
    values = rho.loc[list(shown["network_a"]), list(shown["network_b"])].to_numpy()
    texts = [[decimal(value) for value in line] for line in values]
    side = max(3.5, 0.4 * len(shown))
    figure = Figure(figsize=(side + 6.5, side + 2.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[side + 2, 4.5])
    drawn = draw_matrix(left, values, list(shown["network_a"]), texts)
    left.set_xticks(range(len(shown)), list(shown["network_b"]))
    more = f" ({len(shown)} best of {len(matches)} pairs)" if len(matches) > len(shown) else ""
    left.set_title(f"Networks that run alike{more}\npairs on the diagonal, the best first", fontsize=10)
    left.set_ylabel(f"networks of A: {models[0]}")
    left.set_xlabel(f"networks of B: {models[1]}")
    figure.colorbar(drawn, ax=left, label="absolute Spearman correlation", shrink=0.7)
    right.hist(scores, bins=30, color=GREY, label="texts permuted between the models")
    right.axvline(told["score"], color=COLOURS[5], linewidth=2.5, label="score")
    right.set_xlim(0, min(1.0, 1.3 * max(told["score"], scores.max(initial=0.0))) or 1.0)
    right.locator_params(axis="x", nbins=5)
    right.margins(y=0.3)
    right.set_xlabel("mean absolute correlation of the pairs")
    right.set_ylabel("permutations")
    right.legend(fontsize=8, frameon=False)
    p_value = f"p = {told['score_p']:.3f}" if told["score_p"] >= _SMALL else f"p < {_SMALL:g}"
    right.set_title(
        f"Score {decimal(told['score'])}, {p_value}\n{told['strong']} of {told['pairs']} pairs above "
        f"{bound:g}; {told['texts']} texts, by {told['level']}",
        fontsize=10,
    )
    right.spines[["top", "right"]].set_visible(False)
    return figure
