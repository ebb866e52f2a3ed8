"""Recording equals what Hugging Face itself returns, for every family, in both modes, in any batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.pytorch_utils import Conv1D

from llm2bids.errors import ModelError, PromptError, SiteError
from llm2bids.model.lesions import mean_activations
from llm2bids.model.loading import Sampling, make_subject
from llm2bids.model.recording import Scans, generate, padding_is_harmless, read, tokenize
from llm2bids.model.scoring import continue_tokens, measure_surprisal, split_texts
from llm2bids.model.site_names import SITES
from llm2bids.model.sites import HookPoint, find_site, match_hookpoints, measure_widths, record_hookpoints
from llm2bids.space import UnitSpace

from .families import CAUSAL, FAMILIES, HIDDEN, LACKING, N_BLOCKS, texts, tiny_subject, tiny_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm2bids.model.loading import Subject

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
"""Rounding of float32 sums whose order depends on the shape of a batch."""


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest) -> Subject:
    return tiny_subject(request.param)


@pytest.fixture(scope="module", params=CAUSAL)
def causal(request: pytest.FixtureRequest) -> Subject:
    return tiny_subject(request.param)


def blocks_of(scans: Scans) -> np.ndarray:
    return scans.signals.reshape(scans.n_scans, N_BLOCKS, HIDDEN)


def hidden_states(subject: Subject, ids: list[int]) -> list[np.ndarray]:
    """The stream after each block but the last, then the last after the final norm."""
    with torch.inference_mode():
        output = subject.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    states = [state[0].numpy() for state in output.hidden_states]
    return states[: N_BLOCKS - 1] + states[-1:] if subject.model.config.model_type == "mamba" else states[1:]


def lacking(subject: Subject) -> set[str]:
    return LACKING.get(subject.model.config.model_type, set())


def test_blocks_equal_hidden_states(subject: Subject) -> None:
    tokens = tokenize(subject, texts(1))
    (scans,) = read(subject, find_site(subject.model, "block"), tokens)
    states = hidden_states(subject, tokens[0])
    for block in range(N_BLOCKS - 1):
        np.testing.assert_array_equal(blocks_of(scans)[:, block], states[block][1:])


def test_last_block_equals_the_last_hidden_state_before_the_final_norm(subject: Subject) -> None:
    tokens = tokenize(subject, texts(1))
    (scans,) = read(subject, find_site(subject.model, "block"), tokens)
    norms = [m for name, m in subject.model.base_model.named_children() if "norm" in name or name == "ln_f"]
    norms += [m for name, m in subject.model.base_model.named_modules() if name == "decoder.final_layer_norm"]
    last = torch.from_numpy(blocks_of(scans)[:, -1])
    with torch.inference_mode():
        normed = norms[-1](last) if norms else last  # bert ends without a norm of its own
    np.testing.assert_allclose(normed.numpy(), hidden_states(subject, tokens[0])[-1][1:], rtol=1e-5, atol=1e-6)


def test_scans_are_the_tokens_without_special_ones(subject: Subject) -> None:
    tokens = tokenize(subject, texts())
    for ids, scans in zip(tokens, read(subject, find_site(subject.model, "block"), tokens), strict=True):
        assert scans.token_id.tolist() == ids[1:]
        assert scans.position.tolist() == list(range(1, len(ids)))
        assert scans.n_special == 1


@pytest.mark.parametrize("site", SITES)
def test_a_batch_of_8_equals_batches_of_1(subject: Subject, site: str) -> None:
    if site in lacking(subject):
        pytest.skip(f"the architecture has no {site}")
    points, tokens = find_site(subject.model, site), tokenize(subject, texts())
    for one, eight in zip(read(subject, points, tokens, 1), read(subject, points, tokens, 8), strict=True):
        np.testing.assert_allclose(one.signals, eight.signals, **CLOSE)
        np.testing.assert_allclose(one.surprisal, eight.surprisal, **CLOSE)
        np.testing.assert_allclose(one.entropy, eight.entropy, **CLOSE)


def test_a_site_the_architecture_lacks_is_named(subject: Subject) -> None:
    for site in lacking(subject):
        with pytest.raises(SiteError, match=f"no site '{site}'"):
            find_site(subject.model, site)


def projected(module: torch.nn.Module, inputs: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return module(torch.from_numpy(inputs)).numpy()


@pytest.mark.parametrize(("inner", "outer"), [("neuron", "mlp"), ("head", "attn")])
def test_projecting_what_goes_in_gives_what_comes_out(subject: Subject, inner: str, outer: str) -> None:
    if inner in lacking(subject):
        pytest.skip(f"the architecture has no {inner}")
    tokens = tokenize(subject, texts(2))
    before, after = (find_site(subject.model, site) for site in (inner, outer))
    width = measure_widths(subject.model, before)[0]
    for went_in, came_out in zip(read(subject, before, tokens), read(subject, after, tokens), strict=True):
        for block in range(N_BLOCKS):
            module = subject.model.get_submodule(before[block].path)
            assert isinstance(module, torch.nn.Linear | Conv1D)
            found = projected(module, went_in.signals[:, block * width : (block + 1) * width])
            np.testing.assert_allclose(found, came_out.signals[:, block * HIDDEN : (block + 1) * HIDDEN], **CLOSE)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "phi3", "gpt_neox", "qwen3", "bloom", "mixtral"])
def test_attention_and_mlp_add_up_to_the_block(family: str) -> None:
    subject = tiny_subject(family)
    tokens = tokenize(subject, texts(1))
    stream, attention, mlp = (
        blocks_of(next(read(subject, find_site(subject.model, site), tokens))) for site in ("block", "attn", "mlp")
    )
    np.testing.assert_allclose(stream[:, 0] + attention[:, 1] + mlp[:, 1], stream[:, 1], **CLOSE)


def test_several_sites_in_one_pass_equal_each_alone(causal: Subject) -> None:
    sites = [find_site(causal.model, site) for site in SITES if site not in lacking(causal)]
    tokens = tokenize(causal, texts(3))
    together = list(read(causal, [point for points in sites for point in points], tokens))
    apart = [list(read(causal, points, tokens)) for points in sites]
    for text, scans in enumerate(together):
        np.testing.assert_array_equal(scans.signals, np.concatenate([one[text].signals for one in apart], axis=1))


def test_generated_tokens_equal_hugging_faces(causal: Subject) -> None:
    tokens = tokenize(causal, texts(1), n_new=6)
    (scans,) = generate(causal, find_site(causal.model, "block"), tokens, 6)
    ids = torch.tensor(tokens)
    output = causal.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6)
    expected = [token for token in output[0, ids.shape[1] :].tolist() if token not in causal.special_ids]
    assert scans.token_id.tolist()[: len(expected)] == expected[: scans.n_scans]


def test_generating_equals_replaying_the_finished_text(causal: Subject) -> None:
    tokens = tokenize(causal, texts(), n_new=6)
    points = find_site(causal.model, "block")
    pairs = zip(tokens, generate(causal, points, tokens, 6), strict=True)
    whole = [(ids, scans) for ids, scans in pairs if scans.n_scans == 6]
    assert whole, "no text was continued without a special token; draw other weights"
    for ids, scans in whole:
        finished = [*ids, *scans.token_id.tolist()[:-1]]
        (replay,) = read(causal, points, [finished])
        at = np.isin(replay.position, scans.position)
        np.testing.assert_allclose(scans.signals, replay.signals[at], **CLOSE)
        assert scans.position.tolist() == list(range(len(ids) - 1, len(finished)))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, 0.9, seed=3), Sampling(1.5, top_k=4, seed=5)])
def test_generating_in_a_batch_of_8_equals_batches_of_1(causal: Subject, sampling: Sampling) -> None:
    tokens = tokenize(causal, texts(), n_new=5)
    points = find_site(causal.model, "block")
    one, eight = (list(generate(causal, points, tokens, 5, size, sampling)) for size in (1, 8))
    for alone, together in zip(one, eight, strict=True):
        assert alone.token_id.tolist() == together.token_id.tolist()
        np.testing.assert_allclose(alone.signals, together.signals, **CLOSE)
        np.testing.assert_allclose(alone.entropy, together.entropy, **CLOSE)


def test_surprisal_and_entropy_are_those_of_the_softmax(causal: Subject) -> None:
    tokens = tokenize(causal, texts(2))
    for ids, scans in zip(tokens, read(causal, find_site(causal.model, "block"), tokens), strict=True):
        with torch.inference_mode():
            log_p = torch.log_softmax(causal.model(input_ids=torch.tensor([ids])).logits[0, :-1].double(), -1)
        surprisal = -log_p[range(len(ids) - 1), ids[1:]] / np.log(2)
        entropy = -(log_p.exp() * log_p).sum(-1) / np.log(2)
        np.testing.assert_allclose(scans.surprisal, surprisal.numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(scans.entropy, entropy.numpy(), rtol=1e-5, atol=1e-5)


def test_an_encoder_reads_but_neither_predicts_nor_generates() -> None:
    subject = tiny_subject("bert")
    points, tokens = find_site(subject.model, "block"), tokenize(subject, texts(1))
    (scans,) = read(subject, points, tokens)
    assert np.isnan(scans.surprisal).all()
    with pytest.raises(ModelError, match='mode="read"'):
        next(generate(subject, points, tokens, 2))


def test_hookpoints_by_pattern_take_either_side(causal: Subject) -> None:
    (block, *_) = find_site(causal.model, "block")
    pattern = block.path.removesuffix("0") + "*"
    matched = [
        point for point in match_hookpoints(causal.model, pattern) if point.path.count(".") == block.path.count(".")
    ]
    assert [str(point) for point in matched] == [f"{block.path.removesuffix('0')}{n}:out" for n in range(N_BLOCKS)]
    assert {point.side for point in match_hookpoints(causal.model, f"{pattern}:in")} == {"in"}


@pytest.mark.parametrize(("pattern", "told"), [("nothing.*", "no module matches"), ("*:up", "side 'up'")])
def test_patterns_without_a_place_are_refused(pattern: str, told: str) -> None:
    with pytest.raises(SiteError, match=told):
        match_hookpoints(tiny_subject("gpt2").model, pattern)


def test_a_hookpoint_that_gives_no_vector_per_token_is_refused() -> None:
    subject = tiny_subject("gpt2")
    with pytest.raises(SiteError, match="vector per token"):
        measure_widths(subject.model, [HookPoint("transformer.wpe", "out")])


def test_a_hookpoint_that_gives_no_tensor_is_refused_by_name() -> None:
    subject = tiny_subject("gpt2")
    with pytest.raises(SiteError, match=r"hookpoint transformer:out gives a \w*Output"):
        measure_widths(subject.model, [HookPoint("transformer", "out")])


@pytest.mark.parametrize("site", SITES)
def test_names_of_hookpoints_are_read_back(subject: Subject, site: str) -> None:
    if site in lacking(subject):
        pytest.skip(f"the architecture has no {site}")
    for point in find_site(subject.model, site):
        assert HookPoint.parse(str(point)) == point


@pytest.mark.parametrize("name", ["", ":in", "lm_head", "lm_head:", "lm_head:up", "lm_head:in "])
def test_names_that_are_no_hookpoint_are_refused(name: str) -> None:
    with pytest.raises(SiteError, match="found; a module path ending in :in or :out is needed"):
        HookPoint.parse(name)


def hooks_on(subject: Subject) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in subject.model.modules())  # noqa: SLF001


def test_no_hook_is_left_after_an_exception(causal: Subject) -> None:
    before = hooks_on(causal)
    points = find_site(causal.model, "block")
    with pytest.raises(ZeroDivisionError), record_hookpoints(causal.model, points, lambda values: values):
        assert hooks_on(causal) == before + len(points) + 1
        raise ZeroDivisionError
    with (
        pytest.raises(AttributeError),
        record_hookpoints(causal.model, [*points, HookPoint("no.such", "out")], lambda values: values),
    ):
        pass
    assert hooks_on(causal) == before


def test_no_hook_is_left_after_recording(causal: Subject) -> None:
    tokens = tokenize(causal, texts(1), n_new=2)
    list(generate(causal, find_site(causal.model, "block"), tokens, 2))
    assert hooks_on(causal) == 0


def test_every_text_has_a_scan_even_if_the_model_wants_to_end() -> None:
    subject = tiny_subject("gpt2")
    with torch.no_grad():
        subject.model.lm_head.weight[2] = 50 * subject.model.lm_head.weight[2].sign()
    tokens = tokenize(subject, texts(), n_new=4)
    scans = list(generate(subject, find_site(subject.model, "block"), tokens, 4))
    assert all(one.n_scans >= 1 for one in scans)
    assert all(not set(one.token_id.tolist()) & subject.special_ids for one in scans)
    assert any(one.n_scans < 4 for one in scans)


@pytest.mark.parametrize(
    ("text", "n_new", "told"), [("", 0, "empty"), ("a model " * 40, 0, "context holds"), ("a", 60, "lower `tokens`")]
)
def test_texts_that_cannot_be_shown_are_refused(text: str, n_new: int, told: str) -> None:
    subject = tiny_subject("gpt2", n_positions=32)
    with pytest.raises(PromptError, match=told):
        tokenize(subject, [text], n_new)


def test_every_text_has_a_scan_even_if_an_end_token_is_not_special() -> None:
    subject = tiny_subject("gpt2")
    subject.model.generation_config.eos_token_id = [2, *range(6, 20)]
    tokens = tokenize(subject, texts(), n_new=3)
    assert all(one.n_scans >= 1 for one in generate(subject, find_site(subject.model, "block"), tokens, 3))


def test_an_end_token_that_the_model_does_not_know_ends_nothing() -> None:
    subject = tiny_subject("gpt2")
    subject.model.generation_config.eos_token_id = 50256  # as in a configuration of GPT-2 with another tokenizer
    tokens = tokenize(subject, texts(2), n_new=3)
    assert [one.n_scans for one in generate(subject, find_site(subject.model, "block"), tokens, 3)] == [3, 3]


def test_added_tokens_that_are_special_are_no_scans_but_unknown_words_are() -> None:
    subject = tiny_subject("gpt2")
    subject.tokenizer.add_tokens([AddedToken("model", special=True)])
    (tokens,) = tokenize(subject, ["a model zebra"])
    (scans,) = read(subject, find_site(subject.model, "block"), [tokens])
    assert scans.token_id.tolist() == [tokens[1], subject.tokenizer.unk_token_id]
    assert scans.n_special == 2


def test_top_k_draws_among_the_likeliest() -> None:
    subject = tiny_subject("gpt2")
    tokens = tokenize(subject, texts(), n_new=4)
    points = find_site(subject.model, "block")
    likeliest = [scans.token_id.tolist() for scans in generate(subject, points, tokens, 4)]
    drawn = generate(subject, points, tokens, 4, 8, Sampling(5.0, top_k=1))
    assert [scans.token_id.tolist() for scans in drawn] == likeliest


@pytest.mark.parametrize(("family", "harmless"), [("llama", True), ("gpt2", True), ("fnet", False)])
def test_padding_that_leaks_is_noticed(family: str, harmless: bool) -> None:  # noqa: FBT001
    if family == "fnet":
        sizes = {"hidden_size": HIDDEN, "intermediate_size": 44, "num_hidden_layers": 3, "vocab_size": 40}
        model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("fnet", **sizes))
        subject = make_subject(model, tiny_tokenizer(), causal=False)
    else:
        subject = tiny_subject(family)
    points, tokens = find_site(subject.model, "block"), tokenize(subject, texts())
    assert padding_is_harmless(subject, points, tokens, generating=False) == harmless


def test_the_context_of_roberta_is_what_its_positions_leave() -> None:
    sizes = {"hidden_size": HIDDEN, "num_attention_heads": 4, "intermediate_size": 44, "num_hidden_layers": 3}
    config = AutoConfig.for_model("roberta", **sizes, vocab_size=40, max_position_embeddings=34, pad_token_id=1)
    subject = make_subject(AutoModelForMaskedLM.from_config(config), tiny_tokenizer(), causal=False)
    assert subject.context == 32
    list(read(subject, find_site(subject.model, "block"), tokenize(subject, ["a " * 31])))
    with pytest.raises(PromptError, match="context holds 32"):
        tokenize(subject, ["a " * 32])


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(ModelError, match="the model knows 10"):
        tokenize(tiny_subject("gpt2", vocab_size=10), texts())


def test_values_that_are_not_text_by_text_are_refused() -> None:
    subject = tiny_subject("gpt2")
    subject.model.transformer.h[1].register_forward_hook(lambda _m, _a, output: output.transpose(0, 1))
    with pytest.raises((SiteError, ModelError)):
        measure_widths(subject.model, find_site(subject.model, "block"))


def points(subject: Subject) -> tuple[HookPoint, ...]:
    return find_site(subject.model, "block")  # the first texts have 4 and 6 tokens


SHOWING: dict[str, Callable[[Subject], Any]] = {
    "read": lambda one: list(read(one, points(one), tokenize(one, texts(1)), 4)),
    "generate": lambda one: list(generate(one, points(one), tokenize(one, texts(1), 3), 3, 4)),
    "surprise": lambda one: measure_surprisal(one, split_texts(one, texts(2)), batch_size=4),
    "continue_tokens": lambda one: continue_tokens(one, tokenize(one, texts(2)), 3, batch_size=4),
    "mean_activations": lambda one: mean_activations(
        one, texts(2), UnitSpace("block", tuple(map(str, points(one))), (HIDDEN,) * N_BLOCKS), batch_size=4
    ),
}
FAILING: dict[str, Callable[[], Any]] = {
    "GPU": lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "Apple": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    "CPU": lambda: torch.empty(1 << 58),
    "numpy": lambda: np.empty(1 << 58),
}


@pytest.mark.parametrize("device", FAILING)
@pytest.mark.parametrize("name", SHOWING)
def test_too_little_memory_says_what_to_do(name: str, device: str) -> None:
    subject = tiny_subject("gpt2")

    def crowded(_module: object, args: tuple[torch.Tensor]) -> None:
        if args[0].shape[1] != 3:  # there is room to count channels
            error = FAILING[device]()  # or it fails by itself
            raise error

    subject.model.lm_head.register_forward_pre_hook(crowded)
    told = 'for 4 texts at a time; lower `batch_size`, use dtype="bfloat16" or device="cpu", or .* device_map="auto"'
    with pytest.raises(ModelError, match=told):
        SHOWING[name](subject)


def test_other_errors_of_torch_are_not_taken_for_too_little_memory() -> None:
    subject = tiny_subject("gpt2")
    (pieces, tokens) = split_texts(subject, texts(2)), tokenize(subject, texts(1))
    subject.model.lm_head.register_forward_pre_hook(lambda *_: torch.ones(2) @ torch.ones(3))
    for show in (lambda: measure_surprisal(subject, pieces), lambda: continue_tokens(subject, tokens, 2)):
        with pytest.raises(RuntimeError, match="inconsistent tensor size") as raised:
            show()
        assert raised.type is RuntimeError


def test_a_model_too_large_to_be_shown_a_text_says_what_to_do() -> None:
    subject = tiny_subject("gpt2")

    def crowded(*_args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    subject.model.lm_head.register_forward_pre_hook(crowded)
    with pytest.raises(ModelError, match='too little memory on the device; use dtype="bfloat16"'):
        find_site(subject.model, "mlp")


def test_special_tokens_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, asked = tiny_subject("gpt2"), []
    known = subject.tokenizer.all_special_ids

    def look_up(_tokenizer: object) -> list[int]:
        asked.append(1)
        return known

    monkeypatch.setattr(type(subject.tokenizer), "all_special_ids", property(look_up))
    measure_surprisal(subject, split_texts(subject, texts()), batch_size=2)
    list(generate(subject, points(subject), tokenize(subject, texts(), 3), 3, 2))
    assert (len(asked), subject.special_ids) == (1, {0, 1, 2})


def test_half_precision_comes_out_as_float32() -> None:
    subject = tiny_subject("llama")
    subject.model.to(torch.bfloat16)
    tokens = tokenize(subject, texts(1))
    (scans,) = read(subject, find_site(subject.model, "block"), tokens)
    assert scans.signals.dtype == np.float32
    with torch.inference_mode():
        states = subject.model(input_ids=torch.tensor(tokens), output_hidden_states=True).hidden_states
    np.testing.assert_array_equal(blocks_of(scans)[:, 0], states[1][0, 1:].float().numpy())
