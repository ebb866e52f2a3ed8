"""Jobs of groups: test which effects of subjects hold over several models of one space, and write the files."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from llm2bids.bids.names import to_label
from llm2bids.bids.provenance import hash_parts, versions
from llm2bids.bids.runs import stats_model_path
from llm2bids.bids.tables import read_json, write_bytes, write_tsv
from llm2bids.design.matrix import check_estimable, partition
from llm2bids.design.statsmodel import INTERCEPT, Contrast, StatsModel
from llm2bids.errors import DatasetError, DesignError, InferenceError
from llm2bids.plots.design import draw_design_matrix
from llm2bids.plots.pictures import as_png
from llm2bids.results.jobs import describe_output, stage_of
from llm2bids.results.summaries import LIBRARIES, SUMMARY
from llm2bids.results.targets import Target, read_map
from llm2bids.space import UnitSpace
from llm2bids.statistics.correction import adjust, max_t, n_distinct_permutations
from llm2bids.statistics.group_design import TABLE, SubjectDesign, participants_of, rows_of
from llm2bids.statistics.group_maps import FIRST_LEVEL, SubjectEffect, by_contrast, find_effects
from llm2bids.statistics.linear_model import estimate_contrasts, join_chunks
from llm2bids.statistics.output import describe_contrast, publish, write_contrast, write_tested
from llm2bids.statistics.settings import GLMSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.bids.dataset import Dataset
    from llm2bids.results.summaries import ContrastResult
    from llm2bids.statistics.linear_model import StatMaps

_TINY: Final = 1e-6
FOLDER: Final = "group"
"""Folder of group results, relative to the output."""
_DESCRIPTION: Final = (
    "Subjects are the samples. A unit is taken for the same unit in every subject, as in models trained from one."
)


@dataclass(frozen=True)
class GroupJob:
    """Analysis of one contrast, task and site over subjects, and the derivative its results go to.

    - `subjects`: effect maps, in the order of the rows of `design`.
    - `dropped`: labels of subjects left out because they lack the contrast.
    """

    subjects: tuple[SubjectEffect, ...]
    design: SubjectDesign
    settings: GLMSettings
    out: Dataset
    raw: Path
    dropped: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Folder of the results, relative to the output."""
        return FOLDER

    @property
    def summary(self) -> Path:
        """Path of the summary."""
        return self._target(self.out.root).path(SUMMARY)

    @property
    def contrast(self) -> str:
        """Name of the contrast of conditions."""
        name: str = self.subjects[0].contrast["Name"]
        return name

    @cached_property
    def first(self) -> dict[str, Any]:
        """Summary of the first subject, for the fields that all subjects share."""
        return self.subjects[0].summary

    @cached_property
    def space(self) -> UnitSpace:
        """Which voxel is which unit."""
        return UnitSpace.from_json(self.first["Llm2bids"]["UnitSpace"])

    @cached_property
    def contrasts(self) -> list[Contrast]:
        """Contrasts over subjects; the names join that of the conditions and that of the subjects."""
        return [
            replace(contrast, name=_camel_case(self.contrast, "" if contrast.name == INTERCEPT else contrast.name))
            for contrast in self.design.contrasts
        ]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that the result depends on."""
        subjects = {subject.label: subject.summary["Fingerprint"] for subject in self.subjects}
        contrasts = [describe_contrast(contrast) for contrast in self.contrasts]
        matrix = self.design.matrix.to_dict("records")
        pairs = None if self.design.differences is None else self.design.differences.tolist()
        return hash_parts(subjects, contrasts, matrix, pairs, self.settings.to_json(), self.dropped)

    def check(self) -> None:
        """Raise if the subjects cannot be compared, or cannot estimate a contrast."""
        for subject in self.subjects[1:]:
            self._check_comparable(subject)
        n_subjects, rank = len(self.subjects), int(np.linalg.matrix_rank(self.design.scaled.to_numpy()))
        if n_subjects <= rank:
            raise DesignError(
                f"{n_subjects} subjects and {rank} independent columns found: none left for the noise; analyse more "
                "subjects"
            )
        matrix = self.design.matrix
        for contrast in self.contrasts:
            check_estimable(matrix, contrast.matrix(list(matrix.columns)), f"contrast {contrast.name}")
            if self.settings.correction == "maxt":
                self._check_permutations(contrast)

    def describe(self) -> None:
        """Describe the output as a BIDS derivative; results of subjects made it one already."""
        with self.out.lock():
            describe_output(self.out, "glm", {"raw": self.raw})

    def run(self) -> list[ContrastResult]:
        """Estimate, and publish all files at once."""
        with self.out.stage(stage_of(self)) as stage:
            all_effects = self._effects()
            tested = self._tested(all_effects)
            effects = all_effects[:, tested].astype(np.float64)
            target = self._target(stage, tested)
            target.folder.mkdir(parents=True)
            scaled = {contrast.name: self.design.scale(contrast) for contrast in self.contrasts}
            maps = join_chunks(estimate_contrasts(effects, self.design.scaled, list(scaled.values()), "ols"))
            entries = []
            for contrast in self.contrasts:
                adjusted = self._adjust(effects, scaled[contrast.name], maps[contrast.name])
                entries.append(write_contrast(target, contrast, maps[contrast.name], adjusted, self.settings))
            write_tested(target)
            design = self.design.matrix.set_axis([f"sub-{subject.label}" for subject in self.subjects])
            write_tsv(target.path("design.tsv"), design.rename_axis("participant_id").reset_index())
            write_bytes(target.path("design.png"), as_png(draw_design_matrix(design)))
            return publish(self, stage, entries)

    def summary_fields(self) -> dict[str, Any]:
        """Fields of the summary: ``group`` as subject, task, site, space, subjects, and the fields of every sidecar."""
        shared = {key: self.first[key] for key in ("Task", "Site", "Space")}
        subjects = [f"sub-{subject.label}" for subject in self.subjects]
        return {"Subject": "group", **shared, "Subjects": subjects, **self._target(self.out.root).common}

    def _effects(self) -> NDArray[np.float32]:
        """Effect of the contrast in every subject, shape (n_subjects, n_units); raises if two subjects are equal."""
        effects = np.stack([read_map(subject.path, self.space) for subject in self.subjects])
        labels: dict[bytes, str] = {}
        for subject, effect in zip(self.subjects, effects, strict=True):
            if (label := labels.setdefault(effect.tobytes(), subject.label)) != subject.label:
                raise DesignError(
                    f"sub-{subject.label} and sub-{label} have the same effects to the last digit, so they are one "
                    "sample and not two; leave one out with `participant_label`"
                )
        return effects

    def _tested(self, effects: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Units that were tested in every subject and vary around the fit of the design, shape (n_units,)."""
        masks = [read_map(subject.tested, self.space) > 0 for subject in self.subjects]
        basis, singular, _ = np.linalg.svd(self.design.scaled.to_numpy(), full_matrices=False)
        basis = basis[:, singular > _TINY * singular.max()]
        residuals = effects - basis @ (basis.T @ effects)  # without residuals there is no variance to test against
        varying = np.linalg.norm(residuals, axis=0) > _TINY * np.linalg.norm(effects, axis=0)
        tested: NDArray[np.bool_] = np.logical_and.reduce([*masks, varying])
        if not tested.any():
            raise DesignError("no unit was tested in every subject and varies over them; analyse fewer subjects")
        return tested

    def _adjust(self, effects: NDArray[np.float64], scaled: Contrast, maps: StatMaps) -> NDArray[np.float64]:
        """p-values corrected for the number of units, shape (n_tested,)."""
        if self.settings.correction != "maxt":
            return adjust(maps.p(self.settings.tail), self.settings.correction)
        differences = self.design.differences
        values = effects if differences is None else differences @ effects
        return max_t(values, self._exchangeable_design, scaled, self.settings)

    @property
    def _exchangeable_design(self) -> pd.DataFrame:
        """Design over exchangeable samples: subjects, or differences within pairs.

        Subjects of different pairs are not exchangeable, but under the null the sign of each difference is arbitrary.
        """
        scaled, differences = self.design.scaled, self.design.differences
        return scaled if differences is None else pd.DataFrame(differences @ scaled.to_numpy(), columns=scaled.columns)

    def _target(self, root: Path, tested: NDArray[np.bool_] | None = None) -> Target:
        """Names and common fields of all files, below `root`."""
        entities = {"task": self.first["Task"], "acq": self.first["Site"] or None, "space": self.first["Space"]}
        settings, first_level = self.settings.to_json(), self.first["Llm2bids"]["Statistics"]
        statistics = {key: value for key, value in settings.items() if key not in {*FIRST_LEVEL, "DropMissing"}}
        stimuli = [run for subject in self.subjects for run in subject.summary["Llm2bids"]["Stimuli"]]
        common = {
            "TaskName": self.first["Task"],
            "SpatialReference": self.first["SpatialReference"],
            "Sources": [f"bids::{subject.path.relative_to(self.out.root).as_posix()}" for subject in self.subjects]
            + ([f"bids:raw:{TABLE}"] if self.design.factors or self.design.centred else []),
            "Llm2bids": {
                "Subjects": {f"sub-{subject.label}": subject.identity for subject in self.subjects},
                "SubjectsDropped": [f"sub-{label}" for label in self.dropped],
                "Site": self.first["Site"],
                "UnitSpace": self.space.to_json(),
                "Stimuli": [run for number, run in enumerate(stimuli) if run not in stimuli[:number]],
                "Design": list(self.design.matrix.columns),
                "Centred": list(self.design.centred),
                "Paired": self.design.differences is not None,
                "EffectOfSubject": {"Contrast": self.subjects[0].contrast}
                | {key: first_level.get(key) for key in FIRST_LEVEL},
                "Statistics": statistics | {"Inference": "subject", "InferenceDescription": _DESCRIPTION},
                "Versions": versions(*LIBRARIES),
            },
        }
        entities["contrast"] = self.contrasts[0].label
        units = np.zeros(self.space.n_units, bool) if tested is None else tested
        return Target(root / FOLDER, entities, self.space, units, common)

    def _check_comparable(self, subject: SubjectEffect) -> None:
        """Raise if the effects of a subject are not of the same units, or were estimated differently."""
        first = self.subjects[0]
        if (space := subject.summary["Llm2bids"]["UnitSpace"]) != self.space.to_json():
            raise DatasetError(
                f"sub-{subject.label} lives in space {space['Label']} ({space['Hookpoints'][0]} ...), "
                f"sub-{first.label} in {self.space.label} ({self.space.hookpoints[0]} ...): units of different "
                "geometries do not correspond; choose models of one kind with `participant_label`"
            )
        for name, expected in first.comparable_fields.items():
            if (value := subject.comparable_fields[name]) != expected:
                raise DesignError(
                    f"sub-{subject.label} was analysed with {name} {value}, sub-{first.label} with {expected}, so "
                    "their effects do not mean the same; analyse one of them again with overwrite=True"
                )

    def _check_permutations(self, contrast: Contrast) -> None:
        """Raise if a permutation test cannot reach its level, or would exchange subjects that are not exchangeable."""
        if contrast.test != "t":
            raise InferenceError(
                f'permutation of F contrast {contrast.name} asked for; use correction="fdr" or correction="bonferroni"'
            )
        if len(self.design.factors) > 1 and self.design.differences is None:
            raise InferenceError(
                f"permutation with factors {', '.join(self.design.factors)} asked for: which subjects may be exchanged "
                'is not known; use `compare` and `pairs`, or correction="bonferroni"'
            )
        tested, nuisance = partition(self._exchangeable_design, self.design.scale(contrast).weights[0])
        possible = n_distinct_permutations(tested, nuisance, two_tailed=self.settings.tail == "two")
        if possible * self.settings.alpha <= 1:  # the smallest p-value is one over the number of permutations
            raise InferenceError(
                f"{len(self.subjects)} subjects allow {possible} different permutations, level "
                f"{self.settings.alpha:g} needs more than {1 / self.settings.alpha:.0f}; analyse more subjects, or use "
                'correction="fdr"'
            )


