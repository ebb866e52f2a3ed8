"""Lesions equal weights edited by hand, at every site of every family; and they are gone afterwards."""

from __future__ import annotations

import copy
import gc
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers.pytorch_utils import Conv1D

from llm2bids.errors import LesionError, LLM2BIDSError, MaskError, SiteError
from llm2bids.model.lesions import Method, amplify, lesion, mean_activations, push
from llm2bids.model.phantom import build_phantom, phantom_truth
from llm2bids.model.recording import read, tokenize
from llm2bids.model.site_names import SITES
from llm2bids.model.sites import find_site, measure_widths, record_hookpoints
from llm2bids.space import UnitMask, UnitSpace

from .families import CAUSAL, FAMILIES, LACKING, N_BLOCKS, texts, tiny_subject

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from llm2bids.model.loading import Subject

IDS = torch.tensor([[1, 5, 6, 7, 8], [1, 9, 10, 11, 12]])


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest) -> Subject:
    return tiny_subject(request.param)


@pytest.fixture(scope="module")
def llama() -> Subject:
    return tiny_subject("llama")


def sites_of(subject: Subject) -> list[str]:
    return [site for site in SITES if site not in LACKING.get(subject.model.config.model_type, set())]


def space_of(subject: Subject, site: str) -> UnitSpace:
    points = find_site(subject.model, site)
    return UnitSpace(site, tuple(map(str, points)), measure_widths(subject.model, points))


def some(space: UnitSpace, share: float = 0.2, seed: int = 0) -> UnitMask:
    return UnitMask(space, np.random.default_rng(seed).random(space.n_units) < share)


def parts(mask: UnitMask) -> list[np.ndarray]:
    return mask.space.split(mask.selected)


@torch.inference_mode()
def logits(subject: Subject, ids: torch.Tensor = IDS) -> torch.Tensor:
    return subject.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def states(subject: Subject, mask: UnitMask) -> torch.Tensor:
    """What the units of a mask's space do, as the next module sees it, shape (2, 5, n_units)."""
    points = find_site(subject.model, mask.space.site)
    with record_hookpoints(subject.model, points, torch.clone) as kept:
        logits(subject)
        return torch.cat([value for value in kept if value is not None], dim=-1)


def n_hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())  # noqa: SLF001


