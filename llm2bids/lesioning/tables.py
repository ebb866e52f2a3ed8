"""What was measured, as tables: of single states, of lesions against their controls, and side by side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from llm2bids.lesioning.exam import describe
from llm2bids.lesioning.plan import INTACT
from llm2bids.lesioning.scores import LesionScore, tabulate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from llm2bids.lesioning.controls import Controls
    from llm2bids.lesioning.plan import Condition, Lesion

SHOWN: Final = ("perplexity", "accuracy", "parse_failures")
"""Scores that have a column of their own in the summary: what is not parsed stands beside what is right."""


@dataclass(frozen=True)
class Results:
    """Every state of the model with what was measured in it.

    - `rows`: the intact model first; ``values`` and, but for controls, ``continued``.
    - `control`: kind of the random masks.
    - `drawn`: random masks by name of the lesion.
    """

    lesions: tuple[Lesion, ...]
    rows: tuple[tuple[Condition, dict[str, Any]], ...]
    control: str
    drawn: Mapping[str, Controls]

    @cached_property
    def _values(self) -> dict[tuple[str, int | None], dict[tuple[str, str], float]]:
        """Scores by text and name, of each state."""
        return {
            (state.name, state.control): {(text, score): value for text, score, value in describe(row["values"])}
            for state, row in self.rows
        }

    @cached_property
    def scores(self) -> list[LesionScore]:
        """Every score of every lesion, with those of its controls."""
        before, found = self._values[INTACT, None], []
        for one in self.lesions:
            numbers = [number for name, number in self._values if name == one.name and number is not None]
            for place, after in self._values[one.name, None].items():
                random = tuple(self._values[one.name, number][place] for number in numbers)
                about = (one.name, one.mask.n_selected, str(one.surgery), self.control)
                found.append(LesionScore(*about, *place, before[place], after, random))
        return found

    @cached_property
    def table(self) -> pd.DataFrame:
        """The same as a table; see `llm2bids.lesioning.scores.tabulate`."""
        return tabulate(self.scores)

    @property
    def runs(self) -> pd.DataFrame:
        """Every score of every state: ``mask``, ``run``, ``text``, ``score``, ``value``."""
        return pd.DataFrame(
            [
                {"mask": state.name or "none", "run": _run_name(state), "text": text, "score": score, "value": value}
                for state, row in self.rows
                for text, score, value in describe(row["values"])
            ]
        )

    @property
    def generations(self) -> pd.DataFrame:
        """Continuations side by side: ``mask``, ``text``, ``prompt``, ``intact``, ``lesioned``; maybe no row."""
        (_, intact), *others = ((state, row["continued"]) for state, row in self.rows if state.control is None)
        return pd.DataFrame(
            [
                {
                    "mask": state.name,
                    "text": one["text"],
                    "prompt": _one_line(one["prompt"]),
                    "intact": _one_line(one["continued"]),
                    "lesioned": _one_line(other["continued"]),
                }
                for state, continued in others
                for one, other in zip(intact, continued, strict=True)
            ]
        )

    @cached_property
    def summary(self) -> pd.DataFrame:
        """States of the model below each other, texts and tasks side by side.

        One row for the intact model, one per lesion, and one per lesion for its random masks: ``condition``,
        ``networks`` (masks in the union), ``units``, ``share`` (of all units), ``activation`` (mean absolute, of these
        units; n/a where controls are not matched in it), ``runs`` (random masks averaged), and
        of every text its ``<name>.perplexity``, of every task ``<name>.accuracy`` and ``<name>.parse_failures``.
        """
        return pd.DataFrame(list(self._summarised()))

    def _summarised(self) -> Iterator[dict[str, Any]]:
        """Rows of the summary."""
        intact = {"condition": "intact", "networks": 0, "units": 0, "share": 0.0, "activation": None, "runs": 1}
        yield intact | _shown((one, one.before) for one in self.scores if one.mask == self.lesions[0].name)
        for lesion in self.lesions:
            own = [one for one in self.scores if one.mask == lesion.name]
            size = {"networks": len(lesion.of), "units": lesion.mask.n_selected, "share": lesion.share}
            drawn = self.drawn[lesion.name]
            about = {"condition": lesion.name, **size, "activation": drawn.activation, "runs": 1}
            yield about | _shown((one, one.after) for one in own)
            if own[0].controls:
                about |= {"condition": f"random for {lesion.name}", "activation": drawn.control_activation}
                about |= {"runs": len(own[0].controls)}
                yield about | _shown((one, one.control_mean) for one in own)


def _shown(values: Iterable[tuple[LesionScore, float]]) -> dict[str, float]:
    """Those scores that have a column in the summary."""
    return {f"{one.material}.{one.score}": value for one, value in values if one.score in SHOWN}


def _run_name(state: Condition) -> str:
    """What a state is called in tables."""
    if state.mask is None:
        return "intact"
    return "lesion" if state.control is None else str(state.control)


def _one_line(text: str) -> str:
    """A text that fits into a field."""
    return " ".join(text.split()) or "n/a"