def find_groups(  # noqa: PLR0913 - filters of BIDS apps
    raw: Path,
    out: Dataset,
    settings: GLMSettings,
    *,
    subjects: Sequence[str] = (),
    tasks: Sequence[str] = (),
    sites: Sequence[str] = (),
    model: Path | None = None,
    design: tuple[str | None, str | None, Sequence[str]] = (None, None, ()),
) -> list[GroupJob]:
    """Find the contrasts, tasks and sites to analyse over subjects, and check that each can be carried out.

    The design comes from `design` (columns of participants.tsv: one to compare, one that pairs, covariates), from the
    Dataset node of `model`, or else from that of the model recorded for the task in ``code/models``.
    """
    if model and any(design):
        raise InferenceError("a model and a comparison asked for; the Dataset node of the model says what is compared")
    _check_first_level_defaults(settings)
    stats_model = StatsModel.from_file(model) if model else None
    filters = ({label.removeprefix("sub-") for label in subjects}, set(tasks), set(sites))
    effects = find_effects(out.root, filters, stats_model)
    participants = participants_of(raw)
    jobs = []
    for group, dropped in by_contrast(effects, drop_missing=settings.drop_missing):
        rows = rows_of(participants, [subject.label for subject in group])
        node_model = stats_model if stats_model or any(design) else _recorded_model(raw, group[0].summary["Task"])
        subject_design = (
            SubjectDesign.from_node(node_model.dataset, rows)
            if node_model
            else SubjectDesign.from_columns(rows, *design)
        )
        jobs.append(GroupJob(group, subject_design, settings, out, raw, dropped))
    for job in jobs:
        job.check()
    _check_names(jobs)
    return jobs


