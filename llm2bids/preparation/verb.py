"""``prep``: check a raw dataset, plan what each of its runs needs, and prepare those that are not prepared yet."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from joblib import Parallel, delayed

from llm2bids.bids.dataset import Dataset
from llm2bids.bids.history import noted
from llm2bids.bids.runs import BoldRun, find_runs, read_events
from llm2bids.bids.tables import read_json
from llm2bids.design.matrix import high_pass
from llm2bids.errors import DatasetError
from llm2bids.options import takes
from llm2bids.preparation.confounds import log_frequencies
from llm2bids.preparation.export import feat_run, read_stats_model
from llm2bids.preparation.job import PrepJob, PrepResult
from llm2bids.preparation.settings import PrepOptions
from llm2bids.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PrepOptions", "PrepResult", "prep"]


@noted("prep")
@takes(PrepOptions)
def prep(options: PrepOptions) -> list[PrepResult]:
    """Prepare recordings for statistics, as ``derivatives/llm2bids`` of their dataset.

    Returns
    -------
    list of PrepResult
        One per run and site, in order of name.

    Raises
    ------
    LLM2BIDSError
        If anything the user can mend is wrong; runs that were complete stay.
    """
    root = Path(options.bids_dir)
    if not (root / "dataset_description.json").is_file():
        raise DatasetError(f"{root} has no dataset_description.json, so it is no BIDS dataset; give the folder of one")
    if read_json(root / "dataset_description.json").get("DatasetType", "raw") != "raw":
        raise DatasetError(f"{root} is a derivative; prep reads a raw dataset: give its folder")
    out = Dataset(options.home, "derivative")
    jobs = _plan(find_runs(root, options.participant_label, options.task_label, options.sites), out, fsl=options.fsl)
    todo = [job for job in jobs if not job.is_done(options)]
    results = {job.run: job.existing() for job in jobs if job not in todo}
    finished = Parallel(n_jobs=options.n_jobs, return_as="generator")(delayed(PrepJob.prepare)(job) for job in todo)
    with (
        out.cleanup(job.run.name for job in todo),
        closing(finished),
        progress_bar("runs", len(todo), "prep", finished, visible=options.progress) as bar,
    ):
        results |= {job.run: result for job, result in zip(todo, bar, strict=True)}
    return [results[job.run] for job in jobs]


def _plan(runs: Sequence[BoldRun], out: Dataset, *, fsl: bool) -> list[PrepJob]:
    """Collect what each run needs; all small files are read here, so that errors in them show before any work."""
    all_runs = find_runs(runs[0].root)
    subjects = {run.entities["sub"] for run in runs}
    frequencies = {
        subject: log_frequencies([run for run in all_runs if run.entities["sub"] == subject]) for subject in subjects
    }
    cutoffs = {group: _cutoff([run for run in all_runs if _group(run) == group]) for group in set(map(_group, runs))}
    tasks = {run.entities["task"] for run in runs}
    models = {task: read_stats_model(runs[0].root, task) for task in tasks} if fsl else {}
    jobs = [
        PrepJob(run, out, frequencies[run.entities["sub"]], cutoffs[_group(run)], models.get(run.entities["task"]))
        for run in runs
    ]
    for job in jobs:
        if job.model:
            feat_run(job.run, job.model, job.bold.resolve(), job.cutoff, out.root.resolve())
    return jobs


def _group(run: BoldRun) -> tuple[str, ...]:
    """Subject, task and site of a run; runs of one group share the cutoff of their drift."""
    return tuple(run.entities.get(key, "") for key in ("sub", "task", "acq"))


def _cutoff(runs: Sequence[BoldRun]) -> float | None:
    """Cutoff of the drift for these runs, in Hz."""
    n_seconds = [run.n_scans * run.t_r for run in runs]
    events = [read_events(run.beside("events.tsv"), length) for run, length in zip(runs, n_seconds, strict=True)]
    return high_pass(events, n_seconds)
