"""Finds the runs of a dataset, raw or derived, by their names, and reads the files beside their volumes."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.bids.names import ENTITIES, format_name, parse_name
from llm2bids.bids.nifti import n_scans_of
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.errors import DatasetError, did_you_mean
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PREPARED: Final = Path("derivatives", "llm2bids")
"""Folder of the derivative that `prep` writes, relative to the raw dataset."""
PREPROC: Final = "preproc"
"""Value of the entity ``desc`` of volumes that are ready for statistics."""
REPEATED: Final = (
    "Model",
    "Revision",
    "WeightsSHA256",
    "Architecture",
    "ModelType",
    "Dtype",
    "Tokenizer",
    "Site",
    "Mode",
)
"""Fields of a recording's metadata that sidecars of results repeat."""
SLICE_TIME_REF: Final = 0.5
"""A scan is sampled in its middle; otherwise nilearn's regressors come one scan late at the edges of blocks."""
_TOLERANCE: Final = 1e-6
"""Seconds by which an event may exceed its run, since onsets are rounded."""


@dataclass(frozen=True)
class BoldRun:
    """The volumes of one run and site, and the files beside them."""

    root: Path
    bold: Path

    @cached_property
    def entities(self) -> dict[str, str]:
        """BIDS entities by name, e.g. ``sub``, ``task``, ``acq``, ``run``."""
        return parse_name(self.bold.name)[1]

    @property
    def name(self) -> str:
        """Name of the run in messages: its entities but ``space`` and ``desc``."""
        return self.beside("bold.nii.gz", space=None, desc=None).name.removesuffix("_bold.nii.gz")

    @property
    def folder(self) -> Path:
        """Folder of its files, relative to the dataset."""
        return self.bold.parent.relative_to(self.root)

    @cached_property
    def sidecar(self) -> dict[str, Any]:
        """Fields of its JSON file."""
        return read_json(self.beside("bold.json"))

    @property
    def metadata(self) -> dict[str, Any]:
        """Object ``Llm2bids`` of the sidecar: model, site, settings, unit space."""
        metadata = self.sidecar.get("Llm2bids")
        if not isinstance(metadata, dict) or "UnitSpace" not in metadata:
            raise DatasetError(
                f"{self.bold.name} has no Llm2bids.UnitSpace in its sidecar; record it with llm2bids, or restore it"
            )
        return metadata

    @cached_property
    def space(self) -> UnitSpace:
        """Unit space of the volumes."""
        return UnitSpace.from_json(self.metadata["UnitSpace"])

    @property
    def t_r(self) -> float:
        """Repetition time in seconds."""
        t_r = self.sidecar.get("RepetitionTime")
        if not isinstance(t_r, int | float) or not 0 < t_r < math.inf:
            raise DatasetError(
                f"{self.beside('bold.json').name} says RepetitionTime is {t_r!r}, a number of seconds needed; mend it"
            )
        return float(t_r)

    @cached_property
    def n_scans(self) -> int:
        """Number of scans."""
        return n_scans_of(self.bold)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of a recording's sidecar, which has its settings and the hash of the weights, and of its events."""
        files = (self.beside("bold.json"), self.beside("events.tsv"))
        try:
            return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
        except OSError as error:
            raise DatasetError(f"{error.filename} cannot be read ({error.strerror}); record the run again") from error

    def beside(self, suffix: str, **entities: str | None) -> Path:
        """Return the path of another file of the run, with some entities changed."""
        labels = {key: value for key, value in self.entities.items() if key in ENTITIES} | entities
        return self.bold.with_name(format_name(suffix, **labels))

    def uri(self, dataset: str = "") -> str:
        """Return the BIDS URI of the volumes."""
        return f"bids:{dataset}:{self.bold.relative_to(self.root).as_posix()}"


def find_runs(
    root: Path,
    subjects: Sequence[str] = (),
    tasks: Sequence[str] = (),
    sites: Sequence[str] = (),
    *,
    desc: str | None = None,
) -> list[BoldRun]:
    """Find the runs of a dataset in order of name, of some subjects, tasks and sites; of all where none are given."""
    paths = sorted((*root.glob("sub-*/func/*_bold.nii*"), *root.glob("sub-*/ses-*/func/*_bold.nii*")))
    bolds = [path for path in paths if path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith(".")]
    if twice := {path for path in bolds if path.suffix == ".nii"} & {path.with_suffix("") for path in bolds}:
        raise DatasetError(f"{min(twice)} found both as it is and compressed; remove one")
    runs = [BoldRun(root, path) for path in bolds]
    runs = [run for run in runs if run.entities.get("desc") == desc]
    if not runs:
        raise DatasetError(f"{root} holds no {f'desc-{desc} ' if desc else ''}bold files; record a model into it first")
    everything = runs
    for key, choice in {"sub": subjects, "task": tasks, "acq": sites}.items():
        existing = {run.entities.get(key, "") for run in everything}
        labels = {label.removeprefix(f"{key}-") for label in choice}
        if absent := labels - existing:
            near, listed = did_you_mean(min(absent), existing), ", ".join(sorted(existing))
            raise DatasetError(f"{key}-{min(absent)} not found in {root}; {near}there are {listed}")
        runs = [run for run in runs if not labels or run.entities.get(key) in labels]
    if not runs:
        raise DatasetError(f"{root} holds no bold file of all labels asked for together; ask for fewer")
    return runs


def stats_model_path(root: Path, task: str) -> Path:
    """Return the path of the BIDS Stats Model of a task."""
    return root / "code" / "models" / f"model-{task}_smdl.json"


def read_events(path: Path, n_seconds: float) -> pd.DataFrame:
    """Read a table of events in order of onset; raise if an event is impossible in a run of `n_seconds`.

    ``onset`` and ``duration`` become numbers, in seconds. The other columns are text; ``trial_type`` is ``n/a`` where
    there is none.
    """
    table = read_tsv(path)
    if missing := {"onset", "duration"} - set(table.columns):
        raise DatasetError(f"{path} has no column {min(missing)}; add it")
    if table.empty:
        raise DatasetError(f"{path} holds no event; a run needs at least one")
    for column in ("onset", "duration"):
        numbers = pd.to_numeric(table[column], errors="coerce")
        if numbers.isna().any():
            row = int(numbers.isna().to_numpy().argmax())
            raise DatasetError(f"{path} line {row + 2}: {column} {table[column].iloc[row]!r} is no number; mend it")
        table[column] = numbers.astype(float)
    outside = (table["onset"] < 0) | (table["onset"] + table["duration"] > n_seconds + _TOLERANCE)
    if (wrong := outside | (table["duration"] <= 0)).any():
        row = int(wrong.to_numpy().argmax())
        onset, duration = table.loc[row, ["onset", "duration"]]
        raise DatasetError(
            f"{path} line {row + 2}: an event of {duration:g} s at {onset:g} s lies outside the run, which lasts "
            f"{n_seconds:g} s; mend onset or duration"
        )
    if (twice := table.duplicated([name for name in ("onset", "duration", "trial_type") if name in table])).any():
        raise DatasetError(f"{path} line {int(twice.to_numpy().argmax()) + 2} repeats an event; remove it")
    return table.assign(trial_type=table.get("trial_type", "n/a")).sort_values(
        "onset", kind="stable", ignore_index=True
    )


def frame_times(n_scans: int, t_r: float) -> NDArray[np.float64]:
    """Return the time of the middle of every scan in seconds, shape (n_scans,); `t_r`: repetition time in seconds."""
    return np.asarray((np.arange(n_scans) + SLICE_TIME_REF) * t_r, np.float64)
