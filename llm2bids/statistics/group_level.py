"""Over subjects of one space: which effects hold for more than one model."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from math import factorial, prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

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
from llm2bids.statistics.group_design import TABLE, SubjectDesign, participants_of, rows_of
from llm2bids.statistics.group_maps import ESTIMATED, Member, by_contrast, find_members
from llm2bids.statistics.linear_model import adjust, contrasts_of_run, flips_signs, join, max_t
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
"""Where results of groups go, relative to the output."""
_DESCRIPTION: Final = (
    "Subjects are the samples. A unit is taken for the same unit in every subject, as in models trained from one."
)


@dataclass(frozen=True)
class GroupJob:
    """A contrast of one task and site over subjects, and where its results go.

    - `design`: what is asked; rows in the order of `members`.
    - `out`: where results are, and go.
    - `dropped`: subjects left out because they lack the contrast.
    """

    members: tuple[Member, ...]
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
        """The file that says what was done and found."""
        return self._target(self.out.root).path(SUMMARY)

    @property
    def contrast(self) -> str:
        """Name of the contrast of conditions."""
        name: str = self.members[0].asked["Name"]
        return name

    @cached_property
    def first(self) -> dict[str, Any]:
        """Summary of the first subject, for what all share."""
        return self.members[0].summary

    @cached_property
    def space(self) -> UnitSpace:
        """Which voxel is which unit."""
        return UnitSpace.from_json(self.first["Llm2bids"]["UnitSpace"])

    @cached_property
    def questions(self) -> list[Contrast]:
        """Contrasts over subjects, named after that of conditions and their own."""
        return [
            replace(one, name=_joined(self.contrast, "" if one.name == INTERCEPT else one.name))
            for one in self.design.questions
        ]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that the result depends on."""
        subjects = {member.label: member.summary["Fingerprint"] for member in self.members}
        questions = [describe_contrast(contrast) for contrast in self.questions]
        matrix = self.design.matrix.to_dict("records")
        pairs = None if self.design.differences is None else self.design.differences.tolist()
        return hash_parts(subjects, questions, matrix, pairs, self.settings.to_json(), self.dropped)

    def check(self) -> None:
        """Refuse what the subjects cannot answer."""
        for member in self.members[1:]:
            self._check_alike(member)
        n_subjects, rank = len(self.members), int(np.linalg.matrix_rank(self.design.scaled.to_numpy()))
        if n_subjects <= rank:
            raise DesignError(
                f"{n_subjects} subjects and {rank} independent columns found: none left for the noise; analyse more "
                "subjects"
            )
        matrix = self.design.matrix
        for contrast in self.questions:
            check_estimable(matrix, contrast.matrix(list(matrix.columns)), f"contrast {contrast.name}")
            if self.settings.correction == "maxt":
                self._check_permutations(contrast)

    def describe(self) -> None:
        """Make the output a BIDS derivative, which it is already."""
        with self.out.lock():
            describe_output(self.out, "glm", {"raw": self.raw})

    def run(self) -> list[ContrastResult]:
        """Estimate, and write all files at once."""
        with self.out.stage(stage_of(self)) as stage:
            every = self._effects()
            tested = self._tested(every)
            effects = every[:, tested].astype(np.float64)
            target = self._target(stage, tested)
            target.folder.mkdir(parents=True)
            asked = {contrast.name: self.design.asked(contrast) for contrast in self.questions}
            maps = join(contrasts_of_run(effects, self.design.scaled, list(asked.values()), "ols"))
            found = []
            for contrast in self.questions:
                adjusted = self._adjusted(effects, asked[contrast.name], maps[contrast.name])
                found.append(write_contrast(target, contrast, maps[contrast.name], adjusted, self.settings))
            write_tested(target)
            named = self.design.matrix.set_axis([f"sub-{member.label}" for member in self.members])
            write_tsv(target.path("design.tsv"), named.rename_axis("participant_id").reset_index())
            write_bytes(target.path("design.png"), as_png(draw_design_matrix(named)))
            return publish(self, stage, found)

    def about(self) -> dict[str, Any]:
        """Describe the analysis for its summary.

        Returns ``Subject`` (``group``), ``Task``, ``Site``, ``Space``, ``Subjects`` and all fields of the sidecars.
        """
        shared = {key: self.first[key] for key in ("Task", "Site", "Space")}
        subjects = [f"sub-{member.label}" for member in self.members]
        return {"Subject": "group", **shared, "Subjects": subjects, **self._target(self.out.root).common}

    def _effects(self) -> NDArray[np.float32]:
        """Effect of the contrast in every subject, shape (n_subjects, n_units)."""
        effects = np.stack([read_map(member.effect, self.space) for member in self.members])
        seen: dict[bytes, str] = {}
        for member, own in zip(self.members, effects, strict=True):
            if (other := seen.setdefault(own.tobytes(), member.label)) != member.label:
                raise DesignError(
                    f"sub-{member.label} and sub-{other} have the same effects to the last digit, so they are one "
                    "sample and not two; leave one out with --participant-label"
                )
        return effects

    def _tested(self, effects: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Units tested in every subject whose effects leave something to estimate noise from, shape (n_units,)."""
        masks = [read_map(member.tested, self.space) > 0 for member in self.members]
        left, singular, _ = np.linalg.svd(self.design.scaled.to_numpy(), full_matrices=False)
        basis = left[:, singular > _TINY * singular.max()]
        noise = effects - basis @ (basis.T @ effects)
        varying = np.linalg.norm(noise, axis=0) > _TINY * np.linalg.norm(effects, axis=0)
        tested: NDArray[np.bool_] = np.logical_and.reduce([*masks, varying])
        if not tested.any():
            raise DesignError("no unit was tested in every subject and varies over them; analyse fewer subjects")
        return tested

    def _adjusted(self, effects: NDArray[np.float64], asked: Contrast, maps: StatMaps) -> NDArray[np.float64]:
        """p-values corrected for the number of units, shape (n_tested,)."""
        if self.settings.correction != "maxt":
            return adjust(maps.p(self.settings.tail), self.settings.correction)
        by = self.design.differences
        values, matrix = (effects, self.design.scaled) if by is None else (by @ effects, self._exchanged)
        return max_t(values, matrix, asked, self.settings)

    @property
    def _exchanged(self) -> pd.DataFrame:
        """The design over what is exchanged: subjects, or the differences of pairs, whose signs are."""
        scaled, by = self.design.scaled, self.design.differences
        return scaled if by is None else pd.DataFrame(by @ scaled.to_numpy(), columns=scaled.columns)

    def _target(self, root: Path, tested: NDArray[np.bool_] | None = None) -> Target:
        """Names and common fields of all files."""
        entities = {"task": self.first["Task"], "acq": self.first["Site"] or None, "space": self.first["Space"]}
        own = {"contrast": self.questions[0].label}
        settings, estimated = self.settings.to_json(), self.first["Llm2bids"]["Statistics"]
        statistics = {key: value for key, value in settings.items() if key not in {*ESTIMATED, "DropMissing"}}
        shown = [one for member in self.members for one in member.summary["Llm2bids"]["Stimuli"]]
        common = {
            "TaskName": self.first["Task"],
            "SpatialReference": self.first["SpatialReference"],
            "Sources": [f"bids::{member.effect.relative_to(self.out.root).as_posix()}" for member in self.members]
            + ([f"bids:raw:{TABLE}"] if self.design.factors or self.design.centred else []),
            "Llm2bids": {
                "Subjects": {f"sub-{member.label}": member.identity for member in self.members},
                "SubjectsDropped": [f"sub-{label}" for label in self.dropped],
                "Site": self.first["Site"],
                "UnitSpace": self.space.to_json(),
                "Stimuli": [one for number, one in enumerate(shown) if one not in shown[:number]],
                "Design": list(self.design.matrix.columns),
                "Centred": list(self.design.centred),
                "Paired": self.design.differences is not None,
                "EffectOfSubject": {"Contrast": self.members[0].asked} | {key: estimated.get(key) for key in ESTIMATED},
                "Statistics": statistics | {"Inference": "subject", "InferenceDescription": _DESCRIPTION},
                "Versions": versions(*LIBRARIES),
            },
        }
        none = np.zeros(self.space.n_units, bool)
        return Target(root / FOLDER, {**entities, **own}, self.space, none if tested is None else tested, common)

    def _check_alike(self, member: Member) -> None:
        """Refuse a subject whose effects are not of the same units, or do not mean the same."""
        first = self.members[0]
        if (other := member.summary["Llm2bids"]["UnitSpace"]) != self.space.to_json():
            raise DatasetError(
                f"sub-{member.label} lives in space {other['Label']} ({other['Hookpoints'][0]} ...), sub-{first.label} "
                f"in {self.space.label} ({self.space.hookpoints[0]} ...): units of different geometries do not "
                "correspond; choose models of one kind with --participant-label"
            )
        for name, value in first.terms.items():
            if (own := member.terms[name]) != value:
                raise DesignError(
                    f"sub-{member.label} was analysed with {name} {own}, sub-{first.label} with {value}, so their "
                    "effects do not mean the same; analyse one of them again with --overwrite"
                )

    def _check_permutations(self, contrast: Contrast) -> None:
        """Refuse permutation tests that cannot reach their level, or that exchange what may not be exchanged."""
        if contrast.test != "t":
            raise InferenceError(
                f"permutation of F contrast {contrast.name} asked for; use --correction fdr or bonferroni"
            )
        if len(self.design.factors) > 1 and self.design.differences is None:
            raise InferenceError(
                f"permutation with factors {', '.join(self.design.factors)} asked for: which subjects may be exchanged "
                "is not known; use --compare and --pairs, or --correction bonferroni"
            )
        weights = self.design.asked(contrast).weights[0]
        possible = _n_orders(*partition(self._exchanged, weights), two_tailed=self.settings.tail == "two")
        if possible * self.settings.alpha <= 1:
            raise InferenceError(
                f"{len(self.members)} subjects allow {possible} different permutations, level "
                f"{self.settings.alpha:g} needs more than {1 / self.settings.alpha:.0f}; analyse more subjects, or use "
                "--correction fdr"
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
    """Find what can be analysed over subjects.

    `model`: A BIDS Stats Model whose Dataset node says what is asked, and whose Input of what; by default, and unless
    `design` says otherwise, the Dataset node of the one recorded for each task in ``code/models``. `design`: columns of
    participants.tsv: the one whose two values are compared, the one that pairs subjects, covariates.
    """
    if model and any(design):
        raise InferenceError("a model and a comparison asked for; the Dataset node of the model says what is compared")
    _refuse_first_level(settings)
    asked = StatsModel.from_file(model) if model else None
    wanted = ({label.removeprefix("sub-") for label in subjects}, set(tasks), set(sites))
    members = find_members(out.root, wanted, asked)
    participants = participants_of(raw)
    jobs = []
    for own, dropped in by_contrast(members, drop_missing=settings.drop_missing):
        rows = rows_of(participants, [member.label for member in own])
        says = asked if asked or any(design) else _recorded(raw, own[0].summary["Task"])
        one = SubjectDesign.from_node(says.dataset, rows) if says else SubjectDesign.comparing(rows, *design)
        jobs.append(GroupJob(own, one, settings, out, raw, dropped))
    for job in jobs:
        job.check()
    _check_names(jobs)
    return jobs


def _refuse_first_level(settings: GLMSettings) -> None:
    """Refuse settings that subjects were analysed with, or should have been."""
    usual = GLMSettings()
    for name in ("inference", "level", "drift", "high_pass", "confounds"):
        if getattr(settings, name) != getattr(usual, name):
            raise InferenceError(
                f"{name} {getattr(settings, name)} asked for a group, but that is asked of subjects; analyse them anew "
                "at the level participant"
            )


def _recorded(raw: Path, task: str) -> StatsModel | None:
    """The model that was recorded for a task; None for tasks without conditions."""
    path = stats_model_path(raw, task)
    return StatsModel.from_file(path) if path.exists() else None


def _check_names(jobs: Sequence[GroupJob]) -> None:
    """Refuse contrasts whose files another contrast has, or would get."""
    now = Counter((job.first["Task"], job.first["Site"], one.label) for job in jobs for one in job.questions)
    places = {job.summary for job in jobs}
    there = {
        (summary["Task"], summary["Site"], Contrast(found["contrast"], ("",), ((1.0,),)).label): path.name
        for path in jobs[0].summary.parent.glob(f"*_{SUMMARY}")
        if path not in places
        for summary in [read_json(path)]
        for found in summary["Found"]
    }
    for key, times in now.items():
        if times > 1 or key in there:
            whose = f"{there[key]} has" if key in there else "two contrasts have"
            raise DatasetError(f"{whose} results named {key[-1]} for task {key[0]}; rename the contrast in the model")


def _n_orders(tested: NDArray[np.float64], nuisance: NDArray[np.float64], *, two_tailed: bool) -> int:
    """How many permutations differ: of signs where the mean is tested, of rows else."""
    n_rows = len(tested)
    if flips_signs(tested, nuisance):
        return 1 << (n_rows - two_tailed)
    rows = np.hstack([tested, nuisance])
    _, counts = np.unique((rows / np.abs(rows).max()).round(9), axis=0, return_counts=True)
    orders = factorial(n_rows) // prod(map(factorial, counts.tolist()))
    mirrored = two_tailed and np.allclose(np.sort(tested[:, 0]), np.sort(-tested[:, 0]))
    return orders // 2 if mirrored else orders


def _joined(*names: str) -> str:
    """Names in camel case, as one label."""
    words: list[str] = re.findall(r"\d+\.\d+|[^\W_]+", " ".join(names))
    return words[0] + "".join(word[0].upper() + word[1:] for word in words[1:])
