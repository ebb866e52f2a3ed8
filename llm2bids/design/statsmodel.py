"""BIDS Stats Models: read the file, and raise on the parts of the specification that are not supported.

The nodes of a file form the chain Run → Subject → Dataset. The Run node names the columns of the design (``X``) and the
contrasts. The Subject node combines runs. The Dataset node compares subjects. The file does not say which samples are
independent; `glm` has an option for that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from llm2bids.bids.names import to_label
from llm2bids.bids.tables import read_json
from llm2bids.design.regressors import FACTOR, WILDCARDS, Regressors, read_transformations
from llm2bids.errors import DesignError, StatsModelError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

INTERCEPT: Final = "1"
"""The column of ones in ``X``."""
_LEVELS: Final = ("Run", "Subject", "Dataset")
_INPUT: Final = {"task", "subject", "session", "run", "acquisition"}
_TYPES: Final = {"Run": "glm", "Subject": "meta", "Dataset": "glm"}
_GROUPS: Final = {"Run": {"run", "subject"}, "Subject": {"subject", "contrast"}, "Dataset": {"contrast"}}
_APART: Final = {"task", "acquisition", "space"}
"""Entities that are always analysed separately, so that grouping by them changes nothing."""
_WHY: Final = {
    "Subject": "runs are combined by fixed effects, the prompt is the unit of inference",
    "Run": "first levels are linear models",
    "Dataset": "second levels are linear models",
}


@dataclass(frozen=True, slots=True)
class Contrast:
    """A contrast of the columns of a design.

    >>> Contrast.from_expression("on - 0.5*off - 0.5*other")
    Contrast(name='onMinus0x5OffMinus0x5Other', columns=('trial_type.on', 'trial_type.off', 'trial_type.other'), \
weights=((1.0, -0.5, -0.5),), test='t')
    """

    name: str
    columns: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]
    test: Literal["t", "F"] = "t"

    def __post_init__(self) -> None:
        """Raise if the weights do not form a test."""
        if not to_label(self.name):
            raise StatsModelError(f"a contrast named {self.name!r} found; letters or digits needed: rename it")
        if not self.weights or any(len(row) != len(self.columns) for row in self.weights):
            raise StatsModelError(
                f"contrast {self.name} has {len(self.columns)} conditions and weights {list(self.weights)}; give one "
                "weight per condition"
            )
        if not all(any(row) for row in self.weights):
            raise StatsModelError(f"contrast {self.name} has only weights of 0; give one that is not")
        if doubled := {column for column in self.columns if self.columns.count(column) > 1}:
            raise StatsModelError(f"contrast {self.name} names {min(doubled)} twice; give each condition one weight")
        if np.linalg.matrix_rank(self.weights) < len(self.weights) and self.test == "F":
            raise StatsModelError(f"contrast {self.name} has rows that follow from others; leave those out")
        if self.test == "t" and len(self.weights) > 1:
            raise StatsModelError(f"contrast {self.name} is a t test with {len(self.weights)} rows; use F, or one row")

    @classmethod
    def from_expression(cls, text: str) -> Contrast:
        """Read a sum of conditions: ``"on - off"``, ``"2*a - b - c"`` or, with a name, ``"task=on - off"``."""
        name, equals, expression = text.rpartition("=")
        term = r"\s*([+-]?)\s*(?:(\d*\.?\d+)\s*\*\s*)?([^\W\d]\w*)"
        terms = re.findall(term, expression)
        if not terms or re.sub(term, "", expression).strip() or not all(sign for sign, *_ in terms[1:]):
            raise StatsModelError(f"contrast {text!r} found; write a sum of conditions, e.g. 'on - off'")
        weights = tuple(float(f"{sign}{factor or 1}") for sign, factor, _ in terms)
        words = {"-": "Minus", "+": "Plus", "": ""}
        parts = (f"{words[sign]}{factor}{condition[0].upper()}{condition[1:]}" for sign, factor, condition in terms)
        joined = "".join(parts).removeprefix("Plus")
        default = to_label(joined[:1].lower() + joined[1:] if terms[0][2][0].islower() else joined)
        columns = tuple(f"{FACTOR}{condition}" for *_, condition in terms)
        return cls(name.strip() if equals else default, columns, (weights,))

    @property
    def label(self) -> str:
        """Value of the BIDS entity ``contrast``."""
        return to_label(self.name)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions whose weight is not 0, without ``trial_type.``."""
        return tuple(name.removeprefix(FACTOR) for name in self.weighted_columns if name.startswith(FACTOR))

    @property
    def weighted_columns(self) -> list[str]:
        """Columns whose weight is not 0."""
        weights = zip(*self.weights, strict=True)
        return [column for column, column_weights in zip(self.columns, weights, strict=True) if any(column_weights)]

    def matrix(self, columns: Sequence[str]) -> NDArray[np.float64]:
        """Weights over all columns of a design, shape (n_rows, n_columns)."""
        indices = {column: number for number, column in enumerate(columns)}
        if missing := [column for column in self.columns if column not in indices]:
            raise DesignError(
                f"contrast {self.name} weighs {missing[0]}, which the design does not have; it has {', '.join(columns)}"
            )
        matrix = np.zeros((len(self.weights), len(columns)))
        for row, weights in zip(matrix, self.weights, strict=True):
            np.add.at(row, [indices[column] for column in self.columns], weights)
        return matrix


