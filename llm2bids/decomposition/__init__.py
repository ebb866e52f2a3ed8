"""Networks without a task: which units go together in what a model does, by independent components."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm2bids.bids.history import noted_call, to_note
from llm2bids.decomposition.job import SUMMARY, Decomposition, Job
from llm2bids.decomposition.settings import Settings
from llm2bids.decomposition.sources import find_sources
from llm2bids.results.jobs import open_output, run_all, written
from llm2bids.results.work import Work

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Decomposition", "ica"]


def _wrote(found: Sequence[Decomposition], asked: Mapping[str, Any]) -> tuple[Path, list[Path]]:
    """The files of new decompositions."""
    out = Path(asked["out_dir"])
    return out, written(out, SUMMARY, to_note(out, {one.components: one.skipped for one in found}))


@noted_call("ica", _wrote)
def ica(  # noqa: PLR0913 - the arguments of the command
    bids_dir: str | Path,
    out_dir: str | Path,
    *,
    participant_label: Sequence[str] = (),
    task_label: Sequence[str] = (),
    sites: Sequence[str] = (),
    method: Literal["fastica", "canica", "dictlearning"] = "fastica",
    components: int | Literal["estimate"] = "estimate",
    samples: Literal["prompt", "token"] = "prompt",
    scale: Literal["prep", "none"] = "prep",
    by: Literal["subject", "group", "run", "layer"] = "subject",
    axis: Literal["temporal", "spatial"] | None = None,
    seed: int = 0,
    z: float | None = None,
    tail: Literal["positive", "negative", "two"] = "positive",
    resamples: int = 0,
    n_jobs: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> list[Decomposition]:
    """Find networks without a task.

    Parameters
    ----------
    bids_dir : path-like
        A raw dataset, prepared by ``prep``.
    out_dir : path-like
        Derivative to make or to add to.
    participant_label, task_label, sites : sequence of str
        What to decompose; all by default.
    method : {"fastica", "canica", "dictlearning"}
        FastICA of scikit-learn, or nilearn's CanICA or DictLearning, without smoothing and in our mask.
    components : int or "estimate"
        Their number, by default the dimensions that parallel analysis finds beyond noise.
    samples : {"prompt", "token"}
        What is decomposed: means over prompts, in which the noise of single words averages out, or tokens.
    scale : {"prep", "none"}
        Units in their standard deviations, or raw activations, only centred, of which the largest decide.
    by : {"subject", "group", "run", "layer"}
        What is decomposed together: all runs and tasks of a subject and site; those of all subjects of one geometry;
        each run; each layer of a subject.
    axis : {"temporal", "spatial"}, optional
        What is independent: the time courses, whose maps may overlap, or the maps, of which what two networks share
        tends to become a component of its own. By default temporal for FastICA; the other methods are spatial.
    seed : int
        Of every start and resample.
    z : float, optional
        A network is the units whose map is beyond, as z over units; by default beyond 5 by median and median absolute
        deviation, since no unit of a network of 6 % of all units can have a plain z above 4.
    tail : {"positive", "negative", "two"}
        Which tail of the map is the network; the heavier is made positive.
    resamples : int
        Refits with other seeds and runs drawn with replacement, for the stability of every component.
    n_jobs : int
        Decompositions at a time, each in a process; -1 for as many as there are processors.
    resume : bool
        Leave alone what is there and was made of the same data with the same settings.
    overwrite : bool
        Replace what is there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

    Returns
    -------
    list of Decomposition
        One per subject, group, run or layer.

    Raises
    ------
    LLM2BIDSError
        If anything the user can mend is wrong.
    """
    work = Work(n_jobs=n_jobs, resume=resume, overwrite=overwrite, progress=progress)
    chosen = axis or ("temporal" if method == "fastica" else "spatial")
    number = None if components == "estimate" else components
    settings = Settings(method, number, samples, scale, by, chosen, seed, z, tail, resamples)
    raw = Path(bids_dir)
    out = open_output(raw, Path(out_dir))
    sources = find_sources(raw, settings, subjects=participant_label, tasks=task_label, sites=sites)
    jobs = [Job(source, out, raw) for source in sources]
    return run_all(jobs, work, _read, ("ica", "sets"))


def _read(job: Job, summary: dict[str, Any]) -> Decomposition:
    """What a decomposition that is there already found."""
    return job.found(summary, skipped=True)
