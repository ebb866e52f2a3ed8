"""One subject, task and site: its prepared runs, its contrasts, and the designs of its runs."""

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
from llm2bids.design.matrix import (
    SPIKE,
    average_over_prompts,
    check_estimable,
    name_prompts,
    prompt_design,
    token_design,
)
from llm2bids.design.regressors import FACTOR, MEAN, WILDCARDS, is_slope
from llm2bids.design.statsmodel import INTERCEPT, Node, StatsModel
from llm2bids.design.within_prompts import WithinPromptDesign, bin_numbers, with_bins, with_slopes
from llm2bids.errors import DatasetError, DesignError, StatsModelError, did_you_mean
from llm2bids.statistics.samples import SplitContrast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
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
    """A subject, task and site; `runs` are in order of session and run.

    `others`: runs of the other tasks of the subject at this site, if patterns are compared with them.
    """

    runs: tuple[PreparedRun, ...]
    model: StatsModel
    settings: GLMSettings
    others: tuple[PreparedRun, ...] = ()

    @property
    def entities(self) -> dict[str, str]:
        """Entities that all runs share: ``sub``, ``task``, ``acq``, ``space``."""
        entities = self.runs[0].volumes.entities
        return {key: entities[key] for key in ("sub", "task", "acq", "space") if key in entities}

    @property
    def name(self) -> str:
        """Name in messages."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items() if key != "space")

    @cached_property
    def space(self) -> UnitSpace:
        """Which voxel is which unit."""
        return self.runs[0].volumes.space

    @cached_property
    def tested(self) -> NDArray[np.bool_]:
        """Units that vary in every run, shape (n_units,)."""
        varying: NDArray[np.bool_] = np.logical_and.reduce([run.varying.selected for run in self.runs])
        if not varying.any():
            raise DesignError(f"no unit of {self.name} varies in every run; record longer runs")
        return varying

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Columns of the design that are made from conditions, by name, in the order of the model."""
        model = self.model.run
        available = model.regressors.columns(sorted(set().union(*(run.conditions for run in self.runs))))
        products = {product.name for product in model.regressors.products}
        for run in self.runs if products else ():
            if shared := products & set(run.confounds.columns):
                raise StatsModelError(f"a Product has Output {min(shared)}, which is a confound already; rename it")
        patterns = [
            name for name in model.x if name.startswith(FACTOR) or name in products or set(WILDCARDS) & set(name)
        ]
        try:
            chosen = Node("Run", tuple(patterns)).select(list(available))
        except DesignError as error:
            raise DesignError(f"{self.name}: {error}") from error
        if chosen and "trial_type" not in model.factors:
            raise StatsModelError(f"model {self.model.name} names {chosen[0]} but no Factor of trial_type; add it")
        return {name: available[name] for name in chosen}

    @property
    def conditions(self) -> list[str]:
        """Conditions of the design, in the order of the model."""
        return list(dict.fromkeys(column.condition for column in self.columns.values()))

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """Contrasts of the model, checked against the columns of the design."""
        contrasts = self.model.run.all_contrasts(list(self.columns))
        for contrast in contrasts:
            if INTERCEPT in contrast.columns:
                raise DesignError(
                    f"contrast {contrast.name} weighs the intercept, but units are centred in every run; compare "
                    "conditions"
                )
            if absent := {f"{FACTOR}{name}" for name in contrast.conditions} - set(self.columns):
                available = [name.removeprefix(FACTOR) for name in self.columns]
                unknown = min(absent).removeprefix(FACTOR)
                raise DesignError(
                    f"contrast {contrast.name} names condition {unknown}, which the design of {self.name} does not "
                    f"have; {did_you_mean(unknown, available)}it has {', '.join(available) or 'none'}: name one of "
                    "those, or add it to X"
                )
        return contrasts

    def split(self, contrast: Contrast) -> SplitContrast:
        """Split a contrast into a value within each prompt and a comparison between prompts."""
        return SplitContrast.from_contrast(contrast, self.columns)

    def runs_of(self, contrast: Contrast) -> list[PreparedRun]:
        """Runs that have all conditions of a contrast; without `drop_missing` all runs must have them."""
        conditions = {self.columns[name].condition for name in contrast.weighted_columns if name in self.columns}
        runs = []
        for run in self.runs:
            absent = conditions - run.conditions
            if absent and not self.settings.drop_missing:
                raise DesignError(
                    f"{self.name}_{run.label} has no condition {min(absent)}, which contrast {contrast.name} needs; "
                    f"{did_you_mean(min(absent), run.conditions)}it has {', '.join(sorted(run.conditions)) or 'none'}: "
                    "record it, or leave it out with drop_missing=True"
                )
            runs += [] if absent else [run]
        if not runs:
            raise DesignError(f"no run of {self.name} has all conditions of contrast {contrast.name}; ask another")
        return runs

    @property
    def cutoff(self) -> float | None:
        """Cutoff of the drift in Hz: of the settings, else of the model, else as `prep` fitted it to the design."""
        if self.settings.drift == "none":
            return None
        fitted = [value for run in self.runs if (value := run.volumes.metadata.get("HighPassHz"))]
        return self.settings.high_pass or self.model.run.high_pass or min(fitted, default=None)

    def token_design(self, run: PreparedRun) -> pd.DataFrame:
        """Design of a run with tokens as samples: conditions, confounds, drift, constant (n_scans, n_regressors)."""
        matrix = token_design(run.events, run.times, self.conditions, self.confounds(run), self.cutoff)
        if self._has_slopes_or_bins:
            boxcars = [f"{FACTOR}{name}" for name in self.conditions]
            columns = self._columns_of_tokens(run, matrix[boxcars])
            matrix = pd.concat([columns, matrix.drop(columns=boxcars)], axis=1)
        self._check_rows(matrix, f"{run.label} has {len(matrix)} scans")
        return matrix

    @property
    def _has_slopes_or_bins(self) -> bool:
        """Whether the design has columns of other kinds than mean effects."""
        return any(column.kind != MEAN for column in self.columns.values())

    def _columns_of_tokens(self, run: PreparedRun, boxcars: pd.DataFrame) -> pd.DataFrame:
        """Boxcars unchanged, times a modulator, or cut into bins; tokens after the last bin get their own column."""
        delays = self.model.run.regressors.delays
        columns = {}
        if delays:
            matrix, prompts = prompt_design(run.events, run.times)
            numbers = bin_numbers(matrix[prompts["name"]], delays)
        for name, column in self.columns.items():
            boxcar = boxcars[f"{FACTOR}{column.condition}"].to_numpy()
            if column.delay is not None:
                columns[name] = boxcar * (numbers == delays.index(column.delay))
                later = boxcar * (numbers == len(delays))
                columns |= {f"{FACTOR}{column.condition}_later": later} if later.any() else {}
            else:
                slope = is_slope(column.kind)
                columns[name] = boxcar * self._modulators(run)[column.kind].to_numpy() if slope else boxcar
        return pd.DataFrame(columns, index=boxcars.index)

    def within_prompt_design(
        self, run: PreparedRun, matrix: pd.DataFrame, names: Sequence[str]
    ) -> WithinPromptDesign | None:
        """Design with slopes over the modulators of the model, or its bins of tokens; None if it has neither.

        It covers the prompts of all conditions, so that the effects do not depend on the contrast.

        `matrix` (n_scans, n_regressors): design with one column per prompt, which `names` lists.
        """
        delays = self.model.run.regressors.delays
        if not self._has_slopes_or_bins:
            return None
        design = with_bins(matrix, names, delays) if delays else with_slopes(matrix, names, self._modulators(run))
        if self.settings.noise_model != "ols":
            rows = f"{run.label} has {len(matrix)} scans, of {len(names)} prompts with slopes or bins,"
            self._check_rows(design.matrix, rows, ', or use level="prompt-mean"')
        return design

    def _modulators(self, run: PreparedRun) -> pd.DataFrame:
        """Confounds over which the model takes slopes."""
        names = list(dict.fromkeys(column.kind for column in self.columns.values() if is_slope(column.kind)))
        if absent := [name for name in names if name not in run.confounds.columns]:
            raise DesignError(
                f"{self.name}_{run.label}: a Product names {absent[0]}, which is no confound; "
                f"{did_you_mean(absent[0], run.confounds.columns)}there are {', '.join(run.confounds.columns)}"
            )
        return run.confounds[names]

    def prompt_design(self, run: PreparedRun) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Design of a run with one column per prompt (n_scans, n_regressors), and a table with one row per prompt.

        Only spikes are confounds here. The slope of another confound over the tokens within prompts says nothing about
        differences between prompts, and its error would be common to all of them; such confounds enter between prompts.
        Prompts with an equal ``stimulus`` have the same text.
        """
        confounds = self.confounds(run)
        spikes = confounds[[name for name in confounds.columns if name.startswith(SPIKE)]]
        matrix, prompts = prompt_design(run.events, run.times, spikes)
        weights = np.eye(len(prompts), matrix.shape[1])
        check_estimable(matrix, weights, f"the effect of each prompt of {self.name}_{run.label}")
        if self.settings.noise_model != "ols":
            rows = f"{run.label} has {len(matrix)} scans of {len(prompts)} prompts"
            self._check_rows(matrix, rows, ', or use level="prompt-mean"')
        return matrix, prompts.assign(stimulus=run.stimuli(prompts["prompt"]))

    def trial_types(self, run: PreparedRun, prompts: Iterable[str]) -> list[str]:
        """Condition of each of these prompts."""
        _, labels, trial_types = name_prompts(run.events)
        conditions = dict(zip(labels, trial_types, strict=True))
        return [conditions[prompt] for prompt in prompts]

    def between_prompts_design(self, run: PreparedRun, prompts: pd.DataFrame) -> pd.DataFrame:
        """Design over the prompts of a run: conditions, confounds and drift, averaged over the scans of each prompt.

        Columns of drift and constant get the label of the run, since each run has its own; the shape is (n_prompts,
        n_regressors).

        `prompts` (n_scans, n_prompts): columns of prompts.
        """
        confounds = self.confounds(run)
        between = confounds[[name for name in confounds.columns if not name.startswith(SPIKE)]]
        matrix = token_design(run.events, run.times, self.conditions, between, self.cutoff)
        shared = {*between.columns, *(f"{FACTOR}{name}" for name in self.conditions)}
        run_columns = {column: f"{run.label}_{column}" for column in matrix.columns if column not in shared}
        return average_over_prompts(matrix, prompts).rename(columns=run_columns)

    def confounds(self, run: PreparedRun) -> pd.DataFrame:
        """Confounds of a run that the model or the settings name (n_scans, n_confounds)."""
        available = list(run.confounds.columns)
        products = {product.name for product in self.model.run.regressors.products}
        names = tuple(
            name
            for name in (*self.model.run.x, *self.settings.confounds)
            if not name.startswith(FACTOR) and name not in products
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

    def _check_rows(self, matrix: pd.DataFrame, rows: str, alternative: str = "") -> None:
        """Raise if a design leaves no degree of freedom; `rows` says what its rows are."""
        n_columns = matrix.shape[1]  # not their rank: nilearn's variance counts columns
        if len(matrix) <= n_columns:
            raise DesignError(
                f"{self.name}_{rows} and {n_columns} columns: none left for the noise; record a longer run{alternative}"
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
    """Find the subjects, tasks and sites of a dataset that can be analysed."""
    prepared = find_prepared(raw)
    if orphans := set(prepared) - {run.name for run in find_runs(raw)}:
        raise DatasetError(
            f"{min(orphans)} is prepared but no longer recorded; remove its files from {raw / PREPARED}, or record it "
            "again"
        )
    recorded = find_runs(raw, subjects, tasks, sites)
    models = _models(raw, recorded, model, may_skip=not tasks)
    groups: dict[tuple[str, ...], list[PreparedRun]] = {}
    for run in recorded:
        stats_model = models.get(run.entities["task"])
        if stats_model and stats_model.includes(run.entities):
            key = tuple(run.entities.get(name, "") for name in ("sub", "task", "acq"))
            groups.setdefault(key, []).append(choose_prepared(run, prepared))
    if not groups:
        raise StatsModelError(f"Input of {model or raw / 'code' / 'models'} lets none of the runs in; mend it")
    analyses = []
    for (_, task, _), runs in groups.items():
        check_compatible(runs)
        stats_model = models[task].with_contrasts(contrasts) if contrasts else models[task]
        others = _other_tasks(raw, runs, prepared) if settings.reference == "dataset" else ()
        analyses.append(Analysis(tuple(runs), stats_model, settings, others))
    return analyses


def _other_tasks(
    raw: Path, runs: Sequence[PreparedRun], prepared: Mapping[str, PreparedRun]
) -> tuple[PreparedRun, ...]:
    """Runs of the other tasks of a subject at a site."""
    entities = runs[0].volumes.entities
    recorded = find_runs(raw, [entities["sub"]], sites=[entities["acq"]] if "acq" in entities else [])
    others = [choose_prepared(run, prepared) for run in recorded if run.entities["task"] != entities["task"]]
    if not others:
        raise DesignError(
            f'reference="dataset" found, but sub-{entities["sub"]} has no other task at this site than '
            f'{entities["task"]}; record another, or use reference="task"'
        )
    check_compatible([*runs, *others])
    return tuple(others)


def _models(raw: Path, runs: Sequence[BoldRun], path: Path | None, *, may_skip: bool) -> dict[str, StatsModel]:
    """Stats Model of each task; tasks without one are left out with a warning if `may_skip`."""
    if path is not None:
        model = StatsModel.from_file(path)
        return {run.entities["task"]: model for run in runs}
    paths = {task: stats_model_path(raw, task) for task in sorted({run.entities["task"] for run in runs})}
    missing = [task for task, file in paths.items() if not file.exists()]
    if missing and (not may_skip or len(missing) == len(paths)):
        raise StatsModelError(
            f"task {missing[0]} has no model (no {paths[missing[0]].relative_to(raw)}), as tasks without conditions; "
            "give one with `model`, or leave the task out with `task_label`"
        )
    if missing:
        logger.warning("left out, since they have no model in code/models: task %s", ", ".join(missing))
    return {task: StatsModel.from_file(file) for task, file in paths.items() if task not in missing}
