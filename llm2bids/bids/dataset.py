"""Adds to a dataset: shared files are merged, runs appear whole, several processes may write at once.

While a run is recorded its files lie in ``.llm2bids/<run>`` inside the dataset, which every BIDS tool ignores. When all
are complete the folder is marked ready and its files are moved to their places. If a process is killed the dataset
stays as it was, but for this folder: the next recording of the run moves its files if it was ready, and removes it.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from filelock import FileLock, Timeout

from llm2bids.bids.tables import read_json, read_tsv, write_bytes, write_json, write_tsv
from llm2bids.bids.templates import template_json, template_text
from llm2bids.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

STAGING = ".llm2bids"
"""Name of the folder for unfinished runs."""
_READY = "READY"
_LOCK = "lock"
_WAIT = 600
"""Seconds to wait while another process merges shared files."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A BIDS dataset on disk that grows, raw or derivative.

    `root`: its folder, which may not exist yet.
    """

    root: Path
    kind: Literal["raw", "derivative"] = "raw"

    def __post_init__(self) -> None:
        """Raise if the folder is no dataset of this kind, or cannot be written, before any work is done."""
        try:
            exists = self._check_writable()
        except OSError as error:
            raise DatasetError(
                f"{self.root} cannot be written ({error.strerror or error}); choose another folder"
            ) from error
        if not exists:
            return
        description = self.root / "dataset_description.json"
        if description.exists():
            kind = read_json(description).get("DatasetType", "raw")
            if kind != self.kind:
                raise DatasetError(f"{self.root} is a {kind} dataset, a {self.kind} one is needed: give its folder")
        elif any(not path.name.startswith(".") for path in self.root.iterdir()):
            raise DatasetError(
                f"{self.root} holds files but no dataset_description.json, so it is no BIDS dataset; "
                "give an empty or new folder, or a BIDS dataset"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from merging shared files inside the ``with``."""
        folder = self.root / STAGING
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / _LOCK, timeout=_WAIT):
                yield
        except Timeout as error:
            raise DatasetError(f"{self.root} is locked by another process; wait for it, or end it") from error

    @contextmanager
    def stage(self, name: str) -> Iterator[Path]:
        """Yield a folder for the files of a run, or of other work that appears whole; it is removed on leaving."""
        folder = self.root / STAGING / name
        with self._claimed(folder):
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def recover(self, name: str) -> None:
        """Clean up after a process that was killed: move its run if it was complete, else remove it."""
        folder = self.root / STAGING / name
        if not folder.exists():
            return
        with self.lock():
            if (folder / _READY).exists():  # asked with the lock held: another process may be moving the run
                self._move(folder)
            else:
                with self._claimed(folder):
                    pass
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path) -> list[Path]:
        """Move a complete run from the folder of `stage` to its place; call with the lock held.

        Volumes replace those of the same name, compressed or not.
        """
        (folder / _READY).touch()
        return self._move(folder)

    def merge_description(self, sources: Sequence[Mapping[str, str]], authors: Sequence[str], version: str) -> None:
        """Write or complete ``dataset_description.json``, README and ``.bidsignore``; call with the lock held."""
        path = self.root / "dataset_description.json"
        new = template_json("dataset_description.json", version=version) | {"Authors": list(authors)}
        fields = read_json(path) if path.exists() else new
        listed = list(fields.get("SourceDatasets", []))
        fields["SourceDatasets"] = listed + [dict(source) for source in sources if source not in listed]
        if not any(entry.get("Name") == "llm2bids" for entry in fields.get("GeneratedBy", [])):
            fields["GeneratedBy"] = [*fields.get("GeneratedBy", []), *new["GeneratedBy"]]
        fields.setdefault("DatasetType", "raw")
        self._write_if_new(path, fields)
        if not any(self.root.glob("README*")):
            self.add_missing("README.md", "README.md")
        self.add_missing(".bidsignore", "bidsignore")

    def merge_participant(self, label: str, fields: Mapping[str, Any]) -> None:
        """Add or complete the row of a subject; call with the lock held."""
        path = self.root / "participants.tsv"
        table = self._participants().set_index("participant_id")
        if f"sub-{label}" not in table.index:
            table.loc[f"sub-{label}"] = "n/a"
        for column, value in fields.items():
            table.loc[f"sub-{label}", column] = str(value)
        write_tsv(path, table.fillna("n/a").sort_index().reset_index())
        described = self.root / "participants.json"
        columns = read_json(described) if described.exists() else {}
        self._write_if_new(described, template_json("participants.json") | columns)

    def participant(self, label: str) -> dict[str, str]:
        """Read the row of a subject, by column; empty where there is none."""
        rows = self._participants().query("participant_id == @name", local_dict={"name": f"sub-{label}"})
        return {str(key): str(value) for key, value in rows.iloc[0].items()} if len(rows) else {}

    def check_shared(self, name: str, fields: Mapping[str, Any]) -> None:
        """Raise if `merge_shared` would, and write nothing."""
        path = self.root / name
        if path.exists():
            _merged(read_json(path), fields, name)

    def merge_shared(self, name: str, fields: Mapping[str, Any]) -> None:
        """Write a sidecar that several runs share, or add fields to it; call with the lock held.

        Nested objects are merged. Raises if a field has another value already.
        """
        path = self.root / name
        old = read_json(path) if path.exists() else {}
        self._write_if_new(path, _merged(old, fields, name))

    def add_missing(self, name: str, content: Mapping[str, Any] | str) -> None:
        """Write a file unless it exists; call with the lock held. `content`: fields, or the name of a template."""
        path = self.root / name
        if path.exists():
            return
        if isinstance(content, str):
            write_bytes(path, template_text(content).encode())
        else:
            write_json(path, content)

    def ignore(self, *lines: str) -> None:
        """Add patterns to ``.bidsignore``, whose files the validator does not read; call with the lock held."""
        path = self.root / ".bidsignore"
        patterns = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if missing := [line for line in lines if line not in patterns]:
            write_bytes(path, "\n".join([*patterns, *missing, ""]).encode())

    @contextmanager
    def cleanup(self, names: Iterable[str]) -> Iterator[None]:
        """Clean up on leaving: remove the stages of these names, and a new dataset if nothing was published."""
        new = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        try:
            yield
        finally:
            for name in names:
                with suppress(DatasetError):  # another process writes it
                    self.recover(name)
            self.remove_if_empty()
            for folder in new:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def remove_if_empty(self) -> None:
        """Remove the folder if nothing was recorded into it."""
        staging = self.root / STAGING
        if staging.exists() and {path.name for path in staging.iterdir()} <= {_LOCK}:
            files = [path for path in self.root.iterdir() if path != staging]
            if not files:
                shutil.rmtree(staging)
                self.root.rmdir()

    def _participants(self) -> pd.DataFrame:
        """The table of subjects; empty where there is none."""
        path = self.root / "participants.tsv"
        if not path.exists():
            return pd.DataFrame(columns=["participant_id"], dtype=str)
        table = read_tsv(path)
        if "participant_id" not in table.columns:
            raise DatasetError(f"{path} has no column participant_id; add it, or remove the file")
        return table

    def _write_if_new(self, path: Path, fields: Mapping[str, Any]) -> None:
        """Write a sidecar unless it has the same fields already."""
        if not path.exists() or read_json(path) != fields:
            write_json(path, fields)

    def _move(self, folder: Path) -> list[Path]:
        """Move all files of a stage to their places, sidecars first."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.parent != folder)
        moved = []
        for path in sorted(paths, key=lambda path: ".nii" in path.suffixes):
            target = self.root / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            if ".nii" in target.suffixes:
                twin = f"{target.name}.gz" if target.suffix == ".nii" else target.stem
                target.with_name(twin).unlink(missing_ok=True)
            moved.append(target)
        return moved

    @contextmanager
    def _claimed(self, folder: Path) -> Iterator[None]:
        """Empty the folder of a run and hold its lock; raises if another process holds it."""
        busy = f"{folder.name} is being written by another process; wait for it, or work on others meanwhile"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / _LOCK, timeout=0):
                for path in folder.iterdir():
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif path.name != _LOCK:
                        path.unlink()
                yield
        except Timeout as error:
            raise DatasetError(busy) from error

    def _check_writable(self) -> bool:
        """Whether the folder exists; raises if nothing can be written there."""
        exists = self.root.exists()
        if exists and not self.root.is_dir():
            raise DatasetError(f"{self.root} is a file; give a folder, new or with a BIDS dataset")
        place = next(path for path in (self.root, *self.root.absolute().parents) if path.exists())
        with tempfile.TemporaryDirectory(dir=place, prefix=".llm2bids-"):
            return exists


def find_linked(root: Path, name: str) -> Path:
    """Find the folder of a dataset from which results were made, by its name in ``DatasetLinks``."""
    path = root / "dataset_description.json"
    link: str | None = read_json(path).get("DatasetLinks", {}).get(name)
    if link is None:
        raise DatasetError(
            f"{path} has no DatasetLinks.{name}; it is needed to find the runs: make the results again with "
            "overwrite=True"
        )
    folder: Path = (root / link).resolve()
    if not (folder / "dataset_description.json").is_file():
        state = "is no dataset" if folder.is_dir() else "is not there"
        raise DatasetError(
            f"{folder} {state}, which {path} names as {name}; move results and recordings together, or mend "
            f"DatasetLinks.{name}"
        )
    return folder


def _merged(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Both objects in one; raises if they contradict each other."""
    merged = dict(old)
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            merged[key] = _merged(old[key], value, name)
        elif key in old and old[key] != value:
            raise DatasetError(
                f"{name} says {key} is {old[key]!r}, this recording {value!r}; give the task another name, or record "
                "into another dataset"
            )
        else:
            merged[key] = value
    return merged
