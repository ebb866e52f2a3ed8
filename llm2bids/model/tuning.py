"""Training a network and nothing else: which weights belong to units, and how all others are kept still.

A unit read at the input of a linear map (``neuron``, ``head``) owns its column of that map, and a row of weights that
feeds it if that row feeds no unit outside the network. A channel read at the output of a linear map (``mlp``,
``attn``) owns its row; a channel of the stream (``block``) its row in the two maps by which that block writes into
it. Biases go with their rows. Norms, embeddings and the output layer belong to no unit.

Which rows feed a unit is found out, not looked up: every linear map of a block is made to give noise, and the gradient
of the unit says which numbers it depends on. So fused, interleaved and grouped layouts need no table. It follows that
the query rows of an attention head, which act on all its channels, move only where the whole head is in the mask, and
the key and value rows of a group of heads only where the units of every head that shares them are.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from transformers.pytorch_utils import Conv1D

from llm2bids.errors import MaskError, SiteError
from llm2bids.model.loading import model_of_mask
from llm2bids.model.sites import HookPoint, check_places, check_width, find_blocks, find_site, lock_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from llm2bids.model.loading import Subject
    from llm2bids.space import UnitMask, UnitSpace

_N_TEXTS, _N_TOKENS = 2, 8
"""Tokens shown to find what feeds what: enough that no unit is silent at all of them."""


def find_weights(model: PreTrainedModel | Subject, mask: UnitMask, *, shared: bool = False) -> dict[str, Tensor]:
    """Find the weights that belong to the units of a mask.

    `model`: the model the mask was made of. A subject is compared with what the mask says of its model, weights first;
    of a model alone only places and widths can be compared. `mask`: A network at site ``neuron``, ``head``, ``mlp``,
    ``attn`` or ``block``, or at sides of linear maps. `shared`: whether rows that also feed units outside the mask are
    counted in: queries of a head that is partly chosen, keys and values of grouped heads. Returns by name of parameter,
    True where weights belong: shape (n_out, 1) for rows, (1, n_in) for columns, transposed in GPT-2's ``Conv1D``,
    (n_out,) for biases. Parameters without such weights are left out.

    >>> from llm2bids.model.sites import find_site, measure_widths
    >>> from llm2bids.model.phantom import build_phantom
    >>> from llm2bids.space import UnitMask, UnitSpace
    >>> model = build_phantom().model
    >>> points = find_site(model, "neuron")
    >>> space = UnitSpace("neuron", tuple(map(str, points)), measure_widths(model, points))
    >>> weights = find_weights(model, UnitMask.from_units(space, [3]))
    >>> for name, chosen in weights.items():
    ...     print(name, tuple(chosen.shape), chosen.sum().item())
    model.layers.0.mlp.gate_proj.weight (256, 1) 1
    model.layers.0.mlp.gate_proj.bias (256,) 1
    model.layers.0.mlp.up_proj.weight (256, 1) 1
    model.layers.0.mlp.up_proj.bias (256,) 1
    model.layers.0.mlp.down_proj.weight (1, 256) 1
    """
    model = model_of_mask(model, mask)
    return Wiring.find(model, mask.space).weights(mask, shared=shared)


@dataclass(frozen=True, slots=True, eq=False)
class Wiring:
    """What feeds the units of a space, found in one forward pass: for several masks of it.

    - `noise`: what each linear map was made to give, by its path: every time that it was called, shape (..., n_out).
    - `seen`: what came in at each map whose input is read, by its path, shape (n_texts, n_tokens, n_in); computed from
      `noise`, as its gradients say.
    """

    model: PreTrainedModel
    space: UnitSpace
    noise: Mapping[str, Sequence[Tensor]]
    seen: Mapping[str, Tensor]

    @classmethod
    def find(cls, model: PreTrainedModel, space: UnitSpace) -> Wiring:
        """Show a model noise."""
        inputs = _inputs(model, space)
        return cls(model, space, *(_show_noise(model, inputs) if inputs else ({}, {})))

    def weights(self, mask: UnitMask, *, shared: bool = False) -> dict[str, Tensor]:
        """Find the weights that belong to the units of a mask."""
        if not mask.n_selected:
            raise MaskError("a mask of no unit found; choose units whose weights are to move")
        inputs, outputs = _chosen(mask)
        found: dict[str, Tensor] = {}
        for path, rows in (self._feeding(inputs, shared=shared) | _written(self.model, outputs)).items():
            if rows.any():
                found |= _rows(self.model, path, rows)
        for path, columns in inputs.items():
            if columns.any():
                weight, axis = _weight(self.model, path)
                found[f"{path}.weight"] = columns.to(weight.device).unsqueeze(axis)
        return {name: found[name] for name, _ in self.model.named_parameters(remove_duplicate=False) if name in found}

    def _feeding(self, chosen: Mapping[str, Tensor], *, shared: bool) -> dict[str, Tensor]:
        """Rows of linear maps that feed the units chosen at the input of others, by path."""
        inside, outside = (
            self._dependences({path: chosen[path] == wanted for path in self.seen}) for wanted in (True, False)
        )
        return {path: inside[path] if shared else inside[path] & ~outside[path] for path in self.noise}

    def _dependences(self, counted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By linear map, on which of its outputs the units counted depend: directly, since each map gives noise."""
        found = {path: torch.zeros(values[0].shape[-1], dtype=torch.bool) for path, values in self.noise.items()}
        leaves = [(path, value) for path, values in self.noise.items() for value in values]
        if not self.seen or not leaves:
            return found
        draw = torch.Generator().manual_seed(1)
        with torch.inference_mode(mode=False), torch.enable_grad():
            weighted = (
                values * _random_like(values, draw) * counted[path].to(values) for path, values in self.seen.items()
            )
            total = torch.stack([one.float().sum().cpu() for one in weighted]).sum()
            wanted = [value for _, value in leaves]
            gradients = torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True)
        for (path, _), gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                found[path] |= (gradient != 0).flatten(0, -2).any(0).cpu()
        return found


