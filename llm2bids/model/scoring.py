"""How well a causal model does: bits per token of texts, likelihood of options, greedy continuations.

A text longer than the window is read in windows that overlap; every token is scored once, with as much before it as the
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
from llm2bids.model.memory import enough_memory
from llm2bids.model.sites import lock_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from llm2bids.model.loading import Subject

Changed: TypeAlias = "Callable[[list[int]], AbstractContextManager[None]]"
"""Makes the context in which texts are read, given the number of tokens of each that are no answer."""

Item = TypeVar("Item")

WINDOW: Final = 2048
"""Longest window in tokens, where the model's context is longer or has no end."""
_BITS: Final = 1 / float(np.log(2))
_KEPT_BYTES: Final = 1 << 29
"""Predictions of the intact model that are kept; beyond, they are computed again for every lesion."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens that go through the model together.

    - `start`: place of the first token that is scored; those before it are its context.
    - `text`: number of the text it is part of.
    - `n_bytes`: bytes of the text that its scored tokens stand for.
    """

    tokens: tuple[int, ...]
    start: int
    text: int
    n_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Surprise:
    """How a model took pieces of text.

    - `bits` (n_pieces,): surprisal of all scored tokens together, in bits.
    - `n_tokens` (n_pieces,): tokens scored.
    - `kl` (n_pieces,): divergence of its predictions from those of the intact model, in bits, summed over scored
      tokens.
    """

    bits: NDArray[np.float64]
    n_tokens: NDArray[np.int64]
    kl: NDArray[np.float64]


@dataclass(slots=True)
class Intact:
    """What the intact model predicts, kept as far as memory allows; one for the pieces it is used with.

    `kept`: log probabilities of scored tokens' predictions by number of the batch, shape (n_scored, n_vocabulary).
    """

    kept: dict[int, Tensor] = field(default_factory=dict)
    n_bytes: int = 0

    def keep(self, batch: int, predictions: Tensor) -> Tensor:
        """Keep predictions if there is room.

        `predictions` (n_scored, n_vocabulary): log probabilities. Returns (n_scored, n_vocabulary): the same.
        """
        size = predictions.numel() * predictions.element_size()
        if batch not in self.kept and self.n_bytes + size <= _KEPT_BYTES:
            self.kept[batch] = predictions
            self.n_bytes += size
        return predictions


