"""One model in one state, put through all texts and tasks."""

from __future__ import annotations

from dataclasses import dataclass
from string import punctuation
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from llm2bids.errors import LesionError, PromptError
from llm2bids.model.scoring import IntactPredictions, Piece, continue_tokens, encode, measure_surprisal, split_texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from llm2bids.lesioning.materials import Item, Questions, Text
    from llm2bids.model.loading import Subject
    from llm2bids.model.scoring import Intervention

Values: TypeAlias = "dict[str, dict[str, float | None]]"
"""Scores by name of the text or task, then by name of the score; None where one cannot be said."""
Answers: TypeAlias = Literal["likelihood", "generate"]
ANSWERS: Final = ("likelihood", "generate")
"""Whether one of several options is the likeliest one, or is looked for in what the model says."""
_PROMPT: Final = 12
"""Tokens of a text that are continued, to be looked at."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How texts and tasks are put to the model.

    - `window`, `stride`: tokens read together, and from one window to the next; see
      `llm2bids.model.scoring.split_texts`.
    - `answers`: how an option is chosen; without options the model always generates.
    - `new_tokens`: tokens generated at most.
    - `generations`: texts continued per file, to be looked at.
    - `batch_size`: texts in the model at a time.
    """

    window: int | None = None
    stride: int | None = None
    answers: Answers = "likelihood"
    new_tokens: int = 24
    generations: int = 2
    batch_size: int = 8

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.answers not in ANSWERS:
            raise LesionError(f"answers by {self.answers!r} found; use {' or '.join(ANSWERS)}")
        for name, least in (("new_tokens", 1), ("generations", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise LesionError(f"{name} of {getattr(self, name)} found; {least} or more needed")


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """Texts and tasks in tokens, ready to be put to the model in any state.

    - `options`: every option after its prompt, in order of files, items and options.
    - `free`: prompts whose answers are generated, in order of files and items.
    - `shown`: file and tokens of what is continued.
    - `intact`: what the intact model predicts.
    """

    subject: Subject
    texts: tuple[Text, ...]
    questions: tuple[Questions, ...]
    reading: Reading
    pieces: tuple[Piece, ...]
    options: tuple[Piece, ...]
    free: tuple[list[int], ...]
    shown: tuple[tuple[str, list[int]], ...]
    intact: IntactPredictions

    @classmethod
    def prepare(cls, subject: Subject, texts: Sequence[Text], questions: Sequence[Questions], reading: Reading) -> Exam:
        """Turn everything into tokens."""
        documents = [document for text in texts for document in text.documents]
        pieces = split_texts(subject, documents, reading.window, reading.stride)
        options = [
            _option_piece(subject, item.prompt, option)
            for one in questions
            for item in one.items
            for option in _chosen_from(item, reading)
        ]
        items = [(one.name, item) for one in questions for item in one.items]
        free = [_tokens(subject, item.prompt) for _, item in items if not _chosen_from(item, reading)]
        shown = _shown(subject, texts, questions, reading.generations)
        _check_room([*free, *(tokens for _, tokens in shown)], subject.context, reading.new_tokens)
        prepared = (tuple(pieces), tuple(options), tuple(free), tuple(shown))
        return cls(subject, tuple(texts), tuple(questions), reading, *prepared, IntactPredictions())

    def take(self, changed: Intervention | None = None) -> Values:
        """Put everything to the model.

        Returns by text ``bits_per_token``, ``bits_per_byte``, ``kl``; by task ``accuracy``, ``accuracy_parsed``,
        ``parse_failures``.
        """
        return self._read(changed) | self._ask(changed)

    def continued(self, changed: Intervention | None = None) -> list[dict[str, str]]:
        """Let the model continue the first texts of every file."""
        said = self._continue([tokens for _, tokens in self.shown], changed)
        decode = self.subject.tokenizer.decode
        return [
            {"text": name, "prompt": str(decode(tokens, skip_special_tokens=True)), "continued": answer}
            for (name, tokens), answer in zip(self.shown, said, strict=True)
        ]

    def sizes(self) -> dict[str, dict[str, int]]:
        """Count what scores are means of.

        Returns by text ``Documents``, ``TokensScored`` and ``Bytes``; by task ``Items``.
        """
        found = {}
        for text, pieces in self._pieces_by_text():
            special = self.subject.special_ids
            tokens = [token for number in pieces for token in self.pieces[number].tokens[self.pieces[number].start :]]
            n_bytes = sum(self.pieces[number].n_bytes for number in pieces)
            scored = sum(token not in special for token in tokens)
            found[text.name] = {"Documents": len(text.documents), "TokensScored": scored, "Bytes": n_bytes}
        return found | {one.name: {"Items": len(one.items)} for one in self.questions}

    def _pieces_by_text(self) -> Iterator[tuple[Text, NDArray[np.int64]]]:
        """Each text and the numbers of its pieces."""
        of, first = np.array([piece.text for piece in self.pieces], np.int64), 0
        for text in self.texts:
            last = first + len(text.documents)
            yield text, np.flatnonzero((of >= first) & (of < last))
            first = last

    def _read(self, changed: Intervention | None) -> Values:
        """Scores of texts."""
        read = measure_surprisal(self.subject, self.pieces, changed, self.intact, self.reading.batch_size)
        n_bytes = np.array([piece.n_bytes for piece in self.pieces])
        values: Values = {}
        for text, own in self._pieces_by_text():
            bits, n_tokens = read.bits[own].sum(), int(read.n_tokens[own].sum())
            if not n_tokens:
                raise LesionError(f"{text.name} holds special tokens only; give a text with words")
            values[text.name] = {
                "bits_per_token": float(bits / n_tokens),
                "bits_per_byte": float(bits / n_bytes[own].sum()),
                "kl": float(read.kl[own].sum() / n_tokens),
            }
        return values

    def _ask(self, changed: Intervention | None) -> Values:
        """Scores of tasks."""
        likely = iter(-measure_surprisal(self.subject, self.options, changed, None, self.reading.batch_size).bits)
        said = iter(self._continue(list(self.free), changed))
        return {
            one.name: _marks([_mark(item, self.reading, likely, said) for item in one.items]) for one in self.questions
        }

    def _continue(self, prompts: list[list[int]], changed: Intervention | None) -> list[str]:
        """What the model says after prompts."""
        return continue_tokens(self.subject, prompts, self.reading.new_tokens, changed, self.reading.batch_size)


def _tokens(subject: Subject, prompt: str, n_body: int | None = None) -> list[int]:
    """A prompt, or its start."""
    prefix, body = encode(subject, prompt)
    return [*prefix, *body[:n_body]]


def _shown(
    subject: Subject, texts: Sequence[Text], questions: Sequence[Questions], n_shown: int
) -> list[tuple[str, list[int]]]:
    """What is continued: the starts of the first documents of every file, and the first prompts."""
    starts = [(one.name, _tokens(subject, text, _PROMPT)) for one in texts for text in one.documents[:n_shown]]
    return starts + [(one.name, _tokens(subject, item.prompt)) for one in questions for item in one.items[:n_shown]]


def _check_room(prompts: Sequence[Sequence[int]], context: int | None, n_new: int) -> None:
    """Refuse a prompt that leaves no room for an answer."""
    longest = max(map(len, prompts), default=0)
    if context and longest + n_new > context:
        raise PromptError(
            f"a prompt has {longest} tokens and {n_new} are to follow, the context holds {context}; shorten it or "
            "lower --new-tokens"
        )


def find_option(said: str, options: Sequence[str]) -> str | None:
    """Look for the one option that a model named.

    Returns the only option whose words are said one after the other, upper case and punctuation aside; of options
    within one another the longest. None where there is none, or several.

    >>> find_option("Positive, I think", ["positive", "negative"])
    'positive'
    >>> find_option("nonpositive", ["positive", "negative"]) is None
    True
    """
    words = _words(said)
    named = [option for option in options if _within(_words(option), words)]
    longest = [one for one in named if not any(one != other and _within(_words(one), _words(other)) for other in named)]
    return longest[0] if len(longest) == 1 else None


def _mark(item: Item, reading: Reading, likely: Iterator[Any], said: Iterator[str]) -> bool | None:
    """Whether an item was answered rightly; None where no answer was found."""
    if _chosen_from(item, reading):
        scores = [float(next(likely)) for _ in item.options]
        return item.options[int(np.argmax(scores))] == item.answer
    text = next(said)
    if item.options:
        found = find_option(text, item.options)
        return None if found is None else found == item.answer
    words, wanted = _words(text), _words(item.answer)
    return words[: len(wanted)] == wanted if words else None


def _marks(marks: Sequence[bool | None]) -> dict[str, float | None]:
    """Share of right answers among all and among those parsed, and of those that could not be parsed."""
    parsed = [mark for mark in marks if mark is not None]
    return {
        "accuracy": sum(parsed) / len(marks),
        "accuracy_parsed": sum(parsed) / len(parsed) if parsed else None,
        "parse_failures": 1 - len(parsed) / len(marks),
    }


def _chosen_from(item: Item, reading: Reading) -> tuple[str, ...]:
    """Options whose likelihoods are compared; none where the model is to say the answer."""
    return item.options if reading.answers == "likelihood" else ()


def _option_piece(subject: Subject, prompt: str, option: str) -> Piece:
    """An option after its prompt, only the option scored."""
    between = "" if prompt[-1:].isspace() else " "
    prefix, body = encode(subject, f"{prompt}{between}{option}")
    alone = encode(subject, prompt.rstrip())[1]
    same = next((n for n, pair in enumerate(zip(alone, body, strict=False)) if pair[0] != pair[1]), len(alone))
    tokens, start = [*prefix, *body], max(1, len(prefix) + min(same, len(body) - 1))
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


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether words occur one after the other."""
    return bool(part) and any(list(whole[at : at + len(part)]) == list(part) for at in range(len(whole)))


def describe(values: Mapping[str, Mapping[str, float | None]]) -> Iterator[tuple[str, str, float]]:
    """Go through scores, perplexity beside bits per token.

    Yields name of the text or task, name of the score, and the score; NaN where it cannot be said.
    """
    for name, scores in values.items():
        for score, value in scores.items():
            if score == "bits_per_token" and value is not None:
                with np.errstate(over="ignore"):
                    yield name, "perplexity", float(np.exp2(value))
            yield name, score, float("nan") if value is None else value
