"""Functional connectivity of the networks of tasks: correlations of their time courses in every prepared run."""

from __future__ import annotations

import fnmatch
import logging
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.bids.dataset import find_linked
from llm2bids.bids.history import noted
from llm2bids.bids.prepared import PreparedRun
from llm2bids.bids.runs import PREPROC, find_runs
from llm2bids.design.matrix import CONSTANT, SPIKE
from llm2bids.errors import DatasetError, DesignError, InferenceError, did_you_mean
from llm2bids.networks.answers import Answer
from llm2bids.networks.connectome import (
    correlation_matrices,
    eigenvariate,
    evoked_regressors,
    exclusive_units,
    mean_correlation,
    regress_out,
    signed_mean,
)
from llm2bids.networks.network_set import NetworkSet
from llm2bids.networks.question import Question
from llm2bids.networks.settings import ConnectivityOptions
from llm2bids.options import takes
from llm2bids.plots.connectivity import draw_connectivity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_BACKGROUND_CONFOUNDS: Final = ("cosine*", f"{SPIKE}*")
"""Confounds removed for background connectivity: drift, and scans that are unlike the others."""
_COURSES: Final[dict[str, str]] = {
    "mean": "mean over units, each with the sign of its effect, in standard deviations of the unit over the run",
    "eigenvariate": "first eigenvariate of the units (as SPM's), with the sign of the signed mean",
}
_TAKEN_OUT: Final = (
    "boxcars of conditions, mean of every condition at every place of a token in its prompt, drift (cosines of prep), "
    "spikes, mean of the run"
)
_NO_P: Final = "No p-values: tokens are not independent samples. Intervals are over runs (Student's t of Fisher's z)."
_COLUMNS: Final = {
    "task": "Task whose network it is; or, in runs, the task that was shown.",
    "task_a": "Task of one network.",
    "task_b": "Task of the other.",
    "scans": "Task whose runs gave the time courses.",
    "run": "Run.",
    "n_runs": "Runs that gave them.",
    "n_scans": "Scans of the run.",
    "chose": "1 where the task that was shown is one of the two whose networks these are: then the same runs chose the "
    "units.",
    "correlation": "Pearson's correlation of the two time courses; over runs the mean of Fisher's z, turned back. "
    + _NO_P,
    "correlation_low": "Lower end of its 95 % interval over runs.",
    "correlation_high": "Upper end.",
    "partial": "The same with the courses of all other networks held constant.",
    "partial_low": "Lower end of its 95 % interval over runs.",
    "partial_high": "Upper end.",
    "n_elsewhere": "Runs of tasks other than these two, which did not choose the units.",
    "correlation_elsewhere": "correlation over those runs alone.",
    "units": "Units of the network.",
    "shared": "Units of it that are in another of these networks too.",
    "used": "Units that made the time course.",
    "explained": "Part of the variance of these units that the eigenvariate explains, mean over runs.",
}


@noted("networks connectivity")
@takes(ConnectivityOptions)
def connectivity(options: ConnectivityOptions) -> list[Answer]:
    """Correlate the time courses of the networks of tasks.

    Returns
    -------
    list of Answer
        One per subject and site, with tables ``pairs``, ``scans``, ``runs``, ``correlation`` and ``partial``
        (matrices), ``networks``, the time courses of every run, and a figure.

    Raises
    ------
    LLM2BIDSError
        If there are fewer than two networks with units, or if the prepared runs are missing or changed.
    """
    question = Question("connectivity", options, options.label, unit="runs")
    studies = [
        ConnectivityStudy(networks, members, tuple(find_scans(options.home, networks, options.scans)), options)
        for networks, members in usable_networks(question.networks(options, 2), shared=options.shared)
    ]
    for study in studies:
        for run in study.runs:
            study.nuisance.regressors(run)  # raises on a missing confound before any volume is read
    return question.answer(studies)


