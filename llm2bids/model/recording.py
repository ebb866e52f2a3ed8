"""Shows texts to a model and records the activations of its units, token by token.

Texts go through the model in batches and come out one by one, in the order given. Reading pads on the right,
generating on the left; neither padding nor special tokens become scans.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from llm2bids.errors import ModelError, PromptError
from llm2bids.model.loading import Sampling, pad_id
from llm2bids.model.memory import explain_memory_errors
from llm2bids.model.sites import record_hookpoints

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from llm2bids.model.loading import Subject
    from llm2bids.model.sites import HookPoint

_BITS = 1 / float(np.log(2))
"""Bits per nat."""
_LOGITS_AT_A_TIME = 400_000
"""Logits whose entropy is computed at a time, so that they stay in the cache: four times as fast as all at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Scans:
    """The scans of one text.

    - `signals` (n_scans, n_units): activations, hookpoint after hookpoint.
    - `token_id` (n_scans,): the token read or emitted.
    - `position` (n_scans,): position of the recorded state in the model's input, from 0, padding not counted.
    - `surprisal`, `entropy` (n_scans,): of the token, and of the prediction it is compared with, in bits. NaN where
      the model makes no prediction.
    - `n_special`: number of special tokens, which are left out.
    """

    signals: NDArray[np.float32]
    token_id: NDArray[np.int64]
    position: NDArray[np.int64]
    surprisal: NDArray[np.float64]
    entropy: NDArray[np.float64]
    n_special: int

    @property
    def n_scans(self) -> int:
        """Number of scans."""
        return len(self.token_id)


def tokenize(subject: Subject, texts: Sequence[str], n_new: int = 0) -> list[list[int]]:
    """Turn texts into token ids; raise if a text is empty or exceeds the context.

    `n_new`: number of tokens to be generated after each text. The special tokens that the tokenizer adds are included,
    but for an end token after a text that the model is to continue.
    """
    special, n_embedded, context = subject.special_ids, subject.n_embedded, subject.context
    tokens = []
    for text in texts:
        ids = list(subject.tokenizer(text, verbose=False)["input_ids"])
        while n_new and ids and ids[-1] in special and not _all_special(ids, special):
            ids.pop()
        if ids and max(ids) >= n_embedded:
            raise ModelError(
                f"the tokenizer gives token {max(ids)}, the model knows {n_embedded}; use its own tokenizer"
            )
        if _all_special(ids, special):
            raise PromptError(f"the prompt {text[:40]!r} is empty for this tokenizer; give it at least one word")
        if context and len(ids) + n_new > context:
            raise PromptError(
                f"the prompt {text[:40]!r} has {len(ids)} tokens{f' and {n_new} are to follow' if n_new else ''}, the "
                f"context holds {context}; shorten it{' or lower `tokens`' if n_new else ''}"
            )
        tokens.append(ids)
    return tokens


def check_causal(subject: Subject) -> None:
    """Raise if the model cannot generate."""
    if not subject.causal:
        raise ModelError(f'{subject.identity.name} does not predict the next token; record it with mode="read"')


def padding_is_harmless(
    subject: Subject, hookpoints: Sequence[HookPoint], tokens: Sequence[Sequence[int]], *, generating: bool
) -> bool:
    """Return whether the shortest text gives the same signals beside the longest one as alone, within 10 %.

    Some architectures let padding leak into the states (recurrent ones when generating, fnet, convbert). Where all
    texts are equally long there is no padding.
    """
    pair = [min(tokens, key=len), max(tokens, key=len)]
    if len(pair[0]) == len(pair[1]):
        return True
    alone, together = (
        next(generate(subject, hookpoints, pair, 3, size) if generating else read(subject, hookpoints, pair, size))
        for size in (1, 2)
    )
    if alone.signals.shape != together.signals.shape:
        return False
    return bool(np.linalg.norm(alone.signals - together.signals) <= 0.1 * np.linalg.norm(alone.signals))


@torch.inference_mode()
def read(
    subject: Subject, hookpoints: Sequence[HookPoint], tokens: Sequence[Sequence[int]], batch_size: int = 8
) -> Iterator[Scans]:
    """Show texts to the model; every token it reads is a scan. Yields the scans of one text after the other."""
    for start in range(0, len(tokens), batch_size):
        ids, mask = _padded(subject, tokens[start : start + batch_size], on_left=False)
        scanned = mask & ~torch.isin(ids, _special(subject, ids))
        rows, columns = torch.nonzero(scanned, as_tuple=True)
        hooks = record_hookpoints(subject.model, hookpoints, partial(_pick, rows=rows, columns=columns))
        with explain_memory_errors(batch_size), hooks as activations:
            output = subject.model(input_ids=ids, attention_mask=mask.long())
            signals = _joined(activations)
        surprisal, entropy = _predictions_while_reading(subject, output, ids)
        n_special = (mask & ~scanned).sum(1).tolist()
        for text, columns_scanned in enumerate(_numpy(scanned)):
            yield Scans(
                signals=signals[_numpy(rows) == text],
                token_id=_numpy(ids[text])[columns_scanned],
                position=np.flatnonzero(columns_scanned),
                surprisal=surprisal[text, columns_scanned],
                entropy=entropy[text, columns_scanned],
                n_special=n_special[text],
            )


