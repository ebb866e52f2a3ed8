"""What analyses of subjects and of groups share: how their summary tells what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm2bids import jobs
from llm2bids.glm.output import findings

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Protocol

    from llm2bids.glm.output import Finding

    class Job(jobs.Job, Protocol):
        """An analysis that is to be carried out and written."""

        def about(self) -> dict[str, Any]:
            """Describe the analysis for its summary.

            Returns
            -------
            dict
                JSON values.
            """

        def run(self) -> list[Finding]:
            """Carry it out and write all files at once.

            Returns
            -------
            list of Finding
                One per contrast.
            """


def publish(job: Job, stage: Path, found: list[dict[str, Any]]) -> list[Finding]:
    """Write the summary of a job, and move all its files to their places; those of an earlier one go.

    Parameters
    ----------
    job : Job
        What was done.
    stage : Path
        Folder that stands for the output.
    found : list of dict
        What each contrast found.

    Returns
    -------
    list of Finding
        With the files in their places.
    """
    return findings(jobs.publish(job, stage, {**job.about(), "Found": found}), job.summary.parent)