@dataclass(frozen=True, slots=True)
class Node:
    """One level of a model.

    - `x`: columns of the design, as names or wildcards; the intercept as ``"1"``.
    - `contrasts`: those that the file names.
    - `dummies`: columns that are tested one by one; empty for all of `x`, None for none.
    - `factors`: variables with one column ``variable.value`` per value.
    - `high_pass`: cutoff of the drift in Hz, if the file sets one.
    - `regressors`: columns that other transformations make from the conditions of a run.
    """

    level: str
    x: tuple[str, ...] = (INTERCEPT,)
    contrasts: tuple[Contrast, ...] = ()
    dummies: tuple[str, ...] | None = None
    factors: tuple[str, ...] = ()
    high_pass: float | None = None
    regressors: Regressors = field(default_factory=Regressors)

    def select(self, available: Sequence[str]) -> list[str]:
        """Columns that a name or wildcard of `x` matches, in order of `x`; the intercept is left out."""
        chosen: dict[str, None] = {}
        for pattern in self.x:
            if pattern == INTERCEPT:
                continue
            matches = [name for name in available if name == pattern or fnmatchcase(name, pattern)]
            if not matches and not set(WILDCARDS) & set(pattern):
                raise DesignError(
                    f"{pattern} is asked for at level {self.level} and not there; {did_you_mean(pattern, available)}"
                    f"there are {', '.join(available) or 'none'}"
                )
            chosen |= dict.fromkeys(matches)
        return list(chosen)

    def all_contrasts(self, columns: Sequence[str]) -> tuple[Contrast, ...]:
        """Contrasts of the file and dummy contrasts, of a design with these columns."""
        dummies = () if self.dummies is None else (self.dummies or tuple(columns))
        single = [Contrast(name.removeprefix(FACTOR), (name,), ((1.0,),)) for name in dummies]
        contrasts = (*self.contrasts, *single)
        labels = [contrast.label for contrast in contrasts]
        if not contrasts:
            raise StatsModelError(f"no contrast found at level {self.level}; add Contrasts or DummyContrasts")
        if doubled := [label for label in labels if labels.count(label) > 1]:
            raise StatsModelError(f"two contrasts would be named {doubled[0]}; rename one")
        return contrasts


