"""Prepared runs: signals ready for statistics, with the events, confounds and texts that belong to them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError

from llm2bids.bids.nifti import read_scans
from llm2bids.bids.runs import PREPARED, PREPROC, BoldRun, find_runs, frame_times, read_events
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.errors import DatasetError
from llm2bids.space import UnitMask
from llm2bids.task import text_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class PreparedRun:
    """A prepared run with the files beside it and beside its recording.

    - `volumes`: the run in the derivative.
    - `raw`: folder of the raw dataset.
    """

    volumes: BoldRun
    raw: Path

    @property
    def label(self) -> str:
        """Session and run, e.g. ``ses-01_run-02``."""
        entities = self.volumes.entities
        return "_".join(f"{key}-{entities[key]}" for key in ("ses", "run") if key in entities) or "run-1"

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """Time of the middle of every scan in seconds, shape (n_scans,)."""
        return frame_times(self.volumes.n_scans, self.volumes.t_r)

    @cached_property
    def events(self) -> pd.DataFrame:
        """Onset and duration of every event in seconds, with its condition, block and prompt."""
        name = self.volumes.beside("events.tsv", space=None, desc=None).name
        return read_events(self.raw / self.volumes.folder / name, self.volumes.n_scans * self.volumes.t_r)

    @cached_property
    def confounds(self) -> pd.DataFrame:
        """All confounds, shape (n_scans, n_confounds)."""
        path = self.volumes.beside("timeseries.tsv", space=None, desc="confounds")
        table: pd.DataFrame = read_tsv(path).apply(pd.to_numeric, errors="coerce")
        if len(table) != self.volumes.n_scans or table.isna().to_numpy().any():
            raise DatasetError(f"{path} must hold one number per scan in every column; prepare the run again")
        return table

    @cached_property
    def varying(self) -> UnitMask:
        """Units that vary in this run."""
        path = self.volumes.beside("mask.nii.gz", desc="brain")
        try:
            return UnitMask.from_image(nib.load(path), self.volumes.space)
        except (OSError, EOFError, zlib.error, ImageFileError) as error:
            raise DatasetError(
                f"{path} cannot be read ({error}); prepare the run again: llm2bids prep with overwrite=True"
            ) from error

    def stimuli(self, prompts: Iterable[str]) -> list[str]:
        """Identify the text of each prompt, so that prompts of the same text get the same name.

        The name is the start of the text's SHA-256; where texts were not recorded, it is the name of run and prompt.
        """
        return [self.texts.get(str(prompt), f"{self.label}_{prompt}") for prompt in prompts]

    @property
    def stimuli_metadata(self) -> dict[str, Any]:
        """File and hashes of the texts, for sidecars of results: they say which texts a network was defined by."""
        return {
            "File": self.volumes.metadata.get("Stimuli"),
            "SHA256": self.volumes.metadata.get("Settings", {}).get("StimuliSHA256"),
            "Texts": sorted(set(self.texts.values())),
        }

    @cached_property
    def texts(self) -> dict[str, str]:
        """Start of the SHA-256 of each prompt's text, by prompt number; empty where texts were not recorded."""
        path = self.raw / str(self.volumes.metadata.get("Stimuli") or "no texts")
        prompts = read_json(path).get("Prompts", []) if path.is_file() else []
        return {str(prompt["prompt"]): text_hash(prompt["text"]) for prompt in prompts}

    @property
    def conditions(self) -> set[str]:
        """Names of the conditions in the events."""
        return set(self.events["trial_type"]) - {"n/a"}

    def recording(self) -> BoldRun:
        """Find the recording from which the run was prepared; raise if it was removed or changed since."""
        name = self.volumes.beside("bold.nii", space=None, desc=None).name
        folder = self.raw / self.volumes.folder
        bolds = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
        recordings = [BoldRun(self.raw, path) for path in bolds]
        if not recordings or self.volumes.metadata.get("SourceSHA256") != recordings[0].fingerprint:
            raise DatasetError(
                f"{self.volumes.name} was recorded anew, or its events changed or its recording removed, since it was "
                f"prepared; run llm2bids prep {self.raw} with overwrite=True"
            )
        return recordings[0]

    def signals(self, units: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Read the signals of some units.

        `units` (n_units,): the units to read. The signals, (n_scans, n_selected), are in standard deviations of each
        unit around its mean.
        """
        metadata = self.volumes.metadata
        baseline = np.float32(metadata.get("Baseline", 0.0))
        unit_sd = np.float32(metadata.get("OneStandardDeviation", 1.0))
        parts = [self.volumes.space.from_volumes(part)[:, units] for part in read_scans(self.volumes.bold)]
        # Files hold z scores as baseline + unit_sd * z, so that masks by brightness (FEAT, SPM) find a brain.
        signals: NDArray[np.float32] = (np.concatenate(parts) - baseline) / unit_sd
        if not np.isfinite(signals).all():
            raise DatasetError(f"NaN or infinity found in {self.volumes.bold}; prepare the run again")
        return signals


def find_prepared(raw: Path) -> dict[str, PreparedRun]:
    """Find the prepared runs of a raw dataset, by name of the run."""
    root = raw / PREPARED
    if not any(root.glob("sub-*")):
        raise DatasetError(f"{raw} is not prepared (there is no {PREPARED.as_posix()}); run: llm2bids prep {raw}")
    return {run.name: PreparedRun(run, raw) for run in find_runs(root, desc=PREPROC)}


def choose_prepared(recorded: BoldRun, prepared: Mapping[str, PreparedRun]) -> PreparedRun:
    """Choose the prepared run of a recording; raise if there is none or the recording changed since."""
    run = prepared.get(recorded.name)
    if run is None:
        raise DatasetError(
            f"{recorded.name} is recorded but not prepared; run llm2bids prep {recorded.root} with resume=True"
        )
    run.recording()
    return run


def check_compatible(runs: Sequence[PreparedRun], *, weights: bool = True) -> None:
    """Raise if runs differ in their unit space, or (if asked) in the weights of their model."""
    first = runs[0].volumes
    for run in runs[1:]:
        for key in ("UnitSpace", "WeightsSHA256")[: 2 if weights else 1]:
            if run.volumes.metadata.get(key) != first.metadata.get(key):
                raise DatasetError(
                    f"{run.volumes.name} has another {key} than {first.name}; take them apart, as subjects"
                )
