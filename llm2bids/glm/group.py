"""Over subjects of one space: which effects hold for more than one model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from math import comb
from typing import TYPE_CHECKING, Any, Final

import nibabel as nib
import numpy as np
import pandas as pd

from llm2bids.bids.tables import read_json, read_tsv
from llm2bids.design import check_estimable
from llm2bids.errors import DatasetError, DesignError, InferenceError
from llm2bids.glm.fit import adjust, contrasts_of_run, join, max_t
from llm2bids.glm.jobs import publish
from llm2bids.glm.output import (
    SUMMARY,
    Target,
    describe_contrast,
    describe_dataset,
    fingerprint,
    versions,
    write_contrast,
    write_designs,
)
from llm2bids.space import UnitSpace
from llm2bids.statsmodel import INTERCEPT, Contrast, Node, StatsModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.bids.dataset import Dataset
    from llm2bids.glm.output import Finding
    from llm2bids.glm.settings import Settings

FOLDER: Final = "group"
"""Where results of groups go, relative to the output."""


@dataclass(frozen=True)
class GroupJob:
    """A contrast of one task and site over subjects, and where its results go.

    Parameters
    ----------
    subjects : dict
        Summary of each subject's analysis, by label.
    contrast : str
        Name of the contrast of conditions.
    node : Node
        Columns and contrasts over subjects.
    matrix : DataFrame, shape (n_subjects, n_regressors)
        The design; rows in the order of `subjects`.
    settings : Settings
        Correction, level, tail, permutations.
    out : Dataset
        Where results are, and go.
    raw : Path
        The raw dataset.
    """

    subjects: dict[str, dict[str, Any]]
    contrast: str
    node: Node
    matrix: pd.DataFrame
    settings: Settings
    out: Dataset
    raw: Path

    @property
    def place(self) -> str:
        """Folder of the results, relative to the output."""
        return FOLDER

    @property
    def summary(self) -> Path:
        """The file that says what was done and found."""
        label = Contrast(self.contrast, ("",), ((1.0,),)).label
        return self._target(self.out.root).path(SUMMARY, contrast=label)

    @cached_property
    def first(self) -> dict[str, Any]:
        """Summary of the first subject, for what all share."""
        return next(iter(self.subjects.values()))

    @cached_property
    def space(self) -> UnitSpace:
        """Which voxel is which unit."""
        return UnitSpace.from_json(self.first["Llm2bids"]["UnitSpace"])

    @cached_property
    def questions(self) -> list[Contrast]:
        """Contrasts over subjects, named after that of conditions and their own."""
        columns = [column for column in self.matrix.columns if not column.startswith("pair.")]
        own = self.node.questions(columns)
        return [replace(one, name=_joined(self.contrast, "" if one.name == INTERCEPT else one.name)) for one in own]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that the result depends on."""
        subjects = {label: summary["Fingerprint"] for label, summary in self.subjects.items()}
        questions = [describe_contrast(contrast) for contrast in self.questions]
        return fingerprint(subjects, questions, self.matrix.to_dict("records"), self.settings.to_json())

    def check(self) -> None:
        """Refuse what the subjects cannot answer.

        Raises
        ------
        LLM2BIDSError
            If geometries differ, a contrast cannot be estimated, or there are too few subjects.
        """
        for label, summary in self.subjects.items():
            if (other := summary["Llm2bids"]["UnitSpace"]) != self.space.to_json():
                first = next(iter(self.subjects))
                raise DatasetError(
                    f"sub-{label} lives in space {other['Label']} ({other['Hookpoints'][0]} ...), sub-{first} in "
                    f"{self.space.label} ({self.space.hookpoints[0]} ...): units of different geometries do not "
                    "correspond; choose models of one kind with --participant-label"
                )
        rank = int(np.linalg.matrix_rank(self.matrix.to_numpy()))
        if len(self.matrix) <= rank:
            raise DesignError(
                f"{len(self.matrix)} subjects and {rank} independent columns found: none left for the noise; analyse "
                "more subjects"
            )
        for contrast in self.questions:
            check_estimable(self.matrix, contrast.matrix(list(self.matrix.columns)), f"contrast {contrast.name}")
        self._check_permutations()

    def describe(self) -> None:
        """Make the output a BIDS derivative, which it is already."""
        with self.out.lock():
            describe_dataset(self.out, {"raw": self.raw})

    def run(self) -> list[Finding]:
        """Estimate, and write all files at once.

        Returns
        -------
        list of Finding
            One per contrast over subjects.

        Raises
        ------
        LLM2BIDSError
            If a map cannot be read, or another process writes the same.
        """
        with self.out.stage(self.summary.name.removesuffix(f"_{SUMMARY}")) as stage:
            target = self._target(stage)
            target.folder.mkdir(parents=True)
            effects = np.stack([self._effects(label)[self.tested] for label in self.subjects])
            maps = join(contrasts_of_run(effects, self.matrix, self.questions, "ols"))
            found = []
            for contrast in self.questions:
                adjusted = (
                    max_t(effects, self.matrix, contrast, self.settings)
                    if self.settings.correction == "maxt"
                    else adjust(maps[contrast.name].p(self.settings.tail), self.settings.correction)
                )
                found.append(write_contrast(target, contrast, maps[contrast.name], adjusted, self.settings))
            named = self.matrix.assign(participant_id=[f"sub-{label}" for label in self.subjects])
            write_designs(target, {f"contrast-{_joined(self.contrast, '')}": named.set_index("participant_id")})
            return publish(self, stage, found)

    def about(self) -> dict[str, Any]:
        """Describe the analysis for its summary.

        Returns
        -------
        dict
            ``Subject`` (``group``), ``Task``, ``Site``, ``Space``, ``Subjects`` and all fields of the sidecars.
        """
        shared = {key: self.first[key] for key in ("Task", "Site", "Space")}
        subjects = [f"sub-{label}" for label in self.subjects]
        return {"Subject": "group", **shared, "Subjects": subjects, **self._target(self.out.root).common}

    @cached_property
    def tested(self) -> NDArray[np.bool_]:
        """Units tested in every subject, shape (n_units,)."""
        masks = [self._read(label, "_desc-brain_mask.nii.gz") > 0 for label in self.subjects]
        both: NDArray[np.bool_] = np.logical_and.reduce(masks)
        if not both.any():
            raise DesignError("no unit was tested in every subject; analyse fewer subjects")
        return both

    def _effects(self, label: str) -> NDArray[np.float64]:
        """Effect of the contrast in one subject, shape (n_units,)."""
        name = Contrast(self.contrast, ("",), ((1.0,),)).label
        return self._read(label, f"_contrast-{name}_stat-effect_statmap.nii.gz").astype(np.float64)

    def _read(self, label: str, ending: str) -> NDArray[Any]:
        """A map of one subject, shape (n_units,)."""
        summary = self.subjects[label]
        stem = summary["Name"]
        path = self.out.root / f"sub-{label}" / "func" / f"{stem}{ending}"
        try:
            return self.space.to_signals(nib.load(path))
        except (OSError, EOFError) as error:
            raise DatasetError(
                f"{path} cannot be read ({error}); analyse the subject again with --overwrite"
            ) from error

    def _target(self, root: Path) -> Target:
        """Names and common fields of all files."""
        entities = {"task": self.first["Task"], "acq": self.first["Site"] or None, "space": self.first["Space"]}
        common = {
            "TaskName": self.first["Task"],
            "SpatialReference": self.first["SpatialReference"],
            "Sources": [f"bids::sub-{label}/func/{one['Name']}_{SUMMARY}" for label, one in self.subjects.items()],
            "Llm2bids": {
                "Subjects": {f"sub-{label}": _identity(summary) for label, summary in self.subjects.items()},
                "Site": self.first["Site"],
                "UnitSpace": self.space.to_json(),
                "Stimuli": [shown for summary in self.subjects.values() for shown in summary["Llm2bids"]["Stimuli"]],
                "Design": list(self.matrix.columns),
                "Statistics": self.settings.to_json()
                | {"Inference": "subject", "InferenceDescription": "Subjects are the samples."},
                "Versions": versions(),
            },
        }
        tested = self.tested if root != self.out.root else np.zeros(self.space.n_units, bool)
        return Target(root / FOLDER, entities, self.space, tested, common)

    def _check_permutations(self) -> None:
        """Refuse permutation tests that cannot reach their level."""
        if self.settings.correction != "maxt":
            return
        groups = [int(total) for name, total in self.matrix.sum().items() if self.matrix[name].isin([0, 1]).all()]
        n_subjects = len(self.matrix)
        possible = (
            2**n_subjects if max(groups, default=0) == n_subjects else comb(n_subjects, groups[0] if groups else 1)
        )
        if self.settings.tail == "two":
            possible //= 2
        if possible < 1 / self.settings.alpha:
            raise InferenceError(
                f"{n_subjects} subjects allow {possible} different permutations, level {self.settings.alpha:g} needs "
                f"{1 / self.settings.alpha:.0f}; analyse more subjects, or use --correction fdr"
            )


