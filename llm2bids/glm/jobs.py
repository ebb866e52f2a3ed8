"""What analyses of subjects and of groups share: when one is there already, and how its files appear all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm2bids.bids.tables import read_json, write_json
from llm2bids.errors import DatasetError
from llm2bids.glm.output import SUMMARY, findings

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Protocol

    from llm2bids.bids.dataset import Dataset
    from llm2bids.glm.output import Finding

    class Job(Protocol):
        """An analysis that is to be carried out and written."""

        @property
        def out(self) -> Dataset:
            """Where its results go."""

        @property
        def place(self) -> str:
            """Folder of its results, relative to the output."""

        @property
        def summary(self) -> Path:
            """The file that says what was done and found."""

        @property
        def fingerprint(self) -> str:
            """Hash of all that the result depends on."""

        def about(self) -> dict[str, Any]:
            """Describe the analysis for its summary.

            Returns
            -------
            dict
                JSON values.
            """

        def describe(self) -> None:
            """Make the output a BIDS derivative."""

        def run(self) -> list[Finding]:
            """Carry it out and write all files at once.

            Returns
            -------
            list of Finding
                One per contrast.
            """


def stage_of(job: Job) -> str:
    """Name the folder in which a job is carried out.

    Parameters
    ----------
    job : Job
        What is to be done.

    Returns
    -------
    str
        Its results' name without suffix.
    """
    return job.summary.name.removesuffix(f"_{SUMMARY}")


def existing(job: Job, *, resume: bool, overwrite: bool) -> list[Finding] | None:
    """Say what is there already of a job; refuse to replace it unasked.

    Parameters
    ----------
    job : Job
        What is to be done.
    resume, overwrite : bool
        Whether it stays, or goes.

    Returns
    -------
    list of Finding or None
        None if it is to be done.

    Raises
    ------
    DatasetError
        If it is there and neither is allowed, it was made otherwise, or another process writes it.
    """
    job.out.recover(stage_of(job))
    path = job.summary
    if overwrite or not path.exists():
        return None
    if not resume:
        raise DatasetError(
            f"{path} exists already; go on with --resume, replace it with --overwrite, or name another output folder"
        )
    before = read_json(path)
    if before.get("Fingerprint") != job.fingerprint:
        raise DatasetError(
            f"{path.name} was made of other data or with other settings; replace it with --overwrite, or name another "
            "output folder"
        )
    if not all((job.out.root / job.place / name).exists() for name in before.get("Files", [])):
        return None
    return findings(before, path.parent, skipped=True)


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
    staged = stage / job.summary.relative_to(job.out.root)
    home = stage / job.place
    files = sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())
    summary = {**job.about(), "Fingerprint": job.fingerprint, "Found": found, "Files": files}
    write_json(staged, summary)
    job.describe()  # not before: nothing stays of an output whose first analysis fails
    with job.out.lock():
        old = read_json(job.summary).get("Files", []) if job.summary.exists() else []
        for name in set(old) - set(files):
            (job.out.root / job.place / name).unlink(missing_ok=True)
        job.out.publish(stage)
    return findings(summary, job.summary.parent)
