"""Sets of networks from anywhere: results of ``glm`` or ``ica``, images of components, masks of any tool."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.bids.names import parse_name, short_names
from llm2bids.bids.tables import read_json
from llm2bids.decomposition.components import over_units
from llm2bids.decomposition.job import SUMMARY as ICA
from llm2bids.decomposition.settings import ROBUST_Z
from llm2bids.errors import DatasetError, MaskError
from llm2bids.masks.files import check_same_space, load_mask, read_origin
from llm2bids.masks.maps import open_image
from llm2bids.results.summaries import SUMMARY as GLM
from llm2bids.results.targets import read_map
from llm2bids.space import UnitSpace
from llm2bids.space.identity import check_same_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_VOLUMES: Final = 4
"""Axes of an image of several maps."""


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """One network, and the map it was cut from where there is one.

    - `of`: what it was found in: a run, a subject, a file.
    - `selected` (n_units,): its units.
    - `values` (n_units,): its map; its units as 0 and 1 where there is none.
    """

    name: str
    of: str
    file: Path
    selected: NDArray[np.bool_]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TemplateSet:
    """Networks of one geometry.

    - `space`: which voxel is which unit.
    - `fields`: whose units they are, as sidecars say.
    """

    space: UnitSpace
    items: tuple[Template, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names; where one is there twice, all with what they were found in."""
        plain = [one.name for one in self.items]
        if len(set(plain)) == len(plain):
            return plain
        short = dict(zip(self.groups, short_names([f"{group}_" for group in self.groups]), strict=True))
        return [f"{short[one.of].replace('_', ' ')} {one.name}" for one in self.items]

    @property
    def groups(self) -> list[str]:
        """What networks were found in, each once."""
        return list(dict.fromkeys(one.of for one in self.items))

    @property
    def selected(self) -> NDArray[np.bool_]:
        """Units of each, shape (n_networks, n_units)."""
        return np.stack([one.selected for one in self.items])

    @property
    def values(self) -> NDArray[np.float64]:
        """Map of each, shape (n_networks, n_units)."""
        return np.stack([one.values for one in self.items])


def read_set(given: str | Path | Sequence[str | Path], like: UnitSpace | None = None) -> TemplateSet:
    """Read a set of networks.

    `given`: A folder of results of ``glm`` or ``ica``; any other folder, whose masks are taken; an image of several
    maps; a pattern such as ``'masks/*.nii.gz'``; or masks of any format. Returns networks that are not empty, in order
    of name.
    """
    listed = [given] if isinstance(given, str | Path) else list(given)
    found = [part for one in listed for part in _read(Path(one), like)]
    if not found:
        raise DatasetError(f"no map or mask found in {', '.join(map(str, listed))}; give results or files of networks")
    space, fields = found[0][1], found[0][2]
    for template, other, own in found[1:]:
        names = (found[0][0].file.name, template.file.name)
        check_same_space(space, other, names)
        check_same_model(fields, own, names)
    items = tuple(template for template, _, _ in found if template.selected.any())
    if not items:
        raise MaskError(f"all networks of {', '.join(map(str, listed))} are empty; choose units with a lower bound")
    return TemplateSet(space, items, fields)


def read_result(summary: Path) -> TemplateSet:
    """Read the networks of one result.

    Returns its networks, also empty ones, in its own order.
    """
    parts = _of(summary)
    _, space, fields = parts[0]
    return TemplateSet(space, tuple(template for template, _, _ in parts), fields)


def _read(path: Path, like: UnitSpace | None) -> list[tuple[Template, UnitSpace, Mapping[str, Any]]]:
    """What a folder, pattern or file holds."""
    if path.is_dir():
        summaries = sorted((*path.rglob(f"*_{GLM}"), *path.rglob(f"*_{ICA}")))
        parts = [part for one in summaries if one.parent.name == "func" or "group" in one.parts for part in _of(one)]
        if parts:
            return parts
        masks = sorted(one for one in path.rglob("*_mask.nii*") if "_desc-brain_" not in one.name)
        return _of_masks(masks, like)
    if path.is_file():
        if path.name.endswith((".nii", ".nii.gz")) and len(open_image(path).shape) == _VOLUMES:
            return _of_volumes(path, like)
        return _of_masks([path], like)
    matching = sorted(path.parent.glob(path.name)) if any(sign in path.name for sign in "*?[") else []
    if not matching:
        raise DatasetError(f"{path} is not there; give a folder of results, an image of components, or masks")
    if len(matching) == 1:
        return _read(matching[0], like)
    return _of_masks(matching, like)


