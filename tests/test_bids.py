"""Names, tables and templates of BIDS, and how a dataset grows under several processes."""

from __future__ import annotations

import gzip
import importlib.resources
import json
import os
import re
import resource
import string
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm2bids.bids.dataset import STAGING, Dataset
from llm2bids.bids.names import ENTITIES, check_label, format_name, parse_name, to_label
from llm2bids.bids.tables import read_json, read_tsv, write_bytes, write_json, write_stim, write_tsv
from llm2bids.bids.templates import template_json, template_text
from llm2bids.errors import DatasetError, LabelError, LLM2BIDSError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

relaxed = settings(max_examples=50, deadline=None)

LABELS = st.text(string.ascii_letters + string.digits, min_size=1, max_size=9)
TEMPLATES = {
    file.name: file.read_text(encoding="utf-8")
    for file in importlib.resources.files("bids_templates").iterdir()
    if file.is_file()
}
JSON_TEMPLATES = sorted(name for name in TEMPLATES if name.endswith(".json"))


@contextmanager
def full_disk(room: int = 4096) -> Iterator[None]:
    """No file grows beyond `room` bytes; the system answers with OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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


# ---- names


@pytest.mark.parametrize("label", ["gpt2", "Llama3x18B", "0", "A" * 99])
def test_letters_and_digits_are_labels(label: str) -> None:
    assert check_label(label, "subject") == label


@pytest.mark.parametrize(
    ("label", "telling"),
    [
        ("gpt2-small", "'gpt2small'"),
        ("Llama-3.1", "'Llama3x1'"),
        ("a_b", "'ab'"),
        ("a+b", "'ab'"),
        ("gpt2\n", "'gpt2'"),
        ("é", "letters and digits only$"),
        ("", "letters and digits only$"),
        ("٣", "letters and digits only$"),
    ],
)
def test_other_labels_are_refused_with_a_better_one(label: str, telling: str) -> None:
    with pytest.raises(LabelError, match=telling) as refused:
        check_label(label, "subject")
    assert str(refused.value).startswith(f"subject label {label!r} found")
    assert isinstance(refused.value, LLM2BIDSError)


@pytest.mark.parametrize(
    ("text", "label"),
    [("gpt2-small", "gpt2small"), ("Llama-3.1-8B", "Llama3x18B"), ("v1.2.3", "v1x2x3"), ("a.b", "ab"), ("...", "")],
)
def test_labels_made_of_texts(text: str, label: str) -> None:
    assert to_label(text) == label


@relaxed
@given(st.text())
@example("٣.٣")
def test_any_text_becomes_a_label_or_nothing(text: str) -> None:
    label = to_label(text)
    assert re.fullmatch("[0-9A-Za-z]*", label)
    assert to_label(label) == label


@relaxed
@given(st.dictionaries(st.sampled_from(ENTITIES), LABELS, min_size=1), st.sampled_from(["bold.nii.gz", "events.tsv"]))
def test_names_come_apart_as_they_were_put_together(entities: dict[str, str], suffix: str) -> None:
    name = format_name(suffix, **entities)
    assert parse_name(name) == (suffix, entities)
    assert list(parse_name(name)[1]) == [key for key in ENTITIES if key in entities]
    assert format_name(*parse_name(name)[:1], **parse_name(name)[1]) == name


def test_names_follow_the_order_of_bids() -> None:
    given_backwards = {
        "desc": "x",
        "run": 3,
        "acq": "mlp",
        "task": "rest",
        "ses": None,
        "sub": "gpt2",
        "space": "L2C9mlp",
    }
    assert (
        format_name("bold.json", **given_backwards)
        == "sub-gpt2_task-rest_acq-mlp_run-03_space-L2C9mlp_desc-x_bold.json"
    )
    assert format_name("bold.json", sub="a", run=112) == "sub-a_run-112_bold.json"


@pytest.mark.parametrize("entities", [{"sub": "gpt2-small"}, {"sub": "a", "run": -1}, {"sub": "a", "task": ""}])
def test_names_with_a_bad_label_are_refused(entities: dict[str, Any]) -> None:
    with pytest.raises(LabelError, match="letters and digits"):
        format_name("bold.json", **entities)


# ---- tables

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=9)


@relaxed
@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
@example([('"', "n/a"), ("NA", "null"), ("a\tb", "a\nb"), ("", " x "), ("#", "1e5")])
def test_tables_of_text_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.getbasetemp() / "table.tsv"
    write_tsv(path, pd.DataFrame(rows, columns=["first", "second"], dtype=str))
    back = read_tsv(path)
    assert list(back.columns) == ["first", "second"]
    assert list(back.itertuples(index=False, name=None)) == rows


def test_a_carriage_return_comes_back(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "table.tsv", pd.DataFrame({"first": ["a\rb", "c"], "second": ["d", "e"]}))
    assert read_tsv(path).to_numpy().tolist() == [["a\rb", "d"], ["c", "e"]]


def test_missing_values_are_written_as_bids_wants_them(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"onset": [0.0, 5.5], "trial_type": [None, "a"], "surprisal": [float("nan"), 1.25], "n": [3, 4]}
    )
    path = write_tsv(tmp_path / "new" / "events.tsv", table)
    assert path.read_bytes() == b"onset\ttrial_type\tsurprisal\tn\n0\tn/a\tn/a\t3\n5.5\ta\t1.25\t4\n"


def test_stim_has_no_header_and_repeats_exactly(tmp_path: Path) -> None:
    table = pd.DataFrame({"token_id": [151643, 7, 9], "surprisal": [None, 1.5, 0.123456789]})
    one = write_stim(tmp_path / "one_stim.tsv.gz", table).read_bytes()
    assert gzip.decompress(one) == b"151643\tn/a\n7\t1.5\n9\t0.123457\n"
    assert one == write_stim(tmp_path / "other_stim.tsv.gz", table).read_bytes()
    assert one[3:8] == bytes(5)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_bytes(path, os.urandom(9000)),
        lambda path: write_json(path, {"a": "x" * 9000}),
        lambda path: write_tsv(path, pd.DataFrame({"a": ["x" * 9000]})),
        lambda path: write_stim(path, pd.DataFrame({"a": [os.urandom(9000).hex()]})),
    ],
    ids=["bytes", "json", "tsv", "stim"],
)
def test_a_failed_write_leaves_only_what_was_there(tmp_path: Path, write: Callable[[Path], object]) -> None:
    (tmp_path / "kept").write_bytes(b"older")
    for name in ("kept", "new"):
        with full_disk(), pytest.raises(OSError, match="too large"):
            write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"older"


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    written = write_json(tmp_path / "a.json", {})
    assert written.stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "usual"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@relaxed
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON_VALUES, max_size=4))
def test_sidecars_come_back(tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]) -> None:
    assert read_json(write_json(tmp_path_factory.getbasetemp() / "sidecar.json", fields)) == fields


@pytest.mark.parametrize(
    ("content", "telling"),
    [(b"{", "cannot be read"), (b"\xff{}", "cannot be read"), (b"[1]", "a list"), (None, "cannot")],
)
def test_what_is_no_sidecar_is_refused_by_name(tmp_path: Path, content: bytes | None, telling: str) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a\.json.*{telling}"):
        read_json(tmp_path / "a.json")


# ---- templates

NASTY = 'say "hi"\n\t\\ ${version} é {"a": 1}'


def places(name: str) -> set[str]:
    """What a template asks for."""
    return set(re.findall(r"\$\{(\w+)\}", TEMPLATES[name]))


def filled(value: Any) -> Any:
    """A parsed template with the nasty text in every place."""
    if isinstance(value, dict):
        return {key: filled(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner) for inner in value]
    return re.sub(r"\$\{\w+\}", lambda _: NASTY, value) if isinstance(value, str) else value


@pytest.mark.parametrize("name", JSON_TEMPLATES)
def test_json_templates_hold_any_text_unharmed(name: str) -> None:
    assert template_json(name, **dict.fromkeys(places(name), NASTY)) == filled(json.loads(TEMPLATES[name]))


@pytest.mark.parametrize("name", JSON_TEMPLATES)
def test_json_templates_missing_a_value_are_not_written_half(name: str) -> None:
    for place in places(name):
        with pytest.raises(KeyError, match=place):
            template_json(name, **dict.fromkeys(places(name) - {place}, "x"))


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - set(JSON_TEMPLATES)))
def test_text_templates_are_taken_as_they_are(name: str) -> None:
    assert template_text(name) == TEMPLATES[name]


def test_templates_take_numbers_as_text() -> None:
    assert template_json("dataset_description.json", version=3)["GeneratedBy"][0]["Version"] == "3"


# ---- which folders are datasets


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
    assert read_json(dataset.root / "participants.json") == json.loads(TEMPLATES["participants.json"])


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
    assert (dataset.root / "README.md").read_text(encoding="utf-8") == TEMPLATES["README.md"]
    assert (dataset.root / ".bidsignore").read_text(encoding="utf-8") == TEMPLATES["bidsignore"]


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
        with pytest.raises(DatasetError, match="run-01 is being recorded by another process"), dataset.stage("run-01"):
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
