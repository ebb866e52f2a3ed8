"""What fMRIPrep is for a brain: recordings → volumes that every fMRI program takes, confounds, and an atlas."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblib import Parallel, delayed

from llm2bids import __version__
from llm2bids.bids.dataset import Dataset
from llm2bids.bids.history import noted_call, to_note
from llm2bids.bids.names import parse_name, sidecar_of
from llm2bids.bids.nifti import write_image
from llm2bids.bids.runs import PREPARED, PREPROC, REPEATED, SLICE_TIME_REF, BoldRun, find_runs, read_events
from llm2bids.bids.tables import read_json, write_json, write_tsv
from llm2bids.bids.templates import template_json
from llm2bids.design.matrix import high_pass
from llm2bids.errors import DatasetError
from llm2bids.preparation.atlas import add_atlas
from llm2bids.preparation.confounds import confounds, describe, log_frequencies
from llm2bids.preparation.export import export_fsl, feat_run, fsl_folder, read_stats_model
from llm2bids.preparation.scale import BASELINE, CLIP, ONE_SD, measure, rescale
from llm2bids.progress import progress_bar
from llm2bids.results.work import Work

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llm2bids.design.statsmodel import StatsModel


@dataclass(frozen=True, slots=True)
class Prepared:
    """One run of one site as it was prepared.

    Parameters
    ----------
    bold : Path
        The preprocessed volumes.
    n_scans : int
        Number of scans.
    n_units, n_varying : int
        Units of the space, and those that vary in this run.
    n_clipped : int
        Values cut at 20 standard deviations.
    skipped : bool
        Whether it was there already (``resume``).
    """

    bold: Path
    n_scans: int
    n_units: int
    n_varying: int
    n_clipped: int
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class _Job:
    """One run with all that is needed to prepare it in a process of its own."""

    run: BoldRun
    out: Dataset
    frequencies: dict[int, float]
    cutoff: float | None
    model: StatsModel | None

    @property
    def bold(self) -> Path:
        """The preprocessed volumes."""
        name = self.run.beside("bold.nii.gz", space=self.run.space.label, desc=PREPROC).name
        return self.out.root / self.run.folder / name

    @property
    def outputs(self) -> list[Path]:
        """All files of the run."""
        derived = BoldRun(self.out.root, self.bold)
        confounded = derived.beside("timeseries.tsv", space=None, desc="confounds")
        mask = derived.beside("mask.nii.gz", desc="brain")
        files = [
            self.bold,
            derived.beside("bold.json"),
            mask,
            sidecar_of(mask),
            confounded,
            confounded.with_suffix(".json"),
        ]
        return files + ([fsl_folder(self.out.root, self.run) / "design.fsf"] if self.model else [])

    @property
    def design(self) -> str:
        """SHA-256 of the model of the task, where designs are asked for."""
        return hashlib.sha256(repr(self.model).encode()).hexdigest()

    @property
    def outdated(self) -> list[Path]:
        """Volumes and masks of a recording of this run in another space, which was replaced."""
        files = self.bold.parent.glob(f"{self.run.name}_space-*_desc-*")
        return [path for path in files if parse_name(path.name)[1]["space"] != self.run.space.label]


def _wrote(prepared: Sequence[Prepared], asked: Mapping[str, Any]) -> tuple[Path, list[Path]]:
    """The files of new runs, and the atlases of their spaces."""
    out, files = Path(asked["bids_dir"]) / PREPARED, set[Path]()
    for bold in to_note(out, {one.bold: one.skipped for one in prepared}):
        run, _, rest = bold.name.partition("_space-")
        files |= {
            *bold.parent.glob(f"{run}_*"),
            *out.glob(f"fsl/*/{run}/*"),
            *out.glob(f"tpl-{rest.partition('_')[0]}/anat/*"),
        }
    return out, sorted(files)


@noted_call("prep", _wrote)
def prep(  # noqa: PLR0913 - the arguments of the command
    bids_dir: str | Path,
    *,
    participant_label: Sequence[str] = (),
    task_label: Sequence[str] = (),
    sites: Sequence[str] = (),
    fsl: bool = False,
    n_jobs: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> list[Prepared]:
    """Prepare recordings for statistics, as ``derivatives/llm2bids`` of their dataset.

    Parameters
    ----------
    bids_dir : path-like
        A raw dataset made by ``record``.
    participant_label, task_label, sites : sequence of str
        Subjects, tasks and sites to prepare; all by default.
    fsl : bool
        Whether to write designs for FSL too: EV files, ``design.mat``, ``design.con``, ``design.fsf``.
    n_jobs : int
        Runs to prepare at a time, each in a process; -1 for as many as there are processors.
    resume : bool
        Leave alone runs that are there and fit their recording, and prepare the others.
    overwrite : bool
        Replace runs that are there.
    progress : bool, optional
        Whether to show a progress bar; by default if the terminal can.

    Returns
    -------
    list of Prepared
        One per run and site, in order of name.

    Raises
    ------
    LLM2BIDSError
        If anything the user can mend is wrong; runs that were complete stay.
    """
    work = Work(n_jobs=n_jobs, resume=resume, overwrite=overwrite, progress=progress)
    root = Path(bids_dir)
    if not (root / "dataset_description.json").is_file():
        raise DatasetError(f"{root} has no dataset_description.json, so it is no BIDS dataset; give the folder of one")
    if read_json(root / "dataset_description.json").get("DatasetType", "raw") != "raw":
        raise DatasetError(f"{root} is a derivative; prep reads a raw dataset: give its folder")
    runs = find_runs(root, participant_label, task_label, sites)
    out = Dataset(root / PREPARED, "derivative")
    jobs = _plan(runs, out, fsl=fsl)
    todo = [job for job in jobs if not _is_done(job, work)]
    done = {job.run: _existing(job) for job in jobs if job not in todo}
    finished = Parallel(n_jobs=work.n_jobs, return_as="generator")(delayed(_prepare)(job) for job in todo)
    with (
        out.cleanup(job.run.name for job in todo),
        closing(finished),
        progress_bar("runs", len(todo), "prep", finished, visible=work.progress) as bar,
    ):
        done |= {job.run: prepared for job, prepared in zip(todo, bar, strict=True)}
    return [done[job.run] for job in jobs]


def _plan(runs: Sequence[BoldRun], out: Dataset, *, fsl: bool) -> list[_Job]:
    """Say what each run needs; reads all small files, so that what is wrong shows before any work."""
    everything = find_runs(runs[0].root)
    subjects = {run.entities["sub"] for run in runs}
    frequencies = {sub: log_frequencies([r for r in everything if r.entities["sub"] == sub]) for sub in subjects}
    cutoffs = {}
    for design in {_design(run) for run in runs}:
        alike = [run for run in everything if _design(run) == design]
        events = [read_events(run.beside("events.tsv"), run.n_scans * run.t_r) for run in alike]
        cutoffs[design] = high_pass(events, [run.n_scans * run.t_r for run in alike])
    models = {task: read_stats_model(runs[0].root, task) for task in {r.entities["task"] for r in runs}} if fsl else {}
    jobs = [
        _Job(run, out, frequencies[run.entities["sub"]], cutoffs[_design(run)], models.get(run.entities["task"]))
        for run in runs
    ]
    for job in jobs:
        if job.model:
            feat_run(job.run, job.model, job.bold.resolve(), job.cutoff, out.root.resolve())
    return jobs


def _design(run: BoldRun) -> tuple[str, ...]:
    """What runs that share a drift have in common."""
    return tuple(run.entities.get(key, "") for key in ("sub", "task", "acq"))


def _is_done(job: _Job, work: Work) -> bool:
    """Whether a run can stay; refuses to replace it unasked."""
    job.out.recover(job.run.name)
    outdated = job.outdated
    if work.overwrite or not any(path.exists() for path in (*job.outputs, *outdated)):
        return False
    if not work.resume:
        raise DatasetError(f"{job.bold} exists already; go on with --resume, or replace it with --overwrite")
    if not outdated and not all(path.exists() for path in job.outputs):
        return False
    before = {} if outdated else BoldRun(job.out.root, job.bold).metadata
    if before.get("SourceSHA256") != job.run.fingerprint:
        raise DatasetError(f"{job.run.name} was prepared from another recording or events; replace it with --overwrite")
    if job.bold.stat().st_size != before.get("NumberOfBytes"):
        return False  # truncated since
    if job.model and before.get("DesignSHA256") != job.design:
        raise DatasetError(f"{job.run.name} has designs of another model of the task; replace them with --overwrite")
    if before.get("HighPassHz") != job.cutoff:
        raise DatasetError(
            f"{job.run.name} was prepared before runs with slower designs were recorded, and needs another drift now; "
            "replace all runs of the task with --overwrite"
        )
    return True


def _existing(job: _Job) -> Prepared:
    """A run that is there already."""
    own = BoldRun(job.out.root, job.bold).metadata
    counts = (own["NumberOfScans"], own["NumberOfUnits"], own["NumberVarying"], own["NumberClipped"])
    return Prepared(job.bold, *counts, skipped=True)


def _prepare(job: _Job) -> Prepared:
    """Prepare one run, or tell in one line why its files could not be written."""
    try:
        return _publish(job)
    except OSError as error:
        raise DatasetError(
            f"{job.bold.name} could not be written ({error.strerror or error}); complete runs are safe: mend that and "
            "go on with --resume"
        ) from error


def _publish(job: _Job) -> Prepared:
    """Prepare one run and publish it whole."""
    run, space = job.run, job.run.space
    moments = measure(run)
    if moments.n_scans != run.metadata.get("NumberOfScans", moments.n_scans):
        raise DatasetError(f"{run.bold.name} has {moments.n_scans} scans, its sidecar says otherwise; record it again")
    with job.out.stage(run.name) as stage:
        staged = BoldRun(stage, stage / job.bold.relative_to(job.out.root))
        staged.bold.parent.mkdir(parents=True)
        global_signal, n_clipped = rescale(run, moments, staged.bold)
        mask = staged.beside("mask.nii.gz", desc="brain")
        write_image(mask, space.to_image(moments.varies))
        table = confounds(run, job.frequencies, global_signal, job.cutoff)
        listed = staged.beside("timeseries.tsv", space=None, desc="confounds")
        write_tsv(listed, table)
        prepared = Prepared(job.bold, run.n_scans, space.n_units, int(moments.varies.sum()), n_clipped)
        own = _own(job, prepared) | {"NumberOfBytes": staged.bold.stat().st_size}
        texts = {"task": run.entities["task"], "space": space.label, "source": run.uri("raw")}
        timing = {"RepetitionTime": run.t_r, "StartTime": run.t_r * SLICE_TIME_REF}
        write_json(staged.beside("bold.json"), template_json("preproc_bold.json", **texts) | timing | {"Llm2bids": own})
        write_json(sidecar_of(mask), template_json("brain_mask.json", **texts) | {"Llm2bids": own})
        write_json(listed.with_suffix(".json"), describe(table, job.cutoff))
        if job.model:
            export_fsl(run, job.model, job.bold.resolve(), job.cutoff, table, (stage, job.out.root.resolve()))
        with job.out.lock():
            for path in job.outdated:
                path.unlink()
            shutil.rmtree(fsl_folder(job.out.root, run), ignore_errors=True)
            _describe(job)
            job.out.publish(stage)
    return prepared


def _own(job: _Job, prepared: Prepared) -> dict[str, Any]:
    """Our own part of the sidecars of a run."""
    before = job.run.metadata
    kept = {key: before[key] for key in (*REPEATED, "Settings", "Stimuli", "UnitSpace") if key in before}
    return kept | {
        "Version": __version__,
        "SourceSHA256": job.run.fingerprint,
        "Baseline": BASELINE,
        "OneStandardDeviation": ONE_SD,
        "ClippedAtStandardDeviations": CLIP,
        "NumberOfScans": prepared.n_scans,
        "NumberOfUnits": prepared.n_units,
        "NumberVarying": prepared.n_varying,
        "NumberClipped": prepared.n_clipped,
        "HighPassHz": job.cutoff,
        **({"DesignSHA256": job.design} if job.model else {}),
    }


def _describe(job: _Job) -> None:
    """Write what the whole derivative shares; call with the lock held, when a run is complete, not before."""
    out = job.out
    out.add_missing("dataset_description.json", template_json("prep_description.json", version=__version__))
    out.add_missing("README.md", "prep_README.md")
    out.add_missing(".bidsignore", "prep_bidsignore")
    out.add_missing("atlas-layers_description.json", template_json("atlas_description.json"))
    add_atlas(out, job.run.space)
