"""Streams volumes: writes NIfTI-1 files whose length is known only at the end, and reads them, in constant memory.

A compressed file is one gzip member without name or time. Its first deflate block is *stored* and holds the 352 bytes
of header, so that the number of scans can be patched in place at the end. The checksum of the file is combined from
that of the header and that of the scans. Several gzip members in one file would be simpler, but the BIDS validator
reads only the first.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self, cast

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from llm2bids.bids.tables import write_bytes
from llm2bids.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from llm2bids.space import UnitSpace

HEADER_SIZE: Final = 352
"""Bytes of a NIfTI-1 header with its (unset) extension flag; the scans begin after it."""
MAX_SCANS: Final = 32767
"""NIfTI-1 counts scans in 16 bits; FSL, AFNI and the older BIDS validator do not read NIfTI-2."""
_GZIP_START: Final = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
_STORED_BLOCK: Final = b"\x00" + struct.pack("<HH", HEADER_SIZE, HEADER_SIZE ^ 0xFFFF)
_CHUNK: Final = 1 << 20
_LEVEL: Final = 1
_BROKEN: Final[tuple[type[Exception], ...]] = (
    OSError,
    EOFError,
    ValueError,
    KeyError,  # a type that nibabel does not know
    OverflowError,
    cast("type[Exception]", isal_zlib.error),
    ImageFileError,
    HeaderDataError,
    WrapStructError,
)
"""Exceptions of reading a file that is no NIfTI, truncated or corrupted."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Grid of the volumes of a file.

    - `shape`: voxels along x, y and z.
    - `affine` (4, 4): voxel indices to millimetres.
    - `t_r`: repetition time in seconds.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64] = field(compare=False)
    t_r: float = 1.0

    def header(self, n_scans: int) -> bytes:
        """Compose the header of a float32 file."""
        header = nib.Nifti1Header(endianness="<")
        header.set_data_dtype(np.float32)
        header.set_data_shape((*self.shape, n_scans))
        header.set_zooms((*voxel_sizes(self.affine), self.t_r))
        header.set_sform(self.affine, code=1)
        header.set_qform(self.affine, code=1)
        header.set_xyzt_units("mm", "sec")
        header["vox_offset"] = HEADER_SIZE
        header["magic"] = b"n+1"
        block: bytes = header.binaryblock
        return block + bytes(4)


def write_image(path: Path, image: nib.Nifti1Image) -> Path:
    """Write one image at once; its gzip header has no name and no time, so that equal images give equal bytes."""
    if not path.name.endswith(".nii.gz"):
        raise DatasetError(f"file name {path.name} found; end it with .nii.gz")
    return write_bytes(path, isal_zlib.compress(image.to_bytes(), _LEVEL, 16 + zlib.MAX_WBITS))


def read_scans(path: Path, max_bytes: int = 1 << 26) -> Iterator[NDArray[np.float32]]:
    """Read the scans of a 4-D file in pieces of at most `max_bytes`, at least one scan: shape (n_scans, z, y, x)."""
    try:
        with _open(path) as file:
            header = _read_header(file)
            dtype, shape = header.get_data_dtype(), header.get_data_shape()
            if len(shape) != len("xyzt"):
                raise DatasetError(f"{path} holds {len(shape)} axes, scans need 4; give a bold file")
            file.seek(int(header["vox_offset"]))
            slope, intercept = header.get_slope_inter()
            n_values = int(np.prod(shape[:3]))
            n_unread, at_a_time = shape[3], max(1, max_bytes // (n_values * max(dtype.itemsize, 4)))
            while n_unread:
                n_scans = min(at_a_time, n_unread)
                payload = file.read(n_scans * n_values * dtype.itemsize)
                with np.errstate(over="ignore"):  # infinity is for whoever uses the scans to refuse
                    values = np.frombuffer(payload, dtype).astype(np.float32, copy=False)
                    if slope is not None:
                        values = values * np.float32(slope) + np.float32(intercept)
                yield values.reshape(n_scans, *shape[2::-1])
                n_unread -= n_scans
            if file.read(1):
                raise DatasetError(f"{path} goes on after its last scan; record or prepare it again")
    except _BROKEN as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{path} cannot be read to its end ({error}): truncated or corrupted; record or prepare it again"
        ) from error


def read_signals(path: Path, space: UnitSpace, advice: str, max_bytes: int = 1 << 23) -> Iterator[NDArray[np.float32]]:
    """Read the units of a 4-D file in pieces of at most `max_bytes`, at least one scan: shape (n_scans, n_units)."""
    for volumes in read_scans(path, max_bytes):
        if volumes.shape[1:] != space.shape[::-1]:
            raise DatasetError(
                f"{path.name} has {volumes.shape[:0:-1]} voxels, {space.shape} needed for {space.label}; {advice}"
            )
        yield space.from_volumes(volumes)


def n_scans_of(path: Path) -> int:
    """Read the number of scans from a header."""
    try:
        with _open(path) as file:
            shape = _read_header(file).get_data_shape()
    except _BROKEN as error:
        raise DatasetError(f"{path} is no NIfTI-1 file ({error}); record or prepare it again") from error
    return int(shape[3]) if len(shape) > 3 else 1  # noqa: PLR2004 - the scan axis


