"""How the networks of tasks go together over time: their time courses in every prepared run, and correlations."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd

from llm2bids.bids.dataset import Dataset
from llm2bids.bids.history import noted_call
from llm2bids.errors import InferenceError
from llm2bids.networks.answers import Answer, files_of, refuse_existing, write_answer
from llm2bids.networks.network_set import NetworkSet, find_networks, with_tasks
from llm2bids.networks.scans import Cleaning, find_scans
from llm2bids.networks.time_courses import connect, eigenvariate, exclusive, over_runs, signed_mean, without
from llm2bids.plots.connectivity import draw_connectivity
from llm2bids.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from llm2bids.bids.prepared import PreparedRun

logger = logging.getLogger(__name__)

Course = Literal["mean", "eigenvariate"]
"""How the units of a network become one time course."""
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


@noted_call("networks connectivity", files_of)
def connectivity(  # noqa: PLR0913 - the arguments of the command
    glm_dir: str | Path,
    *,
    participant_label: Sequence[str] = (),
    task_label: Sequence[str] = (),
    sites: Sequence[str] = (),
    contrasts: Sequence[str] = (),
    scans: Sequence[str] = (),
    course: Course = "mean",
    shared: bool = False,
    background: bool = False,
    confounds: Sequence[str] = (),
    overwrite: bool = False,
    progress: bool | None = None,
) -> list[Answer]:
    """Correlate the time courses of the networks of tasks.

    Parameters
    ----------
    glm_dir : path-like
        What ``glm`` made, with two tasks or more, beside the recordings and what ``prep`` made of them.
    participant_label, task_label, sites, contrasts : sequence of str
        Networks to look at; all by default.
    scans : sequence of str
        Tasks whose runs give the time courses; by default all that are prepared, also those without a network.
    course : {"mean", "eigenvariate"}
        How the units of a network become one time course.
    shared : bool
        Keep units that belong to several networks, although they correlate with themselves.
    background : bool
        Take out first what the task does to every prompt of a condition alike, drift, and spikes.
    confounds : sequence of str
        Confounds of ``prep`` to take out first, as names or wildcards.
    overwrite : bool
        Replace an answer that is there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

    Returns
    -------
    list of Answer
        One per subject and site, with tables ``pairs``, ``scans``, ``runs``, ``correlation`` and ``partial``
        (matrices), ``networks``, the time courses of every run, and a figure.

    Raises
    ------
    LLM2BIDSError
        If there are fewer than two networks with units, or the prepared runs are missing or others.
    """
    if course not in _COURSES:
        raise InferenceError(f"course {course!r} found; use {' or '.join(_COURSES)}")
    out = Dataset(Path(glm_dir), "derivative")
    labels: dict[str, Any] = {"subjects": participant_label, "tasks": task_label, "sites": sites}
    asked = with_tasks(find_networks(out.root, **labels, contrasts=contrasts), 2, "connectivity")
    question = "connectivitybackground" if background else "connectivity"
    refuse_existing(out, asked, question, overwrite=overwrite)
    cleaning = Cleaning(background, tuple(confounds))
    usable = with_units(asked, shared=shared)
    found = [find_scans(out.root, networks, scans) for networks, _ in usable]
    studies = [
        _Study(networks, used, tuple(runs), course, cleaning)
        for (networks, used), runs in zip(usable, found, strict=True)
    ]
    for run in (run for runs in found for run in runs):
        cleaning.regressors(run)  # refuses a confound that is not there before any volume is read or answer written
    answers = []
    with progress_bar("runs", sum(map(len, found)), "connectivity", visible=progress) as bar:
        for study in studies:
            answer = study.answer(question, lambda: bar.update(1), shared=shared)
            answers.append(write_answer(out, study.networks, answer))
    return answers


def with_units(asked: Sequence[NetworkSet], *, shared: bool) -> list[tuple[NetworkSet, NDArray[np.bool_]]]:
    """Keep networks that have units, and say which are left out.

    Returns networks of sets with two or more of them, and the units of each, shape (n_networks, n_tested).
    """
    kept, refused = [], []
    what = "with any unit" if shared else "with units of its own (keep those it shares with --shared)"
    for networks in asked:
        used = networks.selected if shared else exclusive(networks.selected)
        full: NDArray[np.bool_] = np.any(used, axis=1)
        lost = ", ".join(task for task, there in zip(networks.tasks, full, strict=True) if not there)
        if full.sum() < 2:  # noqa: PLR2004 - nothing to correlate with
            refused.append(
                f"{full.sum()} network of {networks.name} {what} found, connectivity needs 2; none of task {lost}"
            )
            continue
        if lost:
            logger.warning("left out, no network %s: task %s, %s", what, lost, networks.name)
        own = NetworkSet(tuple(network for network, there in zip(networks.networks, full, strict=True) if there))
        whole = np.zeros((len(own.networks), networks.space.n_units), bool)
        whole[:, networks.tested] = used[full]
        kept.append((own, whole[:, own.tested]))  # fewer tasks may have tested more units
    if not kept:
        raise InferenceError(refused[0])
    for one in refused:
        logger.warning("left out: %s", one)
    return kept


@dataclass(frozen=True, eq=False)
class _Study:
    """The networks of one subject and site, and the runs they are looked at in."""

    networks: NetworkSet
    used: NDArray[np.bool_]
    runs: tuple[PreparedRun, ...]
    course: Course
    cleaning: Cleaning

    @cached_property
    def signs(self) -> NDArray[np.float64]:
        """Sign of the effect of every unit, shape (n_networks, n_tested)."""
        effects = np.stack([network.map("effect")[self.networks.tested] for network in self.networks.networks])
        return np.where(effects < 0, -1.0, 1.0)

    @cached_property
    def read(self) -> NDArray[np.bool_]:
        """Units to read, among the tested ones."""
        members: NDArray[np.bool_] = np.any(self.used, axis=0)
        return members

    def answer(self, question: str, tick: Callable[[], object], *, shared: bool) -> Answer:
        """All tables, and the figure."""
        courses, explained, matrices = [], [], []
        for run in self.runs:
            own, share = self._courses(run)
            try:
                matrices.append(connect(own, self.networks.tasks))
            except InferenceError as error:
                raise InferenceError(f"{run.volumes.name}: {error}") from error
            courses.append(own)
            explained.append(share)
            tick()
        found = {
            name: np.stack([one[place] for one in matrices]) for place, name in enumerate(("correlation", "partial"))
        }
        means = {name: over_runs(own) for name, own in found.items()}
        tasks = self.networks.tasks
        tables = {
            "pairs": self._pairs(found),
            "scans": self._by_scans(found),
            "runs": self._by_run(found),
            **{
                name: pd.DataFrame(mean[0], columns=tasks).assign(task=tasks)[["task", *tasks]]
                for name, mean in means.items()
            },
            "networks": self._networks(np.stack(explained)),
        }
        figure = draw_connectivity(tables["networks"], means, self._example(courses), self._told(shared=shared))
        columns = {**_COLUMNS, **{task: f"Of the network of task {task}." for task in tasks}}
        series = {
            _file_name(run): pd.DataFrame(own, columns=tasks) for run, own in zip(self.runs, courses, strict=True)
        }
        site, subject = self.networks.site, self.networks.subjects[0]
        settings = self._settings(shared=shared)
        return Answer(question, subject, site, tables, {"figure": figure}, settings, columns, series)

    def _courses(self, run: PreparedRun) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Time course of every network in a run, and what each explains of its units."""
        kept = self.networks.tested.copy()
        kept[kept] = self.read
        try:
            signals = without(run.signals(kept), self.cleaning.regressors(run).to_numpy())
        except InferenceError as error:
            raise InferenceError(f"{run.volumes.name}: {error}") from error
        columns, shares = [], []
        for members, signs in zip(self.used[:, self.read], self.signs[:, self.read], strict=True):
            if self.course == "mean":
                columns.append(signed_mean(signals[:, members], signs[members]))
                shares.append(np.nan)
            else:
                one, share = eigenvariate(signals[:, members], signs[members])
                columns.append(one)
                shares.append(share)
        return np.stack(columns, axis=1), np.array(shares)

    @cached_property
    def shown(self) -> NDArray[np.str_]:
        """Task that each run showed."""
        return np.array([run.volumes.entities["task"] for run in self.runs])

    @property
    def _couples(self) -> list[tuple[int, int]]:
        """Every two networks."""
        return list(combinations(range(len(self.networks.tasks)), 2))

    def _row(
        self, pair: tuple[int, int], found: dict[str, NDArray[np.float64]], kept: NDArray[np.bool_]
    ) -> dict[str, Any]:
        """Two networks over the runs kept."""
        names = (self.networks.tasks[place] for place in pair)
        row: dict[str, Any] = {**dict(zip(("task_a", "task_b"), names, strict=True)), "n_runs": int(kept.sum())}
        for name, matrices in found.items():
            ends = (float(value) for value in over_runs(matrices[kept][:, pair[0], pair[1]]))
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        return row

    def _pairs(self, found: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
        """Every two networks over all runs, and over those that did not choose their units."""
        rows = []
        for pair in self._couples:
            elsewhere = ~np.isin(self.shown, [self.networks.tasks[place] for place in pair])
            row = self._row(pair, found, np.ones(len(self.runs), bool))
            value = over_runs(found["correlation"][elsewhere][:, pair[0], pair[1]])[0]
            rows.append({**row, "n_elsewhere": int(elsewhere.sum()), "correlation_elsewhere": float(value)})
        return pd.DataFrame(rows)

    def _by_scans(self, found: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
        """The same by the task that was shown."""
        rows = [
            {"scans": task, **self._row(pair, found, self.shown == task), "chose": self._chose(pair, task)}
            for task in dict.fromkeys(self.shown.tolist())
            for pair in self._couples
        ]
        return pd.DataFrame(rows)

    def _by_run(self, found: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
        """The same run by run."""
        rows = [
            {
                "scans": task,
                "run": run.label,
                "n_scans": run.volumes.n_scans,
                "task_a": self.networks.tasks[pair[0]],
                "task_b": self.networks.tasks[pair[1]],
                **{name: float(matrices[number][pair]) for name, matrices in found.items()},
                "chose": self._chose(pair, task),
            }
            for number, (run, task) in enumerate(zip(self.runs, self.shown.tolist(), strict=True))
            for pair in self._couples
        ]
        return pd.DataFrame(rows)

    def _chose(self, pair: tuple[int, int], task: str) -> int:
        """Whether runs of a task chose the units of one of two networks."""
        return int(task in {self.networks.tasks[place] for place in pair})

    def _networks(self, explained: NDArray[np.float64]) -> pd.DataFrame:
        """Units of the networks."""
        selected = self.networks.selected
        table = pd.DataFrame(
            {
                "task": self.networks.tasks,
                "units": selected.sum(1),
                "shared": (selected & ~exclusive(selected)).sum(1),
                "used": self.used.sum(1),
            }
        )
        return table if self.course == "mean" else table.assign(explained=explained.mean(0))

    def _example(self, courses: Sequence[NDArray[np.float64]]) -> tuple[str, NDArray[np.float64], pd.DataFrame, float]:
        """A run to be drawn: the first of a task with a network, if any."""
        known = np.flatnonzero(np.isin(self.shown, self.networks.tasks))
        number = int(known[0]) if known.size else 0
        run = self.runs[number]
        return f"task {self.shown[number]}, {run.label}", courses[number], run.events, run.volumes.t_r

    def _told(self, *, shared: bool) -> str:
        """How it was made, in a line."""
        kept = "shared units kept" if shared else "without shared units"
        cleared = "task and drift taken out" if self.cleaning.background else "task left in"
        others = f", {', '.join(self.cleaning.confounds)} taken out" if self.cleaning.confounds else ""
        course = "signed mean" if self.course == "mean" else "eigenvariate"
        return f"{len(self.runs)} run(s); {course} of units, {kept}; {cleared}{others}"

    def _settings(self, *, shared: bool) -> dict[str, Any]:
        """How it was asked."""
        return {
            "Course": self.course,
            "CourseDescription": _COURSES[self.course],
            "SharedUnits": shared,
            "Background": self.cleaning.background,
            "TakenOut": _TAKEN_OUT if self.cleaning.background else "mean of the run",
            "Confounds": list(self.cleaning.confounds),
            "Scans": [run.volumes.uri("prep") for run in self.runs],
            "RepetitionTime": self.runs[0].volumes.t_r,
            "Covariance": "empirical, not shrunk (nilearn ConnectivityMeasure)",
            "Note": _NO_P,
        }


def _file_name(run: PreparedRun) -> str:
    """Entities and suffix of the time courses of a run."""
    entities = run.volumes.entities
    return "_".join([f"{key}-{entities[key]}" for key in ("ses", "task", "run") if key in entities] + ["timeseries"])
