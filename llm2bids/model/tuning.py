"""Trains a network and nothing else: finds the weights that belong to units, and keeps all others as they are.

A unit read at the input of a linear map (``neuron``, ``head``) owns its column of that map, and those rows of other
maps that feed it and no unit outside the network. A channel read at the output of a linear map (``mlp``, ``attn``) owns
its row; a channel of the stream (``block``) its row in the two maps by which that block writes into it. Biases go with
their rows. Norms, embeddings and the output layer belong to no unit.

Which rows feed a unit is measured, not looked up: every linear map of a block is made to return noise, and the gradient
of the unit shows which of these numbers it depends on. So fused, interleaved and grouped layouts need no table. The
query rows of an attention head act on all its channels, so they move only if the whole head is in the mask; the key and
value rows of a group of heads only if the units of all heads that share them are.
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
from llm2bids.model.loading import unwrap_model
from llm2bids.model.sites import HookPoint, check_hookpoints, check_width, find_blocks, find_site, lock_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from llm2bids.model.loading import LoadedModel
    from llm2bids.space import UnitMask, UnitSpace

_N_TEXTS, _N_TOKENS = 2, 8
"""Size of the batch by which the rows that feed a unit are found: large enough that no unit is silent throughout."""


def find_weights(model: LoadedModel, mask: UnitMask, *, shared: bool = False) -> dict[str, Tensor]:
    """Find the weights that belong to the units of a mask.

    The mask is at site ``neuron``, ``head``, ``mlp``, ``attn`` or ``block``, or at sides of linear maps; `model` is as
    for `finetune_mask`. `shared`: whether rows that also feed units outside the mask are included: queries of a head
    that is partly in it, keys and values of grouped heads.

    The result has a boolean tensor per name of a parameter, True at weights that belong to the units. It has shape
    (n_out, 1) for rows, (1, n_in) for columns, transposed in GPT-2's ``Conv1D``, and (n_out,) for biases. Parameters
    without such weights are left out.

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
    return Wiring.find(unwrap_model(model, mask), mask.space).weights(mask, shared=shared)