def _open(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed."""
    return cast("BinaryIO", igzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def _read_header(file: BinaryIO) -> nib.Nifti1Header:
    """The header of a file; raises if no scans can be read with it."""
    header = nib.Nifti1Header(file.read(348), check=False)  # a check repairs it, and prints that
    if header["magic"].item() != b"n+1":
        raise HeaderDataError("its header is not one of NIfTI-1 in a single file")
    dtype, shape = header.get_data_dtype(), header.get_data_shape()
    if dtype.kind not in "iuf" or min(shape[:3], default=0) < 1 or min(shape) < 0:
        raise HeaderDataError(f"{dtype} of shape {shape} found, real numbers needed")
    return header


class NiftiWriter:
    """Append scans to a float32 NIfTI-1 file that appears under its name only when complete.

    A separate thread compresses and writes while the caller goes on. Use it as a context manager: leaving it normally
    finishes the file, leaving it by an exception removes it. A ``.nii`` file can be memory-mapped from byte 352 on.
    """

    def __init__(self, path: str | Path, grid: Grid) -> None:
        self.path = Path(path)
        if not self.path.name.endswith((".nii", ".nii.gz")):
            raise DatasetError(f"file name {self.path.name} found; end it with .nii.gz or .nii")
        self.grid = grid
        self.n_scans = 0
        self._partial = self.path.with_name(f".{self.path.name}.part")
        self._buffer = bytearray()
        self._chunks: Queue[bytes | None] = Queue(maxsize=8)
        self._failure: BaseException | None = None
        self._closed = False
        self._file = self._partial.open("wb")
        self._thread = threading.Thread(target=self._write, name=f"write {self.path.name}", daemon=True)
        self._thread.start()

    def append(self, volumes: NDArray[Any]) -> None:
        """Add scans, shape (n_scans, z, y, x), which are stored as float32."""
        if volumes.ndim != len(self.grid.shape) + 1 or volumes.shape[1:] != self.grid.shape[::-1]:
            raise DatasetError(f"scans of shape {volumes.shape[1:]} (z, y, x) found, {self.grid.shape[::-1]} needed")
        if self.n_scans + len(volumes) > MAX_SCANS:
            raise DatasetError(
                f"a run of more than {MAX_SCANS} scans found, the most a NIfTI-1 file holds; record shorter runs"
            )
        if self._closed:
            raise ValueError(f"{self.path.name} is closed")
        if not len(volumes):
            return
        self.n_scans += len(volumes)
        for chunk in self._full_chunks(np.ascontiguousarray(volumes, "<f4").data.cast("B")):
            self._put(chunk)

    def close(self) -> Path:
        """Finish the file and give it its name."""
        if self._closed:
            return self.path
        try:
            self._put(bytes(self._buffer))
            self._stop()
            self._raise_failure()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self.path)
        except BaseException:
            self._discard()
            raise
        return self.path

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file, or remove it after an exception."""
        if kind is None:
            self.close()
        elif not self._closed:
            self._discard()

    def _full_chunks(self, payload: memoryview) -> Iterator[bytes]:
        """Cut bytes into chunks of one size, so that the file does not depend on how scans were batched."""
        while len(self._buffer) + len(payload) >= _CHUNK:
            taken = _CHUNK - len(self._buffer)
            self._buffer += payload[:taken]
            payload = payload[taken:]
            yield bytes(self._buffer)
            self._buffer.clear()
        self._buffer += payload

    def _put(self, chunk: bytes) -> None:
        """Hand a chunk to the thread; the queue's length bounds the memory."""
        self._raise_failure()
        self._chunks.put(chunk)

    def _raise_failure(self) -> None:
        """Raise the exception of the thread, if it failed."""
        if self._failure:
            raise self._failure

    def _stop(self) -> None:
        """Let the thread finish, and wait for it."""
        if not self._closed:
            self._closed = True
            self._chunks.put(None)
            self._thread.join()

    def _discard(self) -> None:
        """Stop, and remove the unfinished file."""
        self._stop()
        with suppress(OSError):  # closing flushes, which fails again on a full disk
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def _write(self) -> None:
        """Run in the thread: write all chunks; after a failure discard the rest, so that the caller never blocks."""
        chunks = iter(self._chunks.get, None)
        try:
            if self.path.suffix == ".gz":
                self._write_compressed(self._file, chunks)
            else:
                self._write_plain(self._file, chunks)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the caller
            self._failure = error
            for _ in chunks:
                pass

    def _write_plain(self, file: BinaryIO, chunks: Iterator[bytes]) -> None:
        """Write a header, the scans, and the header again with the number of scans."""
        file.write(self.grid.header(1))
        file.writelines(chunks)
        file.seek(0)
        file.write(self.grid.header(self.n_scans))

    def _write_compressed(self, file: BinaryIO, chunks: Iterator[bytes]) -> None:
        """Write the same as one gzip member (RFC 1952)."""
        file.write(_GZIP_START + _STORED_BLOCK + self.grid.header(1))
        deflate = isal_zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        checksum = size = 0
        for chunk in chunks:
            checksum = isal_zlib.crc32(chunk, checksum)
            size += len(chunk)
            file.write(deflate.compress(chunk))
        file.write(deflate.flush())
        header = self.grid.header(self.n_scans)
        # A member ends with checksum and size (mod 2^32) of its content: the header, then the scans.
        total = isal_zlib.crc32_combine(isal_zlib.crc32(header), checksum, size)
        file.write(struct.pack("<II", total, (HEADER_SIZE + size) % 2**32))
        file.seek(len(_GZIP_START) + len(_STORED_BLOCK))
        file.write(header)