def _of(summary: Path) -> list[tuple[Template, UnitSpace, Mapping[str, Any]]]:
    """Networks of one result of ``glm`` or ``ica``."""
    told = read_json(summary)
    if summary.name.endswith(f"_{ICA}"):
        return _of_components(summary, told)
    space = UnitSpace.from_json(told["Llm2bids"]["UnitSpace"])
    parts = []
    for found in told["Found"]:
        mask, z_map = (summary.with_name(found[key]) for key in ("mask", "z_map"))
        name = told["Task"] if len(told["Found"]) == 1 else f"{told['Task']} {found['contrast']}"
        selected, values = (np.asarray(read_map(one, space), np.float64) for one in (mask, z_map))
        template = Template(name, f"{told['Subject']}, {told['Task']}", mask, selected != 0, values)
        parts.append((template, space, told["Llm2bids"]))
    return parts


def _of_components(summary: Path, told: dict[str, Any]) -> list[tuple[Template, UnitSpace, Mapping[str, Any]]]:
    """Components of one decomposition."""
    space = UnitSpace.from_json(told["Llm2bids"]["UnitSpace"])
    values = np.asarray(read_map(summary.with_name(told["Components"]), space), np.float64)
    parts = []
    for own, name in zip(values, told["Masks"], strict=True):
        mask = summary.with_name(name)
        label = parse_name(name)[1]["desc"]
        selected = read_map(mask, space) != 0
        parts.append((Template(label, told["Name"], mask, selected, own), space, told["Llm2bids"]))
    return parts


def _of_volumes(path: Path, like: UnitSpace | None) -> list[tuple[Template, UnitSpace, Mapping[str, Any]]]:
    """Maps of any program along the fourth axis, cut as those of ``ica`` are by default."""
    origin = read_origin(path)
    space = origin.space or like
    if space is None:
        raise MaskError(f"{path} has no sidecar of ours that says which voxel is which unit; put one beside it")
    values = np.asarray(read_map(path, space), np.float64)
    there = (values != 0).any(0)
    z = np.zeros_like(values)
    z[:, there] = over_units(values[:, there], robust=True)
    return [
        (Template(f"map{number:02d}", path.name, path, own > ROBUST_Z, raw), space, origin.fields)
        for number, (own, raw) in enumerate(zip(z, values, strict=True), 1)
    ]


def _of_masks(paths: Sequence[Path], like: UnitSpace | None) -> list[tuple[Template, UnitSpace, Mapping[str, Any]]]:
    """Masks of any format, named by what differs between them."""
    names = short_names([path.name for path in paths])
    parts: list[tuple[Template, UnitSpace, Mapping[str, Any]]] = []
    for path, name in zip(paths, names, strict=True):
        if read_origin(path).space is None and like is not None and path.name.endswith((".nii", ".nii.gz")):
            selected, space, fields = np.asarray(read_map(path, like)) != 0, like, dict[str, Any]()
        else:
            mask = load_mask(path)
            selected, space, fields = mask.selected, mask.space, dict(mask.provenance)
        template = Template(name, _run_of(path), path, selected, selected.astype(np.float64))
        parts.append((template, space, fields))
    return parts


def _run_of(path: Path) -> str:
    """The run a mask is of, as far as its name says; else its folder, so that masks of one folder are one set."""
    entities = parse_name(path.name)[1]
    keys = ("sub", "ses", "task", "run")
    return (
        "_".join(f"{key}-{entities[key]}" for key in keys if key in entities) if "run" in entities else path.parent.name
    )