def split_texts(
    subject: Subject, texts: Sequence[str], window: int | None = None, stride: int | None = None
) -> list[Piece]:
    """Cut texts into windows that the model can read.

    `window`: tokens read together; by default as many as the context holds, 2048 at most. `stride`: tokens from one
    window to the next; by default half a window. Returns in the order of the texts; all tokens of a text are scored
    once but a first one that nothing stands before.
    """
    most = min(subject.context or WINDOW, WINDOW if window is None else window)
    if window is not None and not 2 <= window <= (subject.context or window):  # noqa: PLR2004
        raise LesionError(f"a window of {window} tokens found; 2 to {subject.context or 'any number'} needed")
    pieces: list[Piece] = []
    for number, text in enumerate(texts):
        prefix, body = encode(subject, text)
        if len(prefix) + len(body) < 2 or not body:  # noqa: PLR2004 - one to predict, one to predict it from
            raise PromptError(f"the text {text[:40]!r} has less than 2 tokens, so none can be predicted; give a longer")
        size = most - len(prefix)
        step, longest = max(1, size // 2) if stride is None else stride, size if prefix else size - 1
        if not 1 <= step <= longest:
            raise LesionError(f"a stride of {step} tokens found, 1 to {longest} needed for windows of {most}")
        pieces += _windows(subject, number, text, (prefix, body), size, step)
    return pieces


def encode(subject: Subject, text: str) -> tuple[list[int], list[int]]:
    """Turn a text into tokens, start tokens apart.

    Returns `prefix` special tokens before the text: what the tokenizer adds, else its start token if it has one.
    Returns `body` the text, without the special tokens that the tokenizer adds after it.
    """
    ids, special = list(subject.tokenizer(text, verbose=False)["input_ids"]), subject.special_ids
    if ids and max(ids) >= subject.n_embedded:
        raise ModelError(
            f"the tokenizer gives token {max(ids)}, the model knows {subject.n_embedded}; use its own tokenizer"
        )
    first = next((place for place, token in enumerate(ids) if token not in special), len(ids))
    last = next((place for place in range(len(ids), 0, -1) if ids[place - 1] not in special), 0)
    begin = subject.tokenizer.bos_token_id
    prefix = ids[:first] or ([] if begin is None or begin >= subject.n_embedded else [int(begin)])
    return prefix, ids[first:last]


def surprise(
    subject: Subject,
    pieces: Sequence[Piece],
    changed: Changed | None = None,
    intact: Intact | None = None,
    batch_size: int = 8,
) -> Surprise:
    """Let a model read, and say how surprised it is.

    `changed`: makes the context in which it reads, given the place of the first scored token of each piece of a batch;
    none for the intact model. `intact`: where predictions of the intact model are kept; without it divergences are not
    computed and 0.
    """
    parts = []
    for number, batch in enumerate(_batches(pieces, batch_size)):
        starts = [piece.start for piece in batch]
        ids, mask, scored, targets = _padded(subject, batch)
        with enough_memory(batch_size), lock_of(subject.model), torch.inference_mode():
            with changed(starts) if changed else nullcontext():
                after = _predictions(subject, ids, mask, scored)
            before = after
            if intact is not None:
                if changed is None:
                    before = intact.keep(number, after)
                elif number in intact.kept:
                    before = intact.kept[number]
                else:
                    before = intact.keep(number, _predictions(subject, ids, mask, scored))
            parts.append(_sums(before, after, targets, scored[0], len(batch)))
    bits, kl = (np.concatenate(values) for values in zip(*parts, strict=True)) if parts else (np.zeros(0),) * 2
    n_tokens = np.array([len(_scored(subject, piece)) for piece in pieces], np.int64)
    if not np.isfinite(bits).all():
        raise NonFiniteError(
            "the model predicts NaN or infinity under this lesion; try --dtype float32, or a weaker method"
        )
    return Surprise(bits, n_tokens, kl)


def continue_tokens(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    n_tokens: int,
    changed: Changed | None = None,
    batch_size: int = 8,
) -> list[str]:
    """Let a model continue texts with the likeliest tokens.

    `prompts`: tokens to begin with; only those of one length are in the model together, so that no padding is needed.
    `n_tokens`: tokens to add at most.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        by_length[len(prompt)].append(number)
    found = [""] * len(prompts)
    for numbers in by_length.values():
        for batch in _batches(numbers, batch_size):
            ids = torch.tensor([list(prompts[number]) for number in batch], device=subject.device)
            context = changed([ids.shape[1]] * len(batch)) if changed else nullcontext()
            with enough_memory(batch_size), lock_of(subject.model), torch.inference_mode(), context:
                longer = subject.model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_tokens, do_sample=False
                )
            for number, row in zip(batch, longer[:, ids.shape[1] :].tolist(), strict=True):
                found[number] = subject.tokenizer.decode(row, skip_special_tokens=True)
    return found


def _windows(
    subject: Subject, number: int, text: str, tokens: tuple[list[int], list[int]], size: int, step: int
) -> Iterator[Piece]:
    """The windows of one text; each begins with the prefix and scores what no earlier one did."""
    prefix, body = tokens
    unscored = "" if prefix else subject.tokenizer.decode(body[:1])
    n_bytes, done = len(text.encode()) - len(unscored.encode()), 0 if prefix else 1
    for begin in range(0, len(body), step):
        end = min(begin + size, len(body))
        if end > done:
            new = done - begin + len(prefix)
            yield Piece((*prefix, *body[begin:end]), new, number, n_bytes)
            done, n_bytes = end, 0


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """So many at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _scored(subject: Subject, piece: Piece) -> list[int]:
    """Places of the tokens that count."""
    special = subject.special_ids
    return [place for place in range(piece.start, len(piece.tokens)) if piece.tokens[place] not in special]


def _padded(subject: Subject, batch: Sequence[Piece]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
    """Tokens and mask, shape (n_pieces, n_tokens); where scored tokens are predicted, and which they are."""
    width = max(len(piece.tokens) for piece in batch)
    ids = torch.full((len(batch), width), pad_id(subject.tokenizer))
    mask = torch.zeros_like(ids)
    for row, piece in enumerate(batch):
        ids[row, : len(piece.tokens)] = torch.tensor(piece.tokens)
        mask[row, : len(piece.tokens)] = 1
    rows = [(row, place) for row, piece in enumerate(batch) for place in _scored(subject, piece)]
    at = torch.tensor(rows, dtype=torch.long).reshape(-1, 2)
    targets = ids[at[:, 0], at[:, 1]]
    return ids.to(subject.device), mask.to(subject.device), (at[:, 0], at[:, 1] - 1), targets


def _predictions(subject: Subject, ids: Tensor, mask: Tensor, scored: tuple[Tensor, Tensor]) -> Tensor:
    """Log probabilities of what follows, where scored, shape (n_scored, n_vocabulary)."""
    logits = subject.model(input_ids=ids, attention_mask=mask).logits
    rows, columns = (place.to(logits.device) for place in scored)
    predicted: Tensor = logits[rows, columns].float().log_softmax(-1)
    return predicted


def _sums(
    before: Tensor, after: Tensor, targets: Tensor, rows: Tensor, n_pieces: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Surprisal and divergence of each piece of a batch, in bits."""
    own = -after.gather(1, targets.to(after.device)[:, None])[:, 0]
    apart = own * 0 if before is after else (before.exp() * (before - after)).sum(-1).clamp_min(0)
    bits, kl = (
        np.bincount(rows.numpy(), part.cpu().double().numpy() * _BITS, n_pieces).astype(np.float64)
        for part in (own, apart)
    )
    return bits, kl
