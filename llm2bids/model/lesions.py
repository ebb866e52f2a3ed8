"""Changes the activations of units while a model runs: lesions and modulation, undone on leaving.

A lesion replaces the values of chosen channels, or the component along a pattern, where they are read: at the
network's own hookpoints and side, in every forward pass inside the ``with``. It never writes in place, so that
gradients flow and states that a caller stored stay as they were. The end of a prompt is known from the cache of
``generate``, or has to be given.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar, get_args
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from llm2bids.errors import LesionError
from llm2bids.model.loading import unwrap_model
from llm2bids.model.projections import Projection, projections
from llm2bids.model.recording import read
from llm2bids.model.scoring import split_texts
from llm2bids.model.sites import HookPoint, check_hookpoints, check_width, lock_of, measure_widths
from llm2bids.space import UnitPattern
from llm2bids.space.pattern import Along

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import ArrayLike, NDArray
    from transformers import PreTrainedModel

    from llm2bids.model.loading import LoadedModel, Subject
    from llm2bids.space import UnitMask, UnitSpace
    from llm2bids.space.pattern import Network

Movable = TypeVar("Movable", Tensor, Projection)
Positions: TypeAlias = Literal["all", "prompt", "generated"]

METHODS: Final = ("zero", "mean", "resample", "scale", "add", "push", "steer")
"""Set a unit or component to 0, hold it at its mean, give it the value of another token; multiply a unit, add a
constant, add a multiple of its mean; move activations along a pattern."""
POSITIONS: Final = ("all", "prompt", "generated")
"""Tokens at which units are changed."""
DIRECTIONS: Final = get_args(Along)
"""Directions along which a pattern is changed."""
_NUMBERED: Final = ("scale", "add", "push", "steer")
_OF_UNITS: Final = ("scale", "add", "push")
_NEED_MEANS: Final = ("mean", "push")
_CACHES: Final = ("past_key_values", "cache_params")
_BATCH_AND_TOKENS: Final = 2


@dataclass(frozen=True, slots=True)
class Method:
    """A way to change activations: of the units of a mask, or the component along a pattern.

    - `name`: ``zero`` sets it to 0, ``mean`` to its mean, ``resample`` to its value at a random token of other texts.
      Of units only: ``scale`` multiplies by x, ``add`` adds x, ``push`` adds x times the mean. Along a pattern only:
      ``steer`` adds x standard deviations.
    - `x`: without meaning for the first three.

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
            raise LesionError(
                f"method {self.name!r} found; use zero, mean, resample, scale:X, add:X, push:X or steer:X"
            )
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

    @property
    def needs_samples(self) -> bool:
        """Whether the method needs activations at the tokens of other texts."""
        return self.name == "resample"

    def apply(self, values: Tensor, chosen: Tensor, levels: Tensor) -> Tensor:
        """Return a copy of activations, changed where chosen.

        `values`, `chosen` (..., n_channels). `levels` (n_channels,) or as `values`: mean activations, or those of other
        tokens, in the type of `values`; used only where the method needs them.
        """
        if self.name == "zero":
            return values.masked_fill(chosen, 0)
        if self.name in {"mean", "resample"}:
            return torch.where(chosen, levels, values)
        if self.name == "scale":
            return torch.where(chosen, values * self.x, values)
        return torch.where(chosen, values + (self.x if self.name == "add" else self.x * levels), values)

    def apply_along(self, values: Tensor, projection: Projection, levels: Tensor, *, keep: bool, dose: float) -> Tensor:
        """Return activations with the component along a pattern changed; with `keep`, all but that component.

        `values` (..., n_channels). `levels`: what a component is set to, as for `apply`. `dose`: part of the change
        that is made.
        """
        if self.name == "steer":
            return values + dose * self.x * projection.step
        differences = values - levels
        component = projection.component(differences)
        return values - dose * (differences - component if keep else component)