@torch.inference_mode()
def generate(
    subject: Subject,
    hookpoints: Sequence[HookPoint],
    tokens: Sequence[Sequence[int]],
    n_tokens: int,
    batch_size: int = 8,
    sampling: Sampling | None = None,
) -> Iterator[Scans]:
    """Let the model continue texts; every token it emits is a scan. Yields the scans of one text after the other.

    `n_tokens`: tokens to generate per text; fewer where the model ends the text, at least 1. Scan t is the state that
    emitted token t: the one at the position before it.
    """
    check_causal(subject)
    sampling = sampling or Sampling()
    for start in range(0, len(tokens), batch_size):
        group = tokens[start : start + batch_size]
        ids, mask = _padded(subject, group, on_left=True)
        hooks = record_hookpoints(subject.model, hookpoints, lambda values: values[:, -1].clone())
        with explain_memory_errors(batch_size), hooks as activations, subject.plain_generation():
            watcher = _Watcher(subject, activations)
            chooser = _Chooser(sampling, range(start, start + len(group)), ids.shape[1], _never_scanned(subject, ids))
            subject.model.generate(
                input_ids=ids,
                attention_mask=mask.long(),
                max_new_tokens=n_tokens,
                logits_processor=LogitsProcessorList([watcher.prediction, chooser]),
                stopping_criteria=StoppingCriteriaList([watcher]),
            )
        yield from watcher.scans(mask.sum(1), _ends(subject))


