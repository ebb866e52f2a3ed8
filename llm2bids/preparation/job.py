"""Preparing one run: two passes over its volumes, confounds, sidecars, designs for FSL, published all at once."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llm2bids.bids.names import parse_name, sidecar_of
from llm2bids.bids.nifti import write_image
from llm2bids.bids.runs import PREPROC, REPEATED, SLICE_TIME_REF, BoldRun
from llm2bids.bids.tables import read_tsv, write_json, write_tsv
from llm2bids.bids.templates import template_json, template_text
from llm2bids.errors import DatasetError
from llm2bids.preparation.atlas import add_atlas, atlas_files
from llm2bids.preparation.confounds import confounds, describe
from llm2bids.preparation.export import export_fsl, fsl_folder
from llm2bids.preparation.scale import BASELINE, CLIP, ONE_SD, measure, rescale
from llm2bids.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from llm2bids.bids.dataset import Dataset
    from llm2bids.design.statsmodel import StatsModel
    from llm2bids.results.work import Work

MOMENTS: Final = {
    "mean": "Mean of each unit over the run, in raw activation.",
    "sd": "Standard deviation of each unit over the run, in raw activation; 0 if it does not vary.",
}
"""Maps of a run, with which effects in standard deviations go back to raw activation exactly, by ``stat``."""


@dataclass(frozen=True)
class PrepResult:
    """Preprocessed volumes of one run and site, with the files that belong to them.

    Parameters
    ----------
    bold : Path
        The preprocessed volumes.
    n_scans : int
        Number of scans.
    n_units, n_varying : int
        Number of units of the space, and of those that vary in this run.
    n_clipped : int
        Number of values cut at 20 standard deviations.
    files : list of Path
        All files of the run, and the atlas of its space.
    skipped : bool
        Whether it was there already (``resume``).
    """

    bold: Path
    n_scans: int
    n_units: int
    n_varying: int
    n_clipped: int
    files: list[Path]
    skipped: bool = False

    @property
    def confounds(self) -> pd.DataFrame:
        """Table of confounds, shape (n_scans, n_confounds)."""
        (path,) = (path for path in self.files if path.name.endswith("_desc-confounds_timeseries.tsv"))
        return read_tsv(path).astype(float)

    def __repr__(self) -> str:
        """One line."""
        return f"<PrepResult {self.bold.name}: {self.n_scans} scans, {self.n_varying} of {self.n_units} units vary>"


@dataclass(frozen=True, slots=True)
class PrepJob:
    """A recorded run with all that is needed to prepare it in another process.

    - `frequencies`: base-10 logarithm of the frequency of each token of the subject, by token id.
    - `cutoff`: of the drift, in Hz; None for no drift.
    - `model`: of the task, if designs for FSL are asked for.
    """

    run: BoldRun
    out: Dataset
    frequencies: dict[int, float]
    cutoff: float | None
    model: StatsModel | None

    @property
    def bold(self) -> Path:
        """Path of the preprocessed volumes."""
        name = self.run.beside("bold.nii.gz", space=self.run.space.label, desc=PREPROC).name
        return self.out.root / self.run.folder / name

    @property
    def outputs(self) -> list[Path]:
        """Files that a complete run has."""
        derived = BoldRun(self.out.root, self.bold)
        table = derived.beside("timeseries.tsv", space=None, desc="confounds")
        mask = derived.beside("mask.nii.gz", desc="brain")
        files = [self.bold, derived.beside("bold.json"), mask, sidecar_of(mask), table, table.with_suffix(".json")]
        return files + ([fsl_folder(self.out.root, self.run) / "design.fsf"] if self.model else [])

    @property
    def design_hash(self) -> str:
        """SHA-256 of the model of the task."""
        return hashlib.sha256(repr(self.model).encode()).hexdigest()

    @property
    def outdated(self) -> list[Path]:
        """Volumes, masks and maps of an earlier recording of this run in another space."""
        files = self.bold.parent.glob(f"{self.run.name}_space-*")
        return [path for path in files if parse_name(path.name)[1]["space"] != self.run.space.label]

    def is_done(self, work: Work) -> bool:
        """Whether the run is prepared and can stay; raises if it may not be replaced."""
        self.out.recover(self.run.name)
        outdated = self.outdated
        if work.overwrite or not any(path.exists() for path in (*self.outputs, *outdated)):
            return False
        if not work.resume:
            raise DatasetError(f"{self.bold} exists already; go on with resume=True, or replace it with overwrite=True")
        if not outdated and not all(path.exists() for path in self.outputs):
            return False
        metadata = {} if outdated else BoldRun(self.out.root, self.bold).metadata
        name = self.run.name
        if metadata.get("SourceSHA256") != self.run.fingerprint:
            raise DatasetError(f"{name} was prepared from another recording or events; replace it with overwrite=True")
        if self.bold.stat().st_size != metadata.get("NumberOfBytes"):
            return False  # truncated since
        if self.model and metadata.get("DesignSHA256") != self.design_hash:
            raise DatasetError(f"{name} has designs of another model of the task; replace them with overwrite=True")
        if metadata.get("HighPassHz") != self.cutoff:
            raise DatasetError(
                f"{name} was prepared before runs with slower designs were recorded, and needs another drift now; "
                "replace all runs of the task with overwrite=True"
            )
        return True

    def existing(self) -> PrepResult:
        """Result of a run that is prepared already."""
        metadata = BoldRun(self.out.root, self.bold).metadata
        n_scans, n_units = metadata["NumberOfScans"], metadata["NumberOfUnits"]
        n_varying, n_clipped = metadata["NumberVarying"], metadata["NumberClipped"]
        return PrepResult(self.bold, n_scans, n_units, n_varying, n_clipped, self._files(), skipped=True)

    def prepare(self) -> PrepResult:
        """Prepare the run; if its files cannot be written, raise with one line that says why."""
        try:
            return self._publish()
        except OSError as error:
            raise DatasetError(
                f"{self.bold.name} could not be written ({error.strerror or error}); complete runs are safe: mend that "
                "and go on with resume=True"
            ) from error

    def _publish(self) -> PrepResult:
        """Prepare the run in a temporary folder, then move all files to their place."""
        run, space = self.run, self.run.space
        moments = measure(run)
        if moments.n_scans != run.metadata.get("NumberOfScans", moments.n_scans):
            raise DatasetError(
                f"{run.bold.name} has {moments.n_scans} scans, its sidecar says otherwise; record it again"
            )
        with self.out.stage(run.name) as stage:
            staged = BoldRun(stage, stage / self.bold.relative_to(self.out.root))
            staged.bold.parent.mkdir(parents=True)
            global_signal, n_clipped = rescale(run, moments, staged.bold)
            mask = staged.beside("mask.nii.gz", desc="brain")
            write_image(mask, space.to_image(moments.varies))
            table = confounds(run, self.frequencies, global_signal, self.cutoff)
            table_path = staged.beside("timeseries.tsv", space=None, desc="confounds")
            write_tsv(table_path, table)
            write_json(table_path.with_suffix(".json"), describe(table, self.cutoff))
            n_varying = int(moments.varies.sum())
            metadata = self._metadata(n_varying, n_clipped, n_bytes=staged.bold.stat().st_size)
            texts = {"task": run.entities["task"], "space": space.label, "source": run.uri("raw")}
            timing = {"RepetitionTime": run.t_r, "StartTime": run.t_r * SLICE_TIME_REF}
            volumes = template_json("preproc_bold.json", **texts) | timing
            write_json(staged.beside("bold.json"), volumes | {"Llm2bids": metadata})
            write_json(sidecar_of(mask), template_json("brain_mask.json", **texts) | {"Llm2bids": metadata})
            for name, description in MOMENTS.items():
                # A unit that does not vary is 0 in the volumes, so its sd is 0: it has no effect in raw activation.
                values = moments.mean if name == "mean" else moments.sd * moments.varies
                write_image(_moment_map(staged, name), space.to_image(values))
                sidecar = template_json("prep_statmap.json", **texts, description=description)
                write_json(sidecar_of(_moment_map(staged, name)), sidecar | {"Llm2bids": metadata})
            if self.model:
                roots = (stage, self.out.root.resolve())
                export_fsl(run, self.model, self.bold.resolve(), self.cutoff, table, roots)
            with self.out.lock():
                for path in self.outdated:
                    path.unlink()
                shutil.rmtree(fsl_folder(self.out.root, run), ignore_errors=True)
                self._describe()
                self.out.publish(stage)
        return PrepResult(self.bold, run.n_scans, space.n_units, n_varying, n_clipped, self._files())

    def _files(self) -> list[Path]:
        """All files of the run once it is prepared, and the atlas of its space."""
        designs = fsl_folder(self.out.root, self.run).glob("*")
        derived = BoldRun(self.out.root, self.bold)
        images = [_moment_map(derived, name) for name in MOMENTS]  # earlier versions did not write them
        maps = [path for image in images for path in (image, sidecar_of(image)) if path.exists()]
        return sorted({*self.outputs, *maps, *designs, *atlas_files(self.out.root, self.run.space)})

    def _metadata(self, n_varying: int, n_clipped: int, n_bytes: int) -> dict[str, Any]:
        """Object ``Llm2bids`` of the sidecars."""
        recorded = self.run.metadata
        repeated = {key: recorded[key] for key in (*REPEATED, "Settings", "Stimuli", "UnitSpace") if key in recorded}
        return repeated | {
            "Version": __version__,
            "SourceSHA256": self.run.fingerprint,
            "Baseline": BASELINE,
            "OneStandardDeviation": ONE_SD,
            "ClippedAtStandardDeviations": CLIP,
            "NumberOfScans": self.run.n_scans,
            "NumberOfUnits": self.run.space.n_units,
            "NumberVarying": n_varying,
            "NumberClipped": n_clipped,
            "HighPassHz": self.cutoff,
            **({"DesignSHA256": self.design_hash} if self.model else {}),
            "NumberOfBytes": n_bytes,
        }

    def _describe(self) -> None:
        """Write the files that all runs share; call with the lock held, and only once a run is complete."""
        self.out.add_missing("dataset_description.json", template_json("prep_description.json", version=__version__))
        self.out.add_missing("README.md", "prep_README.md")
        self.out.ignore(*template_text("prep_bidsignore").splitlines())
        self.out.add_missing("atlas-layers_description.json", template_json("atlas_description.json"))
        add_atlas(self.out, self.run.space)


def _moment_map(derived: BoldRun, name: str) -> Path:
    """Path of the map of a moment beside the preprocessed volumes."""
    return derived.beside("statmap.nii.gz", desc=None, stat=name)
