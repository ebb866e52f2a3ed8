"""The prepared runs that are decomposed together, and their samples, read run by run."""

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
    from llm2bids.decomposition.settings import Settings
    from llm2bids.space import UnitSpace


@dataclass(frozen=True)
class Source:
    """Runs that are decomposed together.

    - `settings`: what a sample is, and its scale.
    - `layer`: number of the hookpoint whose units are looked at; None for all.
    """

    runs: tuple[PreparedRun, ...]
    settings: Settings
    layer: int | None = None

    @property
    def space(self) -> UnitSpace:
        """Which voxel is which unit."""
        return self.runs[0].volumes.space

    @property
    def entities(self) -> dict[str, str]:
        """Entities that all runs share, and the layer."""
        every = [run.volumes.entities for run in self.runs]
        names = ("sub", "ses", "task", "acq", "run", "space")
        shared = {key: every[0][key] for key in names if len({one.get(key) for one in every}) == 1 and key in every[0]}
        if self.settings.by != "run":
            shared = {key: shared[key] for key in ("sub", "acq", "space") if key in shared}
        if self.settings.by == "group":
            shared.pop("sub", None)
        return shared | ({} if self.layer is None else {"label": f"layer{self.layer:02d}"})

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items() if key != "space")

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """Units that vary in some run, and lie in the layer, shape (n_units,).

        Where one is constant, as a neuron with ReLU is while its topic is not shown, it is at its mean.
        """
        chosen: NDArray[np.bool_] = np.logical_or.reduce([run.varying.selected for run in self.runs])
        if self.layer is not None:
            chosen = chosen & (self.space.locate(np.arange(self.space.n_units))[0] == self.layer)
        if chosen.sum() < 2:  # noqa: PLR2004 - no map over fewer
            raise DesignError(f"fewer than 2 units of {self.name} vary; record longer runs")
        return chosen

    def signals(self, number: int) -> NDArray[np.float32]:
        """Read a run, scan by scan.

        Returns (n_scans, n_kept): centred: in standard deviations, or as recorded.
        """
        if self.settings.scale == "prep":
            signals = self.runs[number].signals(self.kept)
        else:
            run = self.runs[number].recording()
            signals = np.concatenate([self.space.from_volumes(part)[:, self.kept] for part in read_scans(run.bold)])
            if not np.isfinite(signals).all():
                raise DatasetError(f"NaN or infinity found in {run.bold}; record it again, or use --scale prep")
        centred: NDArray[np.float32] = signals - signals.mean(0, dtype=np.float64).astype(np.float32)
        return centred

    def samples(self, number: int) -> NDArray[np.float32]:
        """Read a run, sample by sample.

        Returns (n_samples, n_kept): centred.
        """
        signals = self.signals(number)
        if self.settings.samples == "token":
            return signals
        prompts = prompts_of(self.runs[number])
        means = np.zeros((prompts.max() + 1, signals.shape[1]))
        np.add.at(means, prompts[prompts >= 0], signals[prompts >= 0])
        counts = np.bincount(prompts[prompts >= 0], minlength=len(means))
        means = means[counts > 0] / counts[counts > 0, None]
        found: NDArray[np.float32] = (means - means.mean(0)).astype(np.float32)
        return found

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Read the samples run by run.

        Yields (n_samples, n_kept): centred.
        """
        for number in range(len(self.runs)):
            yield self.samples(number)


def prompts_of(run: PreparedRun) -> NDArray[np.int64]:
    """Say which prompt each scan is of.

    Returns (n_scans,): number of the event, in order of onset; -1 where there is none.
    """
    events = run.events
    onsets, ends = events["onset"].to_numpy(), (events["onset"] + events["duration"]).to_numpy()
    place = np.searchsorted(onsets, run.times, side="right") - 1
    found: NDArray[np.int64] = np.where((place >= 0) & (run.times < ends[place]), place, -1)
    return found


def find_sources(
    raw: Path,
    settings: Settings,
    *,
    subjects: Sequence[str] = (),
    tasks: Sequence[str] = (),
    sites: Sequence[str] = (),
) -> list[Source]:
    """Find what can be decomposed in a dataset."""
    prepared = find_prepared(raw)
    groups: dict[tuple[str, ...], list[PreparedRun]] = {}
    keys = {
        "group": ("acq",),
        "run": ("sub", "ses", "task", "acq", "run"),
    }.get(settings.by, ("sub", "acq"))
    for recorded in find_runs(raw, subjects, tasks, sites):
        run = choose_prepared(recorded, prepared)
        key = (*(recorded.entities.get(name, "") for name in keys), run.volumes.space.label)
        groups.setdefault(key, []).append(run)
    for runs in groups.values():
        check_compatible(runs, weights=settings.by != "group")
    sources = [Source(tuple(runs), settings) for runs in groups.values()]
    if settings.by != "layer":
        return sources
    return [Source(one.runs, settings, layer) for one in sources for layer in range(one.space.n_hookpoints)]
