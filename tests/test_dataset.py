"""Datasets refuse other folders, merge what is shared, and publish runs whole, also among several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llm2bids.bids.dataset import STAGING, Dataset, find_linked
from llm2bids.bids.tables import read_json, read_tsv, write_bytes, write_json
from llm2bids.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPLATES = Path(__file__).parents[1] / "bids_templates"


@contextmanager
def python(code: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs the code; ended on leaving."""
    command = [sys.executable, "-c", code, *map(str, args)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("existing", [[], [f"{STAGING}/run"], ["dataset_description.json", "sub-x/func/a.tsv"]])
def test_new_empty_and_raw_folders_are_datasets(tmp_path: Path, existing: list[str]) -> None:
    for name in existing:
        write_bytes(tmp_path / "ds" / name, b'{"Name": "x"}')
    assert Dataset(tmp_path / "ds").root == tmp_path / "ds"
    assert (tmp_path / "ds").exists() == bool(existing)


@pytest.mark.parametrize(
    ("existing", "content", "telling"),
    [
        ("../ds", b"", "is a file"),
        ("notes.txt", b"", "no BIDS dataset"),
        ("dataset_description.json", b'{"DatasetType": "derivative"}', "is a derivative"),
        ("dataset_description.json", b"{", "cannot be read"),
        ("dataset_description.json", b"[]", "a list"),
    ],
)
def test_other_folders_are_refused_and_left_alone(tmp_path: Path, existing: str, content: bytes, telling: str) -> None:
    path = Path(os.path.normpath(tmp_path / "ds" / existing))
    write_bytes(path, content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DatasetError, match=telling):
        Dataset(tmp_path / "ds")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        Dataset(tmp_path / "file" / "deep" / "ds")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_place_where_not_even_root_can_write_is_refused() -> None:
    with pytest.raises(DatasetError, match="cannot be written"):
        Dataset(Path("/proc/absent/ds"))


FORBIDDEN = """
import os, sys
from pathlib import Path
from llm2bids.bids.dataset import Dataset
from llm2bids.errors import DatasetError
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    Dataset(Path(sys.argv[1]))
except DatasetError as error:
    print(error)
"""


@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["read-only", "locked"])
@pytest.mark.parametrize("below", [".", "ds"])
def test_a_folder_of_somebody_else_is_refused(mode: int, below: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own cannot be entered by another user
        Path(folder).chmod(mode)
        with python(FORBIDDEN, Path(folder) / below) as process:
            said, failed = process.communicate(timeout=60)
        Path(folder).chmod(0o755)
    assert (failed, "cannot be written" in said) == ("", True)


# ---- shared files


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """A new dataset."""
    return Dataset(tmp_path / "ds")


def test_a_participant_is_added_and_completed(dataset: Dataset) -> None:
    with dataset.lock():
        dataset.merge_participant("gpt2", {"model": "openai/gpt2", "n_blocks": 12})
        dataset.merge_participant("gpt2", {"n_blocks": 13, "revision": "abc"})
    expected = {"participant_id": "sub-gpt2", "model": "openai/gpt2", "n_blocks": "13", "revision": "abc"}
    assert dataset.participant("gpt2") == expected
    assert dataset.participant("other") == {}
    assert read_json(dataset.root / "participants.json") == json.loads(
        (TEMPLATES / "participants.json").read_text(encoding="utf-8")
    )


def test_there_is_no_participant_before_the_first(dataset: Dataset) -> None:
    assert dataset.participant("gpt2") == {}


def test_a_participant_of_whom_nothing_is_known_has_a_row(dataset: Dataset) -> None:
    dataset.merge_participant("gpt2", {})
    assert dataset.participant("gpt2") == {"participant_id": "sub-gpt2"}


def test_other_participants_and_columns_stay(dataset: Dataset) -> None:
    table = 'participant_id\tage\tgroup\nsub-b\tn/a\t"a""b"\nsub-c\t007\tNA\n'
    write_bytes(dataset.root / "participants.tsv", table.encode())
    write_json(dataset.root / "participants.json", {"age": {"Units": "year"}, "model": {"Description": "mine"}})
    dataset.merge_participant("a", {"model": "x"})
    rows = read_tsv(dataset.root / "participants.tsv").to_dict("records")
    assert rows == [
        {"participant_id": "sub-a", "age": "n/a", "group": "n/a", "model": "x"},
        {"participant_id": "sub-b", "age": "n/a", "group": 'a"b', "model": "n/a"},
        {"participant_id": "sub-c", "age": "007", "group": "NA", "model": "n/a"},
    ]
    described = read_json(dataset.root / "participants.json")
    assert described["age"] == {"Units": "year"}
    assert described["model"] == {"Description": "mine"}
    assert "revision" in described


def test_shared_sidecars_are_merged_to_the_leaves(dataset: Dataset) -> None:
    name = "task-x_bold.json"
    dataset.merge_shared(name, {"TaskName": "x", "Levels": {"a": "A"}, "Deep": {"one": {"two": [1, 2]}}})
    dataset.merge_shared(name, {"Levels": {"b": "B"}, "Deep": {"one": {"three": None}}, "TaskName": "x"})
    assert read_json(dataset.root / name) == {
        "TaskName": "x",
        "Levels": {"a": "A", "b": "B"},
        "Deep": {"one": {"two": [1, 2], "three": None}},
    }


@pytest.mark.parametrize(
    ("new", "telling"),
    [
        ({"TaskName": "y"}, "TaskName is 'x', this recording 'y'"),
        ({"Deep": {"one": {"two": [1]}}}, r"two is \[1, 2\], this recording \[1\]"),
        ({"Deep": "flat"}, "Deep is"),
        ({"TaskName": {"a": 1}}, "TaskName is"),
        ({"None": 0}, "None is None"),
        ({"New": 1, "TaskName": "y"}, "TaskName is"),
    ],
)
def test_contradictions_are_refused_and_change_nothing(dataset: Dataset, new: dict[str, Any], telling: str) -> None:
    path = dataset.root / "task-x_bold.json"
    dataset.merge_shared(path.name, {"TaskName": "x", "Deep": {"one": {"two": [1, 2]}}, "None": None})
    before = path.read_bytes()
    with pytest.raises(DatasetError, match=telling) as refused:
        dataset.merge_shared(path.name, new)
    assert path.name in str(refused.value)
    assert path.read_bytes() == before


def test_description_unites_sources_and_keeps_authors(dataset: Dataset) -> None:
    gpt2, qwen = {"URL": "https://hf/gpt2", "Version": "a"}, {"URL": "https://hf/qwen", "Version": "b"}
    dataset.merge_description([gpt2], ["A", "B"], "1.0")
    dataset.merge_description([qwen, gpt2], ["C"], "2.0")
    dataset.merge_description([], [], "2.0")
    fields = read_json(dataset.root / "dataset_description.json")
    assert fields["SourceDatasets"] == [gpt2, qwen]
    assert fields["Authors"] == ["A", "B"]
    assert [(tool["Name"], tool["Version"]) for tool in fields["GeneratedBy"]] == [("llm2bids", "1.0")]
    assert (dataset.root / "README.md").read_text(encoding="utf-8") == (TEMPLATES / "README.md").read_text(
        encoding="utf-8"
    )
    assert (dataset.root / ".bidsignore").read_text(encoding="utf-8") == (TEMPLATES / "bidsignore").read_text(
        encoding="utf-8"
    )


def test_description_of_others_is_completed_not_rewritten(dataset: Dataset) -> None:
    theirs = {"Name": "Ours", "BIDSVersion": "1.8.0", "Authors": ["A"], "GeneratedBy": [{"Name": "heudiconv"}]}
    write_json(dataset.root / "dataset_description.json", theirs)
    write_bytes(dataset.root / "README", b"ours")
    write_bytes(dataset.root / ".bidsignore", b"mine\n")
    dataset.merge_description([{"URL": "u", "Version": "v"}], ["C"], "1.0")
    fields = read_json(dataset.root / "dataset_description.json")
    assert fields | theirs == fields | {"GeneratedBy": theirs["GeneratedBy"]}
    assert [tool["Name"] for tool in fields["GeneratedBy"]] == ["heudiconv", "llm2bids"]
    assert (fields["DatasetType"], fields["SourceDatasets"]) == ("raw", [{"URL": "u", "Version": "v"}])
    assert not (dataset.root / "README.md").exists()
    assert (dataset.root / ".bidsignore").read_bytes() == b"mine\n"


def test_merging_the_same_again_writes_nothing(dataset: Dataset) -> None:
    def merge() -> None:
        dataset.merge_description([{"URL": "u", "Version": "v"}], ["A", "B"], "1.0")
        dataset.merge_shared("task-x_bold.json", {"a": {"b": 1}})
        dataset.add_missing("code/config.json", {"ignore": []})

    merge()
    before = {path: path.stat().st_ino for path in dataset.root.rglob("*")}
    merge()
    assert {path: path.stat().st_ino for path in dataset.root.rglob("*")} == before


def test_files_are_ignored_once_and_what_others_ignore_stays(dataset: Dataset) -> None:
    dataset.ignore("a*", "b")
    assert (dataset.root / ".bidsignore").read_text() == "a*\nb\n"
    write_bytes(dataset.root / ".bidsignore", b"mine\nb")
    dataset.ignore("a*", "b", "c")
    assert (dataset.root / ".bidsignore").read_text() == "mine\nb\na*\nc\n"
    before = (dataset.root / ".bidsignore").stat().st_ino
    dataset.ignore("c")
    assert (dataset.root / ".bidsignore").stat().st_ino == before


def test_linked_datasets_are_found_or_named(tmp_path: Path) -> None:
    links = {"raw": "../raw", "prep": "../gone"}
    write_json(tmp_path / "raw" / "dataset_description.json", {"Name": "raw"})
    write_json(tmp_path / "out" / "dataset_description.json", {"DatasetLinks": links})
    assert find_linked(tmp_path / "out", "raw") == (tmp_path / "raw").resolve()
    with pytest.raises(DatasetError, match=r"gone is not there, which .* names as prep"):
        find_linked(tmp_path / "out", "prep")
    with pytest.raises(DatasetError, match=r"has no DatasetLinks\.other"):
        find_linked(tmp_path / "out", "other")
    (tmp_path / "raw" / "dataset_description.json").unlink()  # as where results were copied elsewhere
    with pytest.raises(DatasetError, match=r"raw is no dataset, which .* names as raw; move results and recordings"):
        find_linked(tmp_path / "out", "raw")


# ---- runs

RUN = {
    "sub-x/func/sub-x_task-t_bold.nii.gz": b"scans",
    "sub-x/func/sub-x_task-t_bold.json": b"{}",
    "stimuli/a.json": b"[]",
}


def fill(stage: Path) -> None:
    """Put the files of a run into its stage."""
    for name, content in RUN.items():
        write_bytes(stage / name, content)


def files_of(root: Path) -> dict[str, bytes]:
    """What lies in a dataset for BIDS tools, by name."""
    paths = (path for path in root.rglob("*") if path.is_file())
    named = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    return {name: content for name, content in named.items() if not name.startswith(STAGING)}


def test_a_run_is_published_whole_sidecars_first(dataset: Dataset) -> None:
    with dataset.stage("run-01") as stage:
        fill(stage)
        assert files_of(dataset.root) == {}
        with dataset.lock():
            moved = dataset.publish(stage)
    assert files_of(dataset.root) == RUN
    assert {path.relative_to(dataset.root).as_posix() for path in moved} == set(RUN)
    assert moved[-1].name.endswith(".nii.gz")
    assert not stage.exists()


def test_publishing_replaces_the_older_volume_of_the_other_format(dataset: Dataset) -> None:
    (volume,) = [path for path in RUN if path.endswith(".nii.gz")]
    write_bytes(dataset.root / volume.removesuffix(".gz"), b"older")
    with dataset.stage("run-01") as stage, dataset.lock():
        fill(stage)
        dataset.publish(stage)
    assert files_of(dataset.root) == RUN


def test_an_exception_leaves_nothing_of_a_run(dataset: Dataset) -> None:
    with pytest.raises(RuntimeError, match="model"), dataset.stage("run-01") as stage:
        fill(stage)
        raise RuntimeError("model")
    assert files_of(dataset.root) == {}
    assert not stage.exists()


def test_recover_without_a_stage_does_nothing(dataset: Dataset) -> None:
    dataset.recover("run-01")
    assert files_of(dataset.root) == {}


KILLED = """
import os, sys
from pathlib import Path
from llm2bids.bids.dataset import Dataset

dataset, n_moves, names = Dataset(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3:]
replace = Path.replace

def move(path, target):
    global n_moves
    if n_moves == 0:
        os._exit(9)
    n_moves -= 1
    return replace(path, target)

with dataset.stage("run-01") as stage:
    for name in names:
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).write_text("new")
    if n_moves < 0:
        os._exit(9)
    Path.replace = move
    with dataset.lock():
        dataset.publish(stage)
"""


def kill(root: Path, n_moves: int) -> None:
    """Leave what a process leaves that is killed after so many files were moved; -1: before publishing."""
    with python(KILLED, root, n_moves, *RUN) as process:
        _, failed = process.communicate(timeout=60)
    assert (failed, process.returncode) == ("", 9)


@pytest.mark.parametrize("n_moves", [0, 2])
def test_a_run_complete_when_its_process_was_killed_is_recovered(dataset: Dataset, n_moves: int) -> None:
    kill(dataset.root, n_moves)
    assert len(files_of(dataset.root)) == n_moves
    dataset.recover("run-01")
    assert files_of(dataset.root) == dict.fromkeys(RUN, b"new")
    assert not (dataset.root / STAGING / "run-01").exists()


def test_a_run_unfinished_when_its_process_was_killed_is_forgotten(dataset: Dataset) -> None:
    kill(dataset.root, -1)
    dataset.recover("run-01")
    assert files_of(dataset.root) == {}
    assert not (dataset.root / STAGING / "run-01").exists()


def test_a_stage_begins_empty_after_a_process_was_killed(dataset: Dataset) -> None:
    kill(dataset.root, -1)
    with dataset.stage("run-01") as stage, dataset.lock():
        write_bytes(stage / "sub-x/func/a.json", b"{}")
        dataset.publish(stage)
    assert files_of(dataset.root) == {"sub-x/func/a.json": b"{}"}


# ---- several processes

HOLDING = """
import sys
from pathlib import Path
from llm2bids.bids.dataset import Dataset

with Dataset(Path(sys.argv[1])).stage("run-01") as stage:
    (stage / "half.nii").touch()
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_run_another_process_records_is_refused(dataset: Dataset) -> None:
    with python(HOLDING, dataset.root) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DatasetError, match="run-01 is being written by another process"), dataset.stage("run-01"):
            pytest.fail("two processes record one run")
        with pytest.raises(DatasetError, match="another process"):
            dataset.recover("run-01")
        assert (dataset.root / STAGING / "run-01" / "half.nii").exists()
        with dataset.stage("run-02") as stage:
            assert stage.is_dir()
        assert other.communicate("\n", timeout=60) == ("", "")
    with dataset.stage("run-01") as stage:
        assert not (stage / "half.nii").exists()


MERGING = """
import sys
from pathlib import Path
from llm2bids.bids.dataset import Dataset

dataset = Dataset(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(10):
    with dataset.lock():
        dataset.merge_description([{"URL": f"{sys.argv[2]}{number}"}], ["A", "B"], "1.0")
        dataset.merge_participant(f"{sys.argv[2]}{number}", {"n_blocks": number, sys.argv[2]: "x"})
        dataset.merge_shared("task-x_events.json", {"Levels": {f"{sys.argv[2]}{number}": "x"}})
"""


def test_two_processes_merging_at_once_lose_nothing(dataset: Dataset) -> None:
    with python(MERGING, dataset.root, "a") as first, python(MERGING, dataset.root, "b") as second:
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in (first, second):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.communicate(timeout=60) for process in (first, second)] == [("", "")] * 2
    labels = {f"{letter}{number}" for letter in "ab" for number in range(10)}
    table = read_tsv(dataset.root / "participants.tsv")
    assert sorted(table["participant_id"]) == sorted(f"sub-{label}" for label in labels)
    assert all(dataset.participant(label)[label[0]] == "x" for label in labels)
    assert set(read_json(dataset.root / "task-x_events.json")["Levels"]) == labels
    sources = read_json(dataset.root / "dataset_description.json")["SourceDatasets"]
    assert {source["URL"] for source in sources} == labels