def find_groups(  # noqa: PLR0913 - filters of BIDS apps
    raw: Path,
    out: Dataset,
    settings: Settings,
    *,
    subjects: Sequence[str] = (),
    tasks: Sequence[str] = (),
    sites: Sequence[str] = (),
    model: Path | None = None,
    design: tuple[str | None, str | None, tuple[str, ...]] = (None, None, ()),
) -> list[GroupJob]:
    """Find what can be analysed over subjects.

    Parameters
    ----------
    raw : Path
        The raw dataset, for its table of participants.
    out : Dataset
        Results of subjects.
    settings : Settings
        How effects are tested.
    subjects, tasks, sites : sequence of str
        Labels to keep; all without.
    model : Path, optional
        A BIDS Stats Model whose Dataset node says what is asked.
    design : tuple
        Columns of participants.tsv: the one whose two values are compared, the one that pairs subjects, covariates.

    Returns
    -------
    list of GroupJob
        One per task, site and contrast, checked.

    Raises
    ------
    LLM2BIDSError
        If there are no results, settings contradict each other, or the subjects cannot answer.
    """
    if model and any(design):
        raise InferenceError("a model and a comparison asked for; the Dataset node of the model says what is compared")
    participants = _participants(raw)
    grouped: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    wanted = ({label.removeprefix("sub-") for label in subjects}, set(tasks), set(sites))
    for path in sorted(out.root.glob(f"sub-*/func/*_{SUMMARY}")):
        summary = read_json(path) | {"Name": path.name.removesuffix(f"_{SUMMARY}")}
        keys = (summary["Subject"], summary["Task"], summary["Site"])
        if all(not labels or key in labels for key, labels in zip(keys, wanted, strict=True)):
            for found in summary["Found"]:
                grouped[*keys[1:], found["contrast"]][summary["Subject"]] = summary
    if not grouped:
        raise DatasetError(f"{out.root} holds no results of subjects; run llm2bids glm at the level participant first")
    jobs = []
    for (_, _, contrast), found in grouped.items():
        node = StatsModel.from_file(model).dataset if model else _node(participants.loc[list(found)], *design)
        matrix = _matrix(node, participants, list(found))
        jobs.append(GroupJob(found, contrast, node, matrix, settings, out, raw))
    for job in jobs:
        job.check()
    return jobs


