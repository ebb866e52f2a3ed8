"""Changing what units do while a model runs: lesions and modulation, undone on leaving.

A lesion replaces the values of chosen channels where they are read, at the mask's own hookpoints and side, in every
forward pass inside the ``with``. It replaces and never writes in place, so that gradients flow and states that a caller
kept stay as they were. Where a prompt ends is known from the cache of ``generate``, or has to be said.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from llm2bids.errors import LesionError
from llm2bids.model.loading import model_of_mask
from llm2bids.model.recording import read
from llm2bids.model.scoring import split_texts
from llm2bids.model.sites import HookPoint, check_places, check_width, lock_of, measure_widths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import ArrayLike, NDArray
    from transformers import PreTrainedModel

    from llm2bids.model.loading import Subject
    from llm2bids.space import UnitMask, UnitSpace

Positions: TypeAlias = Literal["all", "prompt", "generated"]

METHODS: Final = ("zero", "mean", "scale", "add", "push")
"""What can be done to a unit: silence it, hold it at its mean, multiply it, add a constant, add some of its means."""
POSITIONS: Final = ("all", "prompt", "generated")
"""Tokens at which it is done."""
_NUMBERED: Final = ("scale", "add", "push")
_NEED_MEANS: Final = ("mean", "push")
_CACHES: Final = ("past_key_values", "cache_params")
_BATCH_AND_TOKENS: Final = 2


@dataclass(frozen=True, slots=True)
class Method:
    """What is done to units.

    - `name`: silence them, hold them at their mean, multiply them, add a constant in their own units, add so many times
      their mean.
    - `x`: the factor, constant or multiple; without meaning for ``zero`` and ``mean``.

    >>> Method.parse("scale:0.5")
    Method(name='scale', x=0.5)
    >>> str(Method("zero")), str(Method("add", 2.0))
    ('zero', 'add:2.0')
    """

    name: str
    x: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.name not in METHODS:
            raise LesionError(f"method {self.name!r} found; use zero, mean, scale:X, add:X or push:X")
        if not math.isfinite(self.x):
            raise LesionError(f"{self.name} by {self.x} found; give a finite number")

    def __str__(self) -> str:
        """As it is typed."""
        return f"{self.name}:{self.x!r}" if self.name in _NUMBERED else self.name

    @classmethod
    def parse(cls, text: str) -> Method:
        """Read a method."""
        name, colon, number = text.partition(":")
        if name in METHODS and (name in _NUMBERED) != bool(colon):
            needs = "a number: " + f"{name}:X" if name in _NUMBERED else f"no number: {name}"
            raise LesionError(f"method {text!r} found; {name} takes {needs}")
        try:
            return cls(name, float(number) if colon and name in _NUMBERED else 0.0)
        except ValueError as error:
            if isinstance(error, LesionError):
                raise
            raise LesionError(f"method {text!r} found; {number!r} is no number: write e.g. {name}:0.5") from error

    @property
    def needs_means(self) -> bool:
        """Whether the mean activation of every unit has to be known."""
        return self.name in _NEED_MEANS

    def apply(self, values: Tensor, chosen: Tensor, means: Tensor) -> Tensor:
        """Do it.

        `values` (..., n_channels): what the units do. `chosen` (..., n_channels): where to do it. `means`
        (n_channels,): their mean activation, in the type of `values`; only looked at where the method needs it. Returns
        (..., n_channels): A copy, changed where chosen.
        """
        if self.name == "zero":
            return values.masked_fill(chosen, 0)
        if self.name == "mean":
            return torch.where(chosen, means, values)
        if self.name == "scale":
            return torch.where(chosen, values * self.x, values)
        return torch.where(chosen, values + (self.x if self.name == "add" else self.x * means), values)


@contextmanager
def lesion(
    model: PreTrainedModel | Subject,
    mask: UnitMask,
    method: str | Method = "zero",
    *,
    keep: bool = False,
    positions: Positions = "all",
    means: ArrayLike | None = None,
    n_prompt: int | Sequence[int] | None = None,
) -> Iterator[None]:
    """Change what the units of a mask do in every forward pass inside the ``with``.

    Parameters
    ----------
    model : PreTrainedModel or Subject
        The model; any evaluator may use it inside the ``with``. A subject is compared with what the mask says of its
        model, weights first; of a model alone only places and widths can be compared.
    mask : UnitMask
        Which units, at hookpoints of this model.
    method : str or Method
        ``zero``, ``mean``, ``scale:X``, ``add:X`` (in the units' own units) or ``push:X`` (X times their mean).
    keep : bool
        Whether the units of the mask are the only ones left alone.
    positions : {"all", "prompt", "generated"}
        At which tokens. With the cache of ``generate``, the first pass is the prompt and all later ones are generated.
    means : array_like, shape (n_units,), optional
        Mean activation of every unit of the mask's space, e.g. of `mean_activations`.
    n_prompt : int or sequence of int, optional
        Tokens of the prompt, of all texts or of each, special ones counted and padding not: for passes without a cache.

    Yields
    ------
    None
        While the units are changed.

    Raises
    ------
    SiteError
        If the model has not the mask's hookpoints.
    MaskError
        If one of them has another number of channels, or the mask is of another model than the subject.
    LesionError
        If the method or positions are unknown, means are missing or do not fit, or a forward pass comes of which it
        cannot be known where the prompt ends.

    Notes
    -----
    Lesions inside lesions act one after the other, the outer first. On leaving, also by an exception, no hook of it is
    left on the model. One thread at a time: another that wants to lesion, record or score the same model with this
    package waits until this is left. Forward passes of other programs' threads do not wait, and are lesioned too.
    """
    how = method if isinstance(method, Method) else Method.parse(method)
    if positions not in POSITIONS:
        raise LesionError(f"positions {positions!r} found; use {', '.join(POSITIONS)}")
    levels = _check_means(how, mask, means)
    model = model_of_mask(model, mask)
    bench = _bench_of(model)
    with lock_of(model):
        bench.check_space(model, mask.space)
        passes = _Passes(positions, n_prompt, bench)
        with ExitStack() as stack:
            if positions != "all":
                stack.callback(model.register_forward_pre_hook(passes.begin, with_kwargs=True).remove)
                stack.callback(model.register_forward_hook(passes.end, always_call=True).remove)
            for point, edit in _edits(mask, how, levels, passes, keep=keep):
                stack.callback(_register(model, point, bench.unless_measuring(edit)))
            yield


def amplify(
    model: PreTrainedModel | Subject, mask: UnitMask, factor: float, **options: Any
) -> AbstractContextManager[None]:
    """Multiply what the units of a mask do."""
    return lesion(model, mask, Method("scale", float(factor)), **options)


def push(
    model: PreTrainedModel | Subject, mask: UnitMask, x: float, means: ArrayLike, **options: Any
) -> AbstractContextManager[None]:
    """Add so many times the network's mean activation, as steering along it does.

    `means` (n_units,): mean activation of every unit of the mask's space, e.g. of `mean_activations`.
    """
    return lesion(model, mask, Method("push", float(x)), means=means, **options)


def mean_activations(
    subject: Subject, texts: Sequence[str], space: UnitSpace, *, absolute: bool = False, batch_size: int = 8
) -> NDArray[np.float64]:
    """Average what every unit does over the tokens of texts.

    `texts`: what to read, of any length; special tokens do not count. Returns (n_units,): the means, in the
    activations' own units.
    """
    bench = _bench_of(subject.model)
    with lock_of(subject.model):
        bench.check_space(subject.model, space)
    pieces = [list(piece.tokens) for piece in split_texts(subject, texts)]
    total, n_tokens = np.zeros(space.n_units), 0
    for scans in read(subject, [HookPoint.parse(name) for name in space.hookpoints], pieces, batch_size):
        total += (np.abs(scans.signals) if absolute else scans.signals).sum(0, dtype=np.float64)
        n_tokens += scans.n_scans
    if not n_tokens:
        raise LesionError("no token found to average over; give texts with words")
    return total / n_tokens


@dataclass(slots=True)
class _Bench:
    """What is known of a model that was lesioned before; must not keep the model alive."""

    widths: dict[str, int] = field(default_factory=dict)
    measuring: bool = False

    def check_space(self, model: PreTrainedModel, space: UnitSpace) -> None:
        """Refuse a space that is not of this model; call with the lock held."""
        check_places(model, [HookPoint.parse(name) for name in space.hookpoints])
        if missing := [name for name in space.hookpoints if name not in self.widths]:
            self.measuring = True
            try:
                found = measure_widths(model, [HookPoint.parse(name) for name in missing])
            finally:
                self.measuring = False
            self.widths.update(zip(missing, found, strict=True))
        for name, width in zip(space.hookpoints, space.n_channels, strict=True):
            check_width(model, name, width, self.widths[name])

    def unless_measuring(self, edit: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The edit, which leaves alone the passes that only measure."""
        return lambda values: values if self.measuring else edit(values)


_BENCHES: WeakKeyDictionary[nn.Module, _Bench] = WeakKeyDictionary()
_BENCHES_LOCK: Final = Lock()


def _bench_of(model: nn.Module) -> _Bench:
    """The bench of a model; forgotten with it."""
    with _BENCHES_LOCK:
        return _BENCHES.setdefault(model, _Bench())


@dataclass(slots=True)
class _Passes:
    """At which tokens of the forward pass under way units are changed."""

    positions: Positions
    n_prompt: int | Sequence[int] | None
    bench: _Bench
    chosen: Tensor | None = None

    def begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at what the model is given."""
        if self.bench.measuring:  # a lesion inside this one asks for widths
            return
        shown = next(
            (kwargs[key] for key in ("input_ids", "inputs_embeds") if kwargs.get(key) is not None), args[0:1] or None
        )
        shown = shown[0] if isinstance(shown, tuple) else shown
        if not isinstance(shown, Tensor):
            raise LesionError("a forward pass without input_ids or inputs_embeds found; lesion all positions")
        n_texts, n_tokens = shown.shape[:_BATCH_AND_TOKENS]
        mask = kwargs.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.ndim == _BATCH_AND_TOKENS else None
        generated = self._generated(n_texts, n_tokens, kwargs, mask)
        self.chosen = generated if self.positions == "generated" else ~generated

    def end(self, *_: Any) -> None:
        """Forget the pass, so that none is taken for the next."""
        self.chosen = None

    def where(self, values: Tensor) -> Tensor:
        """Tokens changed, in the shape of the values of a hookpoint but one channel."""
        if self.chosen is None:
            raise LesionError("only part of the model was called; where the prompt ends is known for the whole only")
        chosen = self.chosen.to(values.device)
        if values.ndim == _BATCH_AND_TOKENS and values.shape[0] == chosen.numel():
            return chosen.reshape(-1, 1)  # texts and tokens in one axis
        if values.shape[:-1] != chosen.shape:
            raise LesionError(
                f"values of shape {tuple(values.shape)} found for {chosen.shape[0]} texts of {chosen.shape[1]} tokens; "
                "lesion all positions"
            )
        return chosen[..., None]

    def _generated(self, n_texts: int, n_tokens: int, kwargs: dict[str, Any], mask: Tensor | None) -> Tensor:
        """Which tokens of the pass are generated, shape (n_texts, n_tokens)."""
        cache = next((kwargs[key] for key in _CACHES if kwargs.get(key) is not None), None)
        n_past = 0 if cache is None else _past(cache, n_tokens, mask)
        if self.n_prompt is None:
            if cache is None:
                raise LesionError(
                    f"a forward pass without a cache found, of which it cannot be known where the prompt ends; give "
                    f"n_prompt to lesion {self.positions} tokens only"
                )
            return torch.full((n_texts, n_tokens), n_past > 0)
        ends = torch.as_tensor(self.n_prompt).reshape(-1)
        if len(ends) not in {1, n_texts}:
            raise LesionError(f"n_prompt for {len(ends)} texts found, {n_texts} are shown; give one per text")
        ends = ends.expand(n_texts)
        if mask is not None:
            ends = ends + (mask.cpu().long().cumsum(1) == 0).sum(1)  # padding on the left
        return torch.arange(n_past, n_past + n_tokens)[None] >= ends[:, None]


def _past(cache: Any, n_tokens: int, mask: Tensor | None) -> int:
    """Tokens that a cache holds."""
    if mask is not None and mask.shape[1] > n_tokens:
        return mask.shape[1] - n_tokens
    if isinstance(cache, tuple | list):
        return int(cache[0][0].shape[-2]) if cache else 0
    try:
        return int(cache.get_seq_length())
    except ValueError:  # caches of recurrent models do not count; what came after the prompt is generated
        return 2**31 if cache.has_previous_state() else 0


def _check_means(method: Method, mask: UnitMask, means: ArrayLike | None) -> NDArray[np.float64]:
    """Means of all units; zeros where the method needs none."""
    if means is None:
        if method.needs_means:
            raise LesionError(f"{method} needs the mean of every unit, none found; pass means=mean_activations(...)")
        return np.zeros(mask.space.n_units)
    levels = means.detach().float().cpu().numpy() if isinstance(means, Tensor) else means
    levels = np.asarray(levels, np.float64)
    if levels.shape != (mask.space.n_units,) or not np.isfinite(levels).all():
        raise LesionError(
            f"means of shape {levels.shape} found, ({mask.space.n_units},) finite numbers needed for "
            f"{mask.space.label}; pass one per unit"
        )
    return levels


def _edits(
    mask: UnitMask, method: Method, means: NDArray[np.float64], passes: _Passes, *, keep: bool
) -> Iterator[tuple[HookPoint, Callable[[Tensor], Tensor]]]:
    """What to do at each hookpoint with a unit to be changed."""
    split = mask.space.split
    parts = zip(mask.space.hookpoints, split(mask.selected != keep), split(means), strict=True)
    for name, chosen, levels in parts:
        if chosen.any():
            yield HookPoint.parse(name), _edit(method, chosen, levels, passes)


def _edit(
    method: Method, chosen: NDArray[np.bool_], levels: NDArray[np.float64], passes: _Passes
) -> Callable[[Tensor], Tensor]:
    """What to do at one hookpoint; moves what it needs to the device of the activations once."""
    channels, means = torch.from_numpy(chosen.copy()), torch.from_numpy(levels.copy())
    there: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def edit(values: Tensor) -> Tensor:
        place = values.device, values.dtype
        if place not in there:
            with torch.inference_mode(mode=False):  # else no gradient could flow through a later pass
                there[place] = channels.to(values.device), means.to(values.device, values.dtype)
        where, level = there[place]
        return method.apply(values, where if passes.positions == "all" else where & passes.where(values), level)

    return edit


def _register(model: nn.Module, point: HookPoint, edit: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """Hook one side of a module so that it passes on what the edit makes of it; returns how to undo it."""
    module = model.get_submodule(point.path)
    if point.side == "in":
        return module.register_forward_pre_hook(lambda _module, args: (edit(args[0]), *args[1:])).remove
    return module.register_forward_hook(lambda _module, _args, output: _edited(output, edit)).remove


def _edited(output: Any, edit: Callable[[Tensor], Tensor]) -> Any:
    """What a module returns, a tensor or a tuple that begins with one, edited."""
    return type(output)([edit(output[0]), *output[1:]]) if isinstance(output, tuple | list) else edit(output)
