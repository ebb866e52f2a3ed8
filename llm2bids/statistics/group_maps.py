"""What subjects bring to a group: their maps, what they asked, and whether their effects mean the same."""

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

ESTIMATED: Final = ("Inference", "EffectOfPrompt", "NoiseModel", "Drift", "HighPassAskedHz", "FurtherConfounds")
"""Settings in which subjects must agree for their effects to mean the same."""
_IDENTITY: Final = ("Model", "Revision", "WeightsSHA256", "Dtype", "Mode")


@dataclass(frozen=True)
class Member:
    """What one subject brings to a group.

    - `summary`: its analysis of the task and site.
    - `effect`: its map of the effect.
    - `asked`: columns, weights and test of the contrast, as the sidecar of the map has them.
    """

    label: str
    summary: dict[str, Any]
    effect: Path
    asked: dict[str, Any]

    @classmethod
    def from_finding(cls, path: Path, summary: dict[str, Any], found: dict[str, Any]) -> Member:
        """Read what a subject found for a contrast."""
        effect = path.with_name(found["z_map"].replace("_stat-z_", "_stat-effect_"))
        return cls(summary["Subject"], summary, effect, read_json(sidecar_of(effect))["Llm2bids"]["Contrast"])

    @property
    def place(self) -> tuple[str, str]:
        """Task and site."""
        return self.summary["Task"], self.summary["Site"]

    @property
    def tested(self) -> Path:
        """The mask of the units that were tested."""
        return self.effect.with_name(self.effect.name.split("_contrast-")[0] + "_desc-brain_mask.nii.gz")

    @property
    def terms(self) -> dict[str, Any]:
        """All that must be the same in every subject, by what it is called."""
        own = self.summary["Llm2bids"]
        estimated = {key: own["Statistics"].get(key) for key in ESTIMATED}
        weighed = {f"contrast {self.asked['Name']}": [self.asked["Columns"], self.asked["Weights"]]}
        made = {key: own.get(key) for key in ("Design", "Transformations")}
        return {**weighed, **made, **estimated}

    @property
    def identity(self) -> dict[str, Any]:
        """Which model it is."""
        return {key: self.summary["Llm2bids"].get(key) for key in _IDENTITY}


def find_members(root: Path, wanted: Sequence[Collection[str]], model: StatsModel | None = None) -> list[Member]:
    """Find what subjects found."""
    members = []
    seen: tuple[set[str], ...] = (set(), set(), set())
    for path in sorted(root.glob(f"sub-*/func/*_{SUMMARY}")):
        summary = read_json(path)
        keys = (summary["Subject"], summary["Task"], summary["Site"])
        if not all(not labels or key in labels for key, labels in zip(keys, wanted, strict=True)):
            continue
        if model and not _let_in(model, *keys):
            continue
        for known, key in zip(seen, keys, strict=True):
            known.add(key)
        members += [Member.from_finding(path, summary, found) for found in summary["Found"]]
    for name, labels, known in zip(("subject", "task", "site"), wanted, seen, strict=True):
        if absent := sorted(set(labels) - known):
            raise DatasetError(
                f"{root} holds no results of {name} {absent[0]}; run llm2bids glm at the level participant first, or "
                "leave it out"
            )
    if not members:
        raise DatasetError(f"{root} holds no results of subjects; run llm2bids glm at the level participant first")
    return members


def by_contrast(
    members: Sequence[Member], *, drop_missing: bool = False
) -> Iterator[tuple[tuple[Member, ...], tuple[str, ...]]]:
    """Sort members by task, site and contrast; F contrasts, whose effects have no sign, are left out with a warning.

    `drop_missing`: whether subjects that lack a contrast are left out of its group, instead of an error.
    """
    everyone = list(dict.fromkeys(member.label for member in members))
    grouped: dict[tuple[str, str, str], list[Member]] = defaultdict(list)
    for member in members:
        grouped[*member.place, member.asked["Name"]].append(member)
    signed = {key: own for key, own in grouped.items() if all(member.asked["Test"] == "t" for member in own)}
    if not signed:
        raise InferenceError("only F contrasts of subjects found, which have no sign; ask t contrasts of them first")
    for (task, site, contrast), own in grouped.items():
        if (task, site, contrast) not in signed:
            logger.warning("F contrast %s of task %s has no sign and is left out of the group", contrast, task)
            continue
        missing = tuple(label for label in everyone if label not in {member.label for member in own})
        if missing and not drop_missing:
            raise DesignError(
                f"sub-{missing[0]} has no result of contrast {contrast}, task {task}{site and f', site {site}'}, and "
                f"sub-{own[0].label} has; analyse it first, choose with --task-label, --sites or "
                "--participant-label, or go on without it with --drop-missing"
            )
        yield tuple(own), missing


def _let_in(model: StatsModel, subject: str, task: str, site: str) -> bool:
    """Whether the Input of a model, runs and sessions aside, lets the results of a subject in."""
    known = {key: values for key, values in model.inputs.items() if key in {"subject", "task", "acquisition"}}
    return replace(model, inputs=known).keeps({"sub": subject, "task": task, "acq": site})
