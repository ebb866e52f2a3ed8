"""Volumes are read back as they are, or refused; runs are found by name; events that cannot be are refused by line."""

from __future__ import annotations

import gzip
import math
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

from llm2bids.bids.nifti import Grid, NiftiWriter, n_scans_of, read_scans
from llm2bids.bids.runs import BoldRun, find_runs, read_events
from llm2bids.bids.tables import read_tsv, write_bytes, write_json
from llm2bids.errors import DatasetError
from llm2bids.space import UnitSpace

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm2bids.recording import Recording

Array = np.ndarray[Any, Any]
GRID = Grid((5, 4, 3), np.eye(4), 2.0)
N_SCANS = 7
SCAN_BYTES = 5 * 4 * 3 * 4


def scans_of(n_scans: int = N_SCANS) -> Array:
    """Noise in the order of the file."""
    return np.random.default_rng(0).normal(size=(n_scans, 3, 4, 5)).astype(np.float32)


@pytest.fixture(params=["bold.nii.gz", "bold.nii"])
def bold(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of seven scans."""
    with NiftiWriter(tmp_path / request.param, GRID) as writer:
        writer.append(scans_of())
    return writer.path


# ---- reading volumes


@pytest.mark.parametrize("max_bytes", [1, SCAN_BYTES, 3 * SCAN_BYTES + 1, 1 << 26])
def test_scans_come_back_whole_in_parts_that_fit(bold: Path, max_bytes: int) -> None:
    parts = list(read_scans(bold, max_bytes))
    np.testing.assert_array_equal(np.concatenate(parts), scans_of())
    assert {part.dtype for part in parts} == {np.dtype(np.float32)}
    assert max(len(part) for part in parts) == min(N_SCANS, max(1, max_bytes // SCAN_BYTES))
    assert n_scans_of(bold) == N_SCANS


@pytest.mark.parametrize("name", ["bold.nii.gz", "bold.nii"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<i4", "<f4", ">f4", "<f8", ">f8"])
def test_other_types_are_read_as_nibabel_reads_them(tmp_path: Path, dtype: str, name: str) -> None:
    header = nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(dtype)  # nibabel scales what is no float
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"volumes begin later" * 9))
    nib.save(nib.Nifti1Image(scans_of().T.astype(np.float64), np.eye(4), header), tmp_path / name)
    loaded = nib.load(tmp_path / name)
    assert (loaded.header.endianness, loaded.dataobj.offset > 352) == (header.endianness, True)
    read = np.concatenate(list(read_scans(tmp_path / name, 2 * SCAN_BYTES)))
    np.testing.assert_allclose(read, loaded.get_fdata().T, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(read, scans_of(), atol=0.03)


def test_numbers_beyond_float32_are_infinite_without_a_warning(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full((3, 3, 3, 2), -1e300), np.eye(4)), tmp_path / "bold.nii")
    assert np.isneginf(next(read_scans(tmp_path / "bold.nii"))).all()


def test_a_file_of_no_scan_gives_none(tmp_path: Path) -> None:
    with NiftiWriter(tmp_path / "bold.nii.gz", GRID) as writer:
        pass
    assert (list(read_scans(writer.path)), n_scans_of(writer.path)) == ([], 0)


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    peaks = []
    for n_scans in (64, 256):
        with NiftiWriter(tmp_path / "bold.nii.gz", Grid((32, 32, 16), np.eye(4))) as writer:
            writer.append(np.ones((n_scans, 16, 32, 32), np.float32))
        tracemalloc.start()
        for part in read_scans(writer.path, 1 << 19):
            assert len(part) == 8
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 1 << 22


def unpacked(path: Path) -> bytes:
    """The bytes of a file as it was before it was compressed."""
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def rewrite(path: Path, change: Callable[[bytearray], object]) -> None:
    """Change the bytes of a file, below the compression."""
    content = bytearray(unpacked(path))
    change(content)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("max_bytes", [1, 1 << 26])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_truncated_files_are_refused(bold: Path, share: float, max_bytes: int) -> None:
    content = bold.read_bytes()
    bold.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DatasetError, match="truncated or corrupted; record or prepare it again"):
        list(read_scans(bold, max_bytes))


def test_a_flipped_byte_of_a_compressed_file_is_found_wherever_it_matters(tmp_path: Path) -> None:
    with NiftiWriter(tmp_path / "bold.nii.gz", GRID) as writer:
        writer.append(scans_of())
    content = writer.path.read_bytes()
    unseen = set()
    for place in (*range(30), *range(30, len(content) - 9, 11), *range(len(content) - 9, len(content))):
        flipped = bytearray(content)
        flipped[place] ^= 0x10
        writer.path.write_bytes(flipped)
        try:
            read = np.concatenate(list(read_scans(writer.path)))
        except DatasetError:
            continue
        np.testing.assert_array_equal(read, scans_of())
        unseen.add(place)
    assert unseen == {*range(4, 11), len(content) - 9}, "time, system and padding say nothing about the scans"


def test_a_file_that_goes_on_is_refused(bold: Path) -> None:
    rewrite(bold, lambda content: content.extend(b"x"))
    with pytest.raises(DatasetError, match="goes on after its last scan"):
        list(read_scans(bold))


def test_a_second_volume_behind_the_first_is_refused(tmp_path: Path) -> None:
    with NiftiWriter(tmp_path / "bold.nii.gz", GRID) as writer:
        writer.append(scans_of())
    writer.path.write_bytes(2 * writer.path.read_bytes())
    with pytest.raises(DatasetError, match="goes on after its last scan"):
        list(read_scans(writer.path))


def number(at: int, value: int) -> Callable[[bytearray], object]:
    """A change of one 16-bit number of the header."""
    return lambda content: content.__setitem__(slice(at, at + 2), value.to_bytes(2, "little", signed=True))


@pytest.mark.parametrize(
    ("change", "telling"),
    [
        (number(70, 999), "999"),
        (number(70, 32), "complex64 .* real numbers needed"),
        (number(70, 128), "real numbers needed"),
        (number(42, 0), r"\(0, 4, 3, 7\) found"),
        (number(42, -5), r"\(-5, 4, 3, 7\) found"),
        (number(48, -1), r"\(5, 4, 3, -1\) found"),
        (number(40, 0), r"shape \(0,\) found"),
        (lambda content: content.__setitem__(slice(344, 348), b"ni1\0"), "not one of NIfTI-1"),
        (bytearray.clear, "Binary block"),
        (lambda content: content.__setitem__(slice(0, 348), bytes(348)), "not one of NIfTI-1"),
    ],
)
def test_headers_that_make_no_sense_are_refused(
    bold: Path, change: Callable[[bytearray], object], telling: str
) -> None:
    rewrite(bold, change)
    with pytest.raises(DatasetError, match=telling):
        list(read_scans(bold))
    with pytest.raises(DatasetError, match=f"{bold.name} is no NIfTI-1 file .*{telling}"):
        n_scans_of(bold)


@pytest.mark.parametrize("offset", [math.inf, math.nan, -16.0, 1e9])
def test_scans_that_begin_nowhere_are_refused(bold: Path, offset: float) -> None:
    rewrite(bold, lambda content: content.__setitem__(slice(108, 112), np.float32(offset).tobytes()))
    with pytest.raises(DatasetError, match=f"{bold.name} (cannot be read to its end|goes on after)"):
        list(read_scans(bold))


def test_a_single_volume_is_no_run(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(scans_of()[0].T, np.eye(4)), tmp_path / "mask.nii.gz")
    with pytest.raises(DatasetError, match="holds 3 axes, scans need 4"):
        list(read_scans(tmp_path / "mask.nii.gz"))
    assert n_scans_of(tmp_path / "mask.nii.gz") == 1


@pytest.mark.parametrize("content", [None, b"", b"no volume at all " * 99])
@pytest.mark.parametrize("name", ["bold.nii.gz", "bold.nii"])
def test_what_is_no_nifti_is_refused(tmp_path: Path, content: bytes | None, name: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=name):
        list(read_scans(tmp_path / name))
    with pytest.raises(DatasetError, match=name):
        n_scans_of(tmp_path / name)


def test_nifti_2_is_refused_by_name(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(scans_of().T, np.eye(4)), tmp_path / "bold.nii")
    with pytest.raises(DatasetError, match="not one of NIfTI-1"):
        list(read_scans(tmp_path / "bold.nii"))


# ---- finding runs


def tree(root: Path, *names: str) -> Path:
    """A dataset of empty files."""
    for name in names:
        write_bytes(root / name, b"")
    return root


TWO = (
    "sub-b/func/sub-b_task-y_acq-mlp_run-01_bold.nii",
    "sub-a/ses-01/func/sub-a_ses-01_task-x_acq-block_run-02_bold.nii.gz",
    "sub-a/ses-01/func/sub-a_ses-01_task-x_acq-block_run-02_space-S_desc-preproc_bold.nii.gz",
    "sub-a/ses-01/func/sub-a_ses-01_task-x_acq-block_run-02_bold.json",
    "sub-a/ses-01/func/.sub-a_ses-01_task-x_acq-block_run-03_bold.nii.gz.part",
    "sub-a/ses-01/func/sub-a_ses-01_task-x_acq-block_run-04_bold.nii.gz.bak",
    "sub-a/ses-01/anat/sub-a_ses-01_bold.nii.gz",
    "derivatives/other/sub-c/func/sub-c_task-x_bold.nii.gz",
)


def test_recordings_are_found_and_nothing_else(tmp_path: Path) -> None:
    first, second = find_runs(tree(tmp_path, *TWO))
    assert (first.name, second.name) == ("sub-a_ses-01_task-x_acq-block_run-02", "sub-b_task-y_acq-mlp_run-01")
    assert first.folder == Path("sub-a/ses-01/func")
    assert first.entities == {"sub": "a", "ses": "01", "task": "x", "acq": "block", "run": "02"}
    assert first.uri("raw") == f"bids:raw:{TWO[1]}"
    assert second.beside("events.tsv", acq=None).name == "sub-b_task-y_run-01_events.tsv"
    (derived,) = find_runs(tmp_path, desc="preproc")
    assert (derived.bold, derived.name) == (tmp_path / TWO[2], first.name)


@pytest.mark.parametrize(
    ("asked", "found"),
    [({"subjects": ["a"]}, "a"), ({"tasks": ["task-y"]}, "b"), ({"sites": ["mlp", "block"], "subjects": ["b"]}, "b")],
)
def test_runs_of_the_labels_asked_for_are_found(tmp_path: Path, asked: dict[str, list[str]], found: str) -> None:
    assert [run.entities["sub"] for run in find_runs(tree(tmp_path, *TWO), **asked)] == [found]


@pytest.mark.parametrize(
    ("asked", "telling"),
    [
        ({"subjects": ["a", "z"]}, "sub-z not found in .*; there are a, b"),
        ({"tasks": ["z"]}, "task-z not found in .*; there are x, y"),
        ({"sites": ["acq-z"]}, "acq-z not found in .*; there are block, mlp"),
        ({"subjects": ["a"], "tasks": ["y"]}, "no bold file of all labels asked for together; ask for fewer"),
        ({"desc": "smooth"}, "no desc-smooth bold files"),
    ],
)
def test_labels_that_are_not_there_are_refused(tmp_path: Path, asked: dict[str, Any], telling: str) -> None:
    with pytest.raises(DatasetError, match=telling):
        find_runs(tree(tmp_path, *TWO), **asked)


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no bold files; record a model into it first"):
        find_runs(tmp_path / "absent")


def test_a_run_both_compressed_and_not_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, *TWO, f"{TWO[0]}.gz")
    with pytest.raises(DatasetError, match=r"run-01_bold.nii found both as it is and compressed; remove one"):
        find_runs(tmp_path)


def test_a_recorded_run_knows_what_lies_beside_it(small_dataset: tuple[Path, list[Recording]]) -> None:
    root, recordings = small_dataset
    runs = find_runs(root)
    assert [run.bold for run in runs] == sorted(one.bold for one in recordings)
    for run, one in zip(runs, sorted(recordings, key=lambda one: one.bold), strict=True):
        assert (run.space, run.n_scans, run.t_r) == (one.space, one.n_scans, 1.0)
        assert run.metadata["NumberOfScans"] == one.n_scans


@pytest.fixture
def run(tmp_path: Path) -> BoldRun:
    """A run with a sidecar and events."""
    found = BoldRun(tmp_path, tmp_path / "sub-a" / "func" / "sub-a_task-x_acq-block_run-01_bold.nii.gz")
    space = UnitSpace.uniform("block", ["h.0:out"], 12)
    write_json(found.beside("bold.json"), {"RepetitionTime": 2, "Llm2bids": {"UnitSpace": space.to_json()}})
    write_bytes(found.beside("events.tsv"), b"onset\tduration\n0\t1\n")
    return found


@pytest.mark.parametrize("t_r", [None, "1", 0, -1.0, [1], math.nan, math.inf])
def test_a_repetition_time_that_is_no_time_is_refused(run: BoldRun, t_r: object) -> None:
    assert run.t_r == 2.0
    run.sidecar["RepetitionTime"] = t_r
    with pytest.raises(DatasetError, match=r"run-01_bold.json says RepetitionTime is .*mend it"):
        _ = run.t_r


@pytest.mark.parametrize("own", [None, {}, "llm2bids", {"Site": "block"}])
def test_recordings_of_others_are_refused(run: BoldRun, own: object) -> None:
    run.sidecar["Llm2bids"] = own
    with pytest.raises(DatasetError, match=r"has no Llm2bids.UnitSpace in its sidecar; record it with llm2bids"):
        _ = run.space


@pytest.mark.parametrize("suffix", ["bold.json", "events.tsv"])
def test_a_fingerprint_tells_another_recording_or_other_events(run: BoldRun, suffix: str) -> None:
    before, path = run.fingerprint, run.beside(suffix)
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    assert run.fingerprint != before
    path.write_bytes(content)
    assert run.fingerprint == before
    path.unlink()
    with pytest.raises(DatasetError, match=f"{suffix} cannot be read .*; record the run again"):
        _ = run.fingerprint


# ---- events


def events_file(folder: Path, text: str) -> Path:
    """An ``events.tsv`` with spaces for tabs."""
    return write_bytes(folder / "events.tsv", text.replace(" ", "\t").encode())


def test_events_are_read_in_order_with_text_as_text(tmp_path: Path) -> None:
    text = "prompt onset trial_type duration\n02 5 1e1 5\n01 0.5 n/a 4.5\n03 1e1 NA 0.1\n"
    table = read_events(events_file(tmp_path, text), 10.1)
    assert table.to_dict("list") == {
        "prompt": ["01", "02", "03"],
        "onset": [0.5, 5.0, 10.0],
        "trial_type": ["n/a", "1e1", "NA"],
        "duration": [4.5, 5.0, 0.1],
    }


def test_events_without_conditions_have_none(tmp_path: Path) -> None:
    assert read_events(events_file(tmp_path, "onset duration\n0 1\n"), 1.0)["trial_type"].tolist() == ["n/a"]


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("", "cannot be read"),
        ("onset duration trial_type\n", "holds no event; a run needs at least one"),
        ("onset trial_type\n0 on\n", "has no column duration; add it"),
        ("duration\n1\n", "has no column onset; add it"),
        ("onset duration\n0 1\nsoon 1\n", "line 3: onset 'soon' is no number; mend it"),
        ("onset duration\n0 n/a\n", "line 2: duration 'n/a' is no number; mend it"),
        ("onset duration\n0 1\nnan 1\n", "line 3: onset 'nan' is no number"),
        ("onset duration\n0 1\n-1 1\n", "line 3: an event of 1 s at -1 s lies outside the run, which lasts 9 s"),
        ("onset duration\n9 1\n0 1\n", "line 2: an event of 1 s at 9 s lies outside"),
        ("onset duration\n8.5 0.501\n", "line 2: an event of 0.501 s at 8.5 s lies outside"),
        ("onset duration\n0 1\n3 0\n", "line 3: an event of 0 s at 3 s lies outside"),
        ("onset duration\n0 inf\n", "an event of inf s at 0 s lies outside"),
        ("onset duration\n0 1\n3 -2\n", "line 3: an event of -2 s"),
    ],
)
def test_events_that_cannot_be_are_refused_by_line(tmp_path: Path, text: str, telling: str) -> None:
    with pytest.raises(DatasetError, match=telling):
        read_events(events_file(tmp_path, text), 9.0)


def test_a_missing_table_of_events_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"events.tsv cannot be read"):
        read_events(tmp_path / "events.tsv", 9.0)


def test_an_event_may_end_with_the_run_but_for_rounding(tmp_path: Path) -> None:
    path = events_file(tmp_path, "onset duration\n0.1 0.2\n")
    assert 0.1 + float(read_tsv(path)["duration"].iloc[0]) > 0.3
    assert len(read_events(path, 0.3)) == 1
