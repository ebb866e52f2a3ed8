"""Effect maps of subjects for a group: find them, sort them by contrast, and say what they must have in common."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from llm2bids.bids.names import sidecar_of
from llm2bids.bids.tables import read_json
from llm2bids.errors import DatasetError, DesignError, InferenceError
from llm2bids.results.summaries import SUMMARY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from llm2bids.design.statsmodel import StatsModel

logger = logging.getLogger(__name__)

FIRST_LEVEL: Final = ("Inference", "EffectOfPrompt", "NoiseModel", "Drift", "HighPassAskedHz", "FurtherConfounds")
"""GLMSettings in which subjects must agree for their effects to mean the same."""
_IDENTITY: Final = ("Model", "Revision", "WeightsSHA256", "Dtype", "Mode")


@dataclass(frozen=True)
class SubjectEffect:
    """Effect map of one contrast in one subject.

    - `summary`: of the subject's analysis of the task and site.
    - `contrast`: name, columns, weights and test, from the sidecar of the map.
    """

    label: str
    summary: dict[str, Any]
    path: Path
    contrast: dict[str, Any]

    @classmethod
    def from_entry(cls, summary_path: Path, summary: dict[str, Any], entry: dict[str, Any]) -> SubjectEffect:
        """Find the map of an entry in a summary."""
        path = summary_path.with_name(entry["z_map"].replace("_stat-z_", "_stat-effect_"))
        return cls(summary["Subject"], summary, path, read_json(sidecar_of(path))["Llm2bids"]["Contrast"])

    @property
    def tested(self) -> Path:
        """Path of the mask of the units that were tested."""
        return self.path.with_name(self.path.name.split("_contrast-")[0] + "_desc-brain_mask.nii.gz")

    @property
    def comparable_fields(self) -> dict[str, Any]:
        """Fields that must be equal in all subjects, by their name in messages."""
        metadata = self.summary["Llm2bids"]
        contrast = {f"contrast {self.contrast['Name']}": [self.contrast["Columns"], self.contrast["Weights"]]}
        design = {key: metadata.get(key) for key in ("Design", "Transformations")}
        return {**contrast, **design, **{key: metadata["Statistics"].get(key) for key in FIRST_LEVEL}}

    @property
    def identity(self) -> dict[str, Any]:
        """Fields that identify the model."""
        return {key: self.summary["Llm2bids"].get(key) for key in _IDENTITY}


def find_effects(
    root: Path, filters: Sequence[Collection[str]], model: StatsModel | None = None
) -> list[SubjectEffect]:
    """Find the effect maps of subjects.

    `filters`: labels of subjects, tasks and sites; empty for all. `model`: its Input restricts subjects, tasks and
    sites.
    """
    effects = []
    available: tuple[set[str], ...] = (set(), set(), set())
    for path in sorted(root.glob(f"sub-*/func/*_{SUMMARY}")):
        summary = read_json(path)
        keys = (summary["Subject"], summary["Task"], summary["Site"])
        if not all(not labels or key in labels for key, labels in zip(keys, filters, strict=True)):
            continue
        if model and not _includes(model, *keys):
            continue
        for labels, key in zip(available, keys, strict=True):
            labels.add(key)
        effects += [SubjectEffect.from_entry(path, summary, entry) for entry in summary["Found"]]
    for name, filtered, labels in zip(("subject", "task", "site"), filters, available, strict=True):
        if absent := sorted(set(filtered) - labels):
            raise DatasetError(
                f"{root} holds no results of {name} {absent[0]}; run llm2bids glm at the level participant first, or "
                "leave it out"
            )
    if not effects:
        raise DatasetError(f"{root} holds no results of subjects; run llm2bids glm at the level participant first")
    return effects


def by_contrast(
    effects: Sequence[SubjectEffect], *, drop_missing: bool = False
) -> Iterator[tuple[tuple[SubjectEffect, ...], tuple[str, ...]]]:
    """Group effects by task, site and contrast, each with the labels of subjects that lack it.

    F contrasts have no sign to average over subjects; they are left out with a warning. Without `drop_missing`, every
    subject must have every contrast.
    """
    labels = list(dict.fromkeys(effect.label for effect in effects))
    groups: dict[tuple[str, str, str], list[SubjectEffect]] = defaultdict(list)
    for effect in effects:
        groups[effect.summary["Task"], effect.summary["Site"], effect.contrast["Name"]].append(effect)
    signed = {key for key, group in groups.items() if all(effect.contrast["Test"] == "t" for effect in group)}
    if not signed:
        raise InferenceError("only F contrasts of subjects found, which have no sign; ask t contrasts of them first")
    for (task, site, contrast), group in groups.items():
        if (task, site, contrast) not in signed:
            logger.warning("F contrast %s of task %s has no sign and is left out of the group", contrast, task)
            continue
        missing = tuple(label for label in labels if label not in {effect.label for effect in group})
        if missing and not drop_missing:
            raise DesignError(
                f"sub-{missing[0]} has no result of contrast {contrast}, task {task}{site and f', site {site}'}, and "
                f"sub-{group[0].label} has; analyse it first, choose with `task_label`, `sites` or "
                "`participant_label`, or go on without it with drop_missing=True"
            )
        yield tuple(group), missing


def _includes(model: StatsModel, subject: str, task: str, site: str) -> bool:
    """Whether the Input of a model includes the results of a subject; its runs and sessions do not matter here."""
    inputs = {key: values for key, values in model.inputs.items() if key in {"subject", "task", "acquisition"}}
    return replace(model, inputs=inputs).includes({"sub": subject, "task": task, "acq": site})
