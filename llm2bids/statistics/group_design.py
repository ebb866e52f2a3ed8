"""Design over subjects: groups, pairs and covariates from the columns of participants.tsv."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
_REMEDY: Final = "mend it, or choose other subjects with `participant_label`"
_MAX_LISTED: Final = 5
"""Most values that a message lists."""


@dataclass(frozen=True, slots=True, eq=False)
class SubjectDesign:
    """Design matrix and contrasts over subjects.

    - `matrix` (n_subjects, n_regressors): rows by label of the subject. The intercept is ``1``; covariates are centred.
    - `contrasts`: of the columns of the matrix; the contrast of the intercept has the name ``1``.
    - `factors`: variables with one column per value.
    - `centred`: names of the covariates.
    - `differences` (n_pairs, n_subjects): each row has 1 and -1 for the subjects of a pair; None without pairs.
    """

    matrix: pd.DataFrame
    contrasts: tuple[Contrast, ...]
    factors: tuple[str, ...] = ()
    centred: tuple[str, ...] = ()
    differences: NDArray[np.float64] | None = None

    @classmethod
    def from_node(cls, node: Node, rows: pd.DataFrame) -> SubjectDesign:
        """Make the design of a Dataset node; `rows` (n_subjects, n_columns) are columns of participants.tsv."""
        factor_columns = dict(column for name in node.factors for column in _factor(rows, name).items())
        variables = [name for name in rows.columns if name not in node.factors]
        chosen = node.select([*factor_columns, *variables])
        columns = {INTERCEPT: np.ones(len(rows))} if INTERCEPT in node.x else {}
        columns |= {name: factor_columns[name] if name in factor_columns else _covariate(rows, name) for name in chosen}
        matrix = pd.DataFrame(columns, index=rows.index)
        centred = tuple(name for name in chosen if name not in factor_columns)
        return cls(matrix, node.all_contrasts(list(columns)), node.factors, centred)

    @classmethod
    def from_columns(
        cls, rows: pd.DataFrame, compare: str | None, pairs: str | None, covariates: Sequence[str]
    ) -> SubjectDesign:
        """Make the design that tests a mean, compares two groups, or compares the two subjects of each pair.

        `rows` (n_subjects, n_columns): columns of participants.tsv. `compare`, `pairs`, `covariates`: names of columns.
        """
        if pairs and not compare:
            raise InferenceError("pairs without a comparison asked for; name the column with `compare`")
        if not compare:
            return cls.from_node(Node("Dataset", (INTERCEPT, *covariates), dummies=(INTERCEPT, *covariates)), rows)
        values = sorted(set(_complete(rows, compare)))
        if len(values) != 2:  # noqa: PLR2004 - a comparison
            listed = ", ".join(values[:_MAX_LISTED]) + (", ..." if len(values) > _MAX_LISTED else "")
            raise DesignError(
                f"column {compare} of {TABLE} has {len(values)} values for these subjects ({listed}), 2 are needed; "
                f"{_REMEDY}"
            )
        groups = [f"{compare}.{value}" for value in values]
        # One column per pair takes out what its two subjects share, as a paired t test does.
        pair_columns = [f"{pairs}.{value}" for value in sorted(set(_complete(rows, pairs)))] if pairs else []
        difference = Contrast(" minus ".join(values), tuple(groups), ((1.0, -1.0),))
        slopes = [Contrast(f"{name} given {compare}", (name,), ((1.0,),)) for name in covariates]
        x, factors = (*groups, *pair_columns, *covariates), (compare, *([pairs] if pairs else []))
        design = cls.from_node(Node("Dataset", x, (difference, *slopes), None, factors), rows)
        return replace(design, differences=_differences(rows, compare, pairs)) if pairs else design

    @property
    def scaled(self) -> pd.DataFrame:
        """Matrix with columns of length 1: numbers in the billions would make others vanish in rounding."""
        return self.matrix / self._lengths

    def scale(self, contrast: Contrast) -> Contrast:
        """Convert a contrast of the matrix to the same contrast of the scaled matrix."""
        weights = contrast.matrix(list(self.matrix.columns)) / self._lengths.to_numpy()
        return Contrast(contrast.name, tuple(self.matrix.columns), tuple(map(tuple, weights.tolist())), contrast.test)

    @property
    def _lengths(self) -> pd.Series:
        """Length of every column; 1 for columns of zeros."""
        return (self.matrix**2).sum().pow(0.5).replace(0.0, 1.0)


def participants_of(raw: Path) -> pd.DataFrame:
    """Read participants.tsv as text, without blanks around the values; rows by label of the subject."""
    table = read_tsv(raw / TABLE).rename(columns=str.strip).apply(lambda column: column.str.strip())
    if "participant_id" not in table.columns:
        raise DatasetError(f"{raw / TABLE} has no column participant_id; add it")
    rows: pd.DataFrame = table.set_index(table.pop("participant_id").str.removeprefix("sub-"))
    if doubled := list(rows.index[rows.index.duplicated()]):
        raise DatasetError(f"{raw / TABLE} has two rows for sub-{doubled[0]}; leave one out")
    return rows


def rows_of(participants: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Rows of these subjects, in this order (n_subjects, n_columns)."""
    if absent := [label for label in labels if label not in participants.index]:
        raise DatasetError(f"{TABLE} has no row for sub-{absent[0]}; add it")
    return participants.loc[list(labels)]


def _complete(rows: pd.DataFrame, name: str) -> pd.Series:
    """Get a column; raise if it has missing values."""
    if name not in rows.columns:
        near = did_you_mean(name, rows.columns)
        raise DesignError(f"{TABLE} has no column {name}; {near}it has {', '.join(rows.columns)}")
    missing = rows.index[rows[name].isin(_MISSING)]
    if len(missing):
        raise DesignError(f"column {name} of {TABLE} has no value for sub-{missing[0]}; {_REMEDY}")
    return rows[name]


def _factor(rows: pd.DataFrame, name: str) -> dict[str, NDArray[np.float64]]:
    """One indicator column per value of a variable."""
    values = _complete(rows, name)
    return {f"{name}.{value}": (values == value).to_numpy(float) for value in sorted(set(values))}


def _covariate(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Get a column of numbers, centred: intercept and groups then refer to the mean of the covariate."""
    text = _complete(rows, name)
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(float)
    if not np.isfinite(numbers).all():
        index = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise DesignError(
            f"column {name} of {TABLE} holds {text.iloc[index]!r} for sub-{rows.index[index]}, a number is needed; "
            f"{_REMEDY}"
        )
    if len(numbers) > 1 and np.ptp(numbers) == 0:
        raise DesignError(f"column {name} of {TABLE} is {text.iloc[0]} for all these subjects; leave it out")
    return np.asarray(numbers - numbers.mean())


def _differences(rows: pd.DataFrame, compare: str, pairs: str) -> NDArray[np.float64]:
    """1 and -1 for the two subjects of each pair, shape (n_pairs, n_subjects)."""
    first, second = sorted(set(rows[compare]))
    signs = np.where(rows[compare] == first, 1.0, -1.0)
    members = [(rows[pairs] == value).to_numpy() for value in sorted(set(rows[pairs]))]
    for pair in members:
        if pair.sum() != 2 or signs[pair].sum() != 0:  # noqa: PLR2004 - a pair
            subjects = ", ".join(f"sub-{label} ({rows[compare][label]})" for label in rows.index[pair])
            raise DesignError(
                f"{pairs} {rows[pairs][pair].iloc[0]} holds {subjects}, not one of {first} and one of {second}; "
                f"{_REMEDY}"
            )
    return np.stack([pair * signs for pair in members])
