"""Masks as files: reading and writing any format, and which model and space a file belongs to."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.bids.names import sidecar_of
from llm2bids.bids.nifti import write_image
from llm2bids.bids.provenance import generated_by
from llm2bids.bids.tables import read_json, read_tsv, write_bytes, write_json, write_tsv
from llm2bids.bids.templates import template_json
from llm2bids.errors import DatasetError, MaskError, SpaceError
from llm2bids.masks.maps import IMAGE_SUFFIXES, is_binary, read_volume, select_units, split_volume
from llm2bids.space import Selection, UnitMask, UnitSpace
from llm2bids.space.identity import IDENTITY, check_same_model, model_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_TARGETS = (".nii.gz", ".tsv", ".json", ".safetensors")


@dataclass(frozen=True, slots=True)
class Origin:
    """Which units a file is about, as far as it or its sidecar says.

    `fields`: model and whatever else is known: object ``Llm2bids`` of a sidecar, provenance of a mask.
    """

    space: UnitSpace | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """Model and site of the units."""
        return {key: self.fields[key] for key in IDENTITY if self.fields.get(key) is not None}


def load_mask(path: str | Path, like: str | Path | None = None) -> UnitMask:
    """Read a mask of any format.

    Parameters
    ----------
    path : path-like
        ``.nii.gz``, ``.nii`` or AFNI image that is 0 and one other value, ``.tsv`` with columns hookpoint and channel,
        ``.json`` or ``.safetensors``.
    like : path-like, optional
        Bold, map or mask of the same recording, or a JSON file, that says which voxel is which unit. Needed for images
        and tables without a sidecar of ours; checked against what the mask says of itself.

    Returns
    -------
    UnitMask
        The mask; its provenance is that with which it was saved.

    Raises
    ------
    MaskError
        If the file is missing, damaged, no mask, of unknown units, or of another model than `like`.
    SpaceError
        If it lies on another grid, or names units that do not exist.
    """
    path = existing(path)
    if path.suffix in {".json", ".safetensors"}:
        mask = _self_contained(path)
        space, provenance = place(path, like)
        return UnitMask(space, mask.selected, provenance)
    space, provenance = place(path, like)
    if path.suffix == ".tsv":
        table = read_tsv(path).rename(columns=str.strip)  # spreadsheets end lines with \r\n
        return UnitMask.from_table(table.apply(lambda column: column.str.strip()), space, provenance)
    volume = read_volume(path, space)
    if not is_binary(volume):
        raise MaskError(f"{path} holds a map of many values, a mask is needed; make one with llm2bids mask convert")
    with prefix_errors(path):
        return UnitMask(space, select_units(Selection(), *split_volume(volume, space), space), provenance)


@contextmanager
def prefix_errors(path: Path) -> Iterator[None]:
    """Put the file's name before the message of a `MaskError`."""
    try:
        yield
    except MaskError as error:
        raise MaskError(f"{path}: {error}") from error


