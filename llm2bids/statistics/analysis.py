"""What a subject, task and site bring to a model of their effects: runs, events, confounds, designs."""

from __future__ import annotations

import fnmatch
import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from llm2bids.bids.prepared import check_compatible, choose_prepared, find_prepared
from llm2bids.bids.runs import PREPARED, find_runs, stats_model_path
from llm2bids.design.matrix import SPIKE, average, check_estimable, name_prompts, prompt_design, token_design
from llm2bids.design.regressors import FACTOR, MEAN, WILDCARDS, Regressors, is_slope
from llm2bids.design.statsmodel import INTERCEPT, Node, StatsModel
from llm2bids.errors import DatasetError, DesignError, StatsModelError, did_you_mean
from llm2bids.statistics.prompt_effects import KindDesign, Weighing, bins_of, with_bins, with_slopes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.bids.prepared import PreparedRun
    from llm2bids.bids.runs import BoldRun
    from llm2bids.design.regressors import Column
    from llm2bids.design.statsmodel import Contrast
    from llm2bids.space import UnitSpace
    from llm2bids.statistics.settings import GLMSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Analysis:
    """A subject, task and site.

    `runs`: in order of session and run.
    """

    runs: tuple[PreparedRun, ...]
    model: StatsModel
    settings: GLMSettings

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
    def columns(self) -> dict[str, Column]:
        """What each column of the design that is made of conditions is about, in the order of the model."""
        model = self.model.run
        there = model.regressors.columns(sorted(set().union(*(run.conditions for run in self.runs))))
        products = {one.name for one in model.regressors.products}
        for run in self.runs if products else ():
            if taken := products & set(run.confounds.columns):
                raise StatsModelError(f"a Product has Output {min(taken)}, which is a confound already; rename it")
        asked = [name for name in model.x if name.startswith(FACTOR) or name in products or set(WILDCARDS) & set(name)]
        try:
            chosen = Node("Run", tuple(asked)).select(list(there))
        except DesignError as error:
            raise DesignError(f"{self.name}: {error}") from error
        if chosen and "trial_type" not in model.factors:
            raise StatsModelError(f"model {self.model.name} names {chosen[0]} but no Factor of trial_type; add it")
        return {name: there[name] for name in chosen}

    @property
    def conditions(self) -> list[str]:
        """Conditions that the design models, in the order of the model."""
        return list(dict.fromkeys(column.condition for column in self.columns.values()))

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """What is asked, checked against the columns of the design."""
        asked = self.model.run.questions(list(self.columns))
        for contrast in asked:
            if INTERCEPT in contrast.columns:
                raise DesignError(
                    f"contrast {contrast.name} weighs the intercept, but units are centred in every run; compare "
                    "conditions"
                )
            if absent := {f"{FACTOR}{name}" for name in contrast.conditions} - set(self.columns):
                named = [name.removeprefix(FACTOR) for name in self.columns]
                unknown = min(absent).removeprefix(FACTOR)
                raise DesignError(
                    f"contrast {contrast.name} names condition {unknown}, which the design of {self.name} does not "
                    f"have; {did_you_mean(unknown, named)}it has {', '.join(named) or 'none'}: name one of those, or "
                    "add it to X"
                )
        return asked

    def weighing(self, contrast: Contrast) -> Weighing:
        """Split a contrast into what it takes of a prompt and how it compares conditions."""
        return Weighing.from_contrast(contrast, self.columns)

    def runs_of(self, contrast: Contrast) -> list[PreparedRun]:
        """Choose the runs that can answer a contrast.

        Returns all runs; with `drop_missing` those that have its conditions.
        """
        used = [
            name
            for name, own in zip(contrast.columns, zip(*contrast.weights, strict=True), strict=True)
            if any(own) and name in self.columns
        ]
        kept = []
        for run in self.runs:
            absent = {self.columns[name].condition for name in used} - run.conditions
            if absent and not self.settings.drop_missing:
                raise DesignError(
                    f"{self.name}_{run.label} has no condition {min(absent)}, which contrast {contrast.name} needs; "
                    f"{did_you_mean(min(absent), run.conditions)}it has {', '.join(sorted(run.conditions)) or 'none'}: "
                    "record it, or leave it out with --drop-missing"
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
        fitted = [value for run in self.runs if (value := run.volumes.metadata.get("HighPassHz"))]
        return self.settings.high_pass or self.model.run.high_pass or min(fitted, default=None)

    def token_design(self, run: PreparedRun) -> pd.DataFrame:
        """Make the design of a run, one row per scan.

        Returns (n_scans, n_regressors): conditions, confounds, drift, constant.
        """
        matrix = token_design(run.events, run.times, self.conditions, self.confounds(run), self.cutoff)
        if any(column.kind != MEAN for column in self.columns.values()):
            own = [f"{FACTOR}{name}" for name in self.conditions]
            matrix = pd.concat([self._columns_of_tokens(run, matrix[own]), matrix.drop(columns=own)], axis=1)
        self._check_rows(matrix, f"{run.label} has {len(matrix)} scans")
        return matrix

    def _columns_of_tokens(self, run: PreparedRun, boxcars: pd.DataFrame) -> pd.DataFrame:
        """Boxcars as they are, times a modulator, or in bins; tokens after the last bin have a column of their own."""
        delays = self.model.run.regressors.delays
        made = {}
        if delays:
            matrix, prompts = prompt_design(run.events, run.times)
            place = bins_of(matrix[prompts["name"]], delays)
        for name, column in self.columns.items():
            boxcar = boxcars[f"{FACTOR}{column.condition}"].to_numpy()
            if column.delay is not None:
                made[name] = boxcar * (place == delays.index(column.delay))
                later = boxcar * (place == len(delays))
                made |= {f"{FACTOR}{column.condition}_later": later} if later.any() else {}
            else:
                made[name] = boxcar * self._modulators(run)[column.kind].to_numpy() if is_slope(column.kind) else boxcar
        return pd.DataFrame(made, index=boxcars.index)

    def kind_design(self, run: PreparedRun, matrix: pd.DataFrame, names: Sequence[str]) -> KindDesign | None:
        """Make the design that estimates more of each prompt than its mean effect.

        `matrix` (n_scans, n_regressors): what `prompt_design` makes. Returns with slopes over the modulators of the
        model, or with its bins of tokens, for prompts of every condition; None where it has neither.
        """
        made_of_conditions = self.model.run.regressors
        if made_of_conditions == Regressors() or all(column.kind == MEAN for column in self.columns.values()):
            return None
        delays = made_of_conditions.delays
        made = with_bins(matrix, names, delays) if delays else with_slopes(matrix, names, self._modulators(run))
        if self.settings.noise_model != "ols":
            what = f"{run.label} has {len(matrix)} scans, of {len(names)} prompts with slopes or bins,"
            self._check_rows(made.matrix, what, ", or use --level prompt-mean")
        return made

    def _modulators(self, run: PreparedRun) -> pd.DataFrame:
        """Columns of the confounds over which the model takes slopes."""
        names = list(dict.fromkeys(column.kind for column in self.columns.values() if is_slope(column.kind)))
        if absent := [name for name in names if name not in run.confounds.columns]:
            raise DesignError(
                f"{self.name}_{run.label}: a Product names {absent[0]}, which is no confound; "
                f"{did_you_mean(absent[0], run.confounds.columns)}there are {', '.join(run.confounds.columns)}"
            )
        return run.confounds[names]

    def prompt_design(self, run: PreparedRun) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Make the design of a run with one column per prompt.

        Returns `matrix` (n_scans, n_regressors): prompts, spikes, constant where needed. No other confounds: their
        slopes over the tokens of a prompt say nothing about the differences between prompts, and an error in them would
        be common to all prompts. Returns `prompts` one row per prompt; equal ``stimulus`` means the same text.
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

    def trial_types(self, run: PreparedRun, prompts: Iterable[str]) -> list[str]:
        """Say which condition prompts are of."""
        _, names, kinds = name_prompts(run.events)
        found = dict(zip(names, kinds, strict=True))
        return [found[prompt] for prompt in prompts]

    def prompts_in_conditions(self, run: PreparedRun, prompts: pd.DataFrame) -> pd.DataFrame:
        """Make the design over the prompts of a run: conditions, confounds and drift, averaged over each prompt.

        `prompts` (n_scans, n_prompts): columns of prompts. Returns (n_prompts, n_regressors): conditions and confounds
        under their names; drift and constant under names that begin with the run's.
        """
        confounds = self.confounds(run)
        between = confounds[[name for name in confounds.columns if not name.startswith(SPIKE)]]
        matrix = token_design(run.events, run.times, self.conditions, between, self.cutoff)
        shared = {*between.columns, *(f"{FACTOR}{name}" for name in self.conditions)}
        own = {column: f"{run.label}_{column}" for column in matrix.columns if column not in shared}
        return average(matrix, prompts).rename(columns=own)

    def confounds(self, run: PreparedRun) -> pd.DataFrame:
        """Choose the confounds that the model or the settings ask for.

        Returns (n_scans, n_confounds): their columns.
        """
        available = list(run.confounds.columns)
        made = {one.name for one in self.model.run.regressors.products}
        names = tuple(
            name
            for name in (*self.model.run.x, *self.settings.confounds)
            if not name.startswith(FACTOR) and name not in made
        )
        try:
            chosen = Node("Run", names).select(available) if names else []
        except DesignError as error:
            raise DesignError(f"{self.name}_{run.label}: {error}") from error
        for pattern in self.settings.confounds:
            if not fnmatch.filter(available, pattern):
                raise DesignError(
                    f"{self.name}_{run.label} has no confound {pattern}; {did_you_mean(pattern, available)}there are "
                    f"{', '.join(available)}"
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
    settings: GLMSettings,
    *,
    subjects: Sequence[str] = (),
    tasks: Sequence[str] = (),
    sites: Sequence[str] = (),
    model: Path | None = None,
    contrasts: Sequence[Contrast] = (),
) -> list[Analysis]:
    """Find what can be analysed in a dataset."""
    prepared = find_prepared(raw)
    if left := set(prepared) - {run.name for run in find_runs(raw)}:
        raise DatasetError(
            f"{min(left)} is prepared but no longer recorded; remove its files from {raw / PREPARED}, or record it "
            "again"
        )
    recorded = find_runs(raw, subjects, tasks, sites)
    models = _models(raw, recorded, model, may_skip=not tasks)
    groups: dict[tuple[str, ...], list[PreparedRun]] = {}
    for run in recorded:
        asked = models.get(run.entities["task"])
        if asked and asked.keeps(run.entities):
            key = tuple(run.entities.get(name, "") for name in ("sub", "task", "acq"))
            groups.setdefault(key, []).append(choose_prepared(run, prepared))
    if not groups:
        raise StatsModelError(f"Input of {model or raw / 'code' / 'models'} lets none of the runs in; mend it")
    found = []
    for (_, task, _), group in groups.items():
        check_compatible(group)
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
