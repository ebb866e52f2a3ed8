"""Scores a causal model: bits per token of texts, likelihood of options, greedy continuations.

A text longer than the window is read in windows that overlap. Every token is scored once, with as much context as the
window and the stride allow. A start token, where the tokenizer has one, begins every window, so that the first word is
scored too; special tokens are not.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from llm2bids.errors import LesionError, ModelError, NonFiniteError, PromptError
from llm2bids.model.loading import pad_id
from llm2bids.model.memory import explain_memory_errors
from llm2bids.model.sites import lock_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from llm2bids.model.loading import Subject

Intervention: TypeAlias = "Callable[[list[int]], AbstractContextManager[None]]"
"""Makes the context (a lesion) in which a batch is read; takes the number of prompt tokens of each text."""

Item = TypeVar("Item")

WINDOW: Final = 2048
"""Longest window in tokens, where the model's context is longer or has no end."""
_BITS: Final = 1 / float(np.log(2))
"""Bits per nat."""
_CACHE_BYTES: Final = 1 << 29
"""Largest size of the cached predictions of the intact model; further ones are computed again for every lesion."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A window of a text: tokens that go through the model together.

    - `start`: index of the first token that is scored; those before it are its context.
    - `text`: number of the text it is part of.
    - `n_bytes`: bytes of the text that its scored tokens stand for.
    """

    tokens: tuple[int, ...]
    start: int
    text: int
    n_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Surprisal:
    """Surprisal of a model at pieces of text.

    - `bits` (n_pieces,): surprisal in bits, summed over scored tokens.
    - `n_tokens` (n_pieces,): number of scored tokens.
    - `kl` (n_pieces,): Kullback-Leibler divergence from the predictions of the intact model, in bits, summed over
      scored tokens.
    """

    bits: NDArray[np.float64]
    n_tokens: NDArray[np.int64]
    kl: NDArray[np.float64]


@dataclass(slots=True)
class IntactPredictions:
    """A cache of what the intact model predicts for certain pieces, as far as memory allows.

    `cache`: log probabilities where tokens are scored, by number of the batch, shape (n_scored, n_vocabulary).
    """

    cache: dict[int, Tensor] = field(default_factory=dict)
    n_bytes: int = 0

    def store(self, batch: int, predictions: Tensor) -> Tensor:
        """Store predictions (log probabilities, shape (n_scored, n_vocabulary)) if there is room, and return them."""
        size = predictions.numel() * predictions.element_size()
        if batch not in self.cache and self.n_bytes + size <= _CACHE_BYTES:
            self.cache[batch] = predictions
            self.n_bytes += size
        return predictions


def split_texts(
    subject: Subject, texts: Sequence[str], window: int | None = None, stride: int | None = None
) -> list[Piece]:
    """Cut texts into windows that the model can read, in the order of the texts.

    `window`: tokens read together; by default as many as the context holds, 2048 at most. `stride`: tokens from one
    window to the next; by default half a window. All tokens of a text are scored once, but the first is not where no
    start token precedes it.
    """
    longest = min(subject.context or WINDOW, WINDOW if window is None else window)
    if window is not None and not 2 <= window <= (subject.context or window):  # noqa: PLR2004
        raise LesionError(f"a window of {window} tokens found; 2 to {subject.context or 'any number'} needed")
    pieces: list[Piece] = []
    for number, text in enumerate(texts):
        prefix, body = encode(subject, text)
        if len(prefix) + len(body) < 2 or not body:  # noqa: PLR2004 - one to predict, one to predict it from
            raise PromptError(f"the text {text[:40]!r} has less than 2 tokens, so none can be predicted; give a longer")
        size = longest - len(prefix)
        step = max(1, size // 2) if stride is None else stride
        max_step = size if prefix else size - 1  # without a start token the first token of a window has no context
        if not 1 <= step <= max_step:
            raise LesionError(f"a stride of {step} tokens found, 1 to {max_step} needed for windows of {longest}")
        pieces += _windows(subject, number, text, (prefix, body), size, step)
    return pieces


def encode(subject: Subject, text: str) -> tuple[list[int], list[int]]:
    """Return the tokens before a text, and those of the text.

    The first are the special tokens that the tokenizer puts there, else its start token if it has one. Special tokens
    that it adds at the end are left out.
    """
    ids, special = list(subject.tokenizer(text, verbose=False)["input_ids"]), subject.special_ids
    if ids and max(ids) >= subject.n_embedded:
        raise ModelError(
            f"the tokenizer gives token {max(ids)}, the model knows {subject.n_embedded}; use its own tokenizer"
        )
    first = next((number for number, token in enumerate(ids) if token not in special), len(ids))
    last = next((number for number in range(len(ids), 0, -1) if ids[number - 1] not in special), 0)
    begin = subject.tokenizer.bos_token_id
    prefix = ids[:first] or ([] if begin is None or begin >= subject.n_embedded else [int(begin)])
    return prefix, ids[first:last]


def measure_surprisal(
    subject: Subject,
    pieces: Sequence[Piece],
    intervention: Intervention | None = None,
    intact: IntactPredictions | None = None,
    batch_size: int = 8,
) -> Surprisal:
    """Measure the surprisal of a model at pieces of text.

    `intervention`: makes the context in which it reads, given the index of the first scored token of each piece of a
    batch; None for the intact model. `intact`: cache of the intact model's predictions; without it divergences are not
    computed and 0.
    """
    parts = []
    for number, batch in enumerate(_batches(pieces, batch_size)):
        starts = [piece.start for piece in batch]
        ids, mask, scored, targets = _padded(subject, batch)
        with explain_memory_errors(batch_size), lock_of(subject.model), torch.inference_mode():
            with intervention(starts) if intervention else nullcontext():
                after = _predictions(subject, ids, mask, scored)
            before = after
            if intact is not None:
                if intervention is None:
                    before = intact.store(number, after)
                elif number in intact.cache:
                    before = intact.cache[number]
                else:
                    before = intact.store(number, _predictions(subject, ids, mask, scored))
            parts.append(_sums(before, after, targets, scored[0], len(batch)))
    bits, kl = (np.concatenate(values) for values in zip(*parts, strict=True)) if parts else (np.zeros(0),) * 2
    n_tokens = np.array([len(_scored(subject, piece)) for piece in pieces], np.int64)
    if not np.isfinite(bits).all():
        raise NonFiniteError(
            'the model predicts NaN or infinity under this lesion; try dtype="float32", or a weaker method'
        )
    return Surprisal(bits, n_tokens, kl)


def continue_tokens(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    n_tokens: int,
    intervention: Intervention | None = None,
    batch_size: int = 8,
) -> list[str]:
    """Let a model continue prompts, given as tokens, with the likeliest tokens.

    Only prompts of equal length are in the model together, so that no padding is needed. `n_tokens`: tokens to add at
    most. `intervention`: as for `measure_surprisal`, given the length of each prompt.
    """
    lengths: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        lengths[len(prompt)].append(number)
    continuations = [""] * len(prompts)
    for numbers in lengths.values():
        for batch in _batches(numbers, batch_size):
            ids = torch.tensor([list(prompts[number]) for number in batch], device=subject.device)
            context = intervention([ids.shape[1]] * len(batch)) if intervention else nullcontext()
            with (
                explain_memory_errors(batch_size),
                lock_of(subject.model),
                torch.inference_mode(),
                subject.plain_generation(),
                context,
            ):
                longer = subject.model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_tokens, do_sample=False
                )
            for number, row in zip(batch, longer[:, ids.shape[1] :].tolist(), strict=True):
                continuations[number] = subject.tokenizer.decode(row, skip_special_tokens=True)
    return continuations


