"""Training moves the weights of a network, and not a bit of any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from llm2bids.errors import MaskError, SiteError
from llm2bids.model.sites import find_site, measure_widths
from llm2bids.model.tuning import find_weights, finetune_mask, lora_targets
from llm2bids.space import UnitMask, UnitSpace

from .families import tiny_subject

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

CHOSEN = {"neuron": [1, 5], "mlp": [2, 7], "attn": [0], "block": [3, 9, 23]}
"""Channels chosen in block 1."""
NAMES: dict[
    str, dict[str, Sequence[str]]
] = {  # which maps feed neurons, read neurons, write attention; up to the block
    "llama": {"in": ["mlp.gate_proj", "mlp.up_proj"], "out": ["mlp.down_proj"], "attn": ["self_attn.o_proj"]},
    "qwen3": {"in": ["mlp.gate_proj", "mlp.up_proj"], "out": ["mlp.down_proj"], "attn": ["self_attn.o_proj"]},
    "gpt2": {"in": ["mlp.c_fc"], "out": ["mlp.c_proj"], "attn": ["attn.c_proj"]},
    "opt": {"in": ["fc1"], "out": ["fc2"], "attn": ["self_attn.out_proj"]},
    "gpt_neox": {"in": ["mlp.dense_h_to_4h"], "out": ["mlp.dense_4h_to_h"], "attn": ["attention.dense"]},
    "bloom": {"in": ["mlp.dense_h_to_4h"], "out": ["mlp.dense_4h_to_h"], "attn": ["self_attention.dense"]},
}
HEADS: dict[str, dict[str, Sequence[int]]] = {  # rows of the maps before attention that make the first group of heads
    "llama": {"self_attn.q_proj": range(16), "self_attn.k_proj": range(8), "self_attn.v_proj": range(8)},
    "qwen3": {"self_attn.q_proj": range(16), "self_attn.k_proj": range(8), "self_attn.v_proj": range(8)},
    "gpt2": {"attn.c_attn": [*range(6), *range(24, 30), *range(48, 54)]},
    "opt": {f"self_attn.{name}_proj": range(6) for name in "qkv"},
    "gpt_neox": {"attention.query_key_value": range(18)},
    "bloom": {"self_attention.query_key_value": range(18)},
}


def mask_of(model: PreTrainedModel, site: str, channels: Sequence[int], block: int = 1) -> UnitMask:
    points = find_site(model, site)
    space = UnitSpace(site, tuple(map(str, points)), measure_widths(model, points))
    return UnitMask.from_units(space, space.starts()[block] + np.array(channels))


def rough_model(family: str, **settings: Any) -> PreTrainedModel:
    """No parameter is 0 or alike, so that weight decay moves each."""
    model = tiny_subject(family, **settings).model
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def channels_of(family: str, site: str) -> Sequence[int]:
    """In the head site one whole head, or group of heads."""
    return range(16 if family in {"llama", "qwen3"} else 6) if site == "head" else CHOSEN[site]


def expected(model: PreTrainedModel, family: str, site: str) -> dict[str, torch.Tensor]:
    """By hand: where each parameter may move."""
    names, chosen = NAMES[family], list(channels_of(family, site))
    block = find_site(model, "block")[1].path
    rows: dict[str, Sequence[int]] = {}
    if site == "neuron":
        rows = dict.fromkeys(names["in"], chosen)
    elif site == "head":
        rows = dict(HEADS[family])
    else:
        writers = {"mlp": names["out"], "attn": names["attn"], "block": [*names["attn"], *names["out"]]}[site]
        rows = dict.fromkeys(writers, chosen)
    columns = {"neuron": names["out"], "head": names["attn"]}.get(site, [])
    moving = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in model.named_parameters()}
    for name, numbers in rows.items():
        weight = moving[f"{block}.{name}.weight"]
        (weight.T if family == "gpt2" else weight)[list(numbers)] = True
        if f"{block}.{name}.bias" in moving:
            moving[f"{block}.{name}.bias"][list(numbers)] = True
    for name in columns:
        weight = moving[f"{block}.{name}.weight"]
        (weight if family == "gpt2" else weight.T)[chosen] = True
    return moving


def train(model: PreTrainedModel, optimizer: torch.optim.Optimizer, n_steps: int = 3) -> None:
    ids = torch.randint(5, 20, (2, 7), generator=torch.Generator().manual_seed(0))
    for _ in range(n_steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def adamw(model: PreTrainedModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)


def copied(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize("site", ["neuron", "head", "mlp", "attn", "block"])
@pytest.mark.parametrize("family", NAMES)
def test_only_the_network_moves_and_all_of_it(family: str, site: str) -> None:
    model = rough_model(family)
    optimizer = adamw(model)
    train(model, optimizer, 1)  # so that there is momentum everywhere
    model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()  # and gradients
    before, wanted = copied(model), expected(model, family, site)
    with finetune_mask(model, mask_of(model, site, channels_of(family, site))):
        train(model, optimizer)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value != before[name], wanted[name], msg=name)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adafactor])
def test_whichever_optimizer_made_inside(make: Any) -> None:
    model = rough_model("llama", tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    before, wanted = copied(model), expected(model, "llama", "neuron")
    with finetune_mask(model, mask_of(model, "neuron", CHOSEN["neuron"])):
        train(model, make(model.parameters(), lr=1e-2, weight_decay=0.1))
    for name, value in model.named_parameters():
        torch.testing.assert_close(value != before[name], wanted[name], msg=name)


def test_gradients_of_other_weights_are_0_so_that_clipping_sees_the_network_only() -> None:
    model = rough_model("gpt2")
    wanted = expected(model, "gpt2", "head")
    with finetune_mask(model, mask_of(model, "head", range(6))):
        model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
        for name, value in model.named_parameters():
            assert value.grad is None or not value.grad[~wanted[name]].any()


def test_part_of_a_head_leaves_alone_what_the_rest_of_it_needs() -> None:
    model = rough_model("gpt2")
    mask = mask_of(model, "head", [0, 2])
    own, shared = (find_weights(model, mask, shared=flag)["transformer.h.1.attn.c_attn.bias"] for flag in (False, True))
    assert own.nonzero().flatten().tolist() == [48, 50]  # values only
    assert shared.nonzero().flatten().tolist() == [*range(6), *range(24, 30), 48, 50]


def test_keys_and_values_move_with_all_heads_that_share_them() -> None:
    model = rough_model("llama")
    one, both = (find_weights(model, mask_of(model, "head", channels)) for channels in (range(8), [0, 8]))
    assert {name.split(".")[-2] for name in one} == {"q_proj", "o_proj"}
    assert {name.split(".")[-2] for name in both} == {"v_proj", "o_proj"}
    assert both["model.layers.1.self_attn.v_proj.weight"].nonzero()[:, 0].tolist() == [0]


def test_after_an_exception_everything_moves_again() -> None:
    model = rough_model("opt")
    frozen = model.get_parameter("model.decoder.layers.0.fc1.weight").requires_grad_(False)
    with pytest.raises(KeyboardInterrupt), finetune_mask(model, mask_of(model, "neuron", [0], block=0)):
        assert frozen.requires_grad
        raise KeyboardInterrupt
    before = copied(model)
    train(model, adamw(model))
    still = {name for name, value in model.named_parameters() if not (value != before[name]).any()}
    assert still == {"model.decoder.layers.0.fc1.weight"}
    assert not frozen.requires_grad


def test_another_model_trains_freely_meanwhile() -> None:
    one, other = rough_model("llama"), rough_model("llama")
    before = copied(other)
    with finetune_mask(one, mask_of(one, "mlp", [0])):
        train(other, adamw(other))
    assert all((value != before[name]).all() for name, value in other.named_parameters() if "embed" not in name)


def test_finding_weights_leaves_modes_and_random_numbers_alone() -> None:
    model = rough_model("gpt2")
    mask = mask_of(model, "head", [0])
    model.train().transformer.h[0].eval()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    with torch.inference_mode():
        find_weights(model, mask)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())  # noqa: SLF001


def test_weights_that_two_blocks_share_move_where_either_may() -> None:
    model = rough_model("llama")
    layers = model.model.layers
    layers[2].mlp.down_proj.weight = layers[1].mlp.down_proj.weight
    before = layers[1].mlp.down_proj.weight.detach().clone()
    mask = mask_of(model, "neuron", [4]) | mask_of(model, "neuron", [6], block=2)
    with finetune_mask(model, mask):
        train(model, adamw(model))
    moved = (layers[1].mlp.down_proj.weight != before).any(0)
    assert moved.nonzero().flatten().tolist() == [4, 6]


def test_what_has_no_weights_is_refused_by_name() -> None:
    llama, mixtral = rough_model("llama"), rough_model("mixtral")
    with pytest.raises(MaskError, match="no unit"):
        find_weights(llama, mask_of(llama, "mlp", []))
    with pytest.raises(SiteError, match=r"units at model\.layers\.0\.mlp\.down_proj:in, GPT2LMHeadModel has no such"):
        find_weights(rough_model("gpt2"), mask_of(llama, "neuron", [0]))
    with pytest.raises(MaskError, match=r"44 channels at .*, LlamaForCausalLM has 52 there"):
        find_weights(rough_model("llama", intermediate_size=52), mask_of(llama, "neuron", [0]))
    with pytest.raises(SiteError, match="is a MixtralSparseMoeBlock, a linear map with weights of its own needed"):
        find_weights(mixtral, mask_of(mixtral, "mlp", [0]))


def test_the_trainer_of_transformers_needs_no_callback(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the Trainer needs the package accelerate")
    from transformers import Trainer, TrainingArguments

    model = rough_model("qwen3")
    before, wanted = copied(model), expected(model, "qwen3", "block")
    ids = torch.randint(5, 20, (4, 6))
    shown = [{"input_ids": row, "labels": row} for row in ids]
    settings = TrainingArguments(
        tmp_path, max_steps=2, weight_decay=0.1, learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True,
        save_strategy="no", logging_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    with finetune_mask(model, mask_of(model, "block", CHOSEN["block"])):
        Trainer(model=model, args=settings, train_dataset=shown).train()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value != before[name], wanted[name], msg=name)


def test_lora_targets_are_the_modules_and_units_of_the_network() -> None:
    model = rough_model("llama")
    block = "model.layers.1.mlp."
    chosen = CHOSEN["neuron"]
    assert lora_targets(model, mask_of(model, "neuron", chosen)) == {
        f"{block}{name}": chosen for name in ("gate_proj", "up_proj", "down_proj")
    }


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 with transformers 5.23
def test_lora_adapts_these_modules_only() -> None:
    peft = pytest.importorskip("peft", reason="adapters need the package peft")
    model = rough_model("llama")
    before = copied(model)
    targets = lora_targets(model, mask_of(model, "neuron", CHOSEN["neuron"]))
    ranks = {name: min(8, len(units)) for name, units in targets.items()}
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=list(targets), rank_pattern=ranks))
    train(adapted, adamw(adapted))
    trained = {name: value for name, value in adapted.named_parameters() if value.requires_grad}
    assert {name.split("base_model.model.")[1].split(".lora")[0] for name in trained} == set(targets)
    assert all(min(value.shape) == 2 for value in trained.values())
    merged = adapted.merge_and_unload()
    moved = {name for name, value in merged.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {f"{name}.weight" for name in targets}
