"""Which units answer to a task: effects, tests and networks per subject and over subjects, by nilearn's estimators."""

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
        If anything the user can mend is wrong; whatever the data cannot answer is refused before any fit.
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
    return [result for of_job in results for result in of_job]


def _read(job: Job, summary: dict[str, Any]) -> list[ContrastResult]:
    """Results of an analysis that is there already."""
    return contrast_results(summary, job.summary, skipped=True)


def _draw(there: Sequence[Job], fresh: Sequence[Job]) -> None:
    """Draw the pages of what is new, and those that are missing."""
    new = {job.place for job in fresh}
    for place, out in {job.place: job.out for job in there}.items():
        if place in new or not (out.root / f"{place}.html").exists():
            write_page(out, place)
