"""Which columns transformations make of the conditions of a run, and what of a prompt each of them is about.

In the words of pybids-transforms-v1: ``Factor`` makes a column of each condition, ``Product`` of a condition and a
confound makes a parametric modulator, ``Convolve`` with Model ``fir`` unfolds the answer over the tokens of a prompt.
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
"""What the names of conditions begin with, once trial_type is a factor."""
WILDCARDS: Final = "*?["
"""Of these a name in ``X`` holds one where it may match several columns, or none."""
MEAN: Final = "mean effect"
"""The kind of a column that is a condition as it is."""
_BIN: Final = "delay "
_DELAYS: Final = {"FIRDelays", "FirDelays"}
"""Both are ``fir_delays`` to pybids."""


@dataclass(frozen=True, slots=True)
class Column:
    """What a column of the design is about.

    - `condition`: the condition, without ``trial_type.``; a confound by its name.
    - `kind`: what of a prompt: `MEAN`, the name of a modulator for the slope over it, or the answer in a bin of tokens,
      e.g. ``"delay 4"``.
    """

    condition: str
    kind: str = MEAN

    @property
    def delay(self) -> int | None:
        """First token of its bin; None where it is of no bin."""
        return int(self.kind.removeprefix(_BIN)) if self.kind.startswith(_BIN) else None


def bin_kind(delay: int) -> str:
    """Name the answer in a bin of tokens.

    Returns with a blank, so that no modulator is called the same.

    >>> Column("on", bin_kind(4)).delay
    4
    """
    return f"{_BIN}{delay}"


def is_slope(kind: str) -> bool:
    """Say whether a kind is a slope over a modulator.

    Returns false for a mean effect or a bin, which are levels.
    """
    return kind != MEAN and not kind.startswith(_BIN)


@dataclass(frozen=True, slots=True)
class Product:
    """A parametric modulator: a condition times a confound."""

    name: str
    condition: str
    modulator: str


@dataclass(frozen=True, slots=True)
class Regressors:
    """What the transformations of a run make of its conditions, once they are factors.

    - `convolved`: conditions that are unfolded over tokens, as ``trial_type.on`` or wildcards.
    - `delays`: first tokens of the bins, in scans from the start of a prompt: 0, then equally spaced.
    """

    products: tuple[Product, ...] = ()
    convolved: tuple[str, ...] = ()
    delays: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what would be ambiguous."""
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
        """List the columns that a run with some conditions has.

        Returns `Column` by name. A condition that is convolved has its bins, named as nilearn does, in place of itself.

        >>> list(Regressors(convolved=("trial_type.on",), delays=(0, 4)).columns(["off", "on"]))
        ['trial_type.off', 'trial_type.on_delay_0', 'trial_type.on_delay_4']
        """
        made: dict[str, Column] = {}
        for condition in conditions:
            own = f"{FACTOR}{condition}"
            if any(own == pattern or fnmatchcase(own, pattern) for pattern in self.convolved):
                made |= {f"{own}_delay_{delay}": Column(condition, bin_kind(delay)) for delay in self.delays}
            else:
                made[own] = Column(condition)
        return made | {
            one.name: Column(one.condition, one.modulator) for one in self.products if one.condition in conditions
        }

    def to_json(self) -> list[dict[str, Any]]:
        """Describe the transformations for a sidecar."""
        made: list[dict[str, Any]] = [
            {"Name": "Product", "Input": [f"{FACTOR}{one.condition}", one.modulator], "Output": [one.name]}
            for one in self.products
        ]
        fir = {"Name": "Convolve", "Model": "fir", "Input": list(self.convolved), "FIRDelays": list(self.delays)}
        return [*made, fir] if self.convolved else made


def read_transformations(instructions: Sequence[Any], level: str) -> tuple[tuple[str, ...], Regressors]:
    """Read the instructions of a node, if we can carry them out."""
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
            own, asked = _fir(step)
            if delays not in {(), asked}:
                raise StatsModelError(f"FIRDelays {list(delays)} and {list(asked)} found in one model; use the same")
            convolved, delays = [*convolved, *own], asked
        elif name == "Convolve":
            _check_convolution(step, level)
        else:
            raise StatsModelError(
                f"transformation {name} is not supported at level {level}; Factor is, and at level Run Product and "
                f"Convolve with fir: leave {name} out"
            )
    return tuple(factors), Regressors(tuple(products), tuple(convolved), delays)


def _factor(step: Mapping[str, Any], level: str) -> list[str]:
    """Variables that become factors."""
    if set(step) != {"Name", "Input"} or not isinstance(step["Input"], list):
        raise StatsModelError(f"Factor with fields {', '.join(step)} found; Name and Input, a list, are supported")
    found = list(map(str, step["Input"]))
    if level == "Run" and set(found) - {"trial_type"}:
        raise StatsModelError(f"Factor of {min(set(found) - {'trial_type'})} is not supported; use trial_type")
    return found


def _product(step: Mapping[str, Any]) -> Product:
    """A condition times a confound."""
    inputs, output = step.get("Input"), step.get("Output")
    (name,) = output if isinstance(output, list) and len(output) == 1 else (output,)
    listed = list(map(str, inputs)) if isinstance(inputs, list) else []
    conditions = [one for one in listed if one.startswith(FACTOR)]
    others = [one for one in listed if not one.startswith(FACTOR)]
    if set(step) != {"Name", "Input", "Output"} or len(conditions) != 1 or len(others) != 1:
        raise StatsModelError(
            f"Product with fields {', '.join(step)} and Input {inputs} found; Name, Output and an Input of one "
            'condition and one confound are supported, e.g. ["trial_type.on", "tok_surprisal"]'
        )
    if not isinstance(name, str) or name in {"", "1", *listed} or name.startswith(FACTOR):
        raise StatsModelError(f"Product with Output {output} found; one new name needed, e.g. on_x_surprisal")
    if wild := [one for one in (name, *listed) if set(WILDCARDS) & set(one)]:
        raise StatsModelError(f"Product with the wildcard {wild[0]} is not supported; write one Product per condition")
    return Product(name, conditions[0].removeprefix(FACTOR), others[0])


def _fir(step: Mapping[str, Any]) -> tuple[list[str], tuple[int, ...]]:
    """Conditions to unfold, and the delays."""
    inputs = step.get("Input")
    spelt = [key for key in step if key in _DELAYS]
    if set(step) - _DELAYS != {"Name", "Model", "Input"} or len(spelt) != 1:
        raise StatsModelError(
            f"Convolve with fir and fields {', '.join(step)} found; Name, Model, Input and FIRDelays are supported"
        )
    if not isinstance(inputs, list) or not inputs or not all(str(one).startswith(FACTOR) for one in inputs):
        raise StatsModelError(
            f'Convolve with fir of {inputs} found; a list of conditions needed, e.g. ["trial_type.on"]'
        )
    delays = step[spelt[0]]
    if not isinstance(delays, list) or not all(isinstance(one, int | float) and one % 1 == 0 for one in delays):
        raise StatsModelError(f"FIRDelays {delays} found; a list of whole scans needed, e.g. [0, 4, 8, 12]")
    return list(map(str, inputs)), tuple(int(one) for one in delays)


def _check_convolution(step: Mapping[str, Any], level: str) -> None:
    """Refuse every convolution but none."""
    model = step.get("Model", "spm")
    if str(model).lower() != "none":
        raise StatsModelError(
            f"Convolve with {model} is not supported at level {level}: units answer at once; leave it out"
            + (", or use Model fir, which unfolds the answer over tokens" if level == "Run" else "")
        )
