"""Columns that the transformations of a Stats Model make from the conditions of a run.

The transformations are those of pybids-transforms-v1. ``Factor`` makes one column per condition. ``Product`` multiplies
a condition by a confound, as a parametric modulator. ``Convolve`` with Model ``fir`` gives a condition one column per
bin of tokens. Each column measures one kind of effect of a prompt: its mean, a slope, or a response in a bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from llm2bids.errors import StatsModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FACTOR: Final = "trial_type."
"""Beginning of the names of conditions, once trial_type is a factor."""
WILDCARDS: Final = "*?["
"""Characters of which a pattern in ``X`` holds at least one; a pattern may match several columns, or none."""
MEAN: Final = "mean effect"
"""Kind of a column that is a condition without a transformation."""
_BIN: Final = "delay "
_DELAYS: Final = {"FIRDelays", "FirDelays"}
"""Spellings of the field; pybids reads both as ``fir_delays``."""


@dataclass(frozen=True, slots=True)
class Column:
    """Meaning of a column of the design.

    - `condition`: without ``trial_type.``.
    - `kind`: `MEAN`, the name of a modulator (for the slope over it), or a bin of tokens, e.g. ``"delay 4"``.
    """

    condition: str
    kind: str = MEAN

    @property
    def delay(self) -> int | None:
        """First token of its bin; None for other kinds."""
        return int(self.kind.removeprefix(_BIN)) if self.kind.startswith(_BIN) else None


def bin_kind(delay: int) -> str:
    """Name the kind of a bin of tokens; the blank keeps it apart from names of modulators.

    >>> Column("on", bin_kind(4)).delay
    4
    """
    return f"{_BIN}{delay}"


def is_slope(kind: str) -> bool:
    """Whether a kind is a slope over a modulator; mean effects and bins are levels."""
    return kind != MEAN and not kind.startswith(_BIN)


@dataclass(frozen=True, slots=True)
class Product:
    """A parametric modulator: a condition times a confound."""

    name: str
    condition: str
    modulator: str


@dataclass(frozen=True, slots=True)
class Regressors:
    """Transformations of the conditions of a run, after ``Factor``.

    - `convolved`: conditions with one column per bin, as ``trial_type.on`` or wildcards.
    - `delays`: first tokens of the bins, in scans from the start of a prompt: 0, then equally spaced.
    """

    products: tuple[Product, ...] = ()
    convolved: tuple[str, ...] = ()
    delays: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raise if columns or bins would be ambiguous."""
        names = [product.name for product in self.products]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise StatsModelError(f"two Products have Output {min(doubled)}; rename one")
        if self.products and self.convolved:
            raise StatsModelError(
                f"Product (of {self.products[0].name}) and Convolve with fir found in one model, whose slopes and bins "
                "would explain the same tokens; use two models"
            )
        steps = {later - delay for delay, later in pairwise(self.delays)}
        if self.convolved and (self.delays[:1] != (0,) or len(steps) != 1 or min(steps) < 1):
            raise StatsModelError(
                f"FIRDelays {list(self.delays)} found; two or more scans from 0, equally spaced, needed, e.g. "
                "[0, 4, 8, 12]"
            )

    def columns(self, conditions: Sequence[str]) -> dict[str, Column]:
        """Columns of a run with these conditions, by name.

        A condition that is convolved is replaced by its bins, which are named as in nilearn.

        >>> list(Regressors(convolved=("trial_type.on",), delays=(0, 4)).columns(["off", "on"]))
        ['trial_type.off', 'trial_type.on_delay_0', 'trial_type.on_delay_4']
        """
        columns: dict[str, Column] = {}
        for condition in conditions:
            name = f"{FACTOR}{condition}"
            if any(name == pattern or fnmatchcase(name, pattern) for pattern in self.convolved):
                columns |= {f"{name}_delay_{delay}": Column(condition, bin_kind(delay)) for delay in self.delays}
            else:
                columns[name] = Column(condition)
        products = [product for product in self.products if product.condition in conditions]
        return columns | {product.name: Column(product.condition, product.modulator) for product in products}

    def to_json(self) -> list[dict[str, Any]]:
        """Describe the transformations for a sidecar."""
        products: list[dict[str, Any]] = [
            {"Name": "Product", "Input": [f"{FACTOR}{product.condition}", product.modulator], "Output": [product.name]}
            for product in self.products
        ]
        fir = {"Name": "Convolve", "Model": "fir", "Input": list(self.convolved), "FIRDelays": list(self.delays)}
        return [*products, fir] if self.convolved else products