def find_scans(results: Path, networks: NetworkSet, tasks: Sequence[str] = ()) -> list[PreparedRun]:
    """Find the prepared runs of the subject and site of networks.

    `results`: results of ``glm``; its ``DatasetLinks`` say where the recordings and the prepared runs are.
    """
    raw, prep = (find_linked(results, name) for name in ("raw", "prep"))
    subject, site = networks.subjects[0], networks.site
    volumes = [run for run in find_runs(prep, [subject], tasks, desc=PREPROC) if run.entities.get("acq", "") == site]
    if not volumes:
        raise DatasetError(f"{prep} holds no run of {networks.name}; prepare it with llm2bids prep {raw}")
    weights = networks.networks[0].fields["Llm2bids"].get("WeightsSHA256")
    for run in volumes:
        if run.space != networks.space or run.metadata.get("WeightsSHA256") != weights:
            raise DatasetError(
                f"{run.name} has another geometry or other weights than the networks of {networks.name}; run glm again "
                "with overwrite=True, or leave it out with `scans`"
            )
    prepared = [PreparedRun(run, raw) for run in volumes]
    for prepared_run in prepared:
        prepared_run.recording()  # raises if the run was recorded anew since it was prepared
    return prepared


@dataclass(frozen=True)
class NuisanceModel:
    """Signals that are removed from units before their time courses are computed.

    - `background`: whether to remove the mean response to the prompts of a condition, drift, and spikes.
    - `confounds`: confounds of ``prep``, as names or wildcards.
    """

    background: bool
    confounds: tuple[str, ...]

    def regressors(self, run: PreparedRun) -> pd.DataFrame:
        """Make the regressors of a run, shape (n_scans, n_regressors): evoked responses, confounds, constant."""
        parts = [evoked_regressors(run.events, run.times)] if self.background else []
        columns, names = list(run.confounds.columns), list[str]()
        for pattern in (*(_BACKGROUND_CONFOUNDS if self.background else ()), *self.confounds):
            matching = fnmatch.filter(columns, pattern)
            if not matching and pattern in self.confounds:
                near = did_you_mean(pattern, columns)
                raise DesignError(f"{run.volumes.name} has no confound {pattern}; {near}there are {', '.join(columns)}")
            names += [name for name in matching if name not in names]
        constant = pd.DataFrame({CONSTANT: np.ones(run.volumes.n_scans)})
        return pd.concat([*parts, run.confounds[names].reset_index(drop=True), constant], axis=1)


def usable_networks(network_sets: Sequence[NetworkSet], *, shared: bool) -> list[tuple[NetworkSet, NDArray[np.bool_]]]:
    """Select networks that have units, and warn about all others; raise if no set has two.

    Returns the sets, and the units of their networks, shape (n_networks, n_tested).
    """
    usable, reasons = [], []
    need = "with any unit" if shared else "with units of its own (keep those it shares with shared=True)"
    for networks in network_sets:
        members = networks.selected if shared else exclusive_units(networks.selected)
        has_units: NDArray[np.bool_] = np.any(members, axis=1)
        empty = ", ".join(task for task, full in zip(networks.tasks, has_units, strict=True) if not full)
        if has_units.sum() < 2:  # noqa: PLR2004 - one network has nothing to correlate with
            reasons.append(
                f"{has_units.sum()} network of {networks.name} {need} found, connectivity needs 2; none of task {empty}"
            )
            continue
        if empty:
            logger.warning("left out, no network %s: task %s, %s", need, empty, networks.name)
        subset = NetworkSet(tuple(network for network, full in zip(networks.networks, has_units, strict=True) if full))
        units = np.zeros((len(subset.networks), networks.space.n_units), bool)
        units[:, networks.tested] = members[has_units]
        usable.append((subset, units[:, subset.tested]))  # fewer tasks may have tested more units
    if not usable:
        raise InferenceError(reasons[0])
    for reason in reasons:
        logger.warning("left out: %s", reason)
    return usable


