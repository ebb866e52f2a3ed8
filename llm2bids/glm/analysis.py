"""What a subject, task and site bring to a model of their effects: runs, events, confounds, designs."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError

from llm2bids.bids.nifti import read_scans
from llm2bids.bids.runs import PREPARED, PREPROC, BoldRun, find_runs, read_events, stats_model_path
from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.design import SPIKE, average, check_estimable, frame_times, name_prompts, prompt_design, token_design
from llm2bids.errors import DatasetError, DesignError, StatsModelError
from llm2bids.space import UnitMask
from llm2bids.statsmodel import FACTOR, INTERCEPT, WILDCARDS, Node, StatsModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from llm2bids.glm.settings import Settings
    from llm2bids.space import UnitSpace
    from llm2bids.statsmodel import Contrast

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedRun:
    """A preprocessed run with what lies beside it and beside its recording.

    Parameters
    ----------
    volumes : BoldRun
        Of the derivative.
    raw : Path
        The raw dataset.
    """

    volumes: BoldRun
    raw: Path

    @property
    def label(self) -> str:
        """Session and run, e.g. ``ses-01_run-02``."""
        found = self.volumes.entities
        return "_".join(f"{key}-{found[key]}" for key in ("ses", "run") if key in found) or "run-1"

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """Middle of every scan in seconds, shape (n_scans,)."""
        return frame_times(self.volumes.n_scans, self.volumes.t_r)

    @cached_property
    def events(self) -> pd.DataFrame:
        """What was shown when."""
        name = self.volumes.beside("events.tsv", space=None, desc=None).name
        return read_events(self.raw / self.volumes.place / name, self.volumes.n_scans * self.volumes.t_r)

    @cached_property
    def confounds(self) -> pd.DataFrame:
        """All confounds, shape (n_scans, n_confounds)."""
        path = self.volumes.beside("timeseries.tsv", space=None, desc="confounds")
        table: pd.DataFrame = read_tsv(path).apply(pd.to_numeric, errors="coerce")
        if len(table) != self.volumes.n_scans or table.isna().to_numpy().any():
            raise DatasetError(f"{path} must hold one number per scan in every column; prepare the run again")
        return table

    @property
    def varying(self) -> UnitMask:
        """Units that vary in this run."""
        path = self.volumes.beside("mask.nii.gz", desc="brain")
        try:
            return UnitMask.from_image(nib.load(path), self.volumes.space)
        except (OSError, EOFError, zlib.error, ImageFileError) as error:
            raise DatasetError(
                f"{path} cannot be read ({error}); prepare the run again with llm2bids prep --overwrite"
            ) from error

    def stimuli(self, prompts: Iterable[str]) -> list[str]:
        """Say which prompts are the same text.

        Parameters
        ----------
        prompts : iterable of str
            Numbers of prompts, as the events have them.

        Returns
        -------
        list of str
            One per prompt: the start of the SHA-256 of its text, or where texts were not recorded the name of run and
            prompt.
        """
        path = self.raw / str(self.volumes.own.get("Stimuli") or "no texts")
        shown = read_json(path).get("Prompts", []) if path.is_file() else []
        texts = {str(one["prompt"]): hashlib.sha256(one["text"].encode()).hexdigest()[:12] for one in shown}
        return [texts.get(str(prompt), f"{self.label}_{prompt}") for prompt in prompts]

    @property
    def conditions(self) -> set[str]:
        """Conditions shown."""
        return set(self.events["trial_type"]) - {"n/a"}

    def signals(self, kept: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Read the run.

        Parameters
        ----------
        kept : ndarray of bool, shape (n_units,)
            Units to read.

        Returns
        -------
        ndarray, shape (n_scans, n_kept)
            In standard deviations of each unit around its mean.

        Raises
        ------
        DatasetError
            If the file is truncated, corrupted, or holds NaN or infinity.
        """
        own = self.volumes.own
        baseline, one_sd = np.float32(own.get("Baseline", 0.0)), np.float32(own.get("OneStandardDeviation", 1.0))
        parts = [self.volumes.space.from_volumes(part)[:, kept] for part in read_scans(self.volumes.bold)]
        signals: NDArray[np.float32] = (np.concatenate(parts) - baseline) / one_sd
        if not np.isfinite(signals).all():
            raise DatasetError(f"NaN or infinity found in {self.volumes.bold}; prepare the run again")
        return signals


