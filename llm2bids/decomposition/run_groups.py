"""Prepared runs that are decomposed together, and their samples, read run by run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llm2bids.bids.nifti import read_scans
from llm2bids.bids.prepared import check_compatible, choose_prepared, find_prepared
from llm2bids.bids.runs import find_runs
from llm2bids.errors import DatasetError, DesignError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.bids.prepared import PreparedRun
    from llm2bids.decomposition.settings import DecompositionSettings
    from llm2bids.space import UnitSpace


@dataclass(frozen=True)
class RunGroup:
    """Runs that are decomposed together.

    - `layer`: number of the hookpoint whose units are decomposed; None for all.
    """

    runs: tuple[PreparedRun, ...]
    settings: DecompositionSettings
    layer: int | None = None

    @property
    def space(self) -> UnitSpace:
        """Space of the units."""
        return self.runs[0].volumes.space

    @property
    def entities(self) -> dict[str, str]:
        """Entities that all runs share, and the layer."""
        runs = [run.volumes.entities for run in self.runs]
        names = ("sub", "ses", "task", "acq", "run", "space")
        shared = {key: runs[0][key] for key in names if len({run.get(key) for run in runs}) == 1 and key in runs[0]}
        if self.settings.by != "run":
            shared = {key: shared[key] for key in ("sub", "acq", "space") if key in shared}
        if self.settings.by == "group":
            shared.pop("sub", None)
        return shared | ({} if self.layer is None else {"label": f"layer{self.layer:02d}"})

    @property
    def name(self) -> str:
        """Name in messages and in the summary."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items() if key != "space")

    @cached_property
    def units(self) -> NDArray[np.bool_]:
        """Units that are decomposed: those of the layer that vary in some run, shape (n_all_units,).

        In a run where such a unit is constant, as a neuron with ReLU may be without its topic, it stays at its mean.
        """
        units: NDArray[np.bool_] = np.logical_or.reduce([run.varying.selected for run in self.runs])
        if self.layer is not None:
            units = units & (self.space.locate(np.arange(self.space.n_units))[0] == self.layer)
        if units.sum() < 2:  # noqa: PLR2004 - a map needs two units to vary over
            raise DesignError(f"fewer than 2 units of {self.name} vary; record longer runs")
        return units

    def signals(self, number: int) -> NDArray[np.float32]:
        """Read the scans of a run, centred: in standard deviations, or as recorded; shape (n_scans, n_units)."""
        if self.settings.scale == "prep":
            signals = self.runs[number].signals(self.units)
        else:
            run = self.runs[number].recording()
            signals = np.concatenate([self.space.from_volumes(part)[:, self.units] for part in read_scans(run.bold)])
            if not np.isfinite(signals).all():
                raise DatasetError(f'NaN or infinity found in {run.bold}; record it again, or use scale="prep"')
        centred: NDArray[np.float32] = signals - signals.mean(0, dtype=np.float64).astype(np.float32)
        return centred

    def samples(self, number: int) -> NDArray[np.float32]:
        """Read the samples of a run, centred; shape (n_samples, n_units)."""
        signals = self.signals(number)
        if self.settings.samples == "token":
            return signals
        # Averaging over a prompt leaves what its topic does; the noise of single words cancels.
        prompts = prompt_numbers(self.runs[number])
        means = np.zeros((prompts.max() + 1, signals.shape[1]))
        np.add.at(means, prompts[prompts >= 0], signals[prompts >= 0])
        counts = np.bincount(prompts[prompts >= 0], minlength=len(means))
        means = means[counts > 0] / counts[counts > 0, None]
        centred: NDArray[np.float32] = (means - means.mean(0)).astype(np.float32)
        return centred

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the samples of each run, centred; shape (n_samples, n_units)."""
        for number in range(len(self.runs)):
            yield self.samples(number)


def prompt_numbers(run: PreparedRun) -> NDArray[np.int64]:
    """Return the prompt of each scan, shape (n_scans,): number of the event, in order of onset; -1 for none."""
    events = run.events
    onsets, ends = events["onset"].to_numpy(), (events["onset"] + events["duration"]).to_numpy()
    latest = np.searchsorted(onsets, run.times, side="right") - 1
    numbers: NDArray[np.int64] = np.where((latest >= 0) & (run.times < ends[latest]), latest, -1)
    return numbers


def find_run_groups(
    raw: Path,
    settings: DecompositionSettings,
    *,
    subjects: Sequence[str] = (),
    tasks: Sequence[str] = (),
    sites: Sequence[str] = (),
) -> list[RunGroup]:
    """Find the runs of a dataset, grouped by what is decomposed together."""
    prepared = find_prepared(raw)
    runs_by_key: dict[tuple[str, ...], list[PreparedRun]] = {}
    keys = {
        "group": ("acq",),
        "run": ("sub", "ses", "task", "acq", "run"),
    }.get(settings.by, ("sub", "acq"))
    for recorded in find_runs(raw, subjects, tasks, sites):
        run = choose_prepared(recorded, prepared)
        key = (*(recorded.entities.get(name, "") for name in keys), run.volumes.space.label)
        runs_by_key.setdefault(key, []).append(run)
    for runs in runs_by_key.values():
        check_compatible(runs, weights=settings.by != "group")
    groups = [RunGroup(tuple(runs), settings) for runs in runs_by_key.values()]
    if settings.by != "layer":
        return groups
    return [RunGroup(group.runs, settings, layer) for group in groups for layer in range(group.space.n_hookpoints)]