@contextmanager
def finetune_mask(
    model: PreTrainedModel | Subject, mask: UnitMask, *, shared: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Train only the weights that belong to the units of a mask.

    Parameters
    ----------
    model : PreTrainedModel or Subject
        The model the mask was made of, see `find_weights`; trained as usual inside the ``with``.
    mask : UnitMask
        The network.
    shared : bool
        See `find_weights`.

    Yields
    ------
    dict of str to Tensor
        What moves, see `find_weights`.

    Raises
    ------
    MaskError
        If the mask chooses no unit, has other widths than the model, or is of another model than the subject.
    SiteError
        If the model has not its hookpoints, or they are no sides of linear maps.

    Notes
    -----
    Gradients of other weights are 0 or absent. Weight decay and momentum move weights without a gradient too, so what
    is not to move is put back after every step of any ``torch.optim`` optimizer, whether it was made before or inside
    the ``with``; weights loaded between steps are left alone. Needs room for a second copy of the parameters concerned
    during a step. Optimizers that are none of torch's, and sharded parameters (FSDP, DeepSpeed), are not covered.

    On leaving, also by an exception, no hook is left and every ``requires_grad`` is as before. For the ``Trainer`` of
    transformers no callback is needed: ``with finetune_mask(model, mask): Trainer(model=model, …).train()``.
    """
    model = model_of_mask(model, mask)
    found = find_weights(model, mask, shared=shared)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    moving: dict[Tensor, Tensor] = {}
    for name, weights in found.items():  # a parameter that two modules share moves where either lets it
        one = parameters[name]
        moving[one] = moving[one] | weights if one in moving else weights
    with ExitStack() as stack:
        for one in set(parameters.values()):
            stack.callback(one.requires_grad_, one.requires_grad)
            one.requires_grad_(one in moving)
        for one, weights in moving.items():
            stack.callback(one.register_hook(_only(weights)).remove)
        before: dict[Tensor, Tensor] = {}
        keep, put_back = _guards({one: moving.get(one) for one in parameters.values()}, before)
        stack.callback(register_optimizer_step_pre_hook(keep).remove)
        stack.callback(register_optimizer_step_post_hook(put_back).remove)
        yield found


def lora_targets(model: PreTrainedModel | Subject, mask: UnitMask, *, shared: bool = False) -> dict[str, list[int]]:
    """List the modules to which LoRA is to add adapters, for ``peft.LoraConfig``.

    Returns by module, the rows or columns of its weight that belong to the network, ascending. ``target_modules`` are
    its keys; an adapter needs no more ranks than there are numbers.

    Adapters act on whole modules: LoRA confines training to the modules of a network, `finetune_mask` to its units.
    ``LoraConfig(target_modules=list(targets), rank_pattern={name: min(8, len(units)) for name, units in
    targets.items()})``
    """
    found = find_weights(model, mask, shared=shared)
    return {
        name.removesuffix(".weight"): weights.flatten().nonzero().flatten().tolist()
        for name, weights in found.items()
        if name.endswith(".weight")
    }


def _inputs(model: PreTrainedModel, space: UnitSpace) -> list[str]:
    """Paths of the linear maps whose inputs are units; refuses a space that the model does not have."""
    points = [HookPoint.parse(name) for name in space.hookpoints]
    check_places(model, points)
    for point, n_channels in zip(points, space.n_channels, strict=True):
        if point.side == "in":
            weight, axis = _weight(model, point.path)
            check_width(model, point, n_channels, weight.shape[1 - axis])
    return [point.path for point in points if point.side == "in"]


def _chosen(mask: UnitMask) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Which channels are chosen at the inputs, and which at the outputs of modules, by path."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for name, units in zip(mask.space.hookpoints, mask.space.split(mask.selected), strict=True):
        point = HookPoint.parse(name)
        (inputs if point.side == "in" else outputs)[point.path] = torch.from_numpy(units.copy())
    return inputs, outputs


def _written(model: PreTrainedModel, chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows of linear maps that write the channels chosen, by path; a block writes by attention and MLP."""
    blocks = find_blocks(model) if chosen else []
    writers: dict[str, list[str]] = {path: [] for path in blocks}
    if set(blocks) & set(chosen):
        for site in ("attn", "mlp"):
            for block, point in zip(blocks, find_site(model, site), strict=True):
                writers[block].append(point.path)
    rows = {}
    for path, units in chosen.items():
        for writer in writers.get(path, [path]):
            weight, axis = _weight(model, writer)
            check_width(model, HookPoint(path), len(units), weight.shape[axis])
            rows[writer] = units
    return rows


def _show_noise(model: PreTrainedModel, inputs: Sequence[str]) -> tuple[dict[str, list[Tensor]], dict[str, Tensor]]:
    """One forward pass in which every linear map of the blocks gives noise, positive: no activation is silent then."""
    noise: dict[str, list[Tensor]] = defaultdict(list)
    seen: dict[str, Tensor] = {}
    draw = torch.Generator().manual_seed(0)

    def replace(path: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            noise[path].append(_random_like(output, draw).requires_grad_())
            return noise[path][-1]

        return hook

    def see(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            seen[path] = args[0]

        return hook

    within = tuple(f"{block}." for block in find_blocks(model))
    with lock_of(model), ExitStack() as stack:
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear | Conv1D) and path.startswith(within):
                stack.callback(module.register_forward_hook(replace(path)).remove)
        for path in inputs:
            stack.callback(model.get_submodule(path).register_forward_pre_hook(see(path)).remove)
        for module in model.modules():  # dropout would hide units, gradient checkpointing runs blocks twice
            stack.callback(setattr, module, "training", module.training)
        model.eval()
        stack.enter_context(torch.inference_mode(mode=False))  # gradients are kept, whatever the caller's modes
        stack.enter_context(torch.enable_grad())
        device = model.get_input_embeddings().weight.device
        ids = torch.zeros((_N_TEXTS, _N_TOKENS), dtype=torch.long, device=device)
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    if missing := [path for path in inputs if path not in seen]:
        raise SiteError(f"a forward pass of {type(model).__name__} does not reach {missing[0]}; use a mask of others")
    return noise, seen


def _random_like(values: Tensor, draw: torch.Generator) -> Tensor:
    """Numbers from 0 to 1, drawn apart from torch's own, which are the caller's and common to all threads."""
    return torch.rand(values.shape, generator=draw).to(values)


def _weight(model: PreTrainedModel, path: str) -> tuple[Tensor, int]:
    """Weight of a linear map and the axis of its outputs."""
    module = model.get_submodule(path)
    if not isinstance(module, nn.Linear | Conv1D) or not module.weight.is_floating_point():
        raise SiteError(
            f"{path} of {type(model).__name__} is a {type(module).__name__}, a linear map with weights of its own "
            "needed; use a mask of another site, and a model that is not quantized"
        )
    return module.weight, 1 if isinstance(module, Conv1D) else 0


def _rows(model: PreTrainedModel, path: str, rows: Tensor) -> dict[str, Tensor]:
    """Rows of a linear map as parts of its parameters."""
    weight, axis = _weight(model, path)
    rows = rows.to(weight.device)
    found = {f"{path}.weight": rows.unsqueeze(1 - axis)}
    return found if model.get_submodule(path).bias is None else found | {f"{path}.bias": rows}


def _only(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """A hook that lets only the gradients of some weights through."""
    return lambda gradient: torch.where(weights.to(gradient.device), gradient, 0)


def _guards(
    moving: Mapping[Tensor, Tensor | None], before: dict[Tensor, Tensor]
) -> tuple[Callable[[Optimizer, Any, Any], None], Callable[[Optimizer, Any, Any], None]]:
    """Hooks for before and after an optimizer's step: parameters come out as they were where they are not to move."""

    def keep(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        trained = {one for group in optimizer.param_groups for one in group["params"]}
        for one in trained & moving.keys():
            if one.grad is not None:  # optimizers leave parameters without a gradient alone
                before[one] = one.detach().clone()

    def put_back(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        trained = {one for group in optimizer.param_groups for one in group["params"]}
        for one in trained & before.keys():
            old, weights = before.pop(one), moving[one]
            with torch.no_grad():
                one.copy_(old if weights is None else torch.where(weights.to(one.device), one, old))

    return keep, put_back
