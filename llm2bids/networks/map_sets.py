"""Sets of networks from any source: results of ``glm`` or ``ica``, images of components, masks of any tool."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from llm2bids.bids.names import parse_name, short_names
from llm2bids.bids.tables import read_json
from llm2bids.decomposition.components import z_over_units
from llm2bids.decomposition.settings import ROBUST_Z
from llm2bids.decomposition.summaries import SUMMARY as ICA
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

_N_AXES: Final = 4
"""Axes of an image of several maps."""


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """One network, and its map.

    - `group`: run, subject or file that it was found in.
    - `selected` (n_units,): its units.
    - `values` (n_units,): its map; 1 and 0 for a mask without a map.
    """

    name: str
    group: str
    file: Path
    selected: NDArray[np.bool_]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TemplateSet:
    """Networks of one geometry.

    - `metadata`: model of the units, as sidecars describe it.
    """

    space: UnitSpace
    items: tuple[Template, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the networks; with their groups if a name occurs twice."""
        plain = [item.name for item in self.items]
        if len(set(plain)) == len(plain):
            return plain
        short = dict(zip(self.groups, short_names([f"{group}_" for group in self.groups]), strict=True))
        return [f"{short[item.group].replace('_', ' ')} {item.name}" for item in self.items]

    @property
    def groups(self) -> list[str]:
        """Runs, subjects or files of the networks, each once."""
        return list(dict.fromkeys(item.group for item in self.items))

    @property
    def selected(self) -> NDArray[np.bool_]:
        """Units of each network, shape (n_networks, n_units)."""
        return np.stack([item.selected for item in self.items])

    @property
    def values(self) -> NDArray[np.float64]:
        """Map of each network, shape (n_networks, n_units)."""
        return np.stack([item.values for item in self.items])


_Part: TypeAlias = tuple[Template, UnitSpace, "Mapping[str, Any]"]
"""A network, its space, and the metadata of its model."""


def read_set(paths: str | Path | Sequence[str | Path], like: UnitSpace | None = None) -> TemplateSet:
    """Read a set of networks.

    `paths`: a folder of results of ``glm`` or ``ica``; any other folder, of which all masks are read; an image of
    several maps; a pattern such as ``'masks/*.nii.gz'``; or masks of any format. `like`: space of images without a
    sidecar of ours. Returns networks that are not empty, in order of name.
    """
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    parts = [part for path in listed for part in _read(Path(path), like)]
    if not parts:
        raise DatasetError(f"no map or mask found in {', '.join(map(str, listed))}; give results or files of networks")
    first, space, metadata = parts[0]
    for template, other_space, other_metadata in parts[1:]:
        names = (first.file.name, template.file.name)
        check_same_space(space, other_space, names)
        check_same_model(metadata, other_metadata, names)
    items = tuple(template for template, _, _ in parts if template.selected.any())
    if not items:
        raise MaskError(f"all networks of {', '.join(map(str, listed))} are empty; choose units with a lower bound")
    return TemplateSet(space, items, metadata)


def read_result(summary: Path) -> TemplateSet:
    """Read the networks of one result, in its own order; empty ones too."""
    parts = _read_summary(summary)
    _, space, metadata = parts[0]
    return TemplateSet(space, tuple(template for template, _, _ in parts), metadata)


def _read(path: Path, like: UnitSpace | None) -> list[_Part]:
    """Read the networks in a folder, pattern or file."""
    if path.is_dir():
        summaries = sorted((*path.rglob(f"*_{GLM}"), *path.rglob(f"*_{ICA}")))
        results = [summary for summary in summaries if summary.parent.name == "func" or "group" in summary.parts]
        if parts := [part for summary in results for part in _read_summary(summary)]:
            return parts
        masks = sorted(mask for mask in path.rglob("*_mask.nii*") if "_desc-brain_" not in mask.name)
        return _read_masks(masks, like)
    if path.is_file():
        if path.name.endswith((".nii", ".nii.gz")) and len(open_image(path).shape) == _N_AXES:
            return _read_volumes(path, like)
        return _read_masks([path], like)
    matching = sorted(path.parent.glob(path.name)) if any(sign in path.name for sign in "*?[") else []
    if not matching:
        raise DatasetError(f"{path} is not there; give a folder of results, an image of components, or masks")
    if len(matching) == 1:
        return _read(matching[0], like)
    return _read_masks(matching, like)