def save_mask(mask: UnitMask, path: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write a mask, all its files or none.

    Parameters
    ----------
    mask : UnitMask
        What to write.
    path : path-like
        File ending in ``.nii.gz`` or ``.tsv``, which get a ``.json`` beside them, ``.json`` or ``.safetensors``.
    overwrite : bool
        Replace files that are there.

    Returns
    -------
    list of Path
        The files, the mask itself first.

    Raises
    ------
    MaskError
        If the name ends otherwise, a file is there, or the folder cannot be written.
    """
    path = Path(path)
    check_target(path, (), overwrite=overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".llm2bids-") as folder:
            stage = Path(folder)
            _write(mask, stage / path.name)
            return [(stage / file.name).replace(file) for file in _files(path)]
    except OSError as error:
        raise MaskError(f"{path} cannot be written ({error.strerror or error}); choose another folder") from error


def check_target(target: Path, sources: Sequence[Path], *, overwrite: bool) -> None:
    """Raise if a target cannot be written, before any work is done."""
    if not target.name.endswith(_TARGETS) or target.name in _TARGETS:
        raise MaskError(f"target {target.name} found; end it with {', '.join(_TARGETS)}")
    read = {file.resolve() for source in sources for file in (source, sidecar_of(source))}
    for file in _files(target):
        if file.resolve() in read:
            name = target.name.replace(".", "_units.", 1)
            raise MaskError(f"{file} belongs to a file this is made from; give the target another name, e.g. {name}")
        if file.exists() and not overwrite:
            raise MaskError(f"{file} is there already; choose another name, or replace it with overwrite=True")
        if file.exists() and not _is_mask(file):
            raise MaskError(f"{file} is no mask of ours, and is not replaced; choose another name, or remove it")


def place(path: Path, like: str | Path | None) -> tuple[UnitSpace, dict[str, Any]]:
    """Find the units that a file is about: their space, and the provenance of the file.

    `like`: a file that knows them, where the file itself does not; checked against what the file says. A file that says
    nothing takes the identity of `like`.
    """
    origin = read_origin(path)
    is_foreign = origin.space is None and not origin.fields
    metadata = {"Source": path.name, "SourceSHA256": file_sha256(path)} if is_foreign else dict(origin.fields)
    if like is None:
        if origin.space is None:
            raise MaskError(
                f"{path} has no sidecar of ours that says which voxel is which unit; "
                "give a bold, map or mask of the same recording as `like`"
            )
        return origin.space, metadata
    like = existing(like)
    reference = read_origin(like)
    if reference.space is None:
        raise MaskError(f"{like} says of no unit where it lies; `like` needs a bold, map or mask that llm2bids wrote")
    check_same_model(origin.fields, reference.fields, (path.name, like.name))
    if origin.space is not None:
        check_same_space(origin.space, reference.space, (path.name, like.name))
    site = {"Site": reference.space.site} if is_foreign else {}
    return reference.space, reference.identity | site | metadata


def check_same_space(first: UnitSpace, second: UnitSpace, names: tuple[str, str]) -> None:
    """Raise if units are of two spaces."""
    if first == second:
        return
    texts = [f"space {space.label} ({space.hookpoints[0]} to {space.hookpoints[-1]})" for space in (first, second)]
    raise MaskError(
        f"{names[0]} lies in {texts[0]} and {names[1]} in {texts[1]}; use files of one model and one site only"
    )


def read_origin(path: Path) -> Origin:
    """Read which units a mask or JSON file is about, or an image or table by its sidecar, if there is one."""
    if path.suffix == ".safetensors":
        mask = UnitMask.from_safetensors(path)
        return Origin(mask.space, mask.provenance)
    sidecar = path if path.suffix == ".json" else sidecar_of(path)
    fields = read_json(sidecar) if sidecar.exists() else {}
    if isinstance(metadata := fields.get("Llm2bids"), dict):
        space = metadata.get("UnitSpace")
        provenance = {key: value for key, value in metadata.items() if key != "UnitSpace"}
        return Origin(UnitSpace.from_json(space) if space else None, provenance)
    if "Space" in fields:
        return Origin(UnitSpace.from_json(fields["Space"]), fields.get("Provenance") or {})
    return Origin(UnitSpace.from_json(fields)) if "Hookpoints" in fields else Origin()


def existing(path: str | Path) -> Path:
    """A path; raises if it is no file, or of unknown format."""
    path = Path(path)
    if not path.is_file():
        raise MaskError(f"{path} is no file; give a map or mask that is there")
    if not path.name.endswith((*IMAGE_SUFFIXES, *_TARGETS)):
        raise MaskError(f"{path} is of unknown format; give one of {', '.join((*_TARGETS, *IMAGE_SUFFIXES[1:]))}")
    return path


def file_sha256(path: Path) -> str:
    """Hash a file; of a header and its voxels in a file apart, the voxels."""
    voxels = {".HEAD": (".BRIK", ".BRIK.gz"), ".hdr": (".img", ".img.gz")}.get(path.suffix, ())
    pair = [path.with_name(path.name.removesuffix(path.suffix) + suffix) for suffix in voxels]
    with next((file for file in pair if file.exists()), path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def choice_text(provenance: Mapping[str, Any]) -> str:
    """Describe in words how the units of a mask were chosen."""
    source = provenance.get("Source", "a map")
    if "Operation" in provenance:
        origins = [origin for origin in provenance.get("Of", []) if isinstance(origin, dict)]
        files = [str(origin.get("File", "a mask")) for origin in origins]
        text = f"{provenance['Operation']} of {', '.join(files)}"
    elif "Rule" in provenance:
        text = f"{provenance['Rule']} in {source}" + (
            f", volume {provenance['Volume']}" if "Volume" in provenance else ""
        )
    elif isinstance(test := provenance.get("Statistics"), dict):
        text = f"{test['Correction']} at {test['Alpha']:g}, {test['Inference']}s as samples"
    else:
        text = str(provenance.get("Description") or f"units chosen in {source}")
    contrast = provenance.get("Contrast")
    name = contrast.get("Name") if isinstance(contrast, dict) else contrast
    return f"{text}, contrast {name}" if name else text


def _self_contained(path: Path) -> UnitMask:
    """Read a mask from a format that holds its space too."""
    if path.suffix == ".safetensors":
        return UnitMask.from_safetensors(path)
    fields = read_json(path)
    if not all(isinstance(fields.get(key, {}), dict) for key in ("Space", "Units", "Provenance")):
        raise MaskError(f"{path} is no mask (its Space, Units or Provenance is no object); convert the map again")
    try:
        return UnitMask.from_json(fields)
    except SpaceError as error:
        raise SpaceError(f"{path}: {error}") from error


def _is_mask(path: Path) -> bool:
    """Whether llm2bids wrote a file for a mask."""
    if path.suffix == ".safetensors":
        try:
            return bool(UnitMask.from_safetensors(path).space)
        except SpaceError:
            return False
    if path.suffix != ".json":
        return sidecar_of(path).is_file() and _is_mask(sidecar_of(path))
    try:
        fields = read_json(path)
    except DatasetError:
        return False
    described = "Llm2bids" in fields and ("unit" in fields or fields.get("Type") == "ROI")
    return described or {"Space", "Units"} <= set(fields)


def _files(path: Path) -> list[Path]:
    """The files of a mask of this name."""
    return [path, sidecar_of(path)] if path.name.endswith((".nii.gz", ".tsv")) else [path]


def _write(mask: UnitMask, path: Path) -> None:
    """Write the files of a mask."""
    metadata = {"Llm2bids": {**mask.provenance, "UnitSpace": mask.space.to_json()}}
    source = mask.provenance.get("Source")
    shared = {
        "Description": f"Units of {model_text(mask.provenance)}: {choice_text(mask.provenance)}.",
        "Sources": [origin["File"] for origin in mask.provenance.get("Of", []) if "File" in origin]
        or [source] * bool(source),
        "GeneratedBy": generated_by(),
    }
    if path.name.endswith(".nii.gz"):
        write_image(path, mask.to_image())
        write_json(sidecar_of(path), {"Type": "ROI", **shared, **metadata})
    elif path.suffix == ".tsv":
        write_tsv(path, mask.table())
        columns = template_json("units.json")
        write_json(sidecar_of(path), {**shared, **{name: columns[name] for name in mask.table().columns}, **metadata})
    elif path.suffix == ".json":
        write_json(path, mask.to_json())
    else:
        # safetensors makes files that nobody but their owner can read
        write_bytes(path, mask.to_safetensors(path).read_bytes())
