"""What subjects bring to a group: their maps, what they asked, and whether their effects mean the same."""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import nibabel as nib
from nibabel.filebasedimages import ImageFileError

from llm2bids.bids.names import sidecar_of
from llm2bids.bids.tables import read_json
from llm2bids.errors import DatasetError, DesignError, InferenceError, SpaceError
from llm2bids.glm.output import SUMMARY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.space import UnitSpace
    from llm2bids.statsmodel import StatsModel

logger = logging.getLogger(__name__)

ESTIMATED: Final = ("Inference", "EffectOfPrompt", "NoiseModel", "Drift", "HighPassAskedHz", "FurtherConfounds")
"""Settings in which subjects must agree for their effects to mean the same."""
_IDENTITY: Final = ("Model", "Revision", "WeightsSHA256", "Dtype", "Mode")
_UNREADABLE: Final = (OSError, EOFError, zlib.error, ImageFileError, SpaceError)


@dataclass(frozen=True)
class Member:
    """What one subject brings to a group.

    Parameters
    ----------
    label : str
        The subject.
    summary : dict
        Its analysis of the task and site.
    effect : Path
        Its map of the effect.
    asked : dict
        Columns, weights and test of the contrast, as the sidecar of the map has them.
    """

    label: str
    summary: dict[str, Any]
    effect: Path
    asked: dict[str, Any]

    @classmethod
    def from_finding(cls, path: Path, summary: dict[str, Any], found: dict[str, Any]) -> Member:
        """Read what a subject found for a contrast.

        Parameters
        ----------
        path : Path
            The file with its summary.
        summary : dict
            What is in it.
        found : dict
            One of its findings.

        Returns
        -------
        Member
            Its maps are read later.
        """
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
    """Find what subjects found.

    Parameters
    ----------
    root : Path
        The results.
    wanted : sequence of collection of str
        Labels of subjects, tasks and sites to keep; all where it is empty.
    model : StatsModel, optional
        Its Input restricts them further.

    Returns
    -------
    list of Member
        One per subject, task, site and contrast.

    Raises
    ------
    DatasetError
        If there are none, or none of a label, or a sidecar cannot be read.
    """
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

    Parameters
    ----------
    members : sequence of Member
        As `find_members` gives them.
    drop_missing : bool
        Whether subjects that lack a contrast are left out of its group, instead of an error.

    Yields
    ------
    members : tuple of Member
        The subjects that have a contrast.
    dropped : tuple of str
        Labels of those that lack it.

    Raises
    ------
    DesignError
        If a subject lacks a contrast and may not be left out.
    InferenceError
        If there are F contrasts only.
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


def read_map(path: Path, space: UnitSpace) -> NDArray[Any]:
    """Read a map or mask of ours.

    Parameters
    ----------
    path : Path
        The image.
    space : UnitSpace
        Which voxel is which unit.

    Returns
    -------
    ndarray, shape (n_units,)
        As the file has it.

    Raises
    ------
    DatasetError
        If it is not there, truncated, or on another grid.
    """
    try:
        return space.to_signals(nib.load(path))
    except _UNREADABLE as error:
        raise DatasetError(f"{path} cannot be read ({error}); analyse it again with --overwrite") from error


def _let_in(model: StatsModel, subject: str, task: str, site: str) -> bool:
    """Whether the Input of a model, runs and sessions aside, lets the results of a subject in."""
    known = {key: values for key, values in model.inputs.items() if key in {"subject", "task", "acquisition"}}
    return replace(model, inputs=known).keeps({"sub": subject, "task": task, "acq": site})