@pytest.mark.parametrize("site", ["neuron", "head"])
def test_zero_equals_zeroed_weights_of_the_map_that_follows(subject: Subject, site: str) -> None:
    if site not in sites_of(subject):
        pytest.skip(f"the architecture has no {site}")
    mask, edited = some(space_of(subject, site)), copy.deepcopy(subject.model)
    for point, chosen in zip(find_site(subject.model, site), parts(mask), strict=True):
        module, dead = edited.get_submodule(point.path), torch.from_numpy(chosen)
        with torch.no_grad():
            if isinstance(module, Conv1D):
                module.weight[dead] = 0
            else:
                module.weight[:, dead] = 0
    with torch.inference_mode():
        wanted = edited(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    with lesion(subject.model, mask):
        torch.testing.assert_close(logits(subject), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.equal(wanted, logits(subject))


def test_zeroed_blocks_show_in_hidden_states(subject: Subject) -> None:
    mask = some(space_of(subject, "block"))
    with lesion(subject.model, mask), torch.inference_mode():
        shown = subject.model(input_ids=IDS, attention_mask=torch.ones_like(IDS), output_hidden_states=True)
    first = 0 if subject.model.config.model_type == "mamba" else 1
    for state, chosen in zip(shown.hidden_states[first : N_BLOCKS - 1 + first], parts(mask), strict=False):
        assert (state[..., chosen] == 0).all()
        assert (state[..., ~chosen] != 0).all()


def test_a_lesioned_block_equals_the_rest_of_the_stack_run_by_hand(llama: Subject) -> None:
    space = space_of(llama, "block")
    mask = UnitMask(space, some(space).selected & (np.arange(space.n_units) >= 2 * space.n_channels[0]))
    model = llama.model
    with torch.inference_mode():
        stream = states(llama, mask)[..., -space.n_channels[-1] :].clone()
        stream[..., parts(mask)[-1]] = 0
        wanted = model.lm_head(model.model.norm(stream))
    with lesion(model, mask):
        torch.testing.assert_close(logits(llama), wanted, rtol=1e-5, atol=1e-5)


METHODS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "zero": lambda values, _means: values * 0,
    "mean": lambda values, means: means.expand_as(values),
    "scale:-1.5": lambda values, _means: values * -1.5,
    "add:0.25": lambda values, _means: values + 0.25,
    "push:2": lambda values, means: values + 2 * means,
}


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_methods_at_every_site(subject: Subject, method: str, keep: bool) -> None:  # noqa: FBT001
    for site in sites_of(subject):
        space = space_of(subject, site)
        last = np.arange(space.n_units) >= space.n_units - space.n_channels[-1]  # nothing earlier may change
        mask = UnitMask(space, (some(space).selected & last) if not keep else (some(space, 0.8).selected | ~last))
        means = np.random.default_rng(1).normal(size=space.n_units)
        before = states(subject, mask)
        chosen = torch.from_numpy(mask.selected != keep)
        wanted = torch.where(chosen, METHODS[method](before, torch.from_numpy(means).float()), before)
        with lesion(subject.model, mask, method, keep=keep, means=means):
            # a tap is registered after the lesion, so it reads what the next module gets
            torch.testing.assert_close(states(subject, mask), wanted)


def test_nothing_lesioned_is_intact_bit_for_bit(subject: Subject) -> None:
    intact = logits(subject)
    for site in sites_of(subject):
        space = space_of(subject, site)
        none = UnitMask.from_units(space, [])
        for context in (lesion(subject.model, none), lesion(subject.model, ~none, keep=True)):
            with context:
                assert torch.equal(logits(subject), intact)
        with amplify(subject.model, some(space), 1.0):
            assert torch.equal(logits(subject), intact)


def test_nested_lesions_compose(llama: Subject) -> None:
    space = space_of(llama, "neuron")
    one, other = some(space, seed=1), some(space, seed=2)
    with lesion(llama.model, one | other):
        both = logits(llama)
    with lesion(llama.model, one), lesion(llama.model, other):
        assert torch.equal(logits(llama), both)
    with lesion(llama.model, one, "add:1"), lesion(llama.model, one, "scale:3"):
        inner_last = logits(llama)
    with lesion(llama.model, one, "scale:3"), lesion(llama.model, one, "add:3"):
        torch.testing.assert_close(logits(llama), inner_last)


def test_a_lesion_of_another_site_inside_one_of_some_positions() -> None:
    subject = tiny_subject("llama")  # whose widths nobody has measured yet
    spaces = [space_of(subject, site) for site in ("neuron", "block")]
    with lesion(subject.model, some(spaces[0]), positions="prompt"), lesion(subject.model, some(spaces[1])):
        pass  # what it takes to measure them is no text of which the outer one asks where its prompt ends
    with lesion(subject.model, some(spaces[0]), positions="generated", n_prompt=2):
        alone = logits(subject)
        with lesion(subject.model, some(spaces[1])):
            assert not torch.allclose(logits(subject), alone)
        assert torch.equal(logits(subject), alone)


def test_modulation(llama: Subject) -> None:
    mask = some(space_of(llama, "neuron"))
    means = mean_activations(llama, texts(), mask.space)
    for context, method in (
        (amplify(llama.model, mask, 2), "scale:2"),
        (push(llama.model, mask, -1, means), "push:-1"),
    ):
        with context:
            found = logits(llama)
        with lesion(llama.model, mask, method, means=means):
            assert torch.equal(logits(llama), found)


def test_means_are_those_of_the_scans(llama: Subject) -> None:
    space = space_of(llama, "mlp")
    scans = read(llama, find_site(llama.model, "mlp"), tokenize(llama, texts()))
    signals = np.concatenate([one.signals for one in scans])
    np.testing.assert_allclose(mean_activations(llama, texts(), space), signals.mean(0), rtol=1e-4, atol=1e-6)
    found = mean_activations(llama, texts(), space, absolute=True, batch_size=2)
    np.testing.assert_allclose(found, np.abs(signals).mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("positions", ["prompt", "generated"])
def test_positions_with_and_without_a_cache_agree(family: str, positions: Any) -> None:
    subject = tiny_subject(family)
    mask = some(space_of(subject, sites_of(subject)[-1]), 0.5)
    prompt = torch.tensor([[1, 5, 6, 7], [1, 9, 10, 11]])
    with lesion(subject.model, mask, positions=positions):
        made = subject.model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, min_new_tokens=4,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    with lesion(subject.model, mask, positions=positions, n_prompt=4):
        whole = logits(subject, made.sequences[:, :-1])[:, 3:]
    torch.testing.assert_close(torch.stack(made.logits, 1), whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole, logits(subject, made.sequences[:, :-1])[:, 3:], atol=1e-3)


def test_prompts_of_unequal_length_with_padding_on_either_side(llama: Subject) -> None:
    mask = some(space_of(llama, "neuron"), 0.5)
    alone = []
    for row, n_prompt in (([1, 5, 6, 7, 8], 2), ([1, 9, 10], 1)):
        with lesion(llama.model, mask, positions="generated", n_prompt=n_prompt):
            alone.append(logits(llama, torch.tensor([row]))[0])
    for padded, attended, place in (
        ([1, 9, 10, 0, 0], [1, 1, 1, 0, 0], slice(0, 3)),
        ([0, 0, 1, 9, 10], [0, 0, 1, 1, 1], slice(2, 5)),
    ):
        ids, attention = torch.tensor([[1, 5, 6, 7, 8], padded]), torch.tensor([[1] * 5, attended])
        with lesion(llama.model, mask, positions="generated", n_prompt=[2, 1]), torch.inference_mode():
            found = llama.model(input_ids=ids, attention_mask=attention).logits
        torch.testing.assert_close(found[0], alone[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[1, place], alone[1], rtol=1e-4, atol=1e-5)


def test_where_the_prompt_ends_must_be_known(llama: Subject) -> None:
    mask = some(space_of(llama, "neuron"))
    with pytest.raises(LesionError, match="give n_prompt"), lesion(llama.model, mask, positions="prompt"):
        logits(llama)
    with pytest.raises(LesionError, match="3 texts found, 2"), lesion(
        llama.model, mask, positions="prompt", n_prompt=[1, 2, 3]
    ):  # fmt: skip
        logits(llama)
    with pytest.raises(LesionError, match="only part of the model"), lesion(
        llama.model, mask, positions="prompt", n_prompt=2
    ):  # fmt: skip
        llama.model.model(input_ids=IDS)
    assert n_hooks(llama.model) == 0


def test_gradients_flow(subject: Subject) -> None:
    for site in sites_of(subject):
        mask = some(space_of(subject, site))
        with lesion(subject.model, mask, "mean", means=np.ones(mask.space.n_units)):
            logits(subject)  # under inference_mode first: what it leaves must not be in the way
            subject.model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits.sum().backward()
        weight = subject.model.get_input_embeddings().weight
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()
        subject.model.zero_grad()


def test_no_gradient_through_a_silent_neuron(llama: Subject) -> None:
    mask = some(space_of(llama, "neuron"), 0.5)
    with lesion(llama.model, mask):
        llama.model(input_ids=IDS).logits.sum().backward()
    for point, chosen in zip(find_site(llama.model, "neuron"), parts(mask), strict=True):
        dead = (llama.model.get_submodule(point.path).weight.grad == 0).all(0).numpy()
        np.testing.assert_array_equal(dead, chosen)
    llama.model.zero_grad()


def test_dtype_is_respected(llama: Subject) -> None:
    half, mask = copy.deepcopy(llama.model).to(torch.bfloat16), some(space_of(llama, "neuron"))
    for method in METHODS:
        with lesion(half, mask, method, means=np.ones(mask.space.n_units)), torch.inference_mode():
            assert half(input_ids=IDS).logits.dtype == torch.bfloat16


BAD: dict[str, tuple[type[Exception], str, Callable[[Any, UnitMask], AbstractContextManager[None]]]] = {
    "unknown method": (LesionError, "'burn' found; use zero", lambda model, mask: lesion(model, mask, "burn")),
    "no number": (LesionError, "scale takes a number", lambda model, mask: lesion(model, mask, "scale")),
    "number too many": (LesionError, "zero takes no number", lambda model, mask: lesion(model, mask, "zero:1")),
    "no such number": (LesionError, "'x' is no number", lambda model, mask: lesion(model, mask, "add:x")),
    "infinite": (LesionError, "finite", lambda model, mask: amplify(model, mask, float("inf"))),
    "no means": (LesionError, "needs the mean", lambda model, mask: lesion(model, mask, "mean")),
    "few means": (LesionError, r"means of shape \(3,\)", lambda model, mask: push(model, mask, 1, [1, 2, 3])),
    "positions": (LesionError, "positions 'here'", lambda model, mask: lesion(model, mask, positions="here")),  # type: ignore[arg-type]
    "another model": (
        SiteError,
        "units at h.0:in, Llama",
        lambda model, _mask: lesion(model, UnitMask(UnitSpace("x", ("h.0:in",), (44,)), np.ones(44, bool))),
    ),
    "no side": (
        SiteError,
        "a module path ending in :in or :out",
        lambda model, _mask: lesion(model, UnitMask(UnitSpace("x", ("lm_head",), (44,)), np.ones(44, bool))),
    ),
    "another width": (
        MaskError,
        "43 channels at",
        lambda model, mask: lesion(
            model, UnitMask(UnitSpace("x", mask.space.hookpoints[:1], (43,)), np.ones(43, bool))
        ),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_done_is_refused_before_anything_is_hooked(llama: Subject, name: str) -> None:
    kind, message, enter = BAD[name]
    with pytest.raises(kind, match=message):
        enter(llama.model, some(space_of(llama, "neuron"))).__enter__()
    assert n_hooks(llama.model) == 0


def test_no_hook_is_left_after_any_exception(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = some(space_of(llama, "neuron"))
    means = np.zeros(mask.space.n_units)
    for enter in (lambda: lesion(llama.model, mask, positions="prompt"), lambda: amplify(llama.model, mask, 2),
                  lambda: push(llama.model, mask, 1, means)):  # fmt: skip
        with pytest.raises(KeyboardInterrupt), enter():
            assert n_hooks(llama.model) >= N_BLOCKS
            raise KeyboardInterrupt
        assert n_hooks(llama.model) == 0
    register, calls = torch.nn.Module.register_forward_pre_hook, []

    def breaks(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == N_BLOCKS:
            raise MemoryError
        return register(*args, **options)

    monkeypatch.setattr(torch.nn.Module, "register_forward_pre_hook", breaks)
    with pytest.raises(MemoryError), lesion(llama.model, mask):
        pass
    assert n_hooks(llama.model) == 0
    with pytest.raises(LLM2BIDSError):
        mean_activations(llama, ["a"] * 2, UnitSpace("x", ("h:in",), (4,)))
    assert n_hooks(llama.model) == 0


def test_eight_threads_on_two_models_do_not_mix() -> None:
    subjects = [tiny_subject("llama"), tiny_subject("gpt2")]
    masks = [[some(space_of(one, "neuron"), 0.3, seed) for seed in range(4)] for one in subjects]
    wanted = []
    for one, own in zip(subjects, masks, strict=True):
        wanted.append([])
        for mask in own:
            with lesion(one.model, mask):
                wanted[-1].append(logits(one))
    wrong: list[str] = []

    def work(model: int, number: int) -> None:
        for _ in range(5):
            with lesion(subjects[model].model, masks[model][number]):
                time.sleep(0.001)
                if not torch.equal(logits(subjects[model]), wanted[model][number]):
                    wrong.append(f"{model} {number}")

    threads = [threading.Thread(target=work, args=(model, number)) for model in range(2) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [n_hooks(one.model) for one in subjects] == [0, 0]


def test_a_model_is_not_kept_alive() -> None:
    subject = tiny_subject("llama")
    with lesion(subject.model, some(space_of(subject, "neuron"))):
        pass
    gone = weakref.ref(subject.model)
    del subject
    gc.collect()
    assert gone() is None


def test_methods_read_back_what_they_write() -> None:
    for text in ("zero", "mean", "scale:-0.1", "add:1e-12", "push:3.0"):
        assert str(Method.parse(text)) == text


def test_the_phantom_without_a_network_equals_one_without_its_weights() -> None:
    subject = build_phantom(device="cpu")
    space = space_of(subject, "neuron")
    mask, edited = phantom_truth(space)["pathology"], copy.deepcopy(subject.model)
    for block, chosen in enumerate(parts(mask)):
        with torch.no_grad():
            edited.model.layers[block].mlp.down_proj.weight[:, torch.from_numpy(chosen)] = 0
    with lesion(subject.model, mask), torch.inference_mode():
        torch.testing.assert_close(logits(subject), edited(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)
