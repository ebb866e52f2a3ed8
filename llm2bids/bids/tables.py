"""Reads and writes tables and sidecars as BIDS wants them; files are written whole or not at all."""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from llm2bids.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file under a temporary name, and rename it when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o666 & ~_umask())
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return path


def write_json(path: Path, fields: Mapping[str, Any]) -> Path:
    """Write a sidecar."""
    return write_bytes(path, (json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


class _Fields(dict[str, Any]):
    """Fields of a file, at any depth; a missing key raises an error that names the file."""

    path: Path

    def __missing__(self, key: str) -> Any:
        raise DatasetError(
            f"{self.path} lacks the field {key!r}; restore it, or make it again with this version of llm2bids"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read the fields of a sidecar; a key that is missing in them, at any depth, raises `DatasetError` later."""

    def with_path(content: dict[str, Any]) -> _Fields:
        fields = _Fields(content)
        fields.path = path
        return fields

    try:
        fields = json.loads(path.read_text(encoding="utf-8"), object_hook=with_path)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); restore it or record again") from error
    if not isinstance(fields, dict):
        raise DatasetError(f"{path} holds a {type(fields).__name__}, an object is needed; restore it or record again")
    return fields


def write_tsv(path: Path, table: pd.DataFrame) -> Path:
    """Write a table with a header; missing values become ``n/a``."""
    return write_bytes(path, _tsv(table, header=True).encode())


def read_tsv(path: Path) -> pd.DataFrame:
    """Read a table; all cells are text, and none becomes a missing value."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if text.partition("\n")[0].endswith("\r"):  # the whole file was written on Windows
            text = text.replace("\r\n", "\n")
        table = pd.read_csv(io.StringIO(text), sep="\t", dtype=str, keep_default_na=False, lineterminator="\n")
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); restore it or record again") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise DatasetError(f"{path} cannot be read (rows have more fields than the header); mend it")
    return table


def write_stim(path: Path, table: pd.DataFrame) -> Path:
    """Write a ``_stim.tsv.gz``: no header line (BIDS 1.11, physiological and other continuous recordings).

    Its gzip header has no name and no time, so that the same table gives the same bytes.
    """
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 6, packed, mtime=0) as file:
        file.write(_tsv(table, header=False).encode())
    return write_bytes(path, packed.getvalue())


def read_stim(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a table that `write_stim` wrote."""
    try:
        return pd.read_csv(path, sep="\t", names=list(columns), header=None, na_values="n/a", compression="gzip")
    except (OSError, EOFError, ValueError, zlib.error, pd.errors.ParserError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); restore it or record again") from error


def _tsv(table: pd.DataFrame, *, header: bool) -> str:
    """A table as text; six digits are more than float32 activations justify."""
    return str(
        table.to_csv(None, sep="\t", index=False, header=header, na_rep="n/a", float_format="%.6g", lineterminator="\n")
    )


def _umask() -> int:
    """The permissions that new files must not have; can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