def _participants(raw: Path) -> pd.DataFrame:
    """The table of participants, by label."""
    table = read_tsv(raw / "participants.tsv")
    if "participant_id" not in table.columns:
        raise DatasetError(f"{raw / 'participants.tsv'} has no column participant_id; add it")
    return table.set_index(table["participant_id"].str.removeprefix("sub-"))


def _node(participants: pd.DataFrame, compare: str | None, pairs: str | None, covariates: tuple[str, ...]) -> Node:
    """The Dataset node of a one-sample, two-sample or paired comparison."""
    if pairs and not compare:
        raise InferenceError("pairs without a comparison asked for; name the column with --compare")
    if not compare:
        return Node("Dataset", (INTERCEPT, *covariates), dummies=(INTERCEPT, *covariates))
    if compare not in participants:
        raise DesignError(f"participants.tsv has no column {compare}; it has {', '.join(participants.columns)}")
    values = sorted(set(participants[compare]))
    if len(values) != 2:  # noqa: PLR2004 - a comparison
        raise DesignError(f"column {compare} has values {', '.join(values)} for these subjects; two needed")
    one, other = (f"{compare}.{value}" for value in values)
    contrast = Contrast(f"{values[0]} minus {values[1]}", (one, other), ((1.0, -1.0),))
    x = (one, other, *([f"{pairs}.*"] if pairs else []), *covariates)
    return Node("Dataset", x, (contrast,), covariates or None, (compare, *([pairs] if pairs else [])))


def _matrix(node: Node, participants: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """The design over subjects; numbers are centred."""
    if absent := [label for label in labels if label not in participants.index]:
        raise DatasetError(f"participants.tsv has no row for sub-{absent[0]}; add it")
    rows = participants.loc[labels].drop(columns="participant_id")
    if unknown := set(node.factors) - set(rows.columns):
        raise DesignError(f"participants.tsv has no column {min(unknown)}; it has {', '.join(rows.columns)}")
    columns = {
        f"{name}.{value}": (rows[name] == value).astype(float)
        for name in node.factors
        for value in sorted(set(rows[name]))
    }
    numbers = rows.apply(pd.to_numeric, errors="coerce")
    available = [*columns, *(name for name in rows.columns if name not in node.factors)]
    chosen = node.select(available)
    for name in chosen:
        if name not in columns:
            if numbers[name].isna().any():
                raise DesignError(
                    f"column {name} of participants.tsv is no number for every subject; mend it, or leave it out"
                )
            columns[name] = numbers[name] - numbers[name].mean()
    matrix = pd.DataFrame({name: columns[name].to_numpy() for name in chosen}, index=range(len(labels)))
    return matrix.assign(**{INTERCEPT: 1.0}) if INTERCEPT in node.x else matrix


def _identity(summary: dict[str, Any]) -> dict[str, Any]:
    """Which model a subject is."""
    return {key: summary["Llm2bids"].get(key) for key in ("Model", "Revision", "WeightsSHA256", "Dtype")}


def _joined(*names: str) -> str:
    """Names in camel case, as one label."""
    words = " ".join(names).replace("_", " ").replace("-", " ").split()
    return words[0] + "".join(word[0].upper() + word[1:] for word in words[1:])
