"""Evaluation of a model in any state: text files and task files, read, put to the model, and scored."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from string import punctuation
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.errors import LesionError, PromptError
from llm2bids.model.scoring import IntactPredictions, Piece, continue_tokens, encode, measure_surprisal, split_texts
from llm2bids.task import text_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.lesioning.scores import Values
    from llm2bids.lesioning.settings import EvaluationOptions
    from llm2bids.model.loading import Subject
    from llm2bids.model.scoring import Intervention

_EXCERPT_TOKENS: Final = 12
"""Tokens of a text that the model continues, to be looked at."""


# ---- texts and tasks


@dataclass(frozen=True, slots=True)
class Text:
    """A text file.

    - `name`: name of the file without suffix.
    - `documents`: texts that are read each by itself.
    """

    name: str
    documents: tuple[str, ...]
    sha256: str
    file: str = ""

    @property
    def passages(self) -> tuple[str, ...]:
        """Documents and their lines: all that another recording could have shown."""
        return _passages(self.documents)


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a task file.

    - `prompt`: what the model is shown.
    - `answer`: the right answer; one of the options, if there are any.
    - `options`: answers to choose from; empty where the model answers freely.
    """

    prompt: str
    answer: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskFile:
    """A file of questions; `name` is that of the file without suffix."""

    name: str
    questions: tuple[Question, ...]
    sha256: str
    file: str = ""

    @property
    def passages(self) -> tuple[str, ...]:
        """Prompts, their lines, and prompts with an answer: all that another recording could have shown."""
        prompts = [question.prompt for question in self.questions]
        answered = [
            f"{question.prompt.rstrip()} {answer}"
            for question in self.questions
            for answer in (question.answer, *question.options)
        ]
        return tuple(dict.fromkeys([*_passages(prompts), *answered]))


@dataclass(frozen=True, slots=True)
class Materials:
    """All that lesions are scored on.

    `reference`: the text over which activations are averaged; None for all that is scored.
    """

    texts: tuple[Text, ...]
    tasks: tuple[TaskFile, ...]
    reference: Text | None = None

    def __post_init__(self) -> None:
        """Raise if there is nothing to score, or if two files have one name."""
        if not self.files:
            raise LesionError("nothing to score found; give `text` or `task`")
        names = [file.name for file in self.files]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise LesionError(f"two files named {doubled[0]!r} are to be scored; rename one")

    @property
    def files(self) -> list[Text | TaskFile]:
        """Texts, then tasks."""
        return [*self.texts, *self.tasks]

    @property
    def averaged(self) -> list[str]:
        """Texts over which activations are averaged."""
        if self.reference:
            return list(self.reference.documents)
        documents = [document for text in self.texts for document in text.documents]
        return documents + [question.prompt for task in self.tasks for question in task.questions]


def read_text(path: str | Path, *, lines: bool = False) -> Text:
    """Read a text file: one document, or one document per line."""
    path = Path(path)
    content = _content(path)
    documents = [line.strip() for line in content.splitlines()] if lines else [content.strip()]
    if not any(documents):
        raise LesionError(f"{path} is empty; give a file with text")
    return Text(file_name(path), tuple(filter(None, documents)), _sha256(content), path.name)


def read_task_file(path: str | Path) -> TaskFile:
    """Read a task file.

    ``.tsv`` with columns prompt, answer and, where answers are to be chosen, options, separated by ``|``; or ``.jsonl``
    with the same keys, options being a list.
    """
    path = Path(path)
    content = _content(path)
    if path.suffix.lower() not in {".tsv", ".jsonl"}:
        raise LesionError(f"task file {path} found; a name ending in .tsv or .jsonl is needed")
    rows = _tsv_rows(path, content) if path.suffix.lower() == ".tsv" else _json_rows(path, content)
    questions = tuple(_question(f"{path}, line {number}", row) for number, row in rows)
    if not questions:
        raise LesionError(f"{path} holds no question; give one per line")
    return TaskFile(file_name(path), questions, _sha256(content), path.name)