@dataclass(frozen=True, slots=True)
class StatsModel:
    """A BIDS Stats Model of the kind Run → Subject → Dataset.

    - `run`, `dataset`: designs and contrasts of a run, and over subjects.
    - `inputs`: values that the data are restricted to, by entity (``task``, ``subject``, ``session``, ``run``,
      ``acquisition``).

    The specification is at https://bids-standard.github.io/stats-models.
    """

    name: str
    run: Node
    dataset: Node
    inputs: Mapping[str, tuple[str, ...]]

    @classmethod
    def from_file(cls, path: Path) -> StatsModel:
        """Read a model."""
        fields = read_json(path)
        try:
            return cls.from_json(fields)
        except StatsModelError as error:
            raise StatsModelError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> StatsModel:
        """Read a model from its JSON object."""
        _check_schema(fields)
        nodes = {node["Level"]: _node(node) for node in _chain(fields)}
        return cls(fields["Name"], nodes["Run"], nodes.get("Dataset", Node("Dataset", dummies=())), _inputs(fields))

    def includes(self, entities: Mapping[str, str]) -> bool:
        """Whether ``Input`` includes a file with these entities; runs are compared without leading zeros."""
        short = {"subject": "sub", "session": "ses", "acquisition": "acq"}
        labels = {key: entities.get(short.get(key, key), "").lstrip("0") for key in self.inputs}
        return all(labels[key] in {value.lstrip("0") for value in values} for key, values in self.inputs.items())

    def with_contrasts(self, contrasts: Sequence[Contrast]) -> StatsModel:
        """Replace the contrasts of runs; ``trial_type.x`` may also be the name ``x`` of a product."""
        products = {f"{FACTOR}{product.name}": product.name for product in self.run.regressors.products}
        renamed = [
            replace(contrast, columns=tuple(products.get(name, name) for name in contrast.columns))
            for contrast in contrasts
        ]
        return replace(self, run=replace(self.run, contrasts=tuple(renamed), dummies=None))


def _check_schema(fields: Mapping[str, Any]) -> None:
    """Raise if the schema of the specification does not accept the file, or does not know one of its fields."""
    from bsmschema.models import BIDSStatsModel  # noqa: PLC0415 - half a second
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        parsed = BIDSStatsModel(**fields).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise StatsModelError(f"no valid BIDS Stats Model: {place}: {first['msg']}; mend it") from error
    if unknown := _unknown(fields, parsed):
        raise StatsModelError(f"{unknown} is no field of a BIDS Stats Model; mend its name, or leave it out")


def _unknown(fields: Any, parsed: Any) -> str:
    """Path of the first field that the schema ignores: a misspelt field would change the model unnoticed."""
    if isinstance(fields, dict):
        for key, value in fields.items():
            if key not in parsed:
                return str(key)
            if below := _unknown(value, parsed[key]):
                return f"{key}.{below}"
    elif isinstance(fields, list):
        for number, (value, parsed_value) in enumerate(zip(fields, parsed, strict=True)):
            if below := _unknown(value, parsed_value):
                return f"{number}.{below}"
    return ""


