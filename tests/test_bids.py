"""Names, tables and templates of BIDS, and how a dataset grows under several processes."""

from __future__ import annotations

import copy
import gzip
import json
import os
import re
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm2bids.bids.names import ENTITIES, check_label, format_name, parse_name, to_label
from llm2bids.bids.tables import read_json, read_stim, read_tsv, write_bytes, write_json, write_stim, write_tsv
from llm2bids.bids.templates import template_json, template_text, templates
from llm2bids.errors import DatasetError, LabelError, LLM2BIDSError

from .limits import full_disk

if TYPE_CHECKING:
    from collections.abc import Callable

relaxed = settings(max_examples=50, deadline=None)

LABELS = st.text(string.ascii_letters + string.digits, min_size=1, max_size=9)
TEMPLATES = {
    file.name: file.read_text(encoding="utf-8")
    for file in templates().iterdir()
    if file.is_file() and not file.name.endswith((".js", ".css"))  # code has placeholders of its own, none of ours
}
JSON_TEMPLATES = sorted(name for name in TEMPLATES if name.endswith(".json"))


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


def test_a_field_that_a_file_lacks_is_named_with_the_file(tmp_path: Path) -> None:
    fields = read_json(write_json(tmp_path / "a.json", {"Llm2bids": {"Site": "mlp"}, "Found": [{"contrast": "c"}]}))
    assert fields.get("Task") is None
    for ask in (lambda one: one["Task"], lambda one: one["Llm2bids"]["Task"], lambda one: one["Found"][0]["Task"]):
        with pytest.raises(DatasetError, match=r"a\.json lacks the field 'Task'"):
            ask(copy.deepcopy(fields))  # as for another process


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
def test_text_templates_are_taken_as_they_are_but_for_their_places(name: str) -> None:
    expected = TEMPLATES[name]
    for place in places(name):
        expected = expected.replace(f"${{{place}}}", NASTY)
    assert template_text(name, **dict.fromkeys(places(name), NASTY)) == expected


def test_templates_take_numbers_as_text() -> None:
    assert template_json("dataset_description.json", version=3)["GeneratedBy"][0]["Version"] == "3"


# ---- which folders are datasets


def test_a_table_with_windows_line_ends_keeps_its_last_column(tmp_path: Path) -> None:
    path = tmp_path / "events.tsv"
    path.write_bytes("\ufeffonset\ttrial_type\r\n0\ton\r\n".encode())
    assert read_tsv(path).to_dict("list") == {"onset": ["0"], "trial_type": ["on"]}


def test_a_row_with_a_field_too_many_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.tsv"
    path.write_text("onset\ttrial_type\n0\t24\ton\n")
    with pytest.raises(DatasetError, match="more fields than the header"):
        read_tsv(path)


def test_a_corrupted_stim_file_is_refused(tmp_path: Path) -> None:
    path = write_stim(tmp_path / "x_stim.tsv.gz", pd.DataFrame({"token_id": range(500)}))
    whole = path.read_bytes()
    for place in range(12, len(whole) - 8, 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(DatasetError, match=r"x_stim.tsv.gz cannot be read"):
            read_stim(path, ["token_id"])
