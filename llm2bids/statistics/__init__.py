"""Which units answer to a task: effects, tests and networks per subject and over subjects, by nilearn's estimators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm2bids.bids.history import noted, to_note
from llm2bids.errors import InferenceError
from llm2bids.pages.analysis import write_page
from llm2bids.results.jobs import Work, open_output, run_all, written
from llm2bids.results.summaries import SUMMARY, Finding, findings
from llm2bids.statistics.group_level import find_groups
from llm2bids.statistics.participant_level import find_subjects
from llm2bids.statistics.settings import Settings, refuse_neighbours

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llm2bids.statistics.output import Job

__all__ = ["Finding", "glm"]


def _wrote(found: Sequence[Finding], asked: Mapping[str, Any]) -> tuple[Path, list[Path]]:
    """The files of new analyses, and the pages that show them."""
    out = Path(asked["out_dir"])
    files = written(out, SUMMARY, to_note(out, {one.z_map: one.skipped for one in found}))
    pages = {out / f"{path.relative_to(out).parts[0]}.html" for path in files}
    return out, [*files, *(page for page in pages if page.exists())]


@noted("glm", _wrote)
def glm(  # noqa: PLR0913 - the arguments of the command
    bids_dir: str | Path,
    out_dir: str | Path,
    analysis_level: Literal["participant", "group"] = "participant",
    *,
    participant_label: Sequence[str] = (),
    task_label: Sequence[str] = (),
    sites: Sequence[str] = (),
    model: str | Path | None = None,
    contrasts: Sequence[str] = (),
    inference: Literal["prompt", "run", "token"] = "prompt",
    level: Literal["prompt", "prompt-mean"] = "prompt",
    drift: Literal["cosine", "none"] = "cosine",
    high_pass: float | None = None,
    confounds: Sequence[str] = (),
    drop_missing: bool = False,
    correction: Literal["fdr", "bonferroni", "maxt", "none"] = "fdr",
    alpha: float = 0.05,
    tail: Literal["two", "positive", "negative"] = "two",
    n_permutations: int = 1000,
    seed: int = 0,
    top: Sequence[float] = (),
    compare: str | None = None,
    pairs: str | None = None,
    covariates: Sequence[str] = (),
    smoothing_fwhm: float | None = None,
    cluster_threshold: int | None = None,
    n_jobs: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> list[Finding]:
    """Find the units that answer to a task.

    Parameters
    ----------
    bids_dir : path-like
        A raw dataset, prepared by ``prep``.
    out_dir : path-like
        Derivative to make or to add to.
    analysis_level : {"participant", "group"}
        Each subject, task and site by itself; or over the subjects whose results are in `out_dir`.
    participant_label, task_label, sites : sequence of str
        What to analyse; all by default.
    model : path-like, optional
        A BIDS Stats Model; by default the one that was recorded for each task in ``code/models``.
    contrasts : sequence of str
        Questions to ask instead of those of the model, e.g. ``"on - off"`` or ``"name=on - off"``.
    inference : {"prompt", "run", "token"}
        What is a sample; only ``"prompt"`` is calibrated, see `Settings`.
    level : {"prompt", "prompt-mean"}
        How the effect of a prompt is estimated.
    drift : {"cosine", "none"}
        Whether slow drifts are removed.
    high_pass : float, optional
        Their cutoff in Hz, instead of the one fitted to the design.
    confounds : sequence of str
        Further confounds, as names or wildcards.
    drop_missing : bool
        Leave runs that lack a condition out of contrasts that need it, and say so, instead of an error.
    correction : {"fdr", "bonferroni", "maxt", "none"}
        For testing many units.
    alpha : float
        Level of the test.
    tail : {"two", "positive", "negative"}
        Which effects are looked for.
    n_permutations, seed : int
        Of ``correction="maxt"``.
    top : sequence of float
        Shares of the tested units, e.g. 0.01: those with the largest statistic are written as masks too, uncorrected.
    compare : str, optional
        Group level: a column of participants.tsv with two values, whose subjects are compared.
    pairs : str, optional
        Group level: with `compare`, the column that says who belongs together.
    covariates : sequence of str
        Group level: columns with numbers, centred and taken into account.
    smoothing_fwhm, cluster_threshold : None
        Refused, with the reason.
    n_jobs : int
        Analyses at a time, each in a process; -1 for as many as there are processors.
    resume : bool
        Leave alone analyses that are there and were made of the same data with the same settings.
    overwrite : bool
        Replace analyses that are there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

    Returns
    -------
    list of Finding
        One per analysis and contrast.

    Raises
    ------
    LLM2BIDSError
        If anything the user can mend is wrong; whatever the data cannot answer is refused before any fit.
    """
    work = Work(n_jobs, resume, overwrite, progress)
    refuse_neighbours(smoothing_fwhm, cluster_threshold)
    estimated = (inference, level, drift, high_pass, tuple(confounds))
    tested = (correction, alpha, tail, n_permutations, seed)
    settings = Settings(*estimated, *tested, drop_missing, tuple(top))
    raw, design = Path(bids_dir), (compare, pairs, tuple(covariates))
    out = open_output(raw, Path(out_dir))
    _check_level(analysis_level, contrasts, design)
    wanted: dict[str, Any] = {"subjects": participant_label, "tasks": task_label, "sites": sites}
    wanted["model"] = None if model is None else Path(model)
    jobs: Sequence[Job]
    if analysis_level == "participant":
        jobs = [*find_subjects(raw, out, settings, contrasts=contrasts, **wanted)]
    else:
        jobs = [*find_groups(raw, out, settings, design=design, **wanted)]
    found = run_all(jobs, work, _read, ("glm", "analyses"), _draw)
    return [one for own in found for one in own]


def _check_level(level: str, contrasts: Sequence[str], design: tuple[str | None, str | None, tuple[str, ...]]) -> None:
    """Refuse what is asked at the wrong level."""
    if level not in {"participant", "group"}:
        raise InferenceError(f"level {level!r} found; use participant or group")
    if level == "participant" and any(design):
        raise InferenceError("compare, pairs or covariates asked for a single subject; use the level group")
    if level == "group" and contrasts:
        raise InferenceError("contrasts of conditions asked for a group; ask them at the level participant first")


def _read(job: Job, summary: dict[str, Any]) -> list[Finding]:
    """What an analysis that is there already found."""
    return findings(summary, job.summary.parent, skipped=True)


def _draw(there: Sequence[Job], fresh: Sequence[Job]) -> None:
    """Draw the pages of what is new, and those that are missing."""
    new = {job.place for job in fresh}
    for place, out in {job.place: job.out for job in there}.items():
        if place in new or not (out.root / f"{place}.html").exists():
            write_page(out, place)