@dataclass(frozen=True, slots=True, eq=False)
class Wiring:
    """Which weights feed the units of a space, measured in one forward pass that serves several masks.

    - `noise`: the noise that each linear map returned, by its path: one tensor per call, shape (..., n_out).
    - `inputs`: the input of each map whose input is recorded, by its path, shape (n_texts, n_tokens, n_in). It was
      computed from `noise`, which its gradients show.
    """

    model: PreTrainedModel
    space: UnitSpace
    noise: Mapping[str, Sequence[Tensor]]
    inputs: Mapping[str, Tensor]

    @classmethod
    def find(cls, model: PreTrainedModel, space: UnitSpace) -> Wiring:
        """Measure the wiring of a model."""
        inputs = _inputs(model, space)
        return cls(model, space, *(_show_noise(model, inputs) if inputs else ({}, {})))

    def weights(self, mask: UnitMask, *, shared: bool = False) -> dict[str, Tensor]:
        """Find the weights that belong to the units of a mask."""
        if not mask.n_selected:
            raise MaskError("a mask of no unit found; choose units whose weights are to move")
        inputs, outputs = _chosen(mask)
        weights: dict[str, Tensor] = {}
        for path, rows in (self._feeding_rows(inputs, shared=shared) | _writing_rows(self.model, outputs)).items():
            if rows.any():
                weights |= _rows(self.model, path, rows)
        for path, columns in inputs.items():
            if columns.any():
                weight, axis = _weight(self.model, path)
                weights[f"{path}.weight"] = columns.to(weight.device).unsqueeze(axis)
        names = [name for name, _ in self.model.named_parameters(remove_duplicate=False)]
        return {name: weights[name] for name in names if name in weights}

    def _feeding_rows(self, chosen: Mapping[str, Tensor], *, shared: bool) -> dict[str, Tensor]:
        """Rows of linear maps that feed the units chosen at the input of others, by path."""
        inside, outside = (
            self._dependences({path: chosen[path] == selected for path in self.inputs}) for selected in (True, False)
        )
        return {path: inside[path] if shared else inside[path] & ~outside[path] for path in self.noise}

    def _dependences(self, units: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By linear map, the outputs on which some units depend: directly, since each map returns noise."""
        rows = {path: torch.zeros(values[0].shape[-1], dtype=torch.bool) for path, values in self.noise.items()}
        leaves = [(path, value) for path, values in self.noise.items() for value in values]
        if not self.inputs or not leaves:
            return rows
        draw = torch.Generator().manual_seed(1)
        with torch.inference_mode(mode=False), torch.enable_grad():
            # One backward pass for all units. Random weights make sure that no two contributions cancel out.
            weighted = (
                values * _random_like(values, draw) * units[path].to(values) for path, values in self.inputs.items()
            )
            total = torch.stack([values.float().sum().cpu() for values in weighted]).sum()
            noise = [value for _, value in leaves]
            gradients = torch.autograd.grad(total, noise, retain_graph=True, allow_unused=True)
        for (path, _), gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                rows[path] |= (gradient != 0).flatten(0, -2).any(0).cpu()
        return rows


@contextmanager
def finetune_mask(model: LoadedModel, mask: UnitMask, *, shared: bool = False) -> Iterator[dict[str, Tensor]]:
    """Train only the weights that belong to the units of a mask.

    Parameters
    ----------
    model : PreTrainedModel, Subject or tuple
        The model of which the mask was made, alone, as a subject, or with its tokenizer; trained as usual inside the
        ``with``. A subject is compared with the model of the mask, weights first. For the others only hookpoints and
        widths can be compared.
    mask : UnitMask
        The network, at site ``neuron``, ``head``, ``mlp``, ``attn`` or ``block``, or at sides of linear maps.
    shared : bool
        Whether rows of weights that also feed units outside the mask are trained: queries of a head that is partly in
        it, keys and values of grouped heads.

    Yields
    ------
    dict of str to Tensor
        The weights that are trained, see `find_weights`.

    Raises
    ------
    MaskError
        If the mask chooses no unit, has other widths than the model, or is of another model than the subject.
    SiteError
        If the model does not have its hookpoints, or they are no sides of linear maps.

    Notes
    -----
    Gradients of other weights are 0 or absent. Weight decay and momentum move weights without a gradient too, so these
    are restored after every step of any ``torch.optim`` optimizer, whether it was made before or inside the ``with``.
    Weights loaded between steps stay. A step needs memory for a second copy of the parameters concerned. Optimizers
    that are none of torch's, and sharded parameters (FSDP, DeepSpeed), are not covered.

    On leaving, also by an exception, no hook remains and every ``requires_grad`` is as before. For the ``Trainer`` of
    transformers no callback is needed: ``with finetune_mask(model, mask): Trainer(model=model, …).train()``.
    """
    transformer = unwrap_model(model, mask)
    weights = find_weights(transformer, mask, shared=shared)
    parameters = dict(transformer.named_parameters(remove_duplicate=False))
    trained: dict[Tensor, Tensor] = {}
    for name, chosen in weights.items():  # a parameter that two modules share is trained where either allows it
        parameter = parameters[name]
        trained[parameter] = trained[parameter] | chosen if parameter in trained else chosen
    with ExitStack() as stack:
        for parameter in set(parameters.values()):
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(parameter in trained)
        for parameter, chosen in trained.items():
            stack.callback(parameter.register_hook(_gradient_mask(chosen)).remove)
        save, restore = _optimizer_hooks({parameter: trained.get(parameter) for parameter in parameters.values()})
        stack.callback(register_optimizer_step_pre_hook(save).remove)
        stack.callback(register_optimizer_step_post_hook(restore).remove)
        yield weights


def lora_targets(model: LoadedModel, mask: UnitMask, *, shared: bool = False) -> dict[str, list[int]]:
    """List the modules to which LoRA is to add adapters, for ``peft.LoraConfig``.

    The result has, by module, the rows or columns of its weight that belong to the network, ascending. Its keys are the
    ``target_modules``. An adapter needs no more ranks than its module has numbers:
    ``LoraConfig(target_modules=list(targets), rank_pattern={name: min(8, len(units)) for name, units in
    targets.items()})``

    Adapters act on whole modules: LoRA confines training to the modules of a network, `finetune_mask` to its units.
    """
    return {
        name.removesuffix(".weight"): weights.flatten().nonzero().flatten().tolist()
        for name, weights in find_weights(model, mask, shared=shared).items()
        if name.endswith(".weight")
    }


def _inputs(model: PreTrainedModel, space: UnitSpace) -> list[str]:
    """Paths of the linear maps whose inputs are units; raises if the model does not have this space."""
    points = [HookPoint.parse(name) for name in space.hookpoints]
    check_hookpoints(model, points)
    for point, n_channels in zip(points, space.n_channels, strict=True):
        if point.side == "in":
            weight, axis = _weight(model, point.path)
            check_width(model, point, n_channels, weight.shape[1 - axis])
    return [point.path for point in points if point.side == "in"]


def _chosen(mask: UnitMask) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The channels chosen at the inputs, and those at the outputs of modules, by path."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for name, units in zip(mask.space.hookpoints, mask.space.split(mask.selected), strict=True):
        point = HookPoint.parse(name)
        (inputs if point.side == "in" else outputs)[point.path] = torch.from_numpy(units.copy())
    return inputs, outputs


def _writing_rows(model: PreTrainedModel, chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
    """One forward pass in which every linear map of the blocks returns positive noise, so that no ReLU is silent."""
    noise: dict[str, list[Tensor]] = defaultdict(list)
    recorded: dict[str, Tensor] = {}
    draw = torch.Generator().manual_seed(0)

    def replace(path: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            noise[path].append(_random_like(output, draw).requires_grad_())
            return noise[path][-1]

        return hook

    def record(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            recorded[path] = args[0]

        return hook

    within = tuple(f"{block}." for block in find_blocks(model))
    with lock_of(model), ExitStack() as stack:
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear | Conv1D) and path.startswith(within):
                stack.callback(module.register_forward_hook(replace(path)).remove)
        for path in inputs:
            stack.callback(model.get_submodule(path).register_forward_pre_hook(record(path)).remove)
        for module in model.modules():  # dropout would hide units, gradient checkpointing runs blocks twice
            stack.callback(setattr, module, "training", module.training)
        model.eval()
        stack.enter_context(torch.inference_mode(mode=False))  # gradients are needed, whatever the caller's modes
        stack.enter_context(torch.enable_grad())
        device = model.get_input_embeddings().weight.device
        ids = torch.zeros((_N_TEXTS, _N_TOKENS), dtype=torch.long, device=device)
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    if missing := [path for path in inputs if path not in recorded]:
        raise SiteError(f"a forward pass of {type(model).__name__} does not reach {missing[0]}; use a mask of others")
    return noise, recorded


def _random_like(values: Tensor, draw: torch.Generator) -> Tensor:
    """Numbers from 0 to 1. They do not come from torch's global generator, which belongs to the caller."""
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
    weights = {f"{path}.weight": rows.unsqueeze(1 - axis)}
    return weights if model.get_submodule(path).bias is None else weights | {f"{path}.bias": rows}


def _gradient_mask(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """A hook that sets the gradients of all other weights to 0."""
    return lambda gradient: torch.where(weights.to(gradient.device), gradient, 0)


def _optimizer_hooks(
    trained: Mapping[Tensor, Tensor | None],
) -> tuple[Callable[[Optimizer, Any, Any], None], Callable[[Optimizer, Any, Any], None]]:
    """Hooks before and after an optimizer's step that save parameters, and restore weights that are not trained."""
    saved: dict[Tensor, Tensor] = {}

    def save(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        optimized = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        for parameter in optimized & trained.keys():
            if parameter.grad is not None:  # optimizers do not change parameters without a gradient
                saved[parameter] = parameter.detach().clone()

    def restore(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        optimized = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        for parameter in optimized & saved.keys():
            old, weights = saved.pop(parameter), trained[parameter]
            with torch.no_grad():
                parameter.copy_(old if weights is None else torch.where(weights.to(old.device), parameter, old))

    return save, restore
