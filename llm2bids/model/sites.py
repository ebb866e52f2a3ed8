"""Finds the places in a transformer where activations are read, by structure: no tables of sizes or architectures.

The blocks are the one ``ModuleList`` as long as the configuration says the stack is. Inside a block attention and MLP
each end in a linear map back to the width of the stream, the last one that a forward pass calls there: its output is
what is read as ``attn`` and ``mlp`` (before any norm or scaling that follows), its input are the concatenated heads
(``head``) or the neurons (``neuron``). A mixture of experts has no single such map; its ``mlp`` is its output.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llm2bids.errors import MaskError, ModelError, SiteError, did_you_mean
from llm2bids.model.memory import explain_memory_errors
from llm2bids.model.site_names import check_site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedModel

_ATTENTION: Final = ("attn", "attention")
_NO_ATTENTION: Final = ("norm", "cross", "encoder_attn", "rotary", "dropout")
_MLP: Final = ("mlp", "ffn", "feed_forward", "feedforward", "moe")
_LOCKS: Final[WeakKeyDictionary[nn.Module, RLock]] = WeakKeyDictionary()
_LOCKS_LOCK: Final = Lock()


@dataclass(frozen=True, slots=True)
class HookPoint:
    """A module and the side of it that is read.

    - `path`: module path as in ``model.named_modules()``.
    - `side`: whether its input or its output is read.

    >>> str(HookPoint("transformer.h.0", "out"))
    'transformer.h.0:out'
    >>> HookPoint.parse("model.layers.0.mlp.down_proj:in")
    HookPoint(path='model.layers.0.mlp.down_proj', side='in')
    """

    path: str
    side: Literal["in", "out"] = "out"

    def __str__(self) -> str:
        """Return the name of the hookpoint in files."""
        return f"{self.path}:{self.side}"

    @classmethod
    def parse(cls, name: str) -> HookPoint:
        """Read the name of a hookpoint, as ``str`` writes it."""
        path, _, side = name.rpartition(":")
        if not path or side not in {"in", "out"}:
            raise SiteError(f"hookpoint {name!r} found; a module path ending in :in or :out is needed")
        return cls(path, "in" if side == "in" else "out")


def find_blocks(model: PreTrainedModel) -> list[str]:
    """Find the module paths of the blocks of a transformer, first to last."""
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", -1)
    lists = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    # Lists of the same length further inside belong to a block, e.g. experts.
    shallowest = min((name.count(".") for name in lists), default=0)
    stacks = [name for name in lists if name.count(".") == shallowest]
    if len(stacks) != 1:
        listed = f"{len(stacks)} ({', '.join(stacks)})" if stacks else "none"
        raise SiteError(
            f"{listed} found of module lists with {depth} blocks in {type(model).__name__}, one needed (some models "
            "share blocks or have several stacks); name the places to record with `hookpoints`"
        )
    return [f"{stacks[0]}.{number}" for number in range(depth)]


def find_site(model: PreTrainedModel, site: str) -> tuple[HookPoint, ...]:
    """Find the hookpoint of one site in every block; raise if a block has none."""
    check_site(site)
    blocks = find_blocks(model)
    if site == "block":
        return tuple(HookPoint(path) for path in blocks)
    called = _linear_maps_called(model)
    points = [_part(model, path, site, called) for path in blocks]
    missing = [path for path, point in zip(blocks, points, strict=True) if point is None]
    if missing:
        raise SiteError(
            f"{type(model).__name__} has no site {site!r} in {missing[0]} ({len(missing)} of {len(blocks)} blocks lack "
            "it); record 'block', or name places with `hookpoints`"
        )
    return tuple(point for point in points if point is not None)


def match_hookpoints(model: PreTrainedModel, pattern: str) -> tuple[HookPoint, ...]:
    """Find modules by a pattern of their paths, in the order of ``named_modules``, which is depth order.

    `pattern`: a path with ``*`` and ``?``, optionally followed by ``:in`` or ``:out`` (the default), e.g.
    ``"model.layers.*.mlp.act_fn:out"``.
    """
    glob, _, side = pattern.partition(":")
    if side not in {"", "in", "out"}:
        raise SiteError(f"side {side!r} found in {pattern!r}; use :in or :out")
    paths = [name for name, _ in model.named_modules() if name and fnmatchcase(name, glob)]
    if not paths:
        near = did_you_mean(glob, [name for name, _ in model.named_modules() if name])
        example = find_blocks(model)[0]
        raise SiteError(
            f"no module matches {glob!r} in {type(model).__name__}; {near}its first block is {example}, for one"
        )
    return tuple(HookPoint(path, "in" if side == "in" else "out") for path in paths)


@contextmanager
def record_hookpoints(
    model: nn.Module, hookpoints: Sequence[HookPoint], copy: Callable[[Tensor], Tensor]
) -> Iterator[list[Tensor | None]]:
    """Record hookpoints during every forward pass inside the ``with``.

    `copy`: takes the values of one hookpoint, shape (n_texts, n_tokens, n_channels), and returns the copy to store.
    Yields the copies of the latest forward pass, one entry per hookpoint; None where the pass did not reach it.

    On leaving, also by an exception, no hook remains on the model. One thread at a time, see `lock_of`.
    """
    activations: list[Tensor | None] = [None] * len(hookpoints)
    batch_shape: list[tuple[int, int]] = [(0, 0)]

    def begin(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        batch_shape[0] = (ids.shape[0], ids.shape[1])
        activations[:] = [None] * len(activations)

    def reader(number: int) -> Callable[[Any], None]:
        def read(value: Any) -> None:
            point = hookpoints[number]
            activations[number] = copy(_per_token(_tensor_in(value, point), *batch_shape[0], point))

        return read

    with lock_of(model), ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for number, point in enumerate(hookpoints):
            stack.callback(_register(model.get_submodule(point.path), point.side, reader(number)))
        yield activations


def lock_of(model: nn.Module) -> RLock:
    """Return the lock of a model: one thread at a time may lesion, record or score it.

    Hooks act on every forward pass, whichever thread runs it. So a lesion is held, and each batch is recorded or
    scored, under this lock. A thread may hold it several times, and so record what it lesions.
    """
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(model, RLock())


def measure_widths(model: PreTrainedModel, hookpoints: Sequence[HookPoint]) -> tuple[int, ...]:
    """Count the channels of hookpoints by showing the model two texts of three tokens."""
    with record_hookpoints(model, hookpoints, lambda values: values) as activations:
        _show_six_tokens(model)
        widths = [None if values is None else values.shape[-1] for values in activations]
    for point, width in zip(hookpoints, widths, strict=True):
        if width is None:
            raise SiteError(
                f"a forward pass of {type(model).__name__} does not reach {point}; choose another hookpoint"
            )
    return tuple(width for width in widths if width is not None)


def check_hookpoints(model: PreTrainedModel, hookpoints: Sequence[HookPoint]) -> None:
    """Raise if a mask has a hookpoint that the model does not have."""
    modules = {name for name, _ in model.named_modules()}
    for point in hookpoints:
        if point.path not in modules:
            raise SiteError(
                f"the mask has units at {point}, {type(model).__name__} has no such place; use a mask of this model"
            )


def check_width(model: nn.Module, point: HookPoint | str, n_mask: int, n_model: int) -> None:
    """Raise if mask and model differ in their number of channels at a hookpoint."""
    if n_mask != n_model:
        raise MaskError(
            f"the mask has {n_mask} channels at {point}, {type(model).__name__} has {n_model} there; "
            "use a mask of this model"
        )


def _part(model: nn.Module, block: str, site: str, called: Sequence[str]) -> HookPoint | None:
    """The hookpoint of one site in one block, or None where the block has no such part.

    `called`: linear maps in the order in which a forward pass calls them; the last one of a part is its output.
    """
    inside = [path.removeprefix(f"{block}.") for path in called if path.startswith(f"{block}.")]
    side: Literal["in", "out"] = "in" if site in {"neuron", "head"} else "out"
    attention = [path for path in inside if _is_attention(path)]
    if site in {"attn", "head"}:
        return HookPoint(f"{block}.{attention[-1]}", side) if attention else None
    module = model.get_submodule(block)
    children = [name for name, child in module.named_children() if not _is_attention(name) and _has_linear_map(child)]
    parts = [name for name in children if any(word in name.lower() for word in _MLP) and "norm" not in name]
    mixtures = [name for name in children if _has_experts(module.get_submodule(name))]
    if len({*parts, *mixtures}) > 1:
        return None  # two parts add to the stream, and neither is what the block's MLP does
    if mixtures:
        return HookPoint(f"{block}.{mixtures[0]}") if site == "mlp" else None
    maps = [path for path in inside if not _is_attention(path) and (not parts or path.startswith(f"{parts[0]}."))]
    if maps and (parts or attention):
        return HookPoint(f"{block}.{maps[-1]}", side)
    return HookPoint(f"{block}.{parts[0]}") if parts and site == "mlp" else None


def _is_attention(path: str) -> bool:
    """Whether a module inside a block is, or belongs to, self-attention."""
    parts = path.lower().split(".")
    return any(word in part and not any(no in part for no in _NO_ATTENTION) for part in parts for word in _ATTENTION)


def _has_linear_map(module: nn.Module) -> bool:
    """Whether a module is or holds a linear map, or experts with weights of their own."""
    return any(_is_linear(part) for part in module.modules()) or _has_experts(module)


def _has_experts(module: nn.Module) -> bool:
    """Whether a module is a mixture of experts."""
    return any(name.split(".")[-1] == "experts" for name, _ in module.named_modules())


def _is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map, of whichever class (quantized ones are recognized by their sizes)."""
    return isinstance(module, nn.Linear | Conv1D) or {"in_features", "out_features"} <= set(vars(module))


