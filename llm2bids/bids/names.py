"""Composes and parses file names of BIDS: entities in their order, labels that every tool accepts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llm2bids.errors import LabelError

if TYPE_CHECKING:
    from collections.abc import Sequence

ENTITIES: Final = ("sub", "ses", "task", "acq", "run", "space", "atlas", "contrast", "stat", "label", "desc")
"""Entities in use, in the order of the specification (BIDS 1.11, appendix Entities; contrast and stat: BEP041)."""


def check_label(label: str, what: str) -> str:
    """Return a label; raise if some tool would not read it.

    >>> check_label("gpt2", "subject")
    'gpt2'
    """
    if not re.fullmatch(r"[0-9a-zA-Z]+", label):
        suggestion = to_label(label)
        hint = f", e.g. {suggestion!r}" if suggestion else ""
        raise LabelError(f"{what} label {label!r} found; BIDS labels are letters and digits only{hint}")
    return label


def to_label(text: str) -> str:
    """Make a label of any text: its letters and digits; a dot between digits becomes ``x``.

    >>> to_label("gpt2-small"), to_label("Llama-3.1-8B")
    ('gpt2small', 'Llama3x18B')
    """
    return re.sub(r"[^0-9a-zA-Z]", "", re.sub(r"(?<=\d)\.(?=\d)", "x", text))


def format_name(suffix: str, **entities: str | int | None) -> str:
    """Compose a file name.

    >>> format_name("bold.nii.gz", run=1, task="rest", sub="gpt2", ses=None)
    'sub-gpt2_task-rest_run-01_bold.nii.gz'
    """
    if unknown := set(entities) - set(ENTITIES):
        raise LabelError(f"entity {min(unknown)!r} found; use {', '.join(ENTITIES)}")
    labels = {key: f"{value:02d}" if isinstance(value, int) else value for key, value in entities.items()}
    parts = [f"{key}-{check_label(str(labels[key]), key)}" for key in ENTITIES if labels.get(key) is not None]
    return "_".join([*parts, suffix])


def sidecar_of(path: Path) -> Path:
    """Name the sidecar of a file.

    >>> sidecar_of(Path("sub-gpt2_bold.nii.gz")).name, sidecar_of(Path("net.safetensors")).name
    ('sub-gpt2_bold.json', 'net.json')
    """
    return path.with_name(path.name.removesuffix(".gz")).with_suffix(".json")


def parse_name(name: str) -> tuple[str, dict[str, str]]:
    """Take a file name apart: the inverse of `format_name`.

    >>> parse_name("sub-gpt2_task-rest_run-01_bold.nii.gz")
    ('bold.nii.gz', {'sub': 'gpt2', 'task': 'rest', 'run': '01'})
    """
    *parts, suffix = name.split("_")
    pairs = (part.partition("-") for part in parts)
    return suffix, {key: value for key, _, value in pairs}


def short_names(files: Sequence[str]) -> list[str]:
    """Return short names of files: the labels of the entities that differ between them.

    Where none differs it is the task, or the name without suffix. Different files get different names.

    >>> short_names(["sub-x_task-a_desc-truth_mask.nii.gz", "sub-x_task-b_desc-truth_mask.nii.gz"])
    ['a', 'b']
    >>> short_names(["net1.nii.gz", "net2.nii.gz"]), short_names(["sub-x_task-a_mask.nii.gz"])
    (['net1', 'net2'], ['a'])
    >>> short_names(["net.v1.nii.gz", "net.v2.nii.gz"])
    ['net.v1.nii.gz', 'net.v2.nii.gz']
    """
    entities = [parse_name(name)[1] for name in files]
    keys = list(dict.fromkeys(key for labels in entities for key in labels))
    differing = [key for key in keys if len({labels.get(key) for labels in entities}) > 1] or ["task"]
    names = ["_".join(labels[key] for key in differing if labels.get(key)) for labels in entities]
    if len(set(names)) == len(files) and all(names):
        return names
    stems = [name.partition(".")[0] for name in files]
    return stems if len(set(stems)) == len(set(files)) else list(files)