def file_name(path: Path) -> str:
    """Name a file in tables: its name up to the first dot; never empty."""
    return path.name.split(".")[0] or path.name


def stimulus_hashes(provenance: Mapping[str, Any]) -> frozenset[str]:
    """Hashes (`llm2bids.task.text_hash`) of the texts that defined a network; empty where its mask does not say."""
    return frozenset(_hashes(provenance))


def overlap(provenance: Mapping[str, Any], material: Text | TaskFile) -> list[str]:
    """Find the documents, prompts or lines of a file that defined a network, by the provenance of its mask."""
    hashes = stimulus_hashes(provenance)
    return [passage for passage in material.passages if hashes and text_hash(passage) in hashes]


def _hashes(value: Any) -> Iterator[str]:
    """All hashes of stimuli in a provenance, at any depth: unions of masks hold those of their parts."""
    if isinstance(value, dict):
        for run in value.get("Stimuli") or ():
            texts = run.get("Texts") if isinstance(run, dict) else None
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
    """The text of a file."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise LesionError(f"{path} cannot be read ({error.strerror or error}); give a file that is there") from error
    except UnicodeDecodeError as error:
        raise LesionError(f"{path} is not in UTF-8 (byte {error.start}); convert it") from error


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
            options = [option.strip() for option in fields.get("options", "").split("|")]
            yield number, fields | {"options": [option for option in options if option]}


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


def _question(place: str, row: Mapping[str, Any]) -> Question:
    """A question, checked; `place` names its file and line."""
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
    return Question(prompt, answer.strip(), cleaned)


# ---- scoring


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Texts and tasks in tokens, ready to be put to the model in any state.

    - `pieces`: windows of the texts.
    - `options`: every option after its prompt, in order of files, questions and options.
    - `open_prompts`: prompts whose answers are generated, in order of files and questions.
    - `excerpts`: name of the file and tokens of what is continued.
    - `intact`: what the intact model predicts.
    """

    subject: Subject
    texts: tuple[Text, ...]
    tasks: tuple[TaskFile, ...]
    settings: EvaluationOptions
    pieces: tuple[Piece, ...]
    options: tuple[Piece, ...]
    open_prompts: tuple[list[int], ...]
    excerpts: tuple[tuple[str, list[int]], ...]
    intact: IntactPredictions

    @classmethod
    def prepare(
        cls, subject: Subject, texts: Sequence[Text], tasks: Sequence[TaskFile], settings: EvaluationOptions
    ) -> Evaluation:
        """Turn texts and tasks into tokens."""
        documents = [document for text in texts for document in text.documents]
        pieces = split_texts(subject, documents, settings.window, settings.stride)
        questions = [question for task in tasks for question in task.questions]
        options = [
            _option_piece(subject, question.prompt, option)
            for question in questions
            for option in _compared_options(question, settings)
        ]
        open_prompts = [
            _tokens(subject, question.prompt) for question in questions if not _compared_options(question, settings)
        ]
        excerpts = _excerpts(subject, texts, tasks, settings.generations)
        _check_room([*open_prompts, *(tokens for _, tokens in excerpts)], subject.context, settings.new_tokens)
        tokens = (tuple(pieces), tuple(options), tuple(open_prompts), tuple(excerpts))
        return cls(subject, tuple(texts), tuple(tasks), settings, *tokens, IntactPredictions())

    def score(self, intervention: Intervention | None = None) -> Values:
        """Score the model in the state that an intervention makes.

        Returns by text ``bits_per_token``, ``bits_per_byte``, ``kl``; by task ``accuracy``, ``accuracy_parsed``,
        ``parse_failures``.
        """
        return self._score_texts(intervention) | self._score_tasks(intervention)

    def continue_excerpts(self, intervention: Intervention | None = None) -> list[dict[str, str]]:
        """Let the model continue the first texts of every file: ``text``, ``prompt``, ``continued``."""
        continuations = self._continue([tokens for _, tokens in self.excerpts], intervention)
        decode = self.subject.tokenizer.decode
        return [
            {"text": name, "prompt": str(decode(tokens, skip_special_tokens=True)), "continued": continuation}
            for (name, tokens), continuation in zip(self.excerpts, continuations, strict=True)
        ]

    def sizes(self) -> dict[str, dict[str, int]]:
        """Count what is scored: ``Documents``, ``TokensScored`` and ``Bytes`` of a text, ``Items`` of a task."""
        sizes = {}
        for text, numbers in self._pieces_by_text():
            pieces = [self.pieces[number] for number in numbers]
            tokens = [token for piece in pieces for token in piece.tokens[piece.start :]]
            n_scored = sum(token not in self.subject.special_ids for token in tokens)
            n_bytes = sum(piece.n_bytes for piece in pieces)
            sizes[text.name] = {"Documents": len(text.documents), "TokensScored": n_scored, "Bytes": n_bytes}
        return sizes | {task.name: {"Items": len(task.questions)} for task in self.tasks}

    def _pieces_by_text(self) -> Iterator[tuple[Text, NDArray[np.int64]]]:
        """Each text with the numbers of its pieces."""
        documents, first = np.array([piece.text for piece in self.pieces], np.int64), 0
        for text in self.texts:
            last = first + len(text.documents)
            yield text, np.flatnonzero((documents >= first) & (documents < last))
            first = last

    def _score_texts(self, intervention: Intervention | None) -> Values:
        """Score texts: surprisal, and divergence from the intact model, per token.

        Sums over all windows are divided by all tokens, so that a long window counts as much as it holds.
        """
        batch_size = self.settings.batch_size
        surprisal = measure_surprisal(self.subject, self.pieces, intervention, self.intact, batch_size)
        n_bytes = np.array([piece.n_bytes for piece in self.pieces])
        values: Values = {}
        for text, numbers in self._pieces_by_text():
            bits, n_tokens = surprisal.bits[numbers].sum(), int(surprisal.n_tokens[numbers].sum())
            if not n_tokens:
                raise LesionError(f"{text.name} holds special tokens only; give a text with words")
            values[text.name] = {
                "bits_per_token": float(bits / n_tokens),
                "bits_per_byte": float(bits / n_bytes[numbers].sum()),  # comparable between tokenizers
                "kl": float(surprisal.kl[numbers].sum() / n_tokens),
            }
        return values

    def _score_tasks(self, intervention: Intervention | None) -> Values:
        """Score tasks: shares of right answers."""
        surprisal = measure_surprisal(self.subject, self.options, intervention, None, self.settings.batch_size)
        log_likelihoods = iter(-surprisal.bits)
        replies = iter(self._continue(list(self.open_prompts), intervention))
        return {
            task.name: _accuracy(
                [_is_right(question, self.settings, log_likelihoods, replies) for question in task.questions]
            )
            for task in self.tasks
        }

    def _continue(self, prompts: list[list[int]], intervention: Intervention | None) -> list[str]:
        """What the model says after prompts."""
        settings = self.settings
        return continue_tokens(self.subject, prompts, settings.new_tokens, intervention, settings.batch_size)