@dataclass(frozen=True, eq=False)
class ConnectivityStudy:
    """The networks of one subject and site, and the runs of their time courses.

    - `members` (n_networks, n_tested): units that make the time courses.
    """

    networks: NetworkSet
    members: NDArray[np.bool_]
    runs: tuple[PreparedRun, ...]
    options: ConnectivityOptions

    @property
    def n_steps(self) -> int:
        """Number of runs."""
        return len(self.runs)

    @property
    def nuisance(self) -> NuisanceModel:
        """Signals that are removed first."""
        return NuisanceModel(self.options.background, tuple(self.options.confounds))

    @cached_property
    def signs(self) -> NDArray[np.float64]:
        """Sign of the effect of every unit, shape (n_networks, n_tested)."""
        effects = np.stack([network.map("effect")[self.networks.tested] for network in self.networks.networks])
        return np.where(effects < 0, -1.0, 1.0)

    @cached_property
    def units(self) -> NDArray[np.bool_]:
        """Units of any network, shape (n_tested,): only these are read."""
        units: NDArray[np.bool_] = np.any(self.members, axis=0)
        return units

    @cached_property
    def run_tasks(self) -> NDArray[np.str_]:
        """Task of each run."""
        return np.array([run.volumes.entities["task"] for run in self.runs])

    def answer(self, tick: Callable[[int], object]) -> Answer:
        """Compute all tables, and the figure."""
        courses, explained, matrices = [], [], []
        for run in self.runs:
            run_courses, share = self._courses(run)
            try:
                matrices.append(correlation_matrices(run_courses, self.networks.tasks))
            except InferenceError as error:
                raise InferenceError(f"{run.volumes.name}: {error}") from error
            courses.append(run_courses)
            explained.append(share)
            tick(1)
        by_kind = {
            kind: np.stack([pair[place] for pair in matrices]) for place, kind in enumerate(("correlation", "partial"))
        }
        means = {kind: mean_correlation(stack) for kind, stack in by_kind.items()}
        tasks = self.networks.tasks
        tables = {
            "pairs": self._pairs(by_kind),
            "scans": self._by_scans(by_kind),
            "runs": self._by_run(by_kind),
            **{
                kind: pd.DataFrame(mean[0], columns=tasks).assign(task=tasks)[["task", *tasks]]
                for kind, mean in means.items()
            },
            "networks": self._networks(np.stack(explained)),
        }
        figure = draw_connectivity(tables["networks"], means, self._example(courses), self._caption())
        columns = {**_COLUMNS, **{task: f"Of the network of task {task}." for task in tasks}}
        series = {
            _series_name(run): pd.DataFrame(table, columns=tasks) for run, table in zip(self.runs, courses, strict=True)
        }
        label, subject, site = self.options.label, self.networks.subjects[0], self.networks.site
        return Answer(label, subject, site, tables, {"figure": figure}, self._settings(), columns, series)

    def _courses(self, run: PreparedRun) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute the time courses of a run, shape (n_scans, n_networks), and what each explains of its units."""
        units = self.networks.tested.copy()
        units[units] = self.units
        try:
            signals = regress_out(run.signals(units), self.nuisance.regressors(run).to_numpy())
        except InferenceError as error:
            raise InferenceError(f"{run.volumes.name}: {error}") from error
        courses, shares = [], []
        for members, signs in zip(self.members[:, self.units], self.signs[:, self.units], strict=True):
            if self.options.course == "mean":
                course, share = signed_mean(signals[:, members], signs[members]), np.nan
            else:
                course, share = eigenvariate(signals[:, members], signs[members])
            courses.append(course)
            shares.append(share)
        return np.stack(courses, axis=1), np.array(shares)

    @property
    def _pair_numbers(self) -> list[tuple[int, int]]:
        """Numbers of every two networks."""
        return list(combinations(range(len(self.networks.tasks)), 2))

    def _row(
        self, pair: tuple[int, int], by_kind: dict[str, NDArray[np.float64]], runs: NDArray[np.bool_]
    ) -> dict[str, Any]:
        """Mean correlations of two networks over some runs."""
        names = (self.networks.tasks[place] for place in pair)
        row: dict[str, Any] = {**dict(zip(("task_a", "task_b"), names, strict=True)), "n_runs": int(runs.sum())}
        for kind, matrices in by_kind.items():
            ends = (float(value) for value in mean_correlation(matrices[runs][:, pair[0], pair[1]]))
            row |= dict(zip((kind, f"{kind}_low", f"{kind}_high"), ends, strict=True))
        return row

    def _pairs(self, by_kind: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
        """Every two networks over all runs, and over runs that did not select their units."""
        rows = []
        for pair in self._pair_numbers:
            elsewhere = ~np.isin(self.run_tasks, [self.networks.tasks[place] for place in pair])
            row = self._row(pair, by_kind, np.ones(len(self.runs), bool))
            value = mean_correlation(by_kind["correlation"][elsewhere][:, pair[0], pair[1]])[0]
            rows.append({**row, "n_elsewhere": int(elsewhere.sum()), "correlation_elsewhere": float(value)})
        return pd.DataFrame(rows)

    def _by_scans(self, by_kind: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
        """Every two networks over the runs of each task."""
        rows = [
            {"scans": task, **self._row(pair, by_kind, self.run_tasks == task), "chose": self._selects(pair, task)}
            for task in dict.fromkeys(self.run_tasks.tolist())
            for pair in self._pair_numbers
        ]
        return pd.DataFrame(rows)

    def _by_run(self, by_kind: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
        """Every two networks in each run."""
        rows = [
            {
                "scans": task,
                "run": run.label,
                "n_scans": run.volumes.n_scans,
                "task_a": self.networks.tasks[pair[0]],
                "task_b": self.networks.tasks[pair[1]],
                **{kind: float(matrices[number][pair]) for kind, matrices in by_kind.items()},
                "chose": self._selects(pair, task),
            }
            for number, (run, task) in enumerate(zip(self.runs, self.run_tasks.tolist(), strict=True))
            for pair in self._pair_numbers
        ]
        return pd.DataFrame(rows)

    def _selects(self, pair: tuple[int, int], task: str) -> int:
        """Return 1 if runs of a task selected the units of one of two networks, else 0."""
        return int(task in {self.networks.tasks[place] for place in pair})

    def _networks(self, explained: NDArray[np.float64]) -> pd.DataFrame:
        """Number of units of each network."""
        selected = self.networks.selected
        table = pd.DataFrame(
            {
                "task": self.networks.tasks,
                "units": selected.sum(1),
                "shared": (selected & ~exclusive_units(selected)).sum(1),
                "used": self.members.sum(1),
            }
        )
        return table if self.options.course == "mean" else table.assign(explained=explained.mean(0))

    def _example(self, courses: Sequence[NDArray[np.float64]]) -> tuple[str, NDArray[np.float64], pd.DataFrame, float]:
        """Choose a run to draw: the first of a task with a network, if any."""
        with_network = np.flatnonzero(np.isin(self.run_tasks, self.networks.tasks))
        number = int(with_network[0]) if with_network.size else 0
        run = self.runs[number]
        return f"task {self.run_tasks[number]}, {run.label}", courses[number], run.events, run.volumes.t_r

    def _caption(self) -> str:
        """Describe in a line how the time courses were made."""
        overlap = "shared units kept" if self.options.shared else "without shared units"
        background = "task and drift taken out" if self.options.background else "task left in"
        confounds = f", {', '.join(self.options.confounds)} taken out" if self.options.confounds else ""
        course = "signed mean" if self.options.course == "mean" else "eigenvariate"
        return f"{len(self.runs)} run(s); {course} of units, {overlap}; {background}{confounds}"

    def _settings(self) -> dict[str, Any]:
        """Describe the settings for the sidecar."""
        return {
            "Course": self.options.course,
            "CourseDescription": _COURSES[self.options.course],
            "SharedUnits": self.options.shared,
            "Background": self.options.background,
            "TakenOut": _TAKEN_OUT if self.options.background else "mean of the run",
            "Confounds": list(self.options.confounds),
            "Scans": [run.volumes.uri("prep") for run in self.runs],
            "RepetitionTime": self.runs[0].volumes.t_r,
            "Covariance": "empirical, not shrunk (nilearn ConnectivityMeasure)",
            "Note": _NO_P,
        }


def _series_name(run: PreparedRun) -> str:
    """Return entities and suffix of the file of a run's time courses."""
    entities = run.volumes.entities
    return "_".join([f"{key}-{entities[key]}" for key in ("ses", "task", "run") if key in entities] + ["timeseries"])
