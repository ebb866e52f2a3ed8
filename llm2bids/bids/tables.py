"""Tables and sidecars as BIDS wants them, written whole or not at all."""

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
    """Write a file that appears under its name only when complete."""
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
    """What a file says, at any depth; to ask for what it does not say is an error that names the file."""

    path: Path

    def __missing__(self, key: str) -> Any:
        raise DatasetError(
            f"{self.path} lacks the field {key!r}; restore it, or make it again with this version of llm2bids"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a sidecar.

    Returns its fields. To ask it, or an object in it, for a field that is not there raises `DatasetError` too.
    """

    def told(fields: dict[str, Any]) -> _Fields:
        made = _Fields(fields)
        made.path = path
        return made

    try:
        fields = json.loads(path.read_text(encoding="utf-8"), object_hook=told)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); restore it or record again") from error
    if not isinstance(fields, dict):
        raise DatasetError(f"{path} holds a {type(fields).__name__}, an object is needed; restore it or record again")
    return fields


def write_tsv(path: Path, table: pd.DataFrame) -> Path:
    """Write a table with a header; missing values become ``n/a``."""
    return write_bytes(path, _tsv(table, header=True).encode())


def read_tsv(path: Path) -> pd.DataFrame:
    """Read a table as text, nothing taken for a missing value."""
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
    """Write a ``_stim.tsv.gz``: no header (BIDS 1.11, physiological and other continuous recordings).

    Returns the file; no name or time in its gzip header.
    """
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 6, packed, mtime=0) as file:
        file.write(_tsv(table, header=False).encode())
    return write_bytes(path, packed.getvalue())


def read_stim(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read what `write_stim` wrote."""
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
    """The permissions new files should not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
