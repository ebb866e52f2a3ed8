"""`Recording`: one run of one site as `record` returns it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llm2bids.bids.nifti import read_signals
from llm2bids.bids.runs import BoldRun, read_events, stats_model_path

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from llm2bids.space import UnitSpace


@dataclass(frozen=True)
class Recording:
    """One recorded run of one site; its files are read when they are asked for.

    Parameters
    ----------
    bold : Path
        File of the volumes.
    space : UnitSpace
        Hookpoint and channel of each unit, and its voxel.
    n_scans : int
        Number of scans.
    skipped : bool
        Whether the run existed already (``resume``).
    """

    bold: Path
    space: UnitSpace
    n_scans: int
    skipped: bool = False

    @cached_property
    def signals(self) -> NDArray[np.float32]:
        """Activations, shape (n_scans, n_units)."""
        return np.concatenate(list(read_signals(self.bold, self.space, "record the run again")))

    @cached_property
    def events(self) -> pd.DataFrame:
        """Onset and duration of every prompt in seconds, its condition and its block."""
        return read_events(self._run.beside("events.tsv"), self.n_scans * self._run.t_r)

    @property
    def files(self) -> list[Path]:
        """All files of the run and site, and those that it shares with others."""
        run, root = self._run, self._run.root
        subject, task, site = (run.entities[key] for key in ("sub", "task", "acq"))
        of_run = [run.beside(suffix) for suffix in ("bold.json", "events.tsv", "stim.tsv.gz")]
        of_task = [root / f"task-{task}_{suffix}.json" for suffix in ("bold", "events", "stim")]
        planted = (root / "derivatives" / "phantom" / f"sub-{subject}" / "func").glob(f"*_task-{task}_acq-{site}_*")
        stimuli, model = root / run.metadata["Stimuli"], stats_model_path(root, task)
        return [path for path in (self.bold, *of_run, stimuli, *of_task, model, *planted) if path.exists()]

    def __repr__(self) -> str:
        """Return name and size of the run."""
        state = ", was there" if self.skipped else ""
        return f"Recording({self._run.name}: {self.n_scans} scans × {self.space.n_units} units{state})"

    def _repr_html_(self) -> str:
        """Return name and size of the run, and its first events, for notebooks."""
        return f"<p>{self!r}</p>{self.events.head(10).to_html(index=False, border=0)}"

    @cached_property
    def _run(self) -> BoldRun:
        """The run among the files of its dataset."""
        folder = next(path for path in self.bold.parents if path.name.startswith("sub-"))
        return BoldRun(folder.parent, self.bold)
