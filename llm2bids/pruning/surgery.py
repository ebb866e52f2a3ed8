"""Units taken out of a model: which can be removed, which can only be silenced, and the smaller model.

A configuration has one width for all blocks. So every block loses as many neurons, or groups of heads, as the block
that loses fewest. What a block was to lose beyond that stays in its place with weights of 0. Only whole heads are
removed, and in grouped-query attention only whole groups that share keys and values; channels of other heads are
silenced. The smaller model equals the model with these units held at 0.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.pytorch_utils import Conv1D

from llm2bids.errors import MaskError, PruneError
from llm2bids.model.sites import HookPoint, find_site, measure_widths
from llm2bids.model.tuning import Wiring
from llm2bids.space import UnitMask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

PRUNABLE: Final = ("neuron", "head")
"""Sites whose units can be taken out."""
_WIDTHS: Final = ("intermediate_size", "ffn_dim", "n_inner")
"""Names that configurations have for the number of neurons."""
_BIASES: Final = {"neuron": "mlp_bias", "head": "attention_bias"}
"""Settings that give a model biases where it has none."""


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """How units are taken out of a model.

    - `silenced`: all units to take out; none of them does anything in the smaller model.
    - `removed`: those of them whose weights are removed; the weights of the others are set to 0.
    - `config`: configuration of the smaller model.
    - `settings`: what differs in it: name to a pair of values, before and after.
    - `silent`, `gone`: weights of the silenced and of the removed units, as `llm2bids.model.tuning.Wiring.weights`
      gives them.
    - `obstacle`: why nothing is removed; empty where something is.
    """

    silenced: UnitMask
    removed: UnitMask
    config: PretrainedConfig
    settings: Mapping[str, tuple[Any, Any]]
    silent: Mapping[str, Tensor]
    gone: Mapping[str, Tensor]
    obstacle: str = ""

    def per_hookpoint(self) -> list[dict[str, Any]]:
        """List what happens at each hookpoint.

        Returns ``Hookpoint``, ``Block``, ``Channels`` (their number in the smaller model), ``Removed`` and ``Zeroed``
        (channels of the model before the cut).
        """
        space = self.silenced.space
        silenced, removed = (space.split(mask.selected) for mask in (self.silenced, self.removed))
        return [
            {
                "Hookpoint": name,
                "Block": block,
                "Channels": int((~gone).sum()),
                "Removed": np.flatnonzero(gone).tolist(),
                "Zeroed": np.flatnonzero(silent & ~gone).tolist(),
            }
            for name, block, silent, gone in zip(space.hookpoints, space.blocks, silenced, removed, strict=True)
        ]


def plan_cut(model: PreTrainedModel, mask: UnitMask, *, biased: bool = False) -> Cut:
    """Plan which units of a mask are removed and which only silenced: the most that the architecture allows.

    `biased`: whether the maps that read the units must have biases, which are switched on if the configuration can.
    """
    _check_mask(model, mask)
    space, size = mask.space, _part_size(model, mask)
    removable: NDArray[np.bool_] = np.asarray(mask.selected.reshape(space.n_hookpoints, -1, size).all(-1))
    n_parts, fewest = removable.shape[1], max(1, int((~removable).sum(1).max()))
    # Many configurations take only some numbers of heads, such as divisors of the hidden size: the smallest that can be
    # built is taken. Neurons go in any number, or in none.
    counts = range(fewest, n_parts) if space.site == "head" else [fewest] * (fewest < n_parts)
    wiring = Wiring.find(model, space)
    silent = wiring.weights(mask)
    for n_kept in (*counts, n_parts):
        removed = UnitMask(space, _last(removable, n_parts - n_kept).repeat(size, axis=1).reshape(-1))
        config, settings = _changed(model, _settings(model, space.site, n_kept, size, biased=biased))
        shell = _buildable(model, config)
        if shell is None:
            continue
        obstacle = _obstacle(model, mask, fewest, n_parts) if n_kept == n_parts else ""
        gone = wiring.weights(removed) if removed.n_selected else {}
        cut = Cut(mask, removed, config, settings, silent, gone, obstacle)
        if _fits(model, shell, cut, biased=biased):
            return cut
    raise PruneError(
        f"{type(model).__name__} has no biases where {space.site}s are read, nor a setting for them; prune it without "
        "`compensate_bias`"
    )


def cut_model(model: PreTrainedModel, cut: Cut, means: NDArray[np.floating[Any]] | None = None) -> PreTrainedModel:
    """Make the smaller model, to be saved and loaded again.

    It cannot be run: buffers that are not saved, such as rotary frequencies, have no values.

    `means` (n_units,): mean activation of every unit; what the silenced units contributed on average is added to the
    biases of the maps that read them.
    """
    silent = cut.silent
    state = {
        name: _without(tensor.masked_fill(silent[name], 0) if name in silent else tensor, cut.gone.get(name))
        for name, tensor in model.state_dict().items()
    }
    shell = _shell(model, cut.config)
    for name, tensor in shell.state_dict().items():
        if name not in state:  # a bias that was switched on
            state[name] = torch.zeros(tensor.shape, dtype=model.dtype, device=model.device)
    for path, added in _contributions(model, cut.silenced, means) if means is not None else ():
        state[f"{path}.bias"] = (state[f"{path}.bias"].double() + added).to(model.dtype)
    shell.load_state_dict(state, assign=True)
    shell.tie_weights()
    return shell


def count_zeroed(model: PreTrainedModel, cut: Cut) -> int:
    """Count the weights that a cut sets to 0 and does not remove."""
    return sum(
        int(_without(weights.expand_as(model.get_parameter(name)), cut.gone.get(name)).sum())
        for name, weights in cut.silent.items()
    )


def _check_mask(model: PreTrainedModel, mask: UnitMask) -> None:
    """Raise if the units of a mask cannot be taken out of this model."""
    site, space = mask.space.site, mask.space
    if site not in PRUNABLE:
        raise PruneError(
            f"a mask of site {site!r} found; only neurons and heads can be taken out: use one of "
            f"{' or '.join(PRUNABLE)}"
        )
    if not mask.n_selected:
        raise PruneError("no unit to take out found; give a mask with units outside the protected blocks")
    points = find_site(model, site)
    if space.hookpoints != tuple(map(str, points)) or space.n_channels != measure_widths(model, points):
        raise MaskError(
            f"the mask is of {space.label} at {space.hookpoints[0]} and on, {type(model).__name__} has its {site}s "
            f"elsewhere or other numbers of them; use a mask of all blocks of this model"
        )
    if len(set(space.n_channels)) > 1:
        raise PruneError(f"{type(model).__name__} has unequal numbers of {site}s in its blocks; use lesion instead")


def _part_size(model: PreTrainedModel, mask: UnitMask) -> int:
    """Number of units that go together: one neuron, or the channels of all heads that share keys and values."""
    if mask.space.site == "neuron":
        return 1
    n_channels, n_groups = mask.space.n_channels[0], _n_groups(model.config.get_text_config())
    if n_channels % n_groups:
        raise PruneError(f"{type(model).__name__} has heads of unequal widths, which cannot be taken out; use neurons")
    return n_channels // n_groups


def _n_groups(config: PretrainedConfig) -> int:
    """Number of groups of heads that share keys and values."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _settings(model: PreTrainedModel, site: str, n_kept: int, size: int, *, biased: bool) -> dict[str, Any]:
    """Settings of a model with so many neurons, or groups of heads, per block."""
    config = model.config.get_text_config()
    bias = {_BIASES[site]: True} if biased and hasattr(config, _BIASES[site]) else {}
    if site == "neuron":
        names = [name for name in _WIDTHS if hasattr(config, name)]
        if not names:
            raise PruneError(f"{type(model).__name__} has no setting for the number of neurons; use lesion instead")
        return {names[0]: n_kept} | bias
    per_group = config.num_attention_heads // _n_groups(config)
    heads = {"num_attention_heads": n_kept * per_group, "head_dim": size // per_group}
    return heads | ({"num_key_value_heads": n_kept} if hasattr(config, "num_key_value_heads") else {}) | bias


def _changed(
    model: PreTrainedModel, settings: Mapping[str, Any]
) -> tuple[PretrainedConfig, dict[str, tuple[Any, Any]]]:
    """A copy of the configuration with these settings, and the pairs of values that differ."""
    config = deepcopy(model.config)
    text = config.get_text_config()
    before = {name: getattr(text, name, None) for name in settings}
    for name, value in settings.items():
        setattr(text, name, value)
    return config, {name: (before[name], value) for name, value in settings.items() if before[name] != value}


def _last(removable: NDArray[np.bool_], n_gone: int) -> NDArray[np.bool_]:
    """Choose the last so many removable parts of each row (n_blocks, n_parts)."""
    chosen: NDArray[np.bool_] = removable & (removable[:, ::-1].cumsum(1)[:, ::-1] <= n_gone)
    return chosen


def _obstacle(model: PreTrainedModel, mask: UnitMask, fewest: int, n_parts: int) -> str:
    """Say why nothing can be removed."""
    what = "neuron" if mask.space.site == "neuron" else "head"
    if mask.space.site == "head" and n_parts < model.config.get_text_config().num_attention_heads:
        what = "group of heads with common keys and values"
    if fewest == n_parts:
        return f"a block loses no {what} whole, and {type(model).__name__} has one width for all blocks"
    return f"{type(model).__name__} cannot be configured with less than every {what} ({n_parts} per block)"


def _buildable(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel | None:
    """Build the architecture from a configuration; None if it does not allow that."""
    try:
        type(config).from_dict(config.to_dict())  # some raise if widths do not divide each other
        return _shell(model, config)
    except (ValueError, TypeError, RuntimeError, StrictDataclassError):
        return None


def _fits(model: PreTrainedModel, shell: PreTrainedModel, cut: Cut, *, biased: bool) -> bool:
    """Whether the weights that are left have the shapes of the smaller architecture."""
    shapes = {name: tensor.shape for name, tensor in shell.state_dict().items()}
    state = model.state_dict().items()
    smaller = {name: _without(tensor.to("meta"), cut.gone.get(name)).shape for name, tensor in state}
    readers = [HookPoint.parse(name).path for name in cut.silenced.space.hookpoints]
    if biased and any(f"{path}.bias" not in shapes for path in readers):
        return False
    same = all(shapes.get(name) == shape for name, shape in smaller.items())
    return same and all(name.endswith(".bias") for name in shapes.keys() - smaller.keys())


def _shell(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """The architecture without values of its weights."""
    with torch.device("meta"):
        shell: PreTrainedModel = type(model)(deepcopy(config))
    return shell.eval()


def _without(tensor: Tensor, gone: Tensor | None) -> Tensor:
    """A parameter without the rows or columns that are `gone`, which broadcasts to its shape."""
    if gone is None:
        return tensor
    axis = next(number for number, length in enumerate(gone.shape) if length > 1)
    remaining = (~gone).flatten().nonzero().flatten()
    return tensor.index_select(axis, remaining.to(tensor.device))


def _contributions(
    model: PreTrainedModel, silenced: UnitMask, means: NDArray[np.floating[Any]]
) -> Iterator[tuple[str, Tensor]]:
    """Mean contribution of the silenced units to the output of each map that reads them, weight × mean, by path."""
    levels = silenced.space.split(np.where(silenced.selected, means, 0.0))
    for name, level in zip(silenced.space.hookpoints, levels, strict=True):
        path = HookPoint.parse(name).path
        weight = model.get_submodule(path).weight.detach().double()
        axis = 0 if isinstance(model.get_submodule(path), Conv1D) else 1
        yield path, torch.tensordot(weight, torch.from_numpy(level).to(weight), ([axis], [0]))
