"""What the tests of slopes and bins share: models that ask for them, and runs that are nowhere on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from llm2bids.bids.runs import frame_times
from llm2bids.design.statsmodel import StatsModel
from llm2bids.statistics.analysis import Analysis
from llm2bids.statistics.second_level import check, estimate
from llm2bids.statistics.settings import GLMSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llm2bids.errors import LLM2BIDSError
    from llm2bids.statistics.second_level import SubjectMaps

OFF_ON = ("off", "on")
FACTOR = {"Name": "Factor", "Input": ["trial_type"]}
SURPRISAL = [
    {"Name": "Product", "Input": [f"trial_type.{name}", "tok_surprisal"], "Output": [f"{name}_x_surprisal"]}
    for name in OFF_ON
]
POSITION = [
    {"Name": "Product", "Input": ["tok_position", f"trial_type.{name}"], "Output": f"{name}_x_position"}
    for name in OFF_ON
]
BINS = {"Name": "Convolve", "Model": "fir", "Input": ["trial_type.*"], "FIRDelays": [0, 4, 8]}
SLOPES = ["trial_type.on", "trial_type.off", "on_x_surprisal", "off_x_surprisal"]
DELAYS = [f"trial_type.{name}_delay_{delay}" for name in OFF_ON for delay in (0, 4, 8)]


def contrast(name: str, test: str = "t", **weights: Any) -> dict[str, Any]:
    """One contrast; ``on_delay_0=1`` weighs a condition or its bin, names with ``_x_`` a product."""
    columns = [column if "_x_" in column else f"trial_type.{column}" for column in weights]
    rows = list(weights.values())
    return {
        "Name": name,
        "ConditionList": columns,
        "Weights": np.transpose(rows).tolist() if test == "F" else rows,
        "Test": test,
    }


def model(steps: Sequence[dict[str, Any]], x: Sequence[str], *contrasts: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a model."""
    transformations = {"Transformer": "pybids-transforms-v1", "Instructions": [FACTOR, *steps]}
    node = {"Level": "Run", "Name": "run", "GroupBy": ["run", "subject"], "Transformations": transformations,
            "Model": {"Type": "glm", "X": list(x)}, "Contrasts": list(contrasts)}  # fmt: skip
    return {"Name": "m", "BIDSModelVersion": "1.0.0", "Nodes": [node]}


# ---- runs that are nowhere on disk


@dataclass(frozen=True)
class Run:
    """What an analysis asks of a run: prompts one after another, of some lengths, and what the units did."""

    label: str
    trial_types: tuple[str, ...]
    lengths: tuple[int, ...]
    tokens: pd.DataFrame
    activity: NDArray[np.float64]
    texts: tuple[str, ...] = ()
    volumes: Any = field(default_factory=lambda: SimpleNamespace(own={"HighPassHz": None}, entities={"sub": "x"}))

    @cached_property
    def times(self) -> NDArray[np.float64]:
        return frame_times(sum(self.lengths), 1.0)

    @cached_property
    def events(self) -> pd.DataFrame:
        onsets = np.cumsum([0, *self.lengths[:-1]]).astype(float)
        return pd.DataFrame(
            {"onset": onsets, "duration": np.array(self.lengths, float), "trial_type": list(self.trial_types)}
        )

    @property
    def confounds(self) -> pd.DataFrame:
        return self.tokens

    @property
    def conditions(self) -> set[str]:
        return set(self.trial_types)

    @property
    def varying(self) -> Any:
        return SimpleNamespace(selected=np.ones(self.activity.shape[1], bool))

    def stimuli(self, prompts: Sequence[str]) -> list[str]:
        return list(self.texts) or [f"{self.label}_{prompt}" for prompt in prompts]

    def signals(self, units: NDArray[np.bool_]) -> NDArray[np.float64]:
        return self.activity[:, units]


def noise(rng: np.random.Generator, lengths: Sequence[int], n_units: int, rho: float = 0.5) -> NDArray[np.float64]:
    """AR(1) within each prompt, as its tokens are."""
    parts = []
    for length in lengths:
        drawn = rng.normal(size=(length, n_units))
        drawn[0] /= np.sqrt(1 - rho**2)
        for row in range(1, length):
            drawn[row] += rho * drawn[row - 1]
        parts.append(drawn)
    return np.concatenate(parts)


def run_of(
    seed: int,
    n_units: int,
    *,
    lengths: Sequence[int] = (12,) * 24,
    label: str = "run-01",
    spread: float = 0.0,
    slope: float = 0.0,
    in_bin: float = 0.0,
) -> Run:
    """Noise; `spread` varies means and slopes from prompt to prompt, `slope` and `in_bin` are planted in "on"."""
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.resize(OFF_ON, len(lengths)))
    position = np.concatenate([np.arange(length) for length in lengths])
    tokens = pd.DataFrame(
        {
            "tok_position": position,
            "tok_surprisal": rng.gamma(2, 2, len(position)),
            "level": np.repeat(1.0, len(position)),
        }
    )
    values = noise(rng, lengths, n_units)
    ends = np.cumsum(lengths)
    for number, (stop, length) in enumerate(zip(ends, lengths, strict=True)):
        scans = slice(stop - length, stop)
        on = kinds[number] == "on"
        slopes = rng.normal(slope * on, spread / 4, n_units)
        values[scans] += rng.normal(0, spread, n_units) + tokens["tok_surprisal"].to_numpy()[scans, None] * slopes
        values[scans][4:8] += in_bin * on
    return Run(label, tuple(map(str, kinds)), tuple(lengths), tokens, values)


def analysis_of(runs: Run | Sequence[Run], fields: dict[str, Any], **settings: Any) -> Analysis:
    chosen = {"drift": "none", **settings}
    every = (runs,) if isinstance(runs, Run) else tuple(runs)
    return Analysis(every, StatsModel.from_json(fields), GLMSettings(**chosen))  # type: ignore[arg-type]


def fitted(runs: Run | Sequence[Run], fields: dict[str, Any], **settings: Any) -> SubjectMaps:
    """What an analysis that passed its check comes to."""
    analysis = analysis_of(runs, fields, **settings)
    check(analysis)
    return estimate(analysis)


def by_prompt(run: Run) -> list[slice]:
    stops = np.cumsum(run.lengths)
    return [slice(stop - length, stop) for stop, length in zip(stops, run.lengths, strict=True)]


def slopes_by_hand(run: Run, names: Sequence[str] = ("tok_surprisal",)) -> NDArray[np.float64]:
    """Slopes of each prompt by least squares, shape (n_prompts, n_modulators, n_units)."""
    slopes = []
    for scans in by_prompt(run):
        design = np.column_stack([np.ones(scans.stop - scans.start), run.tokens[list(names)].to_numpy()[scans]])
        slopes.append(np.linalg.lstsq(design, run.activity[scans], rcond=None)[0][1:])
    return np.array(slopes)


def vars_of(run: Run) -> dict[str, Any]:
    names = ("label", "trial_types", "lengths", "tokens", "activity", "volumes")
    return {name: getattr(run, name) for name in names}


def refused(
    error: type[LLM2BIDSError], message: str, runs: Run | Sequence[Run], fields: dict[str, Any], **settings: Any
) -> None:
    with pytest.raises(error, match=message) as stop:
        check(analysis_of(runs, fields, **settings))
    assert "\n" not in str(stop.value)