def _windows(
    subject: Subject, number: int, text: str, tokens: tuple[list[int], list[int]], size: int, step: int
) -> Iterator[Piece]:
    """The windows of one text. Each begins with the prefix, and scores the tokens that no earlier one scored."""
    prefix, body = tokens
    unscored = "" if prefix else subject.tokenizer.decode(body[:1])
    n_bytes, n_scored = len(text.encode()) - len(unscored.encode()), 0 if prefix else 1
    for begin in range(0, len(body), step):
        end = min(begin + size, len(body))
        if end > n_scored:
            start = n_scored - begin + len(prefix)
            yield Piece((*prefix, *body[begin:end]), start, number, n_bytes)
            n_scored, n_bytes = end, 0


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Batches of at most so many items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _scored(subject: Subject, piece: Piece) -> list[int]:
    """Indices of the scored tokens of a piece."""
    special = subject.special_ids
    return [index for index in range(piece.start, len(piece.tokens)) if piece.tokens[index] not in special]


def _padded(subject: Subject, batch: Sequence[Piece]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
    """Tokens and mask, (n_pieces, n_tokens); rows and columns at which scored tokens are predicted; these tokens."""
    width = max(len(piece.tokens) for piece in batch)
    ids = torch.full((len(batch), width), pad_id(subject.tokenizer))
    mask = torch.zeros_like(ids)
    for row, piece in enumerate(batch):
        ids[row, : len(piece.tokens)] = torch.tensor(piece.tokens)
        mask[row, : len(piece.tokens)] = 1
    pairs = [(row, column) for row, piece in enumerate(batch) for column in _scored(subject, piece)]
    rows, columns = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    # The prediction of a token is at the position before it.
    return ids.to(subject.device), mask.to(subject.device), (rows, columns - 1), ids[rows, columns]


def _predictions(subject: Subject, ids: Tensor, mask: Tensor, scored: tuple[Tensor, Tensor]) -> Tensor:
    """Log probabilities of the next token where tokens are scored, shape (n_scored, n_vocabulary)."""
    logits = subject.model(input_ids=ids, attention_mask=mask).logits
    rows, columns = (indices.to(logits.device) for indices in scored)
    predicted: Tensor = logits[rows, columns].float().log_softmax(-1)
    return predicted


def _sums(
    before: Tensor, after: Tensor, targets: Tensor, rows: Tensor, n_pieces: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Surprisal and divergence of each piece of a batch, in bits."""
    surprisal = -after.gather(1, targets.to(after.device)[:, None])[:, 0]
    # KL(before || after) = sum p (log p - log q), with p intact and q lesioned. It is never negative but for rounding.
    kl = surprisal * 0 if before is after else (before.exp() * (before - after)).sum(-1).clamp_min(0)
    bits, kl_bits = (
        np.bincount(rows.numpy(), part.cpu().double().numpy() * _BITS, n_pieces).astype(np.float64)
        for part in (surprisal, kl)
    )
    return bits, kl_bits
