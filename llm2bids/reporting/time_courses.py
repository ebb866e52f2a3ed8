"""Time courses small enough for a page: means over tokens of a prompt, in steps of 1/16 of a standard deviation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from llm2bids.design.matrix import name_prompts
from llm2bids.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.bids.prepared import PreparedRun
    from llm2bids.space import UnitSpace

STEPS: Final = 16
"""Steps per standard deviation: a point fits a byte, and is right to 1/32 of a deviation."""
_LIMIT: Final = 127
"""Most steps that a byte holds; activations beyond (about 8 deviations) are cut off."""
_COMPRESSED: Final = 0.75
"""About what remains of a byte of a course when it is compressed."""


@dataclass(frozen=True, slots=True)
class PromptSpan:
    """Consecutive scans of one prompt and condition (``n/a`` where there is none)."""

    start: int
    n_scans: int
    trial_type: str


@dataclass(frozen=True, slots=True)
class RunPrompts:
    """The prompts of a run in order."""

    label: str
    n_scans: int
    prompts: tuple[PromptSpan, ...]

    def spans(self, n_scans: int) -> list[tuple[int, int]]:
        """Cut prompts into points of at most `n_scans` scans: first scan of each point, and the one after its last.

        >>> RunPrompts("run-01", 9, (PromptSpan(0, 5, "on"), PromptSpan(6, 3, "off"))).spans(2)
        [(0, 2), (2, 4), (4, 5), (6, 8), (8, 9)]
        """
        ends = [(prompt.start, prompt.start + prompt.n_scans) for prompt in self.prompts]
        return [(first, min(first + n_scans, end)) for start, end in ends for first in range(start, end, n_scans)]


@dataclass(frozen=True, slots=True, eq=False)
class TimeCourses:
    """Time courses of the units of a site in a task.

    - `runs`: the runs that were read, in order.
    - `n_runs`: number of runs of the task, read or not.
    - `n_scans`: most scans per point.
    - `units` (n_selected,): unit numbers.
    - `points` (n_selected, n_points): mean signals, in `STEPS` per standard deviation.
    """

    task: str
    runs: tuple[RunPrompts, ...]
    n_runs: int
    n_scans: int
    units: NDArray[np.int64]
    points: NDArray[np.int8]

    @property
    def description(self) -> str:
        """Say in words what a point is."""
        per_prompt = self.n_scans >= _longest(self.runs)
        tokens = "one token" if self.n_scans == 1 else f"{self.n_scans} tokens"
        what = "a whole prompt" if per_prompt and self.n_scans > 1 else tokens
        runs = "run 1" if len(self.runs) == 1 else f"runs 1 to {len(self.runs)}"
        return f"each point: mean of {what}, {runs}{f' of {self.n_runs}' if self.n_runs > len(self.runs) else ''}"


@dataclass(frozen=True, slots=True)
class _Resolution:
    """Scans per point, runs per task, and whether all units are read or only those of networks."""

    n_scans: int
    n_runs: int
    all_units: bool = True


def read_time_courses(
    runs: Sequence[PreparedRun], space: UnitSpace, networks: NDArray[np.bool_], budget_bytes: int = 6_000_000
) -> dict[str, TimeCourses]:
    """Read the time courses of one site, as fine as a page can hold.

    Points of 1, 2, 4 ... tokens are tried, then of whole prompts, then of whole prompts of the first runs. Where
    nothing fits, the same is tried for the units of networks only; at last no unit is read. `networks` (n_units,) marks
    units that are in any network.
    """
    tasks: dict[str, list[PreparedRun]] = {}
    for run in runs:
        if run.volumes.space != space:
            raise DatasetError(
                f"{run.volumes.name} is of space {run.volumes.space.label}, {space.label} needed; "
                "take runs of one site at a time"
            )
        tasks.setdefault(run.volumes.entities.get("task", ""), []).append(run)
    run_prompts = {task: [prompts_of(run) for run in group] for task, group in tasks.items()}
    resolution = _finest_resolution(run_prompts, (space.n_units, int(networks.sum())), budget_bytes)
    units = np.zeros_like(networks) if resolution is None else networks | resolution.all_units
    resolution = resolution or _Resolution(_longest([run for group in run_prompts.values() for run in group]), 1)
    return {
        task: _read(task, group[: resolution.n_runs], (len(group), resolution.n_scans), units)
        for task, group in tasks.items()
    }


def prompts_of(run: PreparedRun) -> RunPrompts:
    """Say which scans of a run belong to which prompt; a prompt of several conditions is cut where they change."""
    numbers = np.full(run.volumes.n_scans, -1)
    codes, _, _ = name_prompts(run.events)
    kinds, names = run.events["trial_type"].factorize()
    first = np.searchsorted(run.times, run.events["onset"])
    last = np.searchsorted(run.times, run.events["onset"] + run.events["duration"])
    for begin, end, code, kind in zip(first, last, codes, kinds, strict=True):
        numbers[begin:end] = code * len(names) + kind
    borders = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1))
    spans = [(int(a), int(b)) for a, b in pairwise(borders) if numbers[a] >= 0]
    prompts = tuple(PromptSpan(a, b - a, str(names[numbers[a] % len(names)])) for a, b in spans)
    return RunPrompts(run.label, run.volumes.n_scans, prompts)


def _longest(runs: Sequence[RunPrompts]) -> int:
    """Count the scans of the longest prompt."""
    return max((prompt.n_scans for run in runs for prompt in run.prompts), default=1)


def _resolutions(n_longest: int, n_runs: int) -> Iterator[_Resolution]:
    """List resolutions from the finest: points of 1, 2, 4 ... tokens, of whole prompts, and of ever fewer runs."""
    n_scans = 1
    while n_scans < n_longest:
        yield _Resolution(n_scans, n_runs)
        n_scans *= 2
    for n_first in range(n_runs, 0, -1):
        yield _Resolution(n_longest, n_first)


def _finest_resolution(
    run_prompts: Mapping[str, Sequence[RunPrompts]], n_units: tuple[int, int], budget_bytes: int
) -> _Resolution | None:
    """Choose the finest resolution that fits, for all units or for those of networks; `n_units` counts both."""
    n_runs = max((len(runs) for runs in run_prompts.values()), default=1)
    n_longest = _longest([run for runs in run_prompts.values() for run in runs])
    for all_units, n_read in zip((True, False), n_units, strict=True):
        for resolution in _resolutions(n_longest, n_runs):
            chosen = [run for runs in run_prompts.values() for run in runs[: resolution.n_runs]]
            n_points = sum(len(run.spans(resolution.n_scans)) for run in chosen)
            if n_points * n_read * _COMPRESSED <= budget_bytes:
                return _Resolution(resolution.n_scans, resolution.n_runs, all_units)
    return None


def _read(task: str, runs: Sequence[PreparedRun], counts: tuple[int, int], units: NDArray[np.bool_]) -> TimeCourses:
    """Read the courses of one task; `counts` are the number of its runs in all, and scans per point."""
    n_runs, n_scans = counts
    run_prompts = tuple(prompts_of(run) for run in runs)
    parts = [np.empty((0, int(units.sum())), np.int8)]
    if units.any():
        parts += [_means(run.signals(units), prompts, n_scans) for run, prompts in zip(runs, run_prompts, strict=True)]
    points = np.ascontiguousarray(np.concatenate(parts).T)
    return TimeCourses(task, run_prompts, n_runs, n_scans, np.flatnonzero(units), points)


def _means(signals: NDArray[np.float32], run: RunPrompts, n_scans: int) -> NDArray[np.int8]:
    """Compute the points of a run, shape (n_points, n_selected)."""
    spans = run.spans(n_scans)
    means = np.empty((len(spans), signals.shape[1]), np.float32)
    for row, (first, end) in zip(means, spans, strict=True):
        signals[first:end].mean(axis=0, out=row)
    return np.clip(np.rint(means * STEPS), -_LIMIT, _LIMIT).astype(np.int8)
