"""The prepared runs that networks are looked at in, and what is taken out of their signals first."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from llm2bids.bids.dataset import linked
from llm2bids.bids.prepared import PreparedRun
from llm2bids.bids.runs import PREPROC, find_runs
from llm2bids.design.matrix import CONSTANT, SPIKE
from llm2bids.errors import DatasetError, DesignError, did_you_mean
from llm2bids.networks.time_courses import evoked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llm2bids.networks.network_set import NetworkSet

_TASK: Final = ("cosine*", f"{SPIKE}*")
"""Confounds that go with the task: drift, and scans that are unlike the others."""


def find_scans(results: Path, networks: NetworkSet, tasks: Sequence[str] = ()) -> list[PreparedRun]:
    """Find the prepared runs of the subject and site of networks.

    `results`: what ``glm`` made; its ``DatasetLinks`` say where the recordings are, and what ``prep`` made of them.
    """
    raw, prep = (linked(results, name) for name in ("raw", "prep"))
    subject, site = networks.subjects[0], networks.site
    found = [run for run in find_runs(prep, [subject], tasks, desc=PREPROC) if run.entities.get("acq", "") == site]
    if not found:
        raise DatasetError(f"{prep} holds no run of {networks.name}; prepare it with llm2bids prep {raw}")
    weights = networks.networks[0].fields["Llm2bids"].get("WeightsSHA256")
    for run in found:
        if run.space != networks.space or run.metadata.get("WeightsSHA256") != weights:
            raise DatasetError(
                f"{run.name} has another geometry or other weights than the networks of {networks.name}; analyse it "
                "again with llm2bids glm --overwrite, or leave it out with --scans"
            )
    prepared = [PreparedRun(run, raw) for run in found]
    for one in prepared:
        one.recording()  # refuses what was recorded anew
    return prepared


@dataclass(frozen=True)
class Cleaning:
    """What is taken out of signals first.

    - `background`: what the task does to every prompt of a condition alike, drift, and spikes.
    - `confounds`: confounds of ``prep``, as names or wildcards.
    """

    background: bool
    confounds: tuple[str, ...]

    def regressors(self, run: PreparedRun) -> pd.DataFrame:
        """Make what is taken out of a run.

        Returns (n_scans, n_regressors): conditions by place in the prompt, spikes, drift, confounds, constant.
        """
        parts = [evoked(run.events, run.times)] if self.background else []
        there, names = list(run.confounds.columns), list[str]()
        for pattern in (*(_TASK if self.background else ()), *self.confounds):
            matching = fnmatch.filter(there, pattern)
            if not matching and pattern in self.confounds:
                near = did_you_mean(pattern, there)
                raise DesignError(f"{run.volumes.name} has no confound {pattern}; {near}there are {', '.join(there)}")
            names += [name for name in matching if name not in names]
        constant = pd.DataFrame({CONSTANT: np.ones(run.volumes.n_scans)})
        return pd.concat([*parts, run.confounds[names].reset_index(drop=True), constant], axis=1)