def _read_summary(summary: Path) -> list[_Part]:
    """Read the networks of one result of ``glm`` or ``ica``."""
    fields = read_json(summary)
    if summary.name.endswith(f"_{ICA}"):
        return _read_components(summary, fields)
    space = UnitSpace.from_json(fields["Llm2bids"]["UnitSpace"])
    parts: list[_Part] = []
    for result in fields["Found"]:
        mask, z_map = (summary.with_name(result[key]) for key in ("mask", "z_map"))
        name = fields["Task"] if len(fields["Found"]) == 1 else f"{fields['Task']} {result['contrast']}"
        selected, values = (np.asarray(read_map(path, space), np.float64) for path in (mask, z_map))
        template = Template(name, f"{fields['Subject']}, {fields['Task']}", mask, selected != 0, values)
        parts.append((template, space, fields["Llm2bids"]))
    return parts


def _read_components(summary: Path, fields: Mapping[str, Any]) -> list[_Part]:
    """Read the components of one decomposition."""
    space = UnitSpace.from_json(fields["Llm2bids"]["UnitSpace"])
    maps = np.asarray(read_map(summary.with_name(fields["Components"]), space), np.float64)
    parts: list[_Part] = []
    for values, name in zip(maps, fields["Masks"], strict=True):
        mask = summary.with_name(name)
        label = parse_name(name)[1]["desc"]
        selected = read_map(mask, space) != 0
        parts.append((Template(label, fields["Name"], mask, selected, values), space, fields["Llm2bids"]))
    return parts


def _read_volumes(path: Path, like: UnitSpace | None) -> list[_Part]:
    """Read maps of any program along the fourth axis; units are selected as ``ica`` does by default."""
    origin = read_origin(path)
    space = origin.space or like
    if space is None:
        raise MaskError(f"{path} has no sidecar of ours that says which voxel is which unit; put one beside it")
    maps = np.asarray(read_map(path, space), np.float64)
    # Units that are 0 in all maps lie outside the mask of that program, and would shift median and deviation.
    inside = (maps != 0).any(0)
    z = np.zeros_like(maps)
    z[:, inside] = z_over_units(maps[:, inside], robust=True)
    return [
        (Template(f"map{number:02d}", path.name, path, scores > ROBUST_Z, values), space, origin.fields)
        for number, (scores, values) in enumerate(zip(z, maps, strict=True), 1)
    ]


def _read_masks(paths: Sequence[Path], like: UnitSpace | None) -> list[_Part]:
    """Read masks of any format, and name them by what differs between their files."""
    names = short_names([path.name for path in paths])
    parts: list[_Part] = []
    for path, name in zip(paths, names, strict=True):
        if read_origin(path).space is None and like is not None and path.name.endswith((".nii", ".nii.gz")):
            selected, space, metadata = np.asarray(read_map(path, like)) != 0, like, dict[str, Any]()
        else:
            mask = load_mask(path)
            selected, space, metadata = mask.selected, mask.space, dict(mask.provenance)
        parts.append((Template(name, _group_of(path), path, selected, selected.astype(np.float64)), space, metadata))
    return parts


def _group_of(path: Path) -> str:
    """Return the run that the name of a mask says; else its folder, so that masks of one folder are one group."""
    entities = parse_name(path.name)[1]
    if "run" not in entities:
        return path.parent.name
    return "_".join(f"{key}-{entities[key]}" for key in ("sub", "ses", "task", "run") if key in entities)