def _linear_maps_called(model: PreTrainedModel) -> list[str]:
    """Paths of the linear maps to the width of the stream that a forward pass calls, in that order.

    Cross-attention is left out. The order in which modules are defined would mislead: some attentions define the map
    that comes last first.
    """
    width = model.config.get_text_config().hidden_size
    called: list[str] = []

    def logger(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def log(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.shape[-1] == width and output.numel() == 6 * width:
                called.append(path)

        return log

    with lock_of(model), ExitStack() as stack:
        for path, module in model.named_modules():
            if _is_linear(module) and not any(word in path for word in ("cross", "encoder_attn")):
                stack.callback(module.register_forward_hook(logger(path)).remove)
        _show_six_tokens(model)
    return called


@torch.inference_mode()
def _show_six_tokens(model: PreTrainedModel) -> None:
    """Show the model two texts of three tokens: unequal numbers, so that the axes cannot be confused."""
    ids = torch.zeros((2, 3), dtype=torch.long, device=model.get_input_embeddings().weight.device)
    try:
        with explain_memory_errors():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        raise ModelError(f"{type(model).__name__} cannot be shown a text ({error}); check its configuration") from error


def _register(module: nn.Module, side: str, read: Callable[[Any], None]) -> Callable[[], None]:
    """Hook one side of a module, and return the function that removes the hook."""
    if side == "in":
        return module.register_forward_pre_hook(lambda _module, args: read(args)).remove
    return module.register_forward_hook(lambda _module, _args, output: read(output)).remove


def _per_token(values: Tensor, n_texts: int, n_tokens: int, point: HookPoint) -> Tensor:
    """Values in the shape (n_texts, n_tokens, n_channels); some modules give texts and tokens in one axis."""
    if values.ndim == 3 and tuple(values.shape[:2]) == (n_texts, n_tokens):  # noqa: PLR2004
        return values
    if values.ndim == 2 and values.shape[0] == n_texts * n_tokens:  # noqa: PLR2004
        return values.view(n_texts, n_tokens, values.shape[1])
    raise SiteError(
        f"hookpoint {point} gives values of shape {tuple(values.shape)} for {n_texts} texts of {n_tokens} tokens, one "
        "vector per token needed; choose modules that map tokens to vectors"
    )


def _tensor_in(value: Any, point: HookPoint) -> Tensor:
    """The hidden states in what a module takes or returns: a tensor, or the first of a tuple."""
    first = value[0] if isinstance(value, tuple | list) and value else value
    if not isinstance(first, Tensor):
        raise SiteError(
            f"hookpoint {point} gives a {type(first).__name__}, one vector per token needed; choose modules that map "
            "tokens to vectors"
        )
    return first
