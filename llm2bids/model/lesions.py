"""Changes the activations of units while a model runs: lesions and modulation, undone on leaving.

A lesion replaces the values of chosen channels where they are read, at the mask's own hookpoints and side, in every
forward pass inside the ``with``. It never writes in place, so that gradients flow and states that a caller stored stay
as they were. The end of a prompt is known from the cache of ``generate``, or has to be given.
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
from llm2bids.model.loading import unwrap_model
from llm2bids.model.recording import read
from llm2bids.model.scoring import split_texts
from llm2bids.model.sites import HookPoint, check_hookpoints, check_width, lock_of, measure_widths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import ArrayLike, NDArray
    from transformers import PreTrainedModel

    from llm2bids.model.loading import LoadedModel, Subject
    from llm2bids.space import UnitMask, UnitSpace

Positions: TypeAlias = Literal["all", "prompt", "generated"]

METHODS: Final = ("zero", "mean", "scale", "add", "push")
"""Set a unit to 0, hold it at its mean, multiply it, add a constant, add a multiple of its mean."""
POSITIONS: Final = ("all", "prompt", "generated")
"""Tokens at which units are changed."""
_NUMBERED: Final = ("scale", "add", "push")
_NEED_MEANS: Final = ("mean", "push")
_CACHES: Final = ("past_key_values", "cache_params")
_BATCH_AND_TOKENS: Final = 2


@dataclass(frozen=True, slots=True)
class Method:
    """A way to change the activation of units.

    - `name`: ``zero`` sets it to 0, ``mean`` to the unit's mean, ``scale`` multiplies it by x, ``add`` adds x, ``push``
      adds x times the mean.
    - `x`: without meaning for ``zero`` and ``mean``.

    >>> Method.parse("scale:0.5")
    Method(name='scale', x=0.5)
    >>> str(Method("zero")), str(Method("add", 2.0))
    ('zero', 'add:2.0')
    """

    name: str
    x: float = 0.0

    def __post_init__(self) -> None:
        """Raise if there is no such method, or its number is not finite."""
        if self.name not in METHODS:
            raise LesionError(f"method {self.name!r} found; use zero, mean, scale:X, add:X or push:X")
        if not math.isfinite(self.x):
            raise LesionError(f"{self.name} by {self.x} found; give a finite number")

    def __str__(self) -> str:
        """Return the method as it is typed."""
        return f"{self.name}:{self.x!r}" if self.name in _NUMBERED else self.name

    @classmethod
    def parse(cls, text: str) -> Method:
        """Read a method as it is typed."""
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
        """Whether the method needs the mean activation of every unit."""
        return self.name in _NEED_MEANS

    def apply(self, values: Tensor, chosen: Tensor, means: Tensor) -> Tensor:
        """Return a copy of activations, changed where chosen.

        `values`, `chosen` (..., n_channels). `means` (n_channels,): mean activations in the type of `values`, used only
        where the method needs them.
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
    model: LoadedModel,
    mask: UnitMask,
    method: str | Method = "zero",
    *,
    keep: bool = False,
    positions: Positions = "all",
    means: ArrayLike | None = None,
    n_prompt: int | Sequence[int] | None = None,
) -> Iterator[None]:
    """Change the activations of a mask's units in every forward pass inside the ``with``.

    Parameters
    ----------
    model : PreTrainedModel, Subject or tuple
        The model, alone, as a subject, or with its tokenizer; any evaluator may use it inside the ``with``. A subject
        is compared with the model that the mask was made of, weights first. For the others only hookpoints and widths
        can be compared.
    mask : UnitMask
        The units to change, at hookpoints of this model.
    method : str or Method
        ``zero``, ``mean``, ``scale:X``, ``add:X`` (X in units of the activations) or ``push:X`` (X times the mean).
    keep : bool
        Whether to change all units but those of the mask.
    positions : {"all", "prompt", "generated"}
        Tokens at which units are changed. With the cache of ``generate``, the first pass is the prompt and all later
        ones are generated.
    means : array_like, shape (n_units,), optional
        Mean activation of every unit of the mask's space, e.g. from `mean_activations`.
    n_prompt : int or sequence of int, optional
        Number of prompt tokens, of all texts or of each, for passes without a cache. Special tokens count, padding
        does not.

    Yields
    ------
    None
        While the units are changed.

    Raises
    ------
    SiteError
        If the model does not have the mask's hookpoints.
    MaskError
        If one of them has another number of channels, or the mask is of another model than the subject.
    LesionError
        If the method or positions are unknown, means are missing or do not fit, or it is not known where the prompt of
        a forward pass ends.

    Notes
    -----
    Lesions inside lesions act one after the other, the outer first. On leaving, also by an exception, no hook of this
    lesion remains on the model. One thread at a time may lesion, record or score a model with this package; others
    wait. Forward passes of other programs' threads do not wait, and are lesioned too.
    """
    change = method if isinstance(method, Method) else Method.parse(method)
    if positions not in POSITIONS:
        raise LesionError(f"positions {positions!r} found; use {', '.join(POSITIONS)}")
    levels = _check_means(change, mask, means)
    transformer = unwrap_model(model, mask)
    widths = _width_cache(transformer)
    with lock_of(transformer):
        widths.check_space(transformer, mask.space)
        passes = _Passes(positions, n_prompt, widths)
        with ExitStack() as stack:
            if positions != "all":
                stack.callback(transformer.register_forward_pre_hook(passes.begin, with_kwargs=True).remove)
                stack.callback(transformer.register_forward_hook(passes.end, always_call=True).remove)
            for point, edit in _edits(mask, change, levels, passes, keep=keep):
                stack.callback(_register(transformer, point, widths.unless_measuring(edit)))
            yield