def read_transformations(instructions: Sequence[Any], level: str) -> tuple[tuple[str, ...], Regressors]:
    """Read the instructions of a node: its factors, and the regressors of a run."""
    factors: list[str] = []
    products: list[Product] = []
    convolved: list[str] = []
    delays: tuple[int, ...] = ()
    for step in instructions:
        name = step.get("Name") if isinstance(step, dict) else step
        if name == "Factor":
            factors += _factor(step, level)
        elif name == "Product" and level == "Run":
            products.append(_product(step))
        elif name == "Convolve" and level == "Run" and str(step.get("Model")).lower() == "fir":
            inputs, step_delays = _fir(step)
            if delays not in {(), step_delays}:
                raise StatsModelError(
                    f"FIRDelays {list(delays)} and {list(step_delays)} found in one model; use the same"
                )
            convolved, delays = [*convolved, *inputs], step_delays
        elif name == "Convolve":
            _check_convolution(step, level)
        else:
            raise StatsModelError(
                f"transformation {name} is not supported at level {level}; Factor is, and at level Run Product and "
                f"Convolve with fir: leave {name} out"
            )
    return tuple(factors), Regressors(tuple(products), tuple(convolved), delays)


def _factor(step: Mapping[str, Any], level: str) -> list[str]:
    """Read the variables that become factors."""
    if set(step) != {"Name", "Input"} or not isinstance(step["Input"], list):
        raise StatsModelError(f"Factor with fields {', '.join(step)} found; Name and Input, a list, are supported")
    variables = list(map(str, step["Input"]))
    if level == "Run" and set(variables) - {"trial_type"}:
        raise StatsModelError(f"Factor of {min(set(variables) - {'trial_type'})} is not supported; use trial_type")
    return variables


def _product(step: Mapping[str, Any]) -> Product:
    """Read a condition times a confound."""
    inputs, output = step.get("Input"), step.get("Output")
    (name,) = output if isinstance(output, list) and len(output) == 1 else (output,)
    listed = list(map(str, inputs)) if isinstance(inputs, list) else []
    conditions = [column for column in listed if column.startswith(FACTOR)]
    modulators = [column for column in listed if not column.startswith(FACTOR)]
    if set(step) != {"Name", "Input", "Output"} or len(conditions) != 1 or len(modulators) != 1:
        raise StatsModelError(
            f"Product with fields {', '.join(step)} and Input {inputs} found; Name, Output and an Input of one "
            'condition and one confound are supported, e.g. ["trial_type.on", "tok_surprisal"]'
        )
    if not isinstance(name, str) or name in {"", "1", *listed} or name.startswith(FACTOR):
        raise StatsModelError(f"Product with Output {output} found; one new name needed, e.g. on_x_surprisal")
    if patterns := [column for column in (name, *listed) if set(WILDCARDS) & set(column)]:
        raise StatsModelError(
            f"Product with the wildcard {patterns[0]} is not supported; write one Product per condition"
        )
    return Product(name, conditions[0].removeprefix(FACTOR), modulators[0])


def _fir(step: Mapping[str, Any]) -> tuple[list[str], tuple[int, ...]]:
    """Read the conditions to convolve, and the delays."""
    inputs = step.get("Input")
    spellings = [key for key in step if key in _DELAYS]
    if set(step) - _DELAYS != {"Name", "Model", "Input"} or len(spellings) != 1:
        raise StatsModelError(
            f"Convolve with fir and fields {', '.join(step)} found; Name, Model, Input and FIRDelays are supported"
        )
    if not isinstance(inputs, list) or not inputs or not all(str(column).startswith(FACTOR) for column in inputs):
        raise StatsModelError(
            f'Convolve with fir of {inputs} found; a list of conditions needed, e.g. ["trial_type.on"]'
        )
    delays = step[spellings[0]]
    if not isinstance(delays, list) or not all(isinstance(delay, int | float) and delay % 1 == 0 for delay in delays):
        raise StatsModelError(f"FIRDelays {delays} found; a list of whole scans needed, e.g. [0, 4, 8, 12]")
    return list(map(str, inputs)), tuple(map(int, delays))


def _check_convolution(step: Mapping[str, Any], level: str) -> None:
    """Raise if a convolution is asked for that is neither none nor fir."""
    model = step.get("Model", "spm")
    if str(model).lower() != "none":
        raise StatsModelError(
            f"Convolve with {model} is not supported at level {level}: units answer at once; leave it out"
            + (", or use Model fir, which unfolds the answer over tokens" if level == "Run" else "")
        )