@dataclass(frozen=True)
class Analysis:
    """A subject, task and site.

    Parameters
    ----------
    runs : tuple of PreparedRun
        In order of session and run.
    model : StatsModel
        What is asked.
    settings : Settings
        How it is estimated.

    Raises
    ------
    LLM2BIDSError
        If a contrast cannot be estimated from these runs; the message says why.
    """

    runs: tuple[PreparedRun, ...]
    model: StatsModel
    settings: Settings

    @property
    def entities(self) -> dict[str, str]:
        """Entities that all runs share: ``sub``, ``task``, ``acq``, ``space``."""
        found = self.runs[0].volumes.entities
        return {key: found[key] for key in ("sub", "task", "acq", "space") if key in found}

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items() if key != "space")

    @cached_property
    def space(self) -> UnitSpace:
        """Which voxel is which unit."""
        return self.runs[0].volumes.space

    @cached_property
    def tested(self) -> NDArray[np.bool_]:
        """Units that vary in every run, shape (n_units,)."""
        kept: NDArray[np.bool_] = np.logical_and.reduce([run.varying.selected for run in self.runs])
        if not kept.any():
            raise DesignError(f"no unit of {self.name} varies in every run; record longer runs")
        return kept

    @cached_property
    def conditions(self) -> list[str]:
        """Conditions that the design models, in the order of the model."""
        there = [f"{FACTOR}{name}" for name in sorted(set().union(*(run.conditions for run in self.runs)))]
        asked = [name for name in self.model.run.x if name.startswith(FACTOR) or set(WILDCARDS) & set(name)]
        try:
            chosen = Node("Run", tuple(asked)).select(there)
        except DesignError as error:
            raise DesignError(f"{self.name}: {error}") from error
        if chosen and "trial_type" not in self.model.run.factors:
            raise StatsModelError(f"model {self.model.name} names {chosen[0]} but no Factor of trial_type; add it")
        return [name.removeprefix(FACTOR) for name in chosen]

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """What is asked, checked against the conditions of every run."""
        asked = self.model.run.questions([f"{FACTOR}{name}" for name in self.conditions])
        for contrast in asked:
            if INTERCEPT in contrast.columns:
                raise DesignError(
                    f"contrast {contrast.name} weighs the intercept, but units are centred in every run; compare "
                    "conditions"
                )
            if absent := set(contrast.conditions) - set(self.conditions):
                raise DesignError(
                    f"contrast {contrast.name} names condition {min(absent)}, which the design of {self.name} does not "
                    f"have; it has {', '.join(self.conditions) or 'none'}: name one of those, or add it to X"
                )
        return asked

    def runs_of(self, contrast: Contrast) -> list[PreparedRun]:
        """Choose the runs that can answer a contrast.

        Parameters
        ----------
        contrast : Contrast
            What is asked.

        Returns
        -------
        list of PreparedRun
            All runs; with `drop_missing` those that have its conditions.

        Raises
        ------
        DesignError
            If a run lacks a condition and may not be left out, or none is left.
        """
        kept = []
        for run in self.runs:
            absent = set(contrast.conditions) - run.conditions
            if absent and not self.settings.drop_missing:
                raise DesignError(
                    f"{self.name}_{run.label} has no condition {min(absent)}, which contrast {contrast.name} needs; it "
                    f"has {', '.join(sorted(run.conditions)) or 'none'}: record it, or leave it out with --drop-missing"
                )
            kept += [] if absent else [run]
        if not kept:
            raise DesignError(f"no run of {self.name} has all conditions of contrast {contrast.name}; ask another")
        return kept

    @property
    def cutoff(self) -> float | None:
        """Of the drift, in Hz: as asked, as the model says, or as `prep` fitted it to the design."""
        if self.settings.drift == "none":
            return None
        fitted = [value for run in self.runs if (value := run.volumes.own.get("HighPassHz"))]
        return self.settings.high_pass or self.model.run.high_pass or min(fitted, default=None)

    def token_design(self, run: PreparedRun) -> pd.DataFrame:
        """Make the design of a run, one row per scan.

        Parameters
        ----------
        run : PreparedRun
            The run.

        Returns
        -------
        DataFrame, shape (n_scans, n_regressors)
            Conditions, confounds, drift, constant.

        Raises
        ------
        DesignError
            If a confound is not there, or no scan is left to estimate noise from.
        """
        matrix = token_design(run.events, run.times, self.conditions, self.confounds(run), self.cutoff)
        self._check_rows(matrix, f"{run.label} has {len(matrix)} scans")
        return matrix

    def prompt_design(self, run: PreparedRun) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Make the design of a run with one column per prompt.

        Parameters
        ----------
        run : PreparedRun
            The run.

        Returns
        -------
        matrix : DataFrame, shape (n_scans, n_regressors)
            Prompts, spikes, constant where needed. No other confounds: their slopes over the tokens of a prompt say
            nothing about the differences between prompts, and an error in them would be common to all prompts.
        prompts : DataFrame
            One row per prompt; equal ``stimulus`` means the same text.

        Raises
        ------
        DesignError
            If a confound is not there, an effect of a prompt cannot be estimated, or no scan is left for the noise.
        """
        confounds = self.confounds(run)
        spikes = confounds[[name for name in confounds.columns if name.startswith(SPIKE)]]
        matrix, prompts = prompt_design(run.events, run.times, spikes)
        check_estimable(
            matrix, np.eye(len(prompts), matrix.shape[1]), f"the effect of each prompt of {self.name}_{run.label}"
        )
        if self.settings.noise_model != "ols":
            self._check_rows(
                matrix, f"{run.label} has {len(matrix)} scans of {len(prompts)} prompts", ", or use --level prompt-mean"
            )
        return matrix, prompts.assign(stimulus=run.stimuli(prompts["prompt"]))

    def kinds(self, run: PreparedRun, prompts: Iterable[str]) -> list[str]:
        """Say which condition prompts are of.

        Parameters
        ----------
        run : PreparedRun
            The run.
        prompts : iterable of str
            Numbers of prompts, as the events have them.

        Returns
        -------
        list of str
            ``n/a`` for a prompt of several conditions.
        """
        _, names, kinds = name_prompts(run.events)
        found = dict(zip(names, kinds, strict=True))
        return [found[prompt] for prompt in prompts]

    def prompts_in_conditions(self, run: PreparedRun, prompts: pd.DataFrame) -> pd.DataFrame:
        """Make the design over the prompts of a run: conditions, confounds and drift, averaged over each prompt.

        Parameters
        ----------
        run : PreparedRun
            The run.
        prompts : DataFrame, shape (n_scans, n_prompts)
            Columns of prompts.

        Returns
        -------
        DataFrame, shape (n_prompts, n_regressors)
            Conditions and confounds under their names; drift and constant under names that begin with the run's.
        """
        confounds = self.confounds(run)
        between = confounds[[name for name in confounds.columns if not name.startswith(SPIKE)]]
        matrix = token_design(run.events, run.times, self.conditions, between, self.cutoff)
        shared = {*between.columns, *(f"{FACTOR}{name}" for name in self.conditions)}
        own = {column: f"{run.label}_{column}" for column in matrix.columns if column not in shared}
        return average(matrix, prompts).rename(columns=own)

    def confounds(self, run: PreparedRun) -> pd.DataFrame:
        """Choose the confounds that the model or the settings ask for.

        Parameters
        ----------
        run : PreparedRun
            The run.

        Returns
        -------
        DataFrame, shape (n_scans, n_confounds)
            Their columns.

        Raises
        ------
        DesignError
            If one is not there, or a wildcard of the settings matches none.
        """
        available = list(run.confounds.columns)
        names = tuple(name for name in (*self.model.run.x, *self.settings.confounds) if not name.startswith(FACTOR))
        try:
            chosen = Node("Run", names).select(available) if names else []
        except DesignError as error:
            raise DesignError(f"{self.name}_{run.label}: {error}") from error
        for pattern in self.settings.confounds:
            if not fnmatch.filter(available, pattern):
                raise DesignError(
                    f"{self.name}_{run.label} has no confound {pattern}; there are {', '.join(available)}"
                )
        return run.confounds[chosen]

    def _check_rows(self, matrix: pd.DataFrame, what: str, way_out: str = "") -> None:
        """Refuse designs that leave no degree of freedom."""
        n_columns = matrix.shape[1]  # not their rank: nilearn's variance counts columns
        if len(matrix) <= n_columns:
            raise DesignError(
                f"{self.name}_{what} and {n_columns} columns: none left for the noise; record a longer run{way_out}"
            )


def find_analyses(
    raw: Path,
    settings: Settings,
    *,
    subjects: Sequence[str] = (),
    tasks: Sequence[str] = (),
    sites: Sequence[str] = (),
    model: Path | None = None,
    contrasts: Sequence[Contrast] = (),
) -> list[Analysis]:
    """Find what can be analysed in a dataset.

    Parameters
    ----------
    raw : Path
        The raw dataset, prepared by ``prep``.
    settings : Settings
        How effects are estimated.
    subjects, tasks, sites : sequence of str
        Labels to keep; all without.
    model : Path, optional
        A BIDS Stats Model; by default ``code/models/model-<task>_smdl.json``.
    contrasts : sequence of Contrast
        Questions to ask instead of those of the model.

    Returns
    -------
    list of Analysis
        One per subject, task and site.

    Raises
    ------
    LLM2BIDSError
        If the dataset is not prepared, a run of it is not, or a model is missing or malformed.
    """
    root = raw / PREPARED
    if not any(root.glob("sub-*")):
        raise DatasetError(f"{raw} is not prepared (there is no {PREPARED.as_posix()}); run: llm2bids prep {raw}")
    prepared = {run.name: run for run in find_runs(root, desc=PREPROC)}
    if left := set(prepared) - {run.name for run in find_runs(raw)}:
        raise DatasetError(
            f"{min(left)} is prepared but no longer recorded; remove its files from {root}, or record it again"
        )
    recorded = find_runs(raw, subjects, tasks, sites)
    models = _models(raw, recorded, model, may_skip=not tasks)
    groups: dict[tuple[str, ...], list[PreparedRun]] = {}
    for run in recorded:
        asked = models.get(run.entities["task"])
        if asked and asked.keeps(run.entities):
            key = tuple(run.entities.get(name, "") for name in ("sub", "task", "acq"))
            groups.setdefault(key, []).append(PreparedRun(_prepared(run, prepared), raw))
    if not groups:
        raise StatsModelError(f"Input of {model or raw / 'code' / 'models'} lets none of the runs in; mend it")
    found = []
    for (_, task, _), group in groups.items():
        _check_one_space(group)
        asked = models[task].asking(contrasts) if contrasts else models[task]
        found.append(Analysis(tuple(group), asked, settings))
    return found


def _models(raw: Path, runs: Sequence[BoldRun], path: Path | None, *, may_skip: bool) -> dict[str, StatsModel]:
    """The Stats Model of each task; tasks without one are left out, with a warning, if there are others."""
    if path is not None:
        model = StatsModel.from_file(path)
        return {run.entities["task"]: model for run in runs}
    paths = {task: stats_model_path(raw, task) for task in sorted({run.entities["task"] for run in runs})}
    missing = [task for task, file in paths.items() if not file.exists()]
    if missing and (not may_skip or len(missing) == len(paths)):
        raise StatsModelError(
            f"task {missing[0]} has no model (no {paths[missing[0]].relative_to(raw)}), as tasks without conditions; "
            "give one with --model, or leave the task out with --task-label"
        )
    if missing:
        logger.warning("left out, since they have no model in code/models: task %s", ", ".join(missing))
    return {task: StatsModel.from_file(file) for task, file in paths.items() if task not in missing}


def _prepared(recorded: BoldRun, prepared: Mapping[str, BoldRun]) -> BoldRun:
    """The volumes made of a recording; refuses to leave one out that is not prepared, or was made anew since."""
    run = prepared.get(recorded.name)
    if run is None:
        raise DatasetError(f"{recorded.name} is recorded but not prepared; run: llm2bids prep {recorded.root} --resume")
    if run.own.get("SourceSHA256") != recorded.fingerprint:
        raise DatasetError(
            f"{recorded.name} was recorded anew, or its events changed, since it was prepared; run: llm2bids prep "
            f"{recorded.root} --overwrite"
        )
    return run


def _check_one_space(runs: Sequence[PreparedRun]) -> None:
    """Refuse runs whose units are not the same."""
    first: dict[str, Any] = runs[0].volumes.own
    for run in runs[1:]:
        for key in ("UnitSpace", "WeightsSHA256"):
            if run.volumes.own.get(key) != first.get(key):
                raise DatasetError(
                    f"{run.volumes.name} has another {key} than {runs[0].volumes.name}; analyse them apart, as subjects"
                )
