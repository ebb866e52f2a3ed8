"""Volumes written as they come: what is in the file, when it appears, and what is left when writing fails."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import threading
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.spatialimages import HeaderDataError

from llm2bids.bids.nifti import Grid, NiftiWriter, write_image
from llm2bids.errors import DatasetError, LLM2BIDSError
from llm2bids.space import UnitSpace

from .limits import full_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SMALL = Grid((5, 4, 3), np.eye(4))
LARGE = Grid((96, 64, 10), np.eye(4))
PATIENCE = 10
NAMES = ["bold.nii.gz", "bold.nii"]

Array = np.ndarray[Any, Any]


def scans_of(grid: Grid, n_scans: int, seed: int = 0) -> Array:
    """Noise, which does not compress away."""
    return np.random.default_rng(seed).normal(size=(n_scans, *reversed(grid.shape))).astype(np.float32)


def written(path: Path, grid: Grid, batches: Sequence[Array]) -> bytes:
    """The bytes of a file appended to in these batches."""
    with NiftiWriter(path, grid) as writer:
        for batch in batches:
            writer.append(batch)
    return path.read_bytes()


def unpacked(content: bytes) -> bytes:
    """The bytes of the only gzip member."""
    member = zlib.decompressobj(16 + zlib.MAX_WBITS)
    plain = member.decompress(content)
    assert member.eof
    assert member.unused_data == b""
    return plain


def in_time(work: Callable[[], object]) -> None:
    """Do the work, or fail where it never ends."""
    failures: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "hangs"
    for failure in failures:
        raise failure


# ---- what is in the file


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), max_size=6), name=st.sampled_from(NAMES))
def test_file_holds_what_was_appended_in_any_batching(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], name: str
) -> None:
    folder = tmp_path_factory.mktemp("batches")
    scans = scans_of(SMALL, sum(sizes))
    in_batches = written(folder / name, SMALL, np.split(scans, np.cumsum(sizes[:-1])) if sizes else [])
    one_by_one = written(folder / name, SMALL, [scan[np.newaxis] for scan in scans])
    assert in_batches == one_by_one
    plain = unpacked(in_batches) if name.endswith(".gz") else in_batches
    assert plain[352:] == scans.tobytes()
    assert np.frombuffer(plain[40:56], "<i2").tolist() == [4, 5, 4, 3, len(scans), 1, 1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_large_files_do_not_depend_on_batching_and_repeat(tmp_path: Path, name: str) -> None:
    scans = scans_of(LARGE, 31)
    whole = written(tmp_path / name, LARGE, [scans])
    assert written(tmp_path / name, LARGE, [scans]) == whole
    assert written(tmp_path / ("another_" + name), LARGE, np.split(scans, [1, 3, 4, 20, 30])) == whole
    assert len(whole) > 5 * 2**20
    plain = unpacked(whole) if name.endswith(".gz") else whole
    assert plain[352:] == scans.tobytes()


def test_compressed_is_plain_compressed(tmp_path: Path) -> None:
    scans = scans_of(LARGE, 7)
    plain = written(tmp_path / "bold.nii", LARGE, [scans])
    assert unpacked(written(tmp_path / "bold.nii.gz", LARGE, [scans])) == plain


@pytest.mark.parametrize(("grid", "n_scans"), [(SMALL, 0), (SMALL, 1), (SMALL, 7), (LARGE, 17)])
def test_python_gzip_and_nibabel_read_it(tmp_path: Path, grid: Grid, n_scans: int) -> None:
    scans = scans_of(grid, n_scans)
    content = written(tmp_path / "bold.nii.gz", grid, [scans] if n_scans else [])
    assert gzip.decompress(content)[352:] == scans.tobytes()
    image = nib.load(tmp_path / "bold.nii.gz")
    assert image.shape == (*grid.shape, n_scans)
    if n_scans:
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, scans)


@pytest.mark.parametrize(("grid", "n_scans"), [(SMALL, 0), (SMALL, 7), (LARGE, 17)])
def test_the_gzip_tool_finds_no_fault(tmp_path: Path, grid: Grid, n_scans: int) -> None:
    gzip_tool = shutil.which("gzip")
    if gzip_tool is None:
        pytest.skip("gzip is not installed")
    written(tmp_path / "bold.nii.gz", grid, [scans_of(grid, n_scans)] if n_scans else [])
    tested = subprocess.run([gzip_tool, "-t", tmp_path / "bold.nii.gz"], capture_output=True, check=False)
    assert (tested.returncode, tested.stderr) == (0, b"")


@pytest.mark.parametrize("write", ["stream", "image"])
def test_gzip_header_has_no_name_and_no_time(tmp_path: Path, write: str) -> None:
    path = tmp_path / "bold.nii.gz"
    if write == "stream":
        written(path, SMALL, [scans_of(SMALL, 2)])
    else:
        write_image(path, UnitSpace.uniform("mlp", ["a", "b"], 11).mask_image())
    start = path.read_bytes()[:10]
    assert start[:3] == b"\x1f\x8b\x08"
    assert start[3:8] == bytes(5)


def test_plain_file_is_a_memory_map_at_352(tmp_path: Path) -> None:
    scans = scans_of(SMALL, 7)
    written(tmp_path / "bold.nii", SMALL, [scans])
    mapped = np.memmap(tmp_path / "bold.nii", "<f4", "r", offset=352, shape=scans.shape)
    np.testing.assert_array_equal(mapped, scans)
    assert (tmp_path / "bold.nii").stat().st_size == 352 + scans.nbytes


@pytest.mark.parametrize("name", NAMES)
def test_header_says_grid_affine_and_time(tmp_path: Path, name: str) -> None:
    affine = np.array([[2.0, 0, 0, -7], [0, 3, 0, 11], [0, 0, 4, -13], [0, 0, 0, 1]])
    written(tmp_path / name, Grid((5, 4, 3), affine, 0.25), [scans_of(SMALL, 7)])
    image = nib.load(tmp_path / name)
    header = image.header
    assert isinstance(image, nib.Nifti1Image)
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    np.testing.assert_array_equal(image.get_sform(), affine)
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-6)
    assert header.get_zooms() == (2, 3, 4, 0.25)
    assert header.get_xyzt_units() == ("mm", "sec")
    assert header.get_data_dtype() == np.dtype("<f4")
    assert int(image.dataobj.offset) == 352
    assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)


@pytest.mark.parametrize("dtype", ["?", "u1", "<i8", "<f2", ">f4", "<f8"])
def test_any_type_and_memory_order_is_stored_as_float32(tmp_path: Path, dtype: str) -> None:
    scans = np.random.default_rng(0).integers(0, 99, (4, 3, 4, 5)).astype(dtype)
    content = written(tmp_path / "bold.nii", SMALL, [np.asfortranarray(scans[:2]), scans[:1:-1]])
    expected = np.concatenate([scans[:2], scans[3:], scans[2:3]])
    np.testing.assert_array_equal(np.frombuffer(content[352:], "<f4").reshape(scans.shape), expected)


def test_scans_may_change_once_they_are_appended(tmp_path: Path) -> None:
    scans = scans_of(LARGE, 11)
    expected = scans.tobytes()
    with NiftiWriter(tmp_path / "bold.nii", LARGE) as writer:
        writer.append(scans)
        scans[:] = 0
    assert (tmp_path / "bold.nii").read_bytes()[352:] == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_a_space_is_an_image_of_that_space(tmp_path: Path, name: str) -> None:
    space = UnitSpace("mlp", ("a", "b", "c"), (5, 17, 11))
    signals = np.random.default_rng(0).normal(size=(7, 33)).astype(np.float32)
    written(tmp_path / name, Grid(space.shape, space.affine), [space.to_volumes(signals)])
    np.testing.assert_array_equal(space.to_signals(nib.load(tmp_path / name)), signals)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_adds_nothing(tmp_path: Path, name: str) -> None:
    scans = scans_of(SMALL, 2)
    assert written(tmp_path / name, SMALL, [scans[:0], scans, scans[:0]]) == written(tmp_path / name, SMALL, [scans])


# ---- when it appears


@pytest.mark.parametrize("name", NAMES)
def test_only_the_finished_file_is_visible(tmp_path: Path, name: str) -> None:
    with NiftiWriter(tmp_path / name, LARGE) as writer:
        writer.append(scans_of(LARGE, 11))
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_close_gives_the_path_and_counts_scans(tmp_path: Path) -> None:
    writer = NiftiWriter(tmp_path / "bold.nii.gz", SMALL)
    writer.append(scans_of(SMALL, 2))
    writer.append(scans_of(SMALL, 4))
    assert writer.n_scans == 6
    assert writer.close() == tmp_path / "bold.nii.gz"
    assert nib.load(tmp_path / "bold.nii.gz").shape == (5, 4, 3, 6)


def test_an_older_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "bold.nii.gz"
    older = written(path, SMALL, [scans_of(SMALL, 2)])
    with NiftiWriter(path, SMALL) as writer:
        writer.append(scans_of(SMALL, 7))
        assert path.read_bytes() == older
    assert path.read_bytes() != older


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_exception(tmp_path: Path, name: str, kind: type[BaseException]) -> None:
    (tmp_path / name).write_bytes(b"older")
    before = set(threading.enumerate())
    with pytest.raises(kind, match="model"), NiftiWriter(tmp_path / name, LARGE) as writer:
        writer.append(scans_of(LARGE, 11))
        raise kind("model")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"older"
    assert set(threading.enumerate()) <= before


# ---- what cannot be written


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("grid", "n_batches"), [(SMALL, 14), (LARGE, 15)], ids=["at the end", "on the way"])
def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path: Path, name: str, grid: Grid, n_batches: int) -> None:
    before = set(threading.enumerate())
    batches = [scans_of(grid, 5, seed) for seed in range(n_batches)]
    with full_disk(), pytest.raises(OSError, match="too large"):
        in_time(lambda: written(tmp_path / name, grid, batches))
    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_ends_the_file_even_where_the_caller_goes_on(tmp_path: Path, name: str) -> None:
    before = set(threading.enumerate())

    def go_on() -> None:
        with NiftiWriter(tmp_path / name, LARGE) as writer, suppress(OSError):
            for _ in range(40):
                writer.append(scans_of(LARGE, 5))

    with full_disk(), pytest.raises(OSError, match="too large"):
        in_time(go_on)
    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) <= before


def test_a_disk_that_is_full_only_when_asked_to_sync_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "bold.nii.gz", SMALL, [scans_of(SMALL, 2)])
    assert list(tmp_path.iterdir()) == []


def test_a_name_taken_by_a_folder_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bold.nii.gz").mkdir()
    with pytest.raises(OSError, match="directory"):
        written(tmp_path / "bold.nii.gz", SMALL, [scans_of(SMALL, 2)])
    assert [path.name for path in tmp_path.iterdir()] == ["bold.nii.gz"]


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with pytest.raises(FileNotFoundError, match="absent"):
        NiftiWriter(tmp_path / "absent" / "bold.nii", SMALL)
    assert set(threading.enumerate()) <= before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("n_scans", [2, 50], ids=["short", "longer than the queue"])
def test_a_header_that_cannot_be_made_neither_hangs_nor_leaves_a_broken_file(tmp_path: Path, n_scans: int) -> None:
    backwards = Grid(LARGE.shape, LARGE.affine, t_r=-1.0)
    with pytest.raises((HeaderDataError, LLM2BIDSError)):
        in_time(lambda: written(tmp_path / "bold.nii.gz", backwards, [scans_of(LARGE, n_scans)]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (2, 3, 4, 6), (3, 4, 5), (1, 2, 3, 4, 5), (2, 60)])
def test_scans_of_another_grid_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DatasetError, match=r"\(3, 4, 5\) needed"), NiftiWriter(tmp_path / "b.nii", SMALL) as writer:
        writer.append(np.zeros(shape, np.float32))
    assert list(tmp_path.iterdir()) == []


def test_as_many_scans_as_nifti_1_counts_are_written(tmp_path: Path) -> None:
    thin = Grid((3, 1, 2), np.eye(4))
    written(tmp_path / "bold.nii.gz", thin, [np.zeros((32767, 2, 1, 3), np.float32)])
    assert nib.load(tmp_path / "bold.nii.gz").shape == (3, 1, 2, 32767)


@pytest.mark.parametrize("sizes", [[32768], [32767, 1]])
def test_more_scans_than_nifti_1_counts_are_refused(tmp_path: Path, sizes: list[int]) -> None:
    thin = Grid((3, 1, 2), np.eye(4))
    with pytest.raises(DatasetError, match="32767 scans"):
        written(tmp_path / "bold.nii.gz", thin, [np.zeros((size, 2, 1, 3), np.float32) for size in sizes])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["bold.mgz", "bold.gz", "bold", "bold.nii.bz2", "bold.NII"])
def test_other_extensions_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"end it with \.nii\.gz or \.nii"):
        NiftiWriter(tmp_path / name, SMALL)
    assert list(tmp_path.iterdir()) == []


# ---- one image


def test_write_image_makes_folders_and_repeats_exactly(tmp_path: Path) -> None:
    space = UnitSpace("mlp", ("a", "b", "c"), (5, 17, 11))
    image = space.to_image(np.random.default_rng(0).normal(size=33))
    path = write_image(tmp_path / "sub-x" / "func" / "map.nii.gz", image)
    again = write_image(tmp_path / "again.nii.gz", image)
    assert path == tmp_path / "sub-x" / "func" / "map.nii.gz"
    assert path.read_bytes() == again.read_bytes()
    assert unpacked(path.read_bytes()) == image.to_bytes()
    np.testing.assert_array_equal(space.to_signals(nib.load(path)), space.to_signals(image))


def test_write_image_on_a_full_disk_leaves_the_older_file(tmp_path: Path) -> None:
    (tmp_path / "map.nii.gz").write_bytes(b"older")
    image = nib.Nifti1Image(scans_of(SMALL, 70).T, np.eye(4))
    with full_disk(), pytest.raises(OSError, match="too large"):
        write_image(tmp_path / "map.nii.gz", image)
    assert [path.name for path in tmp_path.iterdir()] == ["map.nii.gz"]
    assert (tmp_path / "map.nii.gz").read_bytes() == b"older"


def test_write_image_writes_no_compressed_file_under_a_plain_name(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"\.nii\.gz"):
        write_image(tmp_path / "map.nii", nib.Nifti1Image(scans_of(SMALL, 2).T, np.eye(4)))
    assert list(tmp_path.iterdir()) == []
