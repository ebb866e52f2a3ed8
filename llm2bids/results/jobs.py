"""Work in pieces whose results appear whole: which are there, which are to be done, where they may be written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from joblib import Parallel, delayed

from llm2bids import __version__
from llm2bids.bids.dataset import Dataset
from llm2bids.bids.runs import PREPARED
from llm2bids.bids.tables import read_json, write_json
from llm2bids.bids.templates import template_json, template_text
from llm2bids.errors import DatasetError, LLM2BIDSError
from llm2bids.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Protocol

    from llm2bids.results.work import Work

    class Job(Protocol):
        """A piece of work whose files appear all at once."""

        @property
        def out(self) -> Dataset:
            """Where its results go."""

        @property
        def place(self) -> str:
            """Folder that its files lie in, relative to the output; the summary names them relative to it."""

        @property
        def summary(self) -> Path:
            """The file that says what was done and found."""

        @property
        def fingerprint(self) -> str:
            """Hash of all that the result depends on."""

        def describe(self) -> None:
            """Make the output a BIDS derivative."""

        def run(self) -> Any:
            """Carry it out and write all files at once."""


Piece = TypeVar("Piece", bound="Job")
Found = TypeVar("Found")


def open_output(raw: Path, out: Path) -> Dataset:
    """Open the derivative that results of a raw dataset go to.

    `out`: the folder asked for; in the raw data only their derivatives folder will do.
    """
    check_place(raw, out)
    opened = Dataset(out, "derivative")
    description = out / "dataset_description.json"
    links = read_json(description).get("DatasetLinks", {}) if description.exists() else {}
    for name, path in {"raw": raw, "prep": raw / PREPARED}.items():  # sources are named relative to them
        if name in links and (out / links[name]).resolve() != path.resolve():
            raise DatasetError(f"{out} holds results of {links[name]}, not of {path}; name another output folder")
    return opened


def check_place(raw: Path, out: Path) -> None:
    """Refuse a folder for results where it would spoil a dataset."""
    if not (raw / "dataset_description.json").is_file():
        raise DatasetError(f"{raw} has no dataset_description.json, so it is no BIDS dataset; give the folder of one")
    if read_json(raw / "dataset_description.json").get("DatasetType", "raw") != "raw":
        raise DatasetError(f"{raw} is a derivative; give the raw dataset, with its derivatives/llm2bids inside")
    inside = out.resolve().relative_to(raw.resolve()).parts if out.resolve().is_relative_to(raw.resolve()) else None
    if inside is not None and (len(inside) < 2 or inside[0] != "derivatives"):  # noqa: PLR2004 - derivatives/NAME
        raise DatasetError(
            f"output {out} lies inside the raw dataset; write to {raw}/derivatives/NAME or to a folder outside it"
        )
    if inside is not None and inside[1] in {"llm2bids", "phantom"}:
        raise DatasetError(f"output {out} is another derivative; write to {raw}/derivatives/NAME, NAME of your choice")


def describe_output(out: Dataset, verb: str, links: Mapping[str, Path]) -> None:
    """Make an output a BIDS derivative, or complete what it says; call with the lock held.

    `verb`: what makes it; its templates say what the folder is and which files no validator knows.
    """
    root = out.root.resolve()
    relative = {name: Path(os.path.relpath(path.resolve(), root)).as_posix() for name, path in links.items()}
    fields = template_json(f"{verb}_description.json", version=__version__) | {"DatasetLinks": relative}
    out.add_missing("dataset_description.json", fields)
    there = read_json(out.root / "dataset_description.json").get("DatasetLinks", {})
    if missing := {name: path for name, path in relative.items() if name not in there}:
        out.merge_shared("dataset_description.json", {"DatasetLinks": missing})
    out.add_missing("README.md", f"{verb}_README.md")
    out.ignore(*template_text(f"{verb}_bidsignore").splitlines())


def stage_of(job: Job) -> str:
    """Name the folder in which a piece is carried out."""
    return job.summary.name.rpartition("_")[0]


def existing(job: Job, work: Work) -> dict[str, Any] | None:
    """Say what is there already of a piece; refuse to replace it unasked.

    Returns its summary; None if it is to be done.
    """
    job.out.recover(stage_of(job))
    path = job.summary
    if work.overwrite or not path.exists():
        return None
    if not work.resume:
        raise DatasetError(
            f"{path} exists already; go on with --resume, replace it with --overwrite, or name another output folder"
        )
    before = read_json(path)
    if before.get("Fingerprint") != job.fingerprint:
        raise DatasetError(
            f"{path.name} was made of other data or with other settings; replace it with --overwrite, or name another "
            "output folder"
        )
    complete = all((job.out.root / job.place / name).exists() for name in before.get("Files", []))
    return before if complete else None


def publish(job: Job, stage: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """Write the summary of a piece, and move all its files to their places; those of an earlier one go."""
    home = stage / job.place
    files = sorted(
        path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file() and path.parent != stage
    )
    summary = {**told, "Fingerprint": job.fingerprint, "Files": files}
    write_json(stage / job.summary.relative_to(job.out.root), summary)
    job.describe()  # not before: nothing stays of an output whose first piece fails
    with job.out.lock():
        old = read_json(job.summary).get("Files", []) if job.summary.exists() else []
        for name in set(old) - set(files):
            (job.out.root / job.place / name).unlink(missing_ok=True)
        job.out.publish(stage)
    return summary


def written(out: Path, summary: str, found: Collection[Path]) -> list[Path]:
    """List the files of pieces of work by one file of each."""
    files = []
    for path in sorted(out.rglob(f"*_{summary}")) if found else ():
        names = read_json(path).get("Files", [])
        homes = (folder for folder in path.parents if names and (folder / names[0]).exists())  # by `Job.place`
        own = {home / name for home in list(homes)[:1] for name in names}
        files += [path, *sorted(own)] if own & set(found) else []
    return files


def run_all(
    jobs: Sequence[Piece],
    work: Work,
    read: Callable[[Piece, dict[str, Any]], Found],
    shown: tuple[str, str],
    finish: Callable[[Sequence[Piece], Sequence[Piece]], None] = lambda *_: None,
) -> list[Found]:
    """Carry out what is to be done, under one progress bar.

    `read`: makes of a job and its summary what was found, where it is there already. `finish`: told in the end, also
    after an error, what is there by then, and which of that is new.
    """
    there = {job.summary: existing(job, work) for job in jobs}
    done = {job.summary: read(job, summary) for job in jobs if (summary := there[job.summary]) is not None}
    todo = [job for job in jobs if job.summary not in done]
    name, unit = shown
    finished = Parallel(n_jobs=work.n_jobs, return_as="generator")(delayed(_safely)(job) for job in todo)
    with jobs[0].out.cleanup(map(stage_of, todo)):
        try:
            with progress_bar(unit, len(todo), name, finished, visible=work.progress) as bar:
                for job, outcome in zip(todo, bar, strict=True):
                    if isinstance(outcome, LLM2BIDSError):
                        raise outcome
                    done[job.summary] = outcome
        finally:
            finished.close()
            finish(*([job for job in some if job.summary in done] for some in (jobs, todo)))
    return [done[job.summary] for job in jobs]


def _safely(job: Job) -> Any:
    """Carry out one; an error the user can mend is handed back, since it would lose its type on the way."""
    try:
        return job.run()
    except LLM2BIDSError as error:
        return error
