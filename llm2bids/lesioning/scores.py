"""Scores of lesions against those of random masks, and the tables of a study."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import pandas as pd
from scipy.stats import beta

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from llm2bids.lesioning.controls import Controls
    from llm2bids.lesioning.plan import Lesion

Values: TypeAlias = "dict[str, dict[str, float | None]]"
"""Scores by name of the text or task, then by name of the score; None where a score cannot be computed."""
State: TypeAlias = "tuple[str, int | None]"
"""Name of a lesion, and number of its random mask; None for the lesion itself."""
INTACT: Final = ""
"""Name of the intact model where lesions have theirs."""
SUMMARY_SCORES: Final = ("perplexity", "accuracy", "parse_failures")
"""Scores with a column in the summary: beside right answers stands how many could not be parsed."""
LOWER_IS_WORSE: Final = frozenset({"accuracy", "accuracy_parsed"})
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
        Score of the intact and of the lesioned model; NaN where it cannot be computed.
    controls : tuple of float
        Score after the same was done to each random mask.

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
        """Random masks that did less harm than the lesion; one that did the same harm does not count."""
        sign = -1 if self.score in LOWER_IS_WORSE else 1
        return int((sign * np.array(self.controls) < sign * self.after).sum())

    @property
    def comparable(self) -> bool:
        """Whether there are random masks, and all scores are finite."""
        return bool(self.controls) and bool(np.isfinite([self.after, *self.controls]).all())

    @property
    def percentile(self) -> float:
        """Percentage of random masks that did less harm; NaN without any."""
        return 100 * self.n_milder / len(self.controls) if self.comparable else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the percentile, by Clopper and Pearson (1934), exact for a binomial share."""
        if not self.comparable:
            return float("nan"), float("nan")
        milder, n_controls, tail = self.n_milder, len(self.controls), (1 - _LEVEL) / 2
        # quantiles of beta(k, n - k + 1) and beta(k + 1, n - k); at 0 and n these do not exist, and the end is exact
        low = beta.ppf(tail, milder, n_controls - milder + 1) if milder else 0.0
        high = beta.ppf(1 - tail, milder + 1, n_controls - milder) if milder < n_controls else 1.0
        return 100 * float(low), 100 * float(high)

    @property
    def p_harm(self) -> float:
        """Probability of so much harm by a random mask: (1 + masks as harmful) / (1 + masks).

        The lesion counts among the draws, since a p-value of 0 is impossible (Phipson and Smyth 2010).
        """
        n_controls = len(self.controls)
        return (1 + n_controls - self.n_milder) / (1 + n_controls) if self.comparable else float("nan")

    @property
    def control_mean(self) -> float:
        """Mean over random masks; of perplexity the geometric mean, which is that of bits per token."""
        if not self.controls:
            return float("nan")
        values = np.array(self.controls)
        with np.errstate(over="ignore"):
            return float(np.exp2(np.log2(values).mean()) if self.score == "perplexity" else values.mean())

    @property
    def control_range(self) -> tuple[float, float]:
        """Middle 95 % of the random masks."""
        if not self.controls or not np.isfinite(self.controls).all():
            return float("nan"), float("nan")
        low, high = np.quantile(self.controls, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        return float(low), float(high)

    def against_controls(self) -> dict[str, float]:
        """Columns that say how many random masks did less harm."""
        low, high = self.interval
        return {
            "percentile": self.percentile,
            "percentile_low": low,
            "percentile_high": high,
            "p_harm": self.p_harm,
        }


def iterate_values(values: Mapping[str, Mapping[str, float | None]]) -> Iterator[tuple[str, str, float]]:
    """Go through scores, with perplexity, 2 to the bits per token, before bits per token.

    Yields name of the text or task, name of the score, and the score; NaN where it cannot be computed.
    """
    for name, scores in values.items():
        for score, value in scores.items():
            if score == "bits_per_token" and value is not None:
                with np.errstate(over="ignore"):
                    yield name, "perplexity", float(np.exp2(value))
            yield name, score, float("nan") if value is None else value


def tabulate(scores: Sequence[LesionScore]) -> pd.DataFrame:
    """Put scores into a table.

    Returns one row per score: ``mask``, ``units``, ``method``, ``text``, ``score``, ``before``, ``after``, ``change``,
    ``control``, ``controls``, ``control_mean``, ``control_low``, ``control_high``, ``percentile``, ``percentile_low``,
    ``percentile_high``, ``p_harm``.
    """
    rows = [
        {
            "mask": score.mask,
            "units": score.n_units,
            "method": score.method,
            "text": score.material,
            "score": score.score,
            "before": score.before,
            "after": score.after,
            "change": score.change,
            "control": score.control,
            "controls": len(score.controls),
            "control_mean": score.control_mean,
            "control_low": score.control_range[0],
            "control_high": score.control_range[1],
            **score.against_controls(),
        }
        for score in scores
    ]
    return pd.DataFrame(rows)


def dissociation(scores: Sequence[LesionScore], score: str = "bits_per_token") -> pd.DataFrame:
    """Lay out what every lesion does to every text.

    `score`: which one; bits per token are the logarithm of perplexity to base 2. Returns one row per mask and text, in
    the order of the scores: ``mask``, ``text``, ``change``, ``control_change`` (mean over random masks),
    ``percentile``, ``percentile_low``, ``percentile_high``, ``p_harm``.
    """
    rows = [
        {
            "mask": lesion_score.mask,
            "text": lesion_score.material,
            "change": lesion_score.change,
            "control_change": lesion_score.control_mean - lesion_score.before,
            **lesion_score.against_controls(),
        }
        for lesion_score in scores
        if lesion_score.score == score
    ]
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class StudyResults:
    """All states of the model with their scores.

    - `rows`: name of the lesion and number of the random mask (None for the lesion itself) of each state, with its row
      of the log; the intact model first.
    - `control`: kind of the random masks.
    - `controls`: random masks by name of the lesion.
    """

    lesions: tuple[Lesion, ...]
    rows: tuple[tuple[State, dict[str, Any]], ...]
    control: str
    controls: Mapping[str, Controls]

    @cached_property
    def _values(self) -> dict[State, dict[tuple[str, str], float]]:
        """Scores of each state, by name of the text or task and of the score."""
        return {
            state: {(text, score): value for text, score, value in iterate_values(row["values"])}
            for state, row in self.rows
        }

    @cached_property
    def scores(self) -> list[LesionScore]:
        """Every score of every lesion, with those of its random masks."""
        before, scores = self._values[INTACT, None], []
        for lesion in self.lesions:
            numbers = [number for name, number in self._values if name == lesion.name and number is not None]
            fields = (lesion.name, lesion.mask.n_selected, str(lesion.surgery), self.control)
            for key, after in self._values[lesion.name, None].items():
                controls = tuple(self._values[lesion.name, number][key] for number in numbers)
                scores.append(LesionScore(*fields, *key, before[key], after, controls))
        return scores

    @cached_property
    def table(self) -> pd.DataFrame:
        """The scores as a table, see `tabulate`."""
        return tabulate(self.scores)

    @property
    def runs(self) -> pd.DataFrame:
        """Every score of every state: ``mask``, ``run``, ``text``, ``score``, ``value``."""
        return pd.DataFrame(
            [
                {"mask": state[0] or "none", "run": _run_name(state), "text": text, "score": score, "value": value}
                for state, row in self.rows
                for text, score, value in iterate_values(row["values"])
            ]
        )

    @property
    def generations(self) -> pd.DataFrame:
        """Continuations side by side: ``mask``, ``text``, ``prompt``, ``intact``, ``lesioned``; no row if none."""
        (_, intact), *lesioned = ((name, row["continued"]) for (name, control), row in self.rows if control is None)
        return pd.DataFrame(
            [
                {
                    "mask": name,
                    "text": before["text"],
                    "prompt": _one_line(before["prompt"]),
                    "intact": _one_line(before["continued"]),
                    "lesioned": _one_line(after["continued"]),
                }
                for name, continuations in lesioned
                for before, after in zip(intact, continuations, strict=True)
            ]
        )

    @cached_property
    def summary(self) -> pd.DataFrame:
        """States of the model below each other, texts and tasks side by side.

        One row for the intact model, one per lesion, and one per lesion for its random masks: ``condition``,
        ``networks`` (masks in the union), ``units``, ``share`` (of all units), ``activation`` (mean absolute, of these
        units; n/a where random masks are not matched in it), ``runs`` (random masks averaged), and of every text its
        ``<name>.perplexity``, of every task ``<name>.accuracy`` and ``<name>.parse_failures``.
        """
        return pd.DataFrame(list(self._summary_rows()))

    def _summary_rows(self) -> Iterator[dict[str, Any]]:
        """Rows of the summary."""
        intact = {"condition": "intact", "networks": 0, "units": 0, "share": 0.0, "activation": None, "runs": 1}
        first = self.lesions[0].name
        yield intact | _summary_columns((score, score.before) for score in self.scores if score.mask == first)
        for lesion in self.lesions:
            scores = [score for score in self.scores if score.mask == lesion.name]
            size = {"networks": len(lesion.masks), "units": lesion.mask.n_selected, "share": lesion.share}
            controls = self.controls[lesion.name]
            row = {"condition": lesion.name, **size, "activation": controls.activation, "runs": 1}
            yield row | _summary_columns((score, score.after) for score in scores)
            if scores[0].controls:
                row |= {"condition": f"random for {lesion.name}", "activation": controls.control_activation}
                row |= {"runs": len(scores[0].controls)}
                yield row | _summary_columns((score, score.control_mean) for score in scores)


def _summary_columns(values: Iterable[tuple[LesionScore, float]]) -> dict[str, float]:
    """Values of the scores that have a column in the summary."""
    return {f"{score.material}.{score.score}": value for score, value in values if score.score in SUMMARY_SCORES}


def _run_name(state: State) -> str:
    """Name of a state in tables."""
    name, control = state
    if name == INTACT:
        return "intact"
    return "lesion" if control is None else str(control)


def _one_line(text: str) -> str:
    """A text that fits into a field of a table."""
    return " ".join(text.split()) or "n/a"