class _Prediction(LogitsProcessor):
    """Keeps the model's own prediction, before other processors change it."""

    def __init__(self) -> None:
        self.logits = torch.empty(0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the signature of transformers
        """Store the logits, shape (n_texts, n_vocabulary)."""
        self.logits = scores
        return scores


class _Chooser(LogitsProcessor):
    """Adds Gumbel noise from each text's own seed, so that the token with the highest score is a random draw.

    So greedy decoding samples, and a draw does not depend on the other texts of the batch. At the first step special
    tokens are excluded, so that every text has a scan.
    """

    def __init__(self, sampling: Sampling, texts: range, n_prompt: int, special: Tensor) -> None:
        self.sampling = sampling
        self.n_prompt = n_prompt
        self.special = special
        seeds = [
            int(np.random.SeedSequence([sampling.seed, text]).generate_state(1, np.uint64)[0] >> 1) for text in texts
        ]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores whose maximum is the token drawn, shape (n_texts, n_vocabulary)."""
        if input_ids.shape[1] == self.n_prompt:
            scores = scores.index_fill(1, self.special, -torch.inf)
        if self.sampling.temperature == 0:
            return scores
        scaled = torch.log_softmax(scores / self.sampling.temperature, dim=-1)
        if 0 < self.sampling.top_k < scaled.shape[1]:
            least = scaled.topk(self.sampling.top_k, dim=-1).values[:, -1:]
            scaled = scaled.masked_fill(scaled < least, -torch.inf)
        if self.sampling.top_p < 1:
            # Nucleus sampling (Holtzman et al. 2020). A token goes if the likelier ones reach top_p without it.
            ordered, order = scaled.sort(dim=-1, descending=True)
            beyond = ordered.exp().cumsum(-1) - ordered.exp() >= self.sampling.top_p
            scaled = scaled.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -torch.inf)
        # The Gumbel-max trick: argmax(log p + G) with G = -log(-log U) is a draw from p. U is kept off 0 and 1, where
        # a logarithm is infinite.
        uniform = torch.stack([torch.rand(scores.shape[1], generator=generator) for generator in self.generators])
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return scaled + noise.to(scaled)


class _Watcher(StoppingCriteria):
    """Collects states, tokens and predictions at every step of one batch; never stops it."""

    def __init__(self, subject: Subject, activations: list[Tensor | None]) -> None:
        self.prediction = _Prediction()
        self.special = subject.special_ids
        self.activations = activations
        self.states: list[Tensor] = []
        self.tokens: list[Tensor] = []
        self.information: list[tuple[Tensor, Tensor]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **_kwargs: Any) -> Tensor:  # noqa: ARG002 - see _Prediction
        """Store the states, tokens and predictions of one step."""
        self.states.append(torch.cat([_present(values).to(input_ids.device) for values in self.activations], dim=-1))
        self.tokens.append(input_ids[:, -1].clone())
        self.information.append(_surprisal_and_entropy(self.prediction.logits, input_ids[:, -1]))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def scans(self, n_prompt: Tensor, ends: frozenset[int]) -> Iterator[Scans]:
        """Yield the scans of each text: up to its end token, without special ones."""
        states = _numpy(torch.stack(self.states, dim=1).float())
        tokens = _numpy(torch.stack(self.tokens, dim=1))
        surprisal, entropy = (_numpy(torch.stack(values, dim=1)) for values in zip(*self.information, strict=True))
        ended = np.cumsum(np.isin(tokens, list(ends)), axis=1) > 0
        special = np.isin(tokens, list(self.special)) & ~ended
        for text, start in enumerate(n_prompt.tolist()):
            steps = np.flatnonzero(~ended[text] & ~special[text])
            yield Scans(
                signals=states[text, steps],
                token_id=tokens[text, steps],
                position=steps + start - 1,  # token t was emitted by the state before it
                surprisal=surprisal[text, steps],
                entropy=entropy[text, steps],
                n_special=int(special[text].sum()),
            )


def _padded(subject: Subject, group: Sequence[Sequence[int]], *, on_left: bool) -> tuple[Tensor, Tensor]:
    """Token ids and mask of a batch, both of shape (n_texts, n_tokens)."""
    width = max(map(len, group))
    ids = torch.full((len(group), width), pad_id(subject.tokenizer))
    mask = torch.zeros((len(group), width), dtype=torch.bool)
    for row, tokens in enumerate(group):
        columns = slice(width - len(tokens), width) if on_left else slice(0, len(tokens))
        ids[row, columns] = torch.tensor(tokens)
        mask[row, columns] = True
    return ids.to(subject.device), mask.to(subject.device)


def _predictions_while_reading(
    subject: Subject, output: Any, ids: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Surprisal and entropy of each token given those before it, shape (n_texts, n_tokens); NaN for the first."""
    surprisal, entropy = (np.full(ids.shape, np.nan) for _ in range(2))
    if subject.causal and ids.shape[1] > 1:
        logits = output.logits[:, :-1]
        pairs = [_surprisal_and_entropy(row, token) for row, token in zip(logits, ids[:, 1:], strict=True)]
        surprisal[:, 1:], entropy[:, 1:] = (_numpy(torch.stack(values)) for values in zip(*pairs, strict=True))
    return surprisal, entropy


def _surprisal_and_entropy(logits: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """Both in bits, shape (n,), of logits of shape (n, n_vocabulary) and tokens of shape (n,).

    With p = softmax(z): surprisal is -log p of the token, entropy -sum p log p.
    """
    surprisal, entropy = [], []
    n_rows = max(1, _LOGITS_AT_A_TIME // logits.shape[-1])
    for rows, tokens in zip(logits.split(n_rows), token.to(logits.device).split(n_rows), strict=True):
        scores = rows.float()
        shifted = scores - scores.amax(-1, keepdim=True)  # exp overflows otherwise; the softmax stays the same
        weights = shifted.exp()
        total = weights.sum(-1)
        log_total = total.log()
        surprisal.append(log_total - shifted.gather(1, tokens[:, None])[:, 0])
        # -sum p log p = log(total) - sum p z, with p = weights / total. Logits of -inf have p = 0; they are clamped, as
        # 0 * -inf would be NaN.
        expected = torch.linalg.vecdot(weights, shifted.clamp_min(torch.finfo(torch.float32).min))
        entropy.append(log_total - expected / total)
    return torch.cat(surprisal).cpu().double() * _BITS, torch.cat(entropy).cpu().double() * _BITS


def _pick(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """A copy of the values at some places, shape (n_scans, n_channels)."""
    return values[rows.to(values.device), columns.to(values.device)]


def _joined(activations: Sequence[Tensor | None]) -> NDArray[np.float32]:
    """Values of all hookpoints side by side, shape (n_scans, n_units)."""
    first = _present(activations[0])
    joined = torch.cat([_present(values).to(first.device) for values in activations], dim=-1)
    signals: NDArray[np.float32] = _numpy(joined.float())
    return signals


def _present(values: Tensor | None) -> Tensor:
    """The values of a hookpoint in this forward pass; raises if the pass did not reach it."""
    if values is None:
        raise ModelError("a hookpoint was not reached in a forward pass; record places that every token passes")
    return values


def _special(subject: Subject, like: Tensor) -> Tensor:
    """Ids of the special tokens on the device of another tensor."""
    return torch.tensor(sorted(subject.special_ids), dtype=torch.long, device=like.device)


def _never_scanned(subject: Subject, like: Tensor) -> Tensor:
    """Ids of the tokens that give no scan, on the device of another tensor; the model may know less than all."""
    ids = [token for token in subject.special_ids | _ends(subject) if token < subject.n_embedded]
    return torch.tensor(sorted(ids), dtype=torch.long, device=like.device)


def _ends(subject: Subject) -> frozenset[int]:
    """Ids of the tokens that end a text."""
    end = subject.generation.eos_token_id
    return frozenset([end] if isinstance(end, int) else end or [])


def _all_special(ids: Sequence[int], special: frozenset[int]) -> bool:
    """Whether all tokens are special."""
    return all(token in special for token in ids)


def _numpy(tensor: Tensor) -> NDArray[Any]:
    """A tensor as an array in main memory."""
    array: NDArray[Any] = tensor.cpu().numpy()
    return array