@contextmanager
def lesion(  # noqa: PLR0913 - what is changed, how, where and by how much
    model: LoadedModel,
    network: Network,
    method: str | Method | None = None,
    *,
    keep: bool = False,
    along: Along | None = None,
    dose: float = 1.0,
    positions: Positions = "all",
    means: ArrayLike | None = None,
    samples: ArrayLike | None = None,
    n_prompt: int | Sequence[int] | None = None,
) -> Iterator[None]:
    """Change the activations of a network in every forward pass inside the ``with``.

    Parameters
    ----------
    model : PreTrainedModel, Subject or tuple
        The model, alone, as a subject, or with its tokenizer; any evaluator may use it inside the ``with``. A subject
        is compared with the model that the network was found in, weights first. For the others only hookpoints and
        widths can be compared.
    network : UnitMask or UnitPattern
        The units to change, or the pattern along which activations are changed, at hookpoints of this model.
    method : str or Method, optional
        ``zero``, ``mean`` or ``resample`` (the values at random tokens of other texts). Of a mask also ``scale:X``,
        ``add:X`` (X in units of the activations) and ``push:X`` (X times the mean); of a pattern also ``steer:X`` (X
        standard deviations along it). By default ``zero`` for a mask, and for a pattern ``mean``: the component is set
        to that of the pattern's reference.
    keep : bool
        Whether to change all but the units of the mask, or all but the component along the pattern.
    along : {"filter", "pattern", "oblique"}, optional
        Of a pattern: which direction is taken out, by orthogonal projection; by default the filter where there is one.
        ``oblique`` takes what the filter reads out along the pattern.
    dose : float
        Of a pattern: part of the change that is made; 1 for all of it.
    positions : {"all", "prompt", "generated"}
        Tokens at which activations are changed. With the cache of ``generate``, the first pass is the prompt and all
        later ones are generated. A pattern never changes the first token of a text, where models keep activations that
        stand for nothing in the text.
    means : array_like, shape (n_units,), optional
        Mean activation of every unit of the space, e.g. from `mean_activations`; by default, the pattern's reference.
    samples : array_like, shape (n_samples, n_units), optional
        Activations that ``resample`` draws from, e.g. from `token_activations`.
    n_prompt : int or sequence of int, optional
        Number of prompt tokens, of all texts or of each, for passes without a cache. Special tokens count, padding
        does not.

    Yields
    ------
    None
        While activations are changed.

    Raises
    ------
    SiteError
        If the model does not have the network's hookpoints.
    MaskError
        If one of them has another number of channels, or the network is of another model than the subject.
    SpaceError
        If the pattern has not the direction that `along` names.
    LesionError
        If the method or positions are unknown or do not suit the network, means or samples are missing or do not fit,
        or it is not known where the prompt of a forward pass ends.

    Notes
    -----
    Lesions inside lesions act one after the other, the outer first. On leaving, also by an exception, no hook of this
    lesion remains on the model. One thread at a time may lesion, record or score a model with this package; others
    wait. Forward passes of other programs' threads do not wait, and are lesioned too. Components are computed in
    float32 at least, since large activations would cancel in bfloat16.

    In the residual stream (site ``block``) changes add up over blocks: half a dose in every block takes out almost the
    whole component, and one step of steering in every block is as many steps as there are blocks. Choose blocks with
    `UnitPattern.at_blocks`.
    """
    default = "mean" if isinstance(network, UnitPattern) else "zero"
    change = method if isinstance(method, Method) else Method.parse(default if method is None else method)
    if positions not in POSITIONS:
        raise LesionError(f"positions {positions!r} found; use {', '.join(POSITIONS)}")
    _check_method(change, network, along, dose, keep=keep)
    levels = _levels(change, network, means, samples)
    transformer = unwrap_model(model, network)
    widths = _width_cache(transformer)
    with lock_of(transformer):
        widths.check_space(transformer, network.space)
        passes = _Passes(positions, n_prompt, widths, skips_first=isinstance(network, UnitPattern))
        edits = (
            _pattern_edits(network, change, levels, passes, along, keep=keep, dose=dose)
            if isinstance(network, UnitPattern)
            else _mask_edits(network, change, levels, passes, keep=keep)
        )
        with ExitStack() as stack:
            if passes.choose:
                stack.callback(transformer.register_forward_pre_hook(passes.begin, with_kwargs=True).remove)
                stack.callback(transformer.register_forward_hook(passes.end, always_call=True).remove)
            for point, edit in edits:
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
    total, n_tokens = np.zeros(space.n_units), 0
    for signals in _read_pieces(subject, _tokens_of(subject, texts), space, batch_size):
        total += (np.abs(signals) if absolute else signals).sum(0, dtype=np.float64)
        n_tokens += len(signals)
    if not n_tokens:
        raise LesionError("no token found to average over; give texts with words")
    return total / n_tokens


