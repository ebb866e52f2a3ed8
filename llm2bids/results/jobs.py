"""Jobs whose files appear all at once: where they may be written, which exist already, and running the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from joblib import Parallel, delayed

from llm2bids.bids.dataset import Dataset
from llm2bids.bids.runs import PREPARED
from llm2bids.bids.tables import read_json, write_json
from llm2bids.bids.templates import template_json, template_text
from llm2bids.errors import DatasetError, LLM2BIDSError
from llm2bids.progress import progress_bar
from llm2bids.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Protocol

    from llm2bids.results.work import Work

    class Job(Protocol):
        """A piece of work whose files appear all at once."""

        @property
        def out(self) -> Dataset:
            """Derivative that the results go to."""

        @property
        def place(self) -> str:
            """Folder of the files, relative to the derivative; names in the summary are relative to it."""

        @property
        def summary(self) -> Path:
            """Path of the summary, which is written last."""

        @property
        def fingerprint(self) -> str:
            """Hash of everything that the result depends on."""

        def describe(self) -> None:
            """Describe the output as a BIDS derivative."""

        def run(self) -> Any:
            """Carry it out and publish all files at once."""


AnyJob = TypeVar("AnyJob", bound="Job")
Result = TypeVar("Result")


def open_output(raw: Path, out: Path) -> Dataset:
    """Open the derivative `out` for results of a raw dataset; raise if it holds those of another."""
    check_place(raw, out)
    opened = Dataset(out, "derivative")
    description = out / "dataset_description.json"
    links = read_json(description).get("DatasetLinks", {}) if description.exists() else {}
    for name, path in {
        "raw": raw,
        "prep": raw / PREPARED,
    }.items():  # sidecars name their sources relative to these links
        if name in links and (out / links[name]).resolve() != path.resolve():
            raise DatasetError(f"{out} holds results of {links[name]}, not of {path}; name another output folder")
    return opened


def check_place(raw: Path, out: Path) -> None:
    """Raise if results in `out` would mix with the raw data or another derivative."""
    if not (raw / "dataset_description.json").is_file():
        raise DatasetError(f"{raw} has no dataset_description.json, so it is no BIDS dataset; give the folder of one")
    if read_json(raw / "dataset_description.json").get("DatasetType", "raw") != "raw":
        raise DatasetError(f"{raw} is a derivative; give the raw dataset, with its derivatives/llm2bids inside")
    within = out.resolve().is_relative_to(raw.resolve())
    folders = out.resolve().relative_to(raw.resolve()).parts if within else None
    if folders is not None and (len(folders) < 2 or folders[0] != "derivatives"):  # noqa: PLR2004 - derivatives/NAME
        raise DatasetError(
            f"output {out} lies inside the raw dataset; write to {raw}/derivatives/NAME or to a folder outside it"
        )
    if folders is not None and folders[1] in {"llm2bids", "phantom"}:
        raise DatasetError(f"output {out} is another derivative; write to {raw}/derivatives/NAME, NAME of your choice")


def describe_output(out: Dataset, verb: str, links: Mapping[str, Path]) -> None:
    """Describe an output as a BIDS derivative, or complete its description; call with the lock held.

    `verb`: its templates are the description, the README and the list of files that the validator must ignore.
    `links`: datasets that sidecars name, by name.
    """
    root = out.root.resolve()
    relative = {name: Path(os.path.relpath(path.resolve(), root)).as_posix() for name, path in links.items()}
    fields = template_json(f"{verb}_description.json", version=__version__) | {"DatasetLinks": relative}
    out.add_missing("dataset_description.json", fields)
    existing_links = read_json(out.root / "dataset_description.json").get("DatasetLinks", {})
    if missing := {name: path for name, path in relative.items() if name not in existing_links}:
        out.merge_shared("dataset_description.json", {"DatasetLinks": missing})
    out.add_missing("README.md", f"{verb}_README.md")
    out.ignore(*template_text(f"{verb}_bidsignore").splitlines())


def stage_of(job: Job) -> str:
    """Name of the temporary folder in which a job is carried out."""
    return job.summary.name.rpartition("_")[0]


def existing(job: Job, work: Work) -> dict[str, Any] | None:
    """Summary of a job that was completed before; None if it is to be done.

    Raises if there are results and neither `resume` nor `overwrite` was given, or if they do not fit the job.
    """
    job.out.recover(stage_of(job))
    path = job.summary
    if work.overwrite or not path.exists():
        return None
    if not work.resume:
        raise DatasetError(
            f"{path} exists already; go on with resume=True, replace it with overwrite=True, or name another output "
            "folder"
        )
    summary = read_json(path)
    if summary.get("Fingerprint") != job.fingerprint:
        raise DatasetError(
            f"{path.name} was made of other data or with other settings; replace it with overwrite=True, or name "
            "another output folder"
        )
    complete = all((job.out.root / job.place / name).exists() for name in summary.get("Files", []))
    return summary if complete else None


def publish(job: Job, stage: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Write the summary of a job, and move all its files to their place; files of an earlier one are removed.

    `fields`: of the summary, to which fingerprint and names of files are added.
    """
    home = stage / job.place
    files = sorted(
        path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file() and path.parent != stage
    )
    summary = {**fields, "Fingerprint": job.fingerprint, "Files": files}
    write_json(stage / job.summary.relative_to(job.out.root), summary)
    job.describe()  # only now: if the first job of an output fails, the output does not appear
    with job.out.lock():
        earlier = read_json(job.summary).get("Files", []) if job.summary.exists() else []
        for name in set(earlier) - set(files):
            (job.out.root / job.place / name).unlink(missing_ok=True)
        job.out.publish(stage)
    return summary


def run_all(
    jobs: Sequence[AnyJob],
    work: Work,
    read: Callable[[AnyJob, dict[str, Any]], Result],
    labels: tuple[str, str],
    finish: Callable[[Sequence[AnyJob], Sequence[AnyJob]], None] = lambda *_: None,
) -> list[Result]:
    """Run the jobs that are not complete yet, under one progress bar.

    `read`: makes the result of a job that is complete, from its summary. `labels`: of the progress bar, its name and
    the unit it counts. `finish`: called at the end, also after an error, with the complete jobs and the new ones.
    """
    summaries = {job.summary: existing(job, work) for job in jobs}
    done = {job.summary: read(job, summary) for job in jobs if (summary := summaries[job.summary]) is not None}
    todo = [job for job in jobs if job.summary not in done]
    name, unit = labels
    finished = Parallel(n_jobs=work.n_jobs, return_as="generator")(delayed(_run_safely)(job) for job in todo)
    with jobs[0].out.cleanup(map(stage_of, todo)):
        try:
            with progress_bar(unit, len(todo), name, finished, visible=work.progress) as bar:
                for job, outcome in zip(todo, bar, strict=True):
                    if isinstance(outcome, LLM2BIDSError):
                        raise outcome
                    done[job.summary] = outcome
        finally:
            finished.close()
            finish(*([job for job in group if job.summary in done] for group in (jobs, todo)))
    return [done[job.summary] for job in jobs]


def _run_safely(job: Job) -> Any:
    """Run a job; an error that the user can mend is returned: raised in another process, it would lose its type."""
    try:
        return job.run()
    except LLM2BIDSError as error:
        return error
