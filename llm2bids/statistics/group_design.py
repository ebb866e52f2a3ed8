"""The design over subjects: how participants.tsv becomes groups, pairs and covariates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from llm2bids.bids.tables import read_tsv
from llm2bids.design.statsmodel import INTERCEPT, Contrast, Node
from llm2bids.errors import DatasetError, DesignError, InferenceError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

TABLE: Final = "participants.tsv"
_MISSING: Final = frozenset({"n/a", ""})
_ENOUGH: Final = "mend it, or choose other subjects with --participant-label"
_SHOWN: Final = 5
"""Values named in a message."""


@dataclass(frozen=True, slots=True, eq=False)
class SubjectDesign:
    """What is asked of subjects.

    - `matrix` (n_subjects, n_regressors): one row per subject, by label. Columns of numbers are centred; the intercept
      is ``1``.
    - `questions`: of its columns; the question to the intercept has the name ``1``.
    - `factors`: variables whose values are columns.
    - `differences` (n_pairs, n_subjects): what makes differences within pairs: 1 for one, -1 for the other; None where
      subjects are not paired.
    """

    matrix: pd.DataFrame
    questions: tuple[Contrast, ...]
    factors: tuple[str, ...] = ()
    centred: tuple[str, ...] = ()
    differences: NDArray[np.float64] | None = None

    @classmethod
    def from_node(cls, node: Node, rows: pd.DataFrame) -> SubjectDesign:
        """Carry out the Dataset node of a BIDS Stats Model.

        `rows` (n_subjects, n_columns): the subjects, as `participants_of` gives them.
        """
        factors = [column for name in node.factors for column in _factor(rows, name).items()]
        numbers = [name for name in rows.columns if name not in node.factors]
        known = dict(factors)
        chosen = node.select([*known, *numbers])
        columns = {INTERCEPT: np.ones(len(rows))} if INTERCEPT in node.x else {}
        columns |= {name: known[name] if name in known else _covariate(rows, name) for name in chosen}
        matrix = pd.DataFrame(columns, index=rows.index)
        centred = tuple(name for name in chosen if name not in known)
        return cls(matrix, node.questions(list(columns)), node.factors, centred)

    @classmethod
    def comparing(
        cls, rows: pd.DataFrame, compare: str | None, pairs: str | None, covariates: Sequence[str]
    ) -> SubjectDesign:
        """Test the mean, or compare two groups or the two of each pair.

        `rows` (n_subjects, n_columns): the subjects, as `participants_of` gives them.
        """
        if pairs and not compare:
            raise InferenceError("pairs without a comparison asked for; name the column with --compare")
        if not compare:
            return cls.from_node(Node("Dataset", (INTERCEPT, *covariates), dummies=(INTERCEPT, *covariates)), rows)
        values = sorted(set(_known(rows, compare)))
        if len(values) != 2:  # noqa: PLR2004 - a comparison
            named = ", ".join(values[:_SHOWN]) + (", ..." if len(values) > _SHOWN else "")
            raise DesignError(
                f"column {compare} of {TABLE} has {len(values)} values for these subjects ({named}), 2 are needed; "
                f"{_ENOUGH}"
            )
        groups = [f"{compare}.{value}" for value in values]
        members = [f"{pairs}.{value}" for value in sorted(set(_known(rows, pairs)))] if pairs else []
        asked = Contrast(" minus ".join(values), tuple(groups), ((1.0, -1.0),))
        own = [Contrast(f"{name} given {compare}", (name,), ((1.0,),)) for name in covariates]
        node = Node(
            "Dataset", (*groups, *members, *covariates), (asked, *own), None, (compare, *([pairs] if pairs else []))
        )
        design = cls.from_node(node, rows)
        if not pairs:
            return design
        differences = _differences(rows, compare, pairs)
        return cls(design.matrix, design.questions, design.factors, design.centred, differences)

    @property
    def scaled(self) -> pd.DataFrame:
        """The matrix with columns of length 1, so that numbers in the billions do not drown others in rounding."""
        return self.matrix / self._lengths

    def asked(self, contrast: Contrast) -> Contrast:
        """Put a question to the scaled matrix."""
        weights = contrast.matrix(list(self.matrix.columns)) / self._lengths.to_numpy()
        return Contrast(contrast.name, tuple(self.matrix.columns), tuple(map(tuple, weights.tolist())), contrast.test)

    @property
    def _lengths(self) -> pd.Series:
        """Length of every column; 1 for those that are 0."""
        return (self.matrix**2).sum().pow(0.5).replace(0.0, 1.0)


def participants_of(raw: Path) -> pd.DataFrame:
    """Read the table of participants.

    Returns all columns as text, without blanks at their ends; rows by label.
    """
    table = read_tsv(raw / TABLE).rename(columns=str.strip).apply(lambda column: column.str.strip())
    if "participant_id" not in table.columns:
        raise DatasetError(f"{raw / TABLE} has no column participant_id; add it")
    rows: pd.DataFrame = table.set_index(table.pop("participant_id").str.removeprefix("sub-"))
    if doubled := list(rows.index[rows.index.duplicated()]):
        raise DatasetError(f"{raw / TABLE} has two rows for sub-{doubled[0]}; leave one out")
    return rows


def rows_of(participants: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Choose the rows of subjects.

    Returns (n_subjects, n_columns): in that order.
    """
    if absent := [label for label in labels if label not in participants.index]:
        raise DatasetError(f"{TABLE} has no row for sub-{absent[0]}; add it")
    return participants.loc[list(labels)]