def _tokens(subject: Subject, prompt: str, n_body: int | None = None) -> list[int]:
    """Tokens of a prompt, or of its start."""
    prefix, body = encode(subject, prompt)
    return [*prefix, *body[:n_body]]


def _excerpts(
    subject: Subject, texts: Sequence[Text], tasks: Sequence[TaskFile], n_per_file: int
) -> list[tuple[str, list[int]]]:
    """What is continued: the starts of the first documents of every text, and the first prompts of every task."""
    starts = [
        (text.name, _tokens(subject, document, _EXCERPT_TOKENS))
        for text in texts
        for document in text.documents[:n_per_file]
    ]
    return starts + [
        (task.name, _tokens(subject, question.prompt)) for task in tasks for question in task.questions[:n_per_file]
    ]


def _check_room(prompts: Sequence[Sequence[int]], context: int | None, n_new: int) -> None:
    """Raise if a prompt leaves no room for an answer."""
    longest = max(map(len, prompts), default=0)
    if context and longest + n_new > context:
        raise PromptError(
            f"a prompt has {longest} tokens and {n_new} are to follow, the context holds {context}; shorten it or "
            "lower `new_tokens`"
        )


def find_option(reply: str, options: Sequence[str]) -> str | None:
    """Find the option that a model named in its reply.

    Returns the only option whose words stand there one after the other, upper case and punctuation aside; of options
    within one another the longest. None where there is no such option, or several.

    >>> find_option("Positive, I think", ["positive", "negative"])
    'positive'
    >>> find_option("nonpositive", ["positive", "negative"]) is None
    True
    """
    words = _words(reply)
    present = [option for option in options if _within(_words(option), words)]
    parts = {
        option
        for option in present
        if any(option != longer and _within(_words(option), _words(longer)) for longer in present)
    }
    longest = [option for option in present if option not in parts]
    return longest[0] if len(longest) == 1 else None