def amplify(model: LoadedModel, mask: UnitMask, factor: float, **options: Any) -> AbstractContextManager[None]:
    """Multiply the activations of a mask's units; `options` as for `lesion`."""
    return lesion(model, mask, Method("scale", float(factor)), **options)


def push(
    model: LoadedModel, mask: UnitMask, x: float, means: ArrayLike, **options: Any
) -> AbstractContextManager[None]:
    """Add a multiple of the network's mean activation, as steering does; `options` as for `lesion`.

    `means` (n_units,): mean activation of every unit of the mask's space, e.g. from `mean_activations`.
    """
    return lesion(model, mask, Method("push", float(x)), means=means, **options)


def mean_activations(
    subject: Subject, texts: Sequence[str], space: UnitSpace, *, absolute: bool = False, batch_size: int = 8
) -> NDArray[np.float64]:
    """Average the activation, or its size, of every unit over the tokens of texts, shape (n_units,).

    The texts may be of any length. Special tokens do not count.
    """
    widths = _width_cache(subject.model)
    with lock_of(subject.model):
        widths.check_space(subject.model, space)
    pieces = [list(piece.tokens) for piece in split_texts(subject, texts)]
    total, n_tokens = np.zeros(space.n_units), 0
    for scans in read(subject, [HookPoint.parse(name) for name in space.hookpoints], pieces, batch_size):
        total += (np.abs(scans.signals) if absolute else scans.signals).sum(0, dtype=np.float64)
        n_tokens += scans.n_scans
    if not n_tokens:
        raise LesionError("no token found to average over; give texts with words")
    return total / n_tokens


