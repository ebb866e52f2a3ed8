"""What lesions are scored on: text files and task files, and whether a network was defined by the same texts."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.errors import LesionError
from llm2bids.task import text_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Text:
    """A file to read.

    - `name`: name of the file without suffix.
    - `documents`: what is read, each by itself.
    """

    name: str
    documents: tuple[str, ...]
    sha256: str
    file: str = ""

    @property
    def passages(self) -> tuple[str, ...]:
        """All that could be a text shown before: documents and their lines."""
        return _passages(self.documents)


@dataclass(frozen=True, slots=True)
class Item:
    """A question.

    - `prompt`: what the model is shown.
    - `answer`: the right answer; one of the options, where there are any.
    - `options`: answers to choose from; empty where the model answers freely.
    """

    prompt: str
    answer: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Questions:
    """A task file.

    `name`: name of the file without suffix.
    """

    name: str
    items: tuple[Item, ...]
    sha256: str
    file: str = ""

    @property
    def passages(self) -> tuple[str, ...]:
        """All that could be a text shown before: prompts, their lines, and prompts with an answer."""
        answered = [
            f"{item.prompt.rstrip()} {answer}" for item in self.items for answer in (item.answer, *item.options)
        ]
        return tuple(dict.fromkeys([*_passages([item.prompt for item in self.items]), *answered]))


@dataclass(frozen=True, slots=True)
class Materials:
    """All that lesions are scored on.

    `reference`: what activations are averaged over; None for all that is scored.
    """

    texts: tuple[Text, ...]
    questions: tuple[Questions, ...]
    reference: Text | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be scored."""
        if not self.files:
            raise LesionError("nothing to score found; give --text or --task-file")
        names = [one.name for one in self.files]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise LesionError(f"two files named {twice[0]!r} are to be scored; rename one")

    @property
    def files(self) -> list[Text | Questions]:
        """Texts, then questions."""
        return [*self.texts, *self.questions]

    @property
    def averaged(self) -> list[str]:
        """Texts over which activations are averaged."""
        if self.reference:
            return list(self.reference.documents)
        documents = [document for text in self.texts for document in text.documents]
        return documents + [item.prompt for one in self.questions for item in one.items]


def read_text(path: str | Path, *, lines: bool = False) -> Text:
    """Read a text to be scored.

    `lines`: whether each line is a document of its own; else the file is one.
    """
    path = Path(path)
    content = _content(path)
    documents = [line.strip() for line in content.splitlines()] if lines else [content.strip()]
    if not any(documents):
        raise LesionError(f"{path} is empty; give a file with text")
    return Text(file_name(path), tuple(filter(None, documents)), _sha256(content), path.name)


def read_questions(path: str | Path) -> Questions:
    """Read a task to be scored.

    `path`: ``.tsv`` with columns prompt, answer and, where answers are to be chosen, options, separated by ``|``; or
    ``.jsonl`` with the same keys, options being a list.
    """
    path = Path(path)
    content = _content(path)
    if path.suffix.lower() not in {".tsv", ".jsonl"}:
        raise LesionError(f"task file {path} found; a name ending in .tsv or .jsonl is needed")
    rows = _tsv_rows(path, content) if path.suffix.lower() == ".tsv" else _json_rows(path, content)
    items = tuple(_item(f"{path}, line {number}", row) for number, row in rows)
    if not items:
        raise LesionError(f"{path} holds no question; give one per line")
    return Questions(file_name(path), items, _sha256(content), path.name)


def known_texts(provenance: Mapping[str, Any]) -> frozenset[str]:
    """Say by which texts a network was defined, as far as its mask says.

    Returns hashes as of `llm2bids.task.text_hash`; empty where the mask does not say.
    """
    return frozenset(_hashes(provenance))


def overlap(provenance: Mapping[str, Any], material: Text | Questions) -> list[str]:
    """Find texts by which a network was defined in what it is to be scored on.

    Parameters
    ----------
    provenance : mapping
        That of the mask.
    material : Text or Questions
        What is scored.

    Returns
    -------
    list of str
        Documents, prompts or lines of it that the network was defined by.
    """
    known = known_texts(provenance)
    return [passage for passage in material.passages if known and text_hash(passage) in known]


def _hashes(value: Any) -> Iterator[str]:
    """All hashes of stimuli, at any depth."""
    if isinstance(value, dict):
        for one in value.get("Stimuli") or ():
            texts = one.get("Texts") if isinstance(one, dict) else None
            yield from (text for text in texts or () if isinstance(text, str))
        for key, inner in value.items():
            if key != "Stimuli":
                yield from _hashes(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _hashes(inner)


def _passages(documents: Sequence[str]) -> tuple[str, ...]:
    """Documents and their lines, each once."""
    lines = [part for document in documents for line in document.splitlines() for part in (line, line.strip())]
    stripped = [document.strip() for document in documents]
    return tuple(filter(None, dict.fromkeys([*documents, *stripped, *lines])))


def _content(path: Path) -> str:
    """A file's text."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise LesionError(f"{path} cannot be read ({error.strerror or error}); give a file that is there") from error
    except UnicodeDecodeError as error:
        raise LesionError(f"{path} is not in UTF-8 (byte {error.start}); convert it") from error


def file_name(path: Path) -> str:
    """Say what a file is called in tables.

    Returns its name up to the first dot; never empty.
    """
    return path.name.split(".")[0] or path.name


def _sha256(content: str) -> str:
    """Hash of a text."""
    return hashlib.sha256(content.encode()).hexdigest()


def _tsv_rows(path: Path, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with the number of their line."""
    rows = csv.reader(content.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    header = [name.strip() for name in next(rows, [])]
    if missing := {"prompt", "answer"} - set(header):
        raise LesionError(
            f"{path} has no column {', '.join(sorted(missing))}; prompt and answer needed, options if any"
        )
    for number, row in enumerate(rows, 2):
        if len(row) > len(header):
            raise LesionError(f"{path}, line {number} has {len(row)} fields, the header {len(header)}; mend it")
        fields: dict[str, Any] = dict(zip(header, row, strict=False))
        if any(field.strip() for field in row):
            listed = [option.strip() for option in fields.get("options", "").split("|")]
            yield number, fields | {"options": [option for option in listed if option]}


def _json_rows(path: Path, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects with the number of their line."""
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise LesionError(f"{path}, line {number} is no JSON ({error.msg}); mend it") from error
        if not isinstance(row, dict):
            raise LesionError(f"{path}, line {number} holds a {type(row).__name__}; an object is needed")
        yield number, row


def _item(place: str, row: Mapping[str, Any]) -> Item:
    """One question, checked."""
    prompt, answer, options = row.get("prompt"), row.get("answer"), row.get("options") or []
    if not isinstance(prompt, str) or not prompt.strip():
        raise LesionError(f"{place} has no prompt; give one, or remove the line")
    if not isinstance(answer, str) or not answer.strip():
        raise LesionError(f"{place} has no answer; give one as text, or remove the line")
    if not isinstance(options, list) or not all(isinstance(option, str) and option.strip() for option in options):
        raise LesionError(f"{place} has options that are no texts; give a list of texts")
    cleaned = tuple(option.strip() for option in options)
    if cleaned and (len(set(cleaned)) != len(cleaned) or len(cleaned) == 1):
        raise LesionError(f"{place} has one option, or the same twice; give two or more, each once")
    if cleaned and answer.strip() not in cleaned:
        raise LesionError(f"{place} has the answer {answer!r}, which is none of its options; mend either")
    return Item(prompt, answer.strip(), cleaned)
