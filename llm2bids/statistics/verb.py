"""The function ``glm``: find the jobs, run those that are not complete, and draw their pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.bids.history import noted
from llm2bids.options import takes
from llm2bids.pages.analysis import write_page
from llm2bids.results.jobs import open_output, run_all
from llm2bids.results.summaries import ContrastResult, contrast_results
from llm2bids.statistics.group_level import find_groups
from llm2bids.statistics.participant_level import find_subjects
from llm2bids.statistics.settings import GLMOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm2bids.statistics.output import Job

__all__ = ["ContrastResult", "GLMOptions", "glm"]


@noted("glm")
@takes(GLMOptions)
def glm(options: GLMOptions) -> list[ContrastResult]:
    """Find the units that answer to a task.

    Returns
    -------
    list of ContrastResult
        One per analysis and contrast.

    Raises
    ------
    LLM2BIDSError
        If anything the user can mend is wrong; contrasts that the data cannot estimate raise before any fit.
    """
    raw = Path(options.bids_dir)
    out = open_output(raw, options.home)
    model = None if options.model is None else Path(options.model)
    jobs: Sequence[Job]
    if options.analysis_level == "participant":
        jobs = [*find_subjects(raw, out, options, contrasts=options.contrasts, model=model, **options.labels)]
    else:
        design = (options.compare, options.pairs, options.covariates)
        jobs = [*find_groups(raw, out, options, design=design, model=model, **options.labels)]
    results = run_all(jobs, options, _read, ("glm", "analyses"), _draw)
    return [result for job_results in results for result in job_results]


def _read(job: Job, summary: dict[str, Any]) -> list[ContrastResult]:
    """Results of an analysis that was completed before."""
    return contrast_results(summary, job.summary, skipped=True)


def _draw(complete: Sequence[Job], new: Sequence[Job]) -> None:
    """Write the pages of new results, and pages that are missing."""
    places = {job.place for job in new}
    for place, out in {job.place: job.out for job in complete}.items():
        if place in places or not (out.root / f"{place}.html").exists():
            write_page(out, place)
