"""What a lesion did, held against what random masks do: numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from scipy.stats import beta

if TYPE_CHECKING:
    from collections.abc import Sequence

LESS_IS_WORSE: Final = frozenset({"accuracy", "accuracy_parsed"})
"""Scores that fall when a model gets worse; all others rise."""
_LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class LesionScore:
    """One score of one lesion.

    Parameters
    ----------
    mask : str
        Name of the mask.
    n_units : int
        Units that it chooses.
    method : str
        What was done to them; ``keep`` before it where it was done to all others.
    control : str
        Kind of the random masks.
    material : str
        Name of the text or task file.
    score : str
        What was measured, e.g. ``"bits_per_token"``.
    before, after : float
        Of the intact and of the lesioned model; NaN where it cannot be said.
    controls : tuple of float
        After the same was done to each random mask.

    Examples
    --------
    >>> score = LesionScore("net", 9, "zero", "matched", "text", "kl", 0.0, 2.0, (0.1, 0.2, 3.0, 0.1))
    >>> score.percentile, [round(bound) for bound in score.interval]
    (75.0, [19, 99])
    """

    mask: str
    n_units: int
    method: str
    control: str
    material: str
    score: str
    before: float
    after: float
    controls: tuple[float, ...]

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after - self.before

    @property
    def n_milder(self) -> int:
        """Controls that did less harm than the lesion; one that did the same did not."""
        sign = -1 if self.score in LESS_IS_WORSE else 1
        return int((sign * np.array(self.controls) < sign * self.after).sum())

    @property
    def known(self) -> bool:
        """Whether lesion and controls can be compared."""
        return bool(self.controls) and bool(np.isfinite([self.after, *self.controls]).all())

    @property
    def percentile(self) -> float:
        """Percentage of controls that did less harm; NaN without controls."""
        return 100 * self.n_milder / len(self.controls) if self.known else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson's 95 % interval of the percentile."""
        if not self.known:
            return float("nan"), float("nan")
        milder, n_controls, tail = self.n_milder, len(self.controls), (1 - _LEVEL) / 2
        low = beta.ppf(tail, milder, n_controls - milder + 1) if milder else 0.0
        high = beta.ppf(1 - tail, milder + 1, n_controls - milder) if milder < n_controls else 1.0
        return 100 * float(low), 100 * float(high)

    @property
    def p_harm(self) -> float:
        """Probability of so much harm by a random mask: (1 + controls as harmful) / (1 + controls)."""
        n_controls = len(self.controls)
        return (1 + n_controls - self.n_milder) / (1 + n_controls) if self.known else float("nan")

    @property
    def control_mean(self) -> float:
        """Mean of the controls; of perplexity the geometric mean, which is that of bits per token."""
        if not self.controls:
            return float("nan")
        values = np.array(self.controls)
        with np.errstate(over="ignore"):
            return float(np.exp2(np.log2(values).mean()) if self.score == "perplexity" else values.mean())

    @property
    def control_range(self) -> tuple[float, float]:
        """Middle 95 % of the controls."""
        if not self.controls or not np.isfinite(self.controls).all():
            return float("nan"), float("nan")
        low, high = np.quantile(self.controls, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        return float(low), float(high)


def tabulate(scores: Sequence[LesionScore]) -> pd.DataFrame:
    """Put scores into a table.

    Returns one row per score: ``mask``, ``units``, ``method``, ``text``, ``score``, ``before``, ``after``, ``change``,
    ``control``, ``controls``, ``control_mean``, ``control_low``, ``control_high``, ``percentile``, ``percentile_low``,
    ``percentile_high``, ``p_harm``.
    """
    rows = [
        {
            "mask": one.mask,
            "units": one.n_units,
            "method": one.method,
            "text": one.material,
            "score": one.score,
            "before": one.before,
            "after": one.after,
            "change": one.change,
            "control": one.control,
            "controls": len(one.controls),
            "control_mean": one.control_mean,
            "control_low": one.control_range[0],
            "control_high": one.control_range[1],
            "percentile": one.percentile,
            "percentile_low": one.interval[0],
            "percentile_high": one.interval[1],
            "p_harm": one.p_harm,
        }
        for one in scores
    ]
    return pd.DataFrame(rows)


def dissociation(scores: Sequence[LesionScore], score: str = "bits_per_token") -> pd.DataFrame:
    """Lay out what every lesion does to every text.

    `score`: which; bits per token are the logarithm of perplexity to base 2. Returns one row per mask and text, both in
    the order in which they come: ``mask``, ``text``, ``change``, ``control_change`` (mean over controls),
    ``percentile``, ``percentile_low``, ``percentile_high``, ``p_harm``.
    """
    chosen = [one for one in scores if one.score == score]
    rows = [
        {
            "mask": one.mask,
            "text": one.material,
            "change": one.change,
            "control_change": one.control_mean - one.before,
            "percentile": one.percentile,
            "percentile_low": one.interval[0],
            "percentile_high": one.interval[1],
            "p_harm": one.p_harm,
        }
        for one in chosen
    ]
    return pd.DataFrame(rows)