@dataclass(slots=True)
class _WidthCache:
    """Widths that were measured of a model; holds no reference to it, which would keep it alive."""

    n_channels: dict[str, int] = field(default_factory=dict)
    measuring: bool = False

    def check_space(self, model: PreTrainedModel, space: UnitSpace) -> None:
        """Raise if a space is not of this model; call with the lock held."""
        check_hookpoints(model, [HookPoint.parse(name) for name in space.hookpoints])
        if missing := [name for name in space.hookpoints if name not in self.n_channels]:
            self.measuring = True
            try:
                widths = measure_widths(model, [HookPoint.parse(name) for name in missing])
            finally:
                self.measuring = False
            self.n_channels.update(zip(missing, widths, strict=True))
        for name, width in zip(space.hookpoints, space.n_channels, strict=True):
            check_width(model, name, width, self.n_channels[name])

    def unless_measuring(self, edit: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the edit, skipped in passes that only measure widths."""
        return lambda values: values if self.measuring else edit(values)


_WIDTH_CACHES: WeakKeyDictionary[nn.Module, _WidthCache] = WeakKeyDictionary()
_WIDTH_CACHES_LOCK: Final = Lock()


def _width_cache(model: nn.Module) -> _WidthCache:
    """The cache of a model's widths, which lives as long as the model."""
    with _WIDTH_CACHES_LOCK:
        return _WIDTH_CACHES.setdefault(model, _WidthCache())


@dataclass(slots=True)
class _Passes:
    """The tokens of the current forward pass at which units are changed."""

    positions: Positions
    n_prompt: int | Sequence[int] | None
    widths: _WidthCache
    chosen: Tensor | None = None

    def begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find out which tokens of the model's input are generated."""
        if self.widths.measuring:  # a lesion inside this one measures widths
            return
        names = [key for key in ("input_ids", "inputs_embeds") if kwargs.get(key) is not None]
        tokens = kwargs[names[0]] if names else next(iter(args), None)
        if not isinstance(tokens, Tensor):
            raise LesionError("a forward pass without input_ids or inputs_embeds found; lesion all positions")
        n_texts, n_tokens = tokens.shape[:_BATCH_AND_TOKENS]
        mask = kwargs.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.ndim == _BATCH_AND_TOKENS else None
        generated = self._generated(n_texts, n_tokens, kwargs, mask)
        self.chosen = generated if self.positions == "generated" else ~generated

    def end(self, *_: Any) -> None:
        """Forget the pass, so that it is not taken for the next."""
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
    """Number of tokens that a cache holds."""
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
    """Each hookpoint with units to change, and the function that changes them."""
    split = mask.space.split
    parts = zip(mask.space.hookpoints, split(mask.selected != keep), split(means), strict=True)
    for name, chosen, levels in parts:
        if chosen.any():
            yield HookPoint.parse(name), _edit(method, chosen, levels, passes)


def _edit(
    method: Method, chosen: NDArray[np.bool_], levels: NDArray[np.float64], passes: _Passes
) -> Callable[[Tensor], Tensor]:
    """The function that changes one hookpoint; it moves channels and means to the activations' device once."""
    channels, means = torch.from_numpy(chosen.copy()), torch.from_numpy(levels.copy())
    copies: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def edit(values: Tensor) -> Tensor:
        key = values.device, values.dtype
        if key not in copies:
            with torch.inference_mode(mode=False):  # else no gradient could flow through a later pass
                copies[key] = channels.to(values.device), means.to(values.device, values.dtype)
        where, level = copies[key]
        return method.apply(values, where if passes.positions == "all" else where & passes.where(values), level)

    return edit


def _register(model: nn.Module, point: HookPoint, edit: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """Hook one side of a module so that it passes on the edited values; returns the function that removes the hook."""
    module = model.get_submodule(point.path)
    if point.side == "in":
        return module.register_forward_pre_hook(lambda _module, args: (edit(args[0]), *args[1:])).remove
    return module.register_forward_hook(lambda _module, _args, output: _edited(output, edit)).remove


def _edited(output: Any, edit: Callable[[Tensor], Tensor]) -> Any:
    """The output of a module, a tensor or a tuple that begins with one, after the edit."""
    return type(output)([edit(output[0]), *output[1:]]) if isinstance(output, tuple | list) else edit(output)
