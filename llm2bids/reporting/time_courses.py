"""Time courses small enough for a page: means over consecutive tokens of a prompt, in steps of 1/16 of a deviation."""

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
"""Most steps that a byte holds; activations beyond, some 8 deviations, are cut off."""
_COMPRESSED: Final = 0.75
"""About what remains of a byte of a course when it is compressed."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Consecutive scans of one prompt and condition.

    `trial_type`: condition; ``n/a`` where there is none.
    """

    start: int
    n_scans: int
    trial_type: str


@dataclass(frozen=True, slots=True)
class CourseRun:
    """What was shown in a run."""

    label: str
    n_scans: int
    prompts: tuple[Prompt, ...]

    def spans(self, n_scans: int) -> list[tuple[int, int]]:
        """Cut the run into points.

        `n_scans`: scans per point at most; a point never holds scans of two prompts. Returns first scan of each point,
        and the one after its last.

        >>> CourseRun("run-01", 9, (Prompt(0, 5, "on"), Prompt(6, 3, "off"))).spans(2)
        [(0, 2), (2, 4), (4, 5), (6, 8), (8, 9)]
        """
        ends = [(one.start, one.start + one.n_scans) for one in self.prompts]
        return [(first, min(first + n_scans, end)) for start, end in ends for first in range(start, end, n_scans)]


@dataclass(frozen=True, slots=True, eq=False)
class Courses:
    """Time courses of the units of a site in a task.

    - `runs`: those that are in, one after the other.
    - `n_runs`: how many there are in all.
    - `n_scans`: scans per point at most.
    - `units` (n_kept,): unit numbers.
    - `points` (n_kept, n_points): mean signals of all points, in `STEPS` per standard deviation.
    """

    task: str
    runs: tuple[CourseRun, ...]
    n_runs: int
    n_scans: int
    units: NDArray[np.int64]
    points: NDArray[np.int8]

    @property
    def description(self) -> str:
        """Say what a point is, in words."""
        whole = self.n_scans >= _longest(self.runs)
        tokens = "one token" if self.n_scans == 1 else f"{self.n_scans} tokens"
        what = "a whole prompt" if whole and self.n_scans > 1 else tokens
        runs = "run 1" if len(self.runs) == 1 else f"runs 1 to {len(self.runs)}"
        return f"each point: mean of {what}, {runs}{f' of {self.n_runs}' if self.n_runs > len(self.runs) else ''}"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What of the courses fits: scans per point, runs per task, and whether of all units."""

    n_scans: int
    n_runs: int
    all_units: bool = True


def read_courses(
    runs: Sequence[PreparedRun], space: UnitSpace, networks: NDArray[np.bool_], budget_bytes: int = 6_000_000
) -> dict[str, Courses]:
    """Read the time courses of one site, as fine as a page can hold.

    The finest that fits is taken of points of 1, 2, 4 ... tokens, of whole prompts, and of whole prompts of the first
    runs; where nothing does, the same for units of networks only, and at last for no unit.

    `networks` (n_units,): units that are in any network.
    """
    tasks: dict[str, list[PreparedRun]] = {}
    for run in runs:
        if run.volumes.space != space:
            raise DatasetError(
                f"{run.volumes.name} is of space {run.volumes.space.label}, {space.label} needed; "
                "take runs of one site at a time"
            )
        tasks.setdefault(run.volumes.entities.get("task", ""), []).append(run)
    shown = {task: [shown_in(run) for run in own] for task, own in tasks.items()}
    plan = _plan(shown, (space.n_units, int(networks.sum())), budget_bytes)
    kept = np.zeros_like(networks) if plan is None else networks | plan.all_units
    plan = plan or _Plan(_longest([run for own in shown.values() for run in own]), 1)
    return {task: _read(task, own[: plan.n_runs], (len(own), plan.n_scans), kept) for task, own in tasks.items()}


def shown_in(run: PreparedRun) -> CourseRun:
    """Say which scans of a run belong to which prompt.

    Returns scans between prompts belong to none. A prompt of several conditions is cut where these change.
    """
    numbers = np.full(run.volumes.n_scans, -1)
    codes, _, _ = name_prompts(run.events)
    kinds, names = run.events["trial_type"].factorize()
    first = np.searchsorted(run.times, run.events["onset"])
    last = np.searchsorted(run.times, run.events["onset"] + run.events["duration"])
    for begin, end, code, kind in zip(first, last, codes, kinds, strict=True):
        numbers[begin:end] = code * len(names) + kind
    borders = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1))
    spans = [(int(a), int(b)) for a, b in pairwise(borders) if numbers[a] >= 0]
    prompts = tuple(Prompt(a, b - a, str(names[numbers[a] % len(names)])) for a, b in spans)
    return CourseRun(run.label, run.volumes.n_scans, prompts)


def _longest(runs: Sequence[CourseRun]) -> int:
    """Scans of the longest prompt."""
    return max((prompt.n_scans for run in runs for prompt in run.prompts), default=1)


def _plans(n_longest: int, n_runs: int) -> Iterator[_Plan]:
    """From the finest: points of 1, 2, 4 ... tokens, of whole prompts, and these of ever fewer runs."""
    n_scans = 1
    while n_scans < n_longest:
        yield _Plan(n_scans, n_runs)
        n_scans *= 2
    for first in range(n_runs, 0, -1):
        yield _Plan(n_longest, first)


def _plan(shown: Mapping[str, Sequence[CourseRun]], n_units: tuple[int, int], budget_bytes: int) -> _Plan | None:
    """The finest that fits, of all units or of those of networks."""
    n_runs = max((len(runs) for runs in shown.values()), default=1)
    n_longest = _longest([run for runs in shown.values() for run in runs])
    for all_units, n_kept in zip((True, False), n_units, strict=True):
        for plan in _plans(n_longest, n_runs):
            chosen = [run for runs in shown.values() for run in runs[: plan.n_runs]]
            n_points = sum(len(run.spans(plan.n_scans)) for run in chosen)
            if n_points * n_kept * _COMPRESSED <= budget_bytes:
                return _Plan(plan.n_scans, plan.n_runs, all_units)
    return None


def _read(task: str, runs: Sequence[PreparedRun], counts: tuple[int, int], kept: NDArray[np.bool_]) -> Courses:
    """The courses of one task; `counts` are its runs in all and scans per point."""
    n_runs, n_scans = counts
    shown = tuple(shown_in(run) for run in runs)
    parts = [np.empty((0, int(kept.sum())), np.int8)]
    if kept.any():
        parts += [_means(run.signals(kept), one, n_scans) for run, one in zip(runs, shown, strict=True)]
    points = np.ascontiguousarray(np.concatenate(parts).T)
    return Courses(task, shown, n_runs, n_scans, np.flatnonzero(kept), points)


def _means(signals: NDArray[np.float32], run: CourseRun, n_scans: int) -> NDArray[np.int8]:
    """Points of a run, shape (n_points, n_kept)."""
    spans = run.spans(n_scans)
    means = np.empty((len(spans), signals.shape[1]), np.float32)
    for row, (first, end) in zip(means, spans, strict=True):
        signals[first:end].mean(axis=0, out=row)
    return np.clip(np.rint(means * STEPS), -_LIMIT, _LIMIT).astype(np.int8)