def token_activations(
    subject: Subject,
    texts: Sequence[str],
    space: UnitSpace,
    *,
    n_tokens: int = 1024,
    batch_size: int = 8,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Activations of every unit at random tokens of texts, shape (n_samples, n_units), at most `n_tokens` of them.

    The texts may be of any length. Special tokens and the first token that the model reads do not count.
    """
    pieces, special = _tokens_of(subject, texts), subject.special_ids
    # The number of each token among all that are read, by piece; the first of a piece is left out, special or not.
    n_scans = [sum(token not in special for token in tokens) for tokens in pieces]
    ends = np.cumsum(n_scans, dtype=np.int64)
    scans = [
        np.arange(end - n + (tokens[0] not in special), end)
        for tokens, n, end in zip(pieces, n_scans, ends.tolist(), strict=True)
    ]
    candidates = np.concatenate(scans)
    if not len(candidates):
        raise LesionError("no token found to draw from; give texts of two words and more")
    drawn = np.random.default_rng(seed).choice(candidates, min(n_tokens, len(candidates)), replace=False)
    chosen = np.zeros(ends[-1], bool)
    chosen[drawn] = True
    parts = np.split(chosen, ends[:-1])
    signals = _read_pieces(subject, pieces, space, batch_size)
    return np.concatenate([values[part] for values, part in zip(signals, parts, strict=True)])


def _tokens_of(subject: Subject, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of the windows in which texts are read."""
    return [list(piece.tokens) for piece in split_texts(subject, texts)]


def _read_pieces(
    subject: Subject, pieces: Sequence[Sequence[int]], space: UnitSpace, batch_size: int
) -> Iterator[NDArray[np.float32]]:
    """Activations of the tokens of each piece that are not special, (n_scans, n_units); checks the space first."""
    widths = _width_cache(subject.model)
    with lock_of(subject.model):
        widths.check_space(subject.model, space)
    points = [HookPoint.parse(name) for name in space.hookpoints]
    for scans in read(subject, points, pieces, batch_size):
        yield scans.signals


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
    """The tokens of the current forward pass at which activations are changed.

    `skips_first`: whether the first token of each text stays as it is.
    """

    positions: Positions
    n_prompt: int | Sequence[int] | None
    widths: _WidthCache
    skips_first: bool = False
    chosen: Tensor | None = None

    @property
    def choose(self) -> bool:
        """Whether there are tokens that stay as they are."""
        return self.skips_first or self.positions != "all"

    def begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find out which tokens of the model's input are changed."""
        if self.widths.measuring:  # a lesion inside this one measures widths
            return
        names = [key for key in ("input_ids", "inputs_embeds") if kwargs.get(key) is not None]
        tokens = kwargs[names[0]] if names else next(iter(args), None)
        if not isinstance(tokens, Tensor):
            raise LesionError("a forward pass without input_ids or inputs_embeds found; lesion all positions")
        n_texts, n_tokens = tokens.shape[:_BATCH_AND_TOKENS]
        mask = kwargs.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.ndim == _BATCH_AND_TOKENS else None
        cache = next((kwargs[key] for key in _CACHES if kwargs.get(key) is not None), None)
        n_past = 0 if cache is None else _past(cache, n_tokens, mask)
        self.chosen = torch.ones((n_texts, n_tokens), dtype=torch.bool)
        if self.positions != "all":
            generated = self._generated(n_texts, n_tokens, n_past, mask, cached=cache is not None)
            self.chosen = generated if self.positions == "generated" else ~generated
        if self.skips_first:
            self.chosen &= ~_first(n_texts, n_tokens, n_past, mask)

    def end(self, *_: Any) -> None:
        """Forget the pass, so that it is not taken for the next."""
        self.chosen = None

    def where(self, values: Tensor) -> Tensor:
        """Tokens changed, in the shape of the values of a hookpoint but one channel."""
        if self.chosen is None:
            raise LesionError(
                "only part of the model was called; where texts begin and prompts end is known for the whole only"
            )
        chosen = self.chosen.to(values.device)
        if values.ndim == _BATCH_AND_TOKENS and values.shape[0] == chosen.numel():
            return chosen.reshape(-1, 1)  # texts and tokens in one axis
        if values.shape[:-1] != chosen.shape:
            raise LesionError(
                f"values of shape {tuple(values.shape)} found for {chosen.shape[0]} texts of {chosen.shape[1]} tokens; "
                "lesion all positions"
            )
        return chosen[..., None]

    def _generated(self, n_texts: int, n_tokens: int, n_past: int, mask: Tensor | None, *, cached: bool) -> Tensor:
        """Which tokens of the pass are generated, shape (n_texts, n_tokens)."""
        if self.n_prompt is None:
            if not cached:
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


def _first(n_texts: int, n_tokens: int, n_past: int, mask: Tensor | None) -> Tensor:
    """Which tokens of a pass are the first of their text, shape (n_texts, n_tokens); padding is none."""
    if mask is None or mask.shape[1] < n_past + n_tokens:
        return (torch.arange(n_past, n_past + n_tokens) == 0).expand(n_texts, n_tokens)
    real = mask.cpu() != 0
    return (real & (real.long().cumsum(1) == 1))[:, n_past : n_past + n_tokens]


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


def _check_method(method: Method, network: Network, along: Along | None, dose: float, *, keep: bool) -> None:
    """Raise if a method does not suit the network."""
    is_pattern = isinstance(network, UnitPattern)
    if is_pattern and method.name in _OF_UNITS:
        raise LesionError(f"{method} of a pattern found; it changes units: use zero, mean, resample or steer:X")
    if not is_pattern and (method.name == "steer" or along is not None or dose != 1):
        what = str(method) if method.name == "steer" else f"along={along!r}" if along else f"dose={dose}"
        raise LesionError(f"{what} of a mask found; masks have no direction: give a pattern")
    if along not in {None, *DIRECTIONS}:
        raise LesionError(f"along={along!r} found; use {', '.join(DIRECTIONS)}")
    if not math.isfinite(dose):
        raise LesionError(f"a dose of {dose} found; give a finite number, 1 for the whole component")
    if method.name != "steer" or not isinstance(network, UnitPattern):
        return
    if keep:
        raise LesionError(f"keep=True with {method} found; steering changes nothing but the component: leave it out")
    if network.spread is None:
        raise LesionError(
            f"{method} is in standard deviations along the pattern, and the pattern has no spread; fit it "
            "with glm, or give its spread"
        )
    if along == "pattern" and network.filter is not None:
        raise LesionError(
            f"{method} along the pattern found, whose spread is that of its filter; use along='oblique' to "
            "move along the pattern by what the filter reads"
        )


def _levels(
    method: Method, network: Network, means: ArrayLike | None, samples: ArrayLike | None
) -> NDArray[np.float64]:
    """What activations are set to: means (n_units,) or samples (n_samples, n_units); zeros where it is not needed."""
    n_units, is_pattern = network.space.n_units, isinstance(network, UnitPattern)
    if method.needs_samples:
        if samples is None:
            raise LesionError(
                f"{method} needs activations of other texts, none found; pass samples=token_activations(...)"
            )
        return _checked(samples, "samples", network.space, (-1, n_units))
    if means is not None:
        return _checked(means, "means", network.space, (n_units,))
    if isinstance(network, UnitPattern) and network.reference is not None and method.needs_means:
        return network.reference
    if method.needs_means:
        what = "a pattern with a reference" if is_pattern else "the mean of every unit"
        raise LesionError(f"{method} needs {what}, none found; pass means=mean_activations(...)")
    return np.zeros(n_units)


def _checked(values: ArrayLike, name: str, space: UnitSpace, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Finite numbers of a shape, -1 for any length."""
    levels = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else values
    levels = np.asarray(levels, np.float64)
    fits = levels.ndim == len(shape) and levels.shape[-1] == shape[-1] and len(levels) > 0
    if not fits or not np.isfinite(levels).all():
        needed = f"({', '.join('any' if size < 0 else str(size) for size in shape)}{',' * (len(shape) == 1)})"
        raise LesionError(
            f"{name} of shape {levels.shape} found, {needed} finite numbers needed for {space.label}; pass one per unit"
        )
    return levels


@dataclass(slots=True)
class _Copies(Generic[Movable]):
    """Something on the devices and in the types in which it was needed."""

    original: Movable
    copies: dict[tuple[torch.device, torch.dtype], Movable] = field(default_factory=dict)

    def on(self, device: torch.device, dtype: torch.dtype) -> Movable:
        """Return the copy on a device, in a type."""
        key = device, dtype
        if key not in self.copies:
            with torch.inference_mode(mode=False):  # else no gradient could flow through a later pass
                self.copies[key] = self.original.to(device, dtype)
        return self.copies[key]


@dataclass(slots=True)
class _Replacement:
    """What activations of one hookpoint are set to: their means, or those of random tokens.

    Every hookpoint draws in the same order from the same seed, so that a token has the values of one other token
    throughout the model.
    """

    levels: _Copies[Tensor]
    generator: torch.Generator

    @classmethod
    def of(cls, levels: NDArray[np.float64]) -> _Replacement:
        """Means (n_channels,), or samples (n_samples, n_channels) to draw from."""
        return cls(_Copies(torch.from_numpy(levels.copy())), torch.Generator().manual_seed(0))

    def like(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """What values (..., n_channels) are set to, in a type."""
        levels = self.levels.on(values.device, dtype)
        if levels.ndim == 1:
            return levels
        drawn = torch.randint(len(levels), values.shape[:-1], generator=self.generator)
        return levels[drawn.to(levels.device)]


def _mask_edits(
    mask: UnitMask, method: Method, levels: NDArray[np.float64], passes: _Passes, *, keep: bool
) -> Iterator[tuple[HookPoint, Callable[[Tensor], Tensor]]]:
    """Each hookpoint with units to change, and the function that changes them."""
    split = mask.space.split
    for name, chosen, part in zip(mask.space.hookpoints, split(mask.selected != keep), split(levels), strict=True):
        if not chosen.any():
            continue
        channels, replacement = _Copies(torch.from_numpy(chosen.copy())), _Replacement.of(part)

        def edit(
            values: Tensor, channels: _Copies[Tensor] = channels, replacement: _Replacement = replacement
        ) -> Tensor:
            where = channels.on(values.device, torch.bool)
            if passes.choose:
                where = where & passes.where(values)
            return method.apply(values, where, replacement.like(values, values.dtype))

        yield HookPoint.parse(name), edit


def _pattern_edits(
    pattern: UnitPattern,
    method: Method,
    levels: NDArray[np.float64],
    passes: _Passes,
    along: Along | None,
    *,
    keep: bool,
    dose: float,
) -> Iterator[tuple[HookPoint, Callable[[Tensor], Tensor]]]:
    """Each hookpoint at which the pattern has a direction, and the function that changes the component along it."""
    parts = zip(pattern.space.hookpoints, projections(pattern, along), pattern.space.split(levels), strict=True)
    for name, projection, part in parts:
        if projection is None:
            continue
        copies, replacement = _Copies(projection), _Replacement.of(part)

        def edit(
            values: Tensor, copies: _Copies[Projection] = copies, replacement: _Replacement = replacement
        ) -> Tensor:
            dtype = torch.promote_types(values.dtype, torch.float32)
            changed = method.apply_along(
                values.to(dtype),
                copies.on(values.device, dtype),
                replacement.like(values, dtype),
                keep=keep,
                dose=dose,
            )
            return torch.where(passes.where(values), changed.to(values.dtype), values)

        yield HookPoint.parse(name), edit


def _register(model: nn.Module, point: HookPoint, edit: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """Hook one side of a module so that it passes on the edited values; returns the function that removes the hook."""
    module = model.get_submodule(point.path)
    if point.side == "in":
        return module.register_forward_pre_hook(lambda _module, args: (edit(args[0]), *args[1:])).remove
    return module.register_forward_hook(lambda _module, _args, output: _edited(output, edit)).remove


def _edited(output: Any, edit: Callable[[Tensor], Tensor]) -> Any:
    """The output of a module, a tensor or a tuple that begins with one, after the edit."""
    return type(output)([edit(output[0]), *output[1:]]) if isinstance(output, tuple | list) else edit(output)