def _is_right(
    question: Question, settings: EvaluationOptions, log_likelihoods: Iterator[Any], replies: Iterator[str]
) -> bool | None:
    """Whether a question was answered rightly; None where no answer was found."""
    if _compared_options(question, settings):
        scores = [float(next(log_likelihoods)) for _ in question.options]
        return question.options[int(np.argmax(scores))] == question.answer
    reply = next(replies)
    if question.options:
        option = find_option(reply, question.options)
        return None if option is None else option == question.answer
    words, answer = _words(reply), _words(question.answer)
    return words[: len(answer)] == answer if words else None


def _accuracy(marks: Sequence[bool | None]) -> dict[str, float | None]:
    """Shares of right answers, among all and among those found, and of questions without an answer found."""
    parsed = [mark for mark in marks if mark is not None]
    return {
        "accuracy": sum(parsed) / len(marks),
        "accuracy_parsed": sum(parsed) / len(parsed) if parsed else None,
        "parse_failures": 1 - len(parsed) / len(marks),
    }


def _compared_options(question: Question, settings: EvaluationOptions) -> tuple[str, ...]:
    """Options whose likelihoods are compared; none where the model is to say the answer."""
    return question.options if settings.answers == "likelihood" else ()


def _option_piece(subject: Subject, prompt: str, option: str) -> Piece:
    """An option after its prompt, of which only the option is scored."""
    between = "" if prompt[-1:].isspace() else " "
    prefix, body = encode(subject, f"{prompt}{between}{option}")
    # Prompt and option are encoded together, as a reader would meet them: a token may span both. What is scored starts
    # at the first token that differs from those of the prompt alone.
    alone = encode(subject, prompt.rstrip())[1]
    n_same = next((n for n, pair in enumerate(zip(alone, body, strict=False)) if pair[0] != pair[1]), len(alone))
    tokens, start = [*prefix, *body], max(1, len(prefix) + min(n_same, len(body) - 1))
    if subject.context and len(tokens) > subject.context:
        raise PromptError(
            f"prompt {prompt[:40]!r} with its option has {len(tokens)} tokens, the context holds {subject.context}; "
            "shorten it"
        )
    return Piece(tuple(tokens), start, 0)


def _words(text: str) -> list[str]:
    """Words of the first line that has any, upper case and punctuation aside."""
    lines = ([word.strip(punctuation).casefold() for word in line.split()] for line in text.splitlines())
    return next((words for line in lines if (words := [word for word in line if word])), [])


def _within(part: Sequence[str], words: Sequence[str]) -> bool:
    """Whether words occur one after the other."""
    n_words = len(part)
    return bool(part) and any(list(words[start : start + n_words]) == list(part) for start in range(len(words)))