def _check_first_level_defaults(settings: GLMSettings) -> None:
    """Raise if settings of the first level are given, which apply to subjects only."""
    defaults = GLMSettings()
    for name in ("inference", "level", "drift", "high_pass", "confounds", "reference"):
        if getattr(settings, name) != getattr(defaults, name):
            raise InferenceError(
                f"{name} {getattr(settings, name)} asked for a group, but that is asked of subjects; analyse them anew "
                "at the level participant"
            )


def _recorded_model(raw: Path, task: str) -> StatsModel | None:
    """Model that was recorded for a task; None for tasks without conditions."""
    path = stats_model_path(raw, task)
    return StatsModel.from_file(path) if path.exists() else None


def _check_names(jobs: Sequence[GroupJob]) -> None:
    """Raise if the files of a contrast would have the names of another contrast's."""
    labels = Counter(
        (job.first["Task"], job.first["Site"], contrast.label) for job in jobs for contrast in job.contrasts
    )
    new_summaries = {job.summary for job in jobs}
    existing = {
        (summary["Task"], summary["Site"], to_label(entry["contrast"])): path.name
        for path in jobs[0].summary.parent.glob(f"*_{SUMMARY}")
        if path not in new_summaries
        for summary in [read_json(path)]
        for entry in summary["Found"]
    }
    for key, times in labels.items():
        if times > 1 or key in existing:
            owner = f"{existing[key]} has" if key in existing else "two contrasts have"
            raise DatasetError(f"{owner} results named {key[-1]} for task {key[0]}; rename the contrast in the model")


def _camel_case(*names: str) -> str:
    """Join names in camel case, as one label."""
    words: list[str] = re.findall(r"\d+\.\d+|[^\W_]+", " ".join(names))
    return words[0] + "".join(word[0].upper() + word[1:] for word in words[1:])