def _known(rows: pd.DataFrame, name: str) -> pd.Series:
    """A column without missing values."""
    if name not in rows.columns:
        near = did_you_mean(name, rows.columns)
        raise DesignError(f"{TABLE} has no column {name}; {near}it has {', '.join(rows.columns)}")
    missing = rows.index[rows[name].isin(_MISSING)]
    if len(missing):
        raise DesignError(f"column {name} of {TABLE} has no value for sub-{missing[0]}; {_ENOUGH}")
    return rows[name]


def _factor(rows: pd.DataFrame, name: str) -> dict[str, NDArray[np.float64]]:
    """One column per value, 1 where a subject has it."""
    values = _known(rows, name)
    return {f"{name}.{value}": (values == value).to_numpy(float) for value in sorted(set(values))}


def _covariate(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """A column of numbers, centred, so that the intercept and groups are at the mean of the subjects."""
    text = _known(rows, name)
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(float)
    if not np.isfinite(numbers).all():
        place = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise DesignError(
            f"column {name} of {TABLE} holds {text.iloc[place]!r} for sub-{rows.index[place]}, a number is needed; "
            f"{_ENOUGH}"
        )
    if len(numbers) > 1 and np.ptp(numbers) == 0:
        raise DesignError(f"column {name} of {TABLE} is {text.iloc[0]} for all these subjects; leave it out")
    return np.asarray(numbers - numbers.mean())


def _differences(rows: pd.DataFrame, compare: str, pairs: str) -> NDArray[np.float64]:
    """1 and -1 for the two of each pair, shape (n_pairs, n_subjects)."""
    one, other = sorted(set(rows[compare]))
    signs = np.where(rows[compare] == one, 1.0, -1.0)
    members = [(rows[pairs] == value).to_numpy() for value in sorted(set(rows[pairs]))]
    for own in members:
        if own.sum() != 2 or signs[own].sum() != 0:  # noqa: PLR2004 - a pair
            found = ", ".join(f"sub-{label} ({rows[compare][label]})" for label in rows.index[own])
            raise DesignError(
                f"{pairs} {rows[pairs][own].iloc[0]} holds {found}, not one of {one} and one of {other}; {_ENOUGH}"
            )
    return np.stack([own * signs for own in members])