def _chain(fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Nodes in order, which must be Run, then optionally Subject and Dataset."""
    nodes = {node["Name"]: node for node in fields["Nodes"]}
    order = [node["Name"] for node in fields["Nodes"]]
    if edges := fields.get("Edges"):
        following = {edge["Source"]: edge["Destination"] for edge in edges}
        branches = len(following) < len(edges) or len(set(following.values())) < len(edges)
        if (
            branches
            or any("Filter" in edge for edge in edges)
            or (set(following) | set(following.values())) - set(nodes)
        ):
            raise StatsModelError("Edges that branch or filter are not supported; use one chain Run, Subject, Dataset")
        order = [next(iter(set(following) - set(following.values())), "")]
        while order[-1] in following and len(order) <= len(nodes):
            order.append(following[order[-1]])
    levels = [nodes[name]["Level"] for name in order if name in nodes]
    if levels != [level for level in _LEVELS if level in levels] or levels[:1] != ["Run"] or len(levels) != len(nodes):
        raise StatsModelError(
            f"nodes {' → '.join(levels) or 'none'} are not supported; use one each of Run → Subject → Dataset, in order"
        )
    return [nodes[name] for name in order]


def _node(fields: Mapping[str, Any]) -> Node:
    """Read one node."""
    level, model = fields["Level"], fields["Model"]
    if model["Type"] != _TYPES[level]:
        raise StatsModelError(
            f"Type {model['Type']} at level {level} is not supported ({_WHY[level]}); use {_TYPES[level]}"
        )
    _check_groups(level, set(fields["GroupBy"]))
    x = tuple(map(str, model["X"]))
    if level == "Subject" and (x != (INTERCEPT,) or fields.get("Contrasts") or fields.get("Transformations")):
        raise StatsModelError(
            "a Subject node with columns, contrasts or transformations of its own is not supported; use X [1]"
        )
    contrasts = fields.get("Contrasts") or []
    dummies = fields.get("DummyContrasts")
    if dummies and dummies["Test"] == "F":
        raise StatsModelError("DummyContrasts with Test F are not supported; use t, or name the F contrast")
    if level == "Dataset" and "pass" in [tested["Test"] for tested in (*contrasts, dummies) if tested]:
        raise StatsModelError("Test pass at level Dataset is not supported, as nothing follows it; use t")
    listed = None if dummies is None else tuple(map(str, dummies.get("Contrasts") or ()))
    steps = (fields.get("Transformations") or {}).get("Instructions", [])
    factors, regressors = read_transformations(steps, level)
    return Node(level, x, tuple(map(_contrast, contrasts)), listed, factors, _high_pass(model, level), regressors)


def _check_groups(level: str, groups: set[str]) -> None:
    """Raise if a node pools or splits the data in another way than `glm` does."""
    needed, allowed = _GROUPS[level], _GROUPS[level] | _APART | ({"session"} if level == "Run" else set())
    if wrong := (needed - groups) | (groups - allowed):
        raise StatsModelError(
            f"GroupBy at level {level} {'lacks' if min(wrong) in needed else 'holds'} {min(wrong)}, which is not "
            f"supported; use {', '.join(sorted(needed))}"
        )


def _high_pass(model: Mapping[str, Any], level: str) -> float | None:
    """Read the high-pass cutoff; every other option raises."""
    if model.get("Formula"):
        raise StatsModelError("Formula is not supported; list the columns in X")
    if (hrf := model.get("HRF")) and str(hrf.get("Model", "")).lower() != "none":
        raise StatsModelError(f"HRF {hrf.get('Model')} is not supported: units answer at once; leave it out")
    options = {key: value for key, value in (model.get("Options") or {}).items() if str(value).lower() != "none"}
    if unknown := set(options) - {"HighPassFilterCutoffHz"}:
        raise StatsModelError(f"option {min(unknown)} is not supported; HighPassFilterCutoffHz is")
    cutoff: float | None = options.get("HighPassFilterCutoffHz")
    if cutoff is not None and (level != "Run" or not 0 < cutoff < inf):
        raise StatsModelError(f"a high-pass cutoff of {cutoff} Hz at level {level} found; at level Run, above 0 needed")
    return cutoff


def _contrast(fields: Mapping[str, Any]) -> Contrast:
    """Read one contrast; a weight may be a fraction such as "-1/2"."""
    weights = fields["Weights"]
    rows = weights if weights and isinstance(weights[0], list) else [weights]
    try:
        numbers = tuple(tuple(float(Fraction(str(weight).replace(" ", ""))) for weight in row) for row in rows)
    except (ValueError, ArithmeticError) as error:
        raise StatsModelError(f"contrast {fields['Name']}: a weight is no number ({error}); mend it") from error
    test: Literal["t", "F"] = "F" if fields["Test"] == "F" else "t"
    return Contrast(fields["Name"], tuple(map(str, fields["ConditionList"])), numbers, test)


def _inputs(fields: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Read the restrictions on the data."""
    inputs = fields.get("Input") or {}
    if unknown := set(inputs) - _INPUT:
        raise StatsModelError(f"Input by {min(unknown)} is not supported; use {', '.join(sorted(_INPUT))}")
    return {key: tuple(map(str, values if isinstance(values, list) else [values])) for key, values in inputs.items()}
