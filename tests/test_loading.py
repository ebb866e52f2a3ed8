"""A loaded model with its tokenizer is taken wherever a model is, and stays what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

import llm2bids as lb
from llm2bids.bids.history import read_history
from llm2bids.bids.tables import read_json
from llm2bids.errors import MaskError, ModelError, RecordError
from llm2bids.model.lesions import lesion
from llm2bids.model.loading import Sampling, hash_weights
from llm2bids.model.subject import ModelSource, load
from llm2bids.model.tuning import finetune_mask
from llm2bids.space import UnitMask

from .families import WORDS, tiny_subject, tiny_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

IDS = torch.tensor([[1, 5, 6, 7]])
READ = {"task": "two.tsv", "mode": "read", "progress": False}


def tiny_model(seed: int = 0, **settings: object) -> PreTrainedModel:
    """A causal model with random weights, with the vocabulary of the tiny tokenizer."""
    config = tiny_subject("llama", **settings).model.config
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config)


def logits(model: PreTrainedModel) -> np.ndarray:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits.numpy()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task, in which a user works."""
    lines = [f"{' '.join(WORDS[start : start + 4])}\t{kind}" for start, kind in ((0, "on"), (4, "off"), (8, "on"))]
    (tmp_path / "two.tsv").write_text("\n".join(["text\ttrial_type", *lines, ""]))
    (tmp_path / "my.txt").write_text(" ".join(WORDS) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_named_by_its_configuration_its_class_or_the_caller(tmp_path: Path) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    assert load((model, tokenizer)).identity.name == "LlamaForCausalLM"
    model.config.name_or_path = "someone/tiny-llama"
    assert load((model, tokenizer)).identity.name == "someone/tiny-llama"
    model.config.name_or_path = str(tmp_path)
    assert load((model, tokenizer)).identity.name == tmp_path.name
    assert load((model, tokenizer, "mine")).identity.name == "mine"
    assert load([model, tokenizer], name="yours").identity.name == "yours"
    assert load("phantom", name="spooky").identity.name == "spooky"


def test_a_loaded_model_is_identified_by_its_weights() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    before = load((model, tokenizer)).identity
    assert (before.revision, before.weights_sha256) == ("local", hash_weights(model))
    model.lm_head.weight.data[0, 0] += 1
    assert load((model, tokenizer)).identity.weights_sha256 != before.weights_sha256


def test_what_predicts_the_next_token_can_generate() -> None:
    config, tokenizer = tiny_model().config, tiny_tokenizer()
    assert load((AutoModelForCausalLM.from_config(config), tokenizer)).causal
    assert not load((AutoModel.from_config(config), tokenizer)).causal  # it has no output layer
    assert not load((tiny_subject("bert").model, tokenizer)).causal


def test_what_is_no_model_with_its_tokenizer_is_refused() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    wrong: list[object] = [model, (tokenizer, model), (model,), (model, "gpt2"), (model, tokenizer, "a", "b"), None]
    for given in wrong:
        with pytest.raises(ModelError, match=r"give its name, its folder, or the loaded model with its tokenizer"):
            load(given)  # type: ignore[arg-type]
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2))
    with pytest.raises(ModelError, match="encoder-decoder"):
        load((t5, tokenizer))


@pytest.mark.parametrize("mode", ["read", "generate"])
def test_it_is_recorded_as_the_subject_made_of_it(here: Path, mode: str) -> None:
    pair = (tiny_model(), tiny_tokenizer(), "tiny")
    models: dict[str, ModelSource] = {"pair": pair, "subject": load(pair)}
    recordings = {
        name: lb.record(name, model, "two.tsv", mode=mode, tokens=3, sites=["block", "mlp"], progress=False)
        for name, model in models.items()
    }
    for one, other in zip(*recordings.values(), strict=True):
        assert one.bold.name == other.bold.name
        assert one.bold.name.startswith("sub-tiny_")
        assert one.bold.read_bytes() == other.bold.read_bytes()
    assert read_json(here / "pair" / "dataset_description.json").get("SourceDatasets", []) == []
    (step,) = read_history(here / "pair")
    assert "--model '<LlamaForCausalLM>' '<PreTrainedTokenizerFast>' tiny" in step.command.replace(
        "TokenizersBackend", "PreTrainedTokenizerFast"
    )


def test_a_changed_model_needs_another_label(here: Path) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    lb.record("ds", (model, tokenizer), **READ)
    model.lm_head.weight.data[0, 0] += 1
    with pytest.raises(RecordError, match="another model already"):
        lb.record("ds", (model, tokenizer), **READ, resume=True)
    lb.record("ds", (model, tokenizer), **READ, subject="trained")
    assert len(list((here / "ds").glob("sub-*"))) == 2


def test_its_way_of_generating_stays_its_own(here: Path) -> None:  # noqa: ARG001 - the folder we are in
    model, tokenizer = tiny_model(), tiny_tokenizer()
    model.generation_config.update(do_sample=True, temperature=0.7, top_k=5, repetition_penalty=1.3)
    before = model.generation_config
    content = before.to_dict()
    lb.record("ds", (model, tokenizer), "two.tsv", mode="generate", tokens=2, progress=False)
    lb.lesion_study("lesions", model=(model, tokenizer), text="my.txt", masks={"some": some_units(model)}, controls=2)
    assert model.generation_config is before
    assert before.to_dict() == content
    assert load((model, tokenizer)).sampling == Sampling(0.7, 1.0, 5)


def some_units(model: PreTrainedModel) -> UnitMask:
    """Some neurons of a model, which its mask knows by their weights."""
    x = lb.activations((model, tiny_tokenizer()), "a model is shown", site="neuron")
    return UnitMask.from_units(x.space, range(0, x.space.n_units, 3), {"WeightsSHA256": hash_weights(model)})


def test_contexts_take_a_model_alone_with_its_tokenizer_or_as_a_subject() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    mask, intact = some_units(model), logits(model)
    models = (model, (model, tokenizer), (model, tokenizer, "tiny"), load((model, tokenizer)))
    outputs, trained = [], []
    for given in models:
        with lesion(given, mask):
            outputs.append(logits(model))
        with finetune_mask(given, mask) as weights:
            trained.append({name: chosen.tolist() for name, chosen in weights.items()})
    assert all((output == outputs[0]).all() for output in outputs)
    assert not np.allclose(outputs[0], intact)
    assert all(weights == trained[0] for weights in trained)
    other = load((tiny_model(seed=1), tokenizer))
    for context in (lesion, finetune_mask):
        with pytest.raises(MaskError, match="use files of one model"), context(other, mask):
            pass


def test_a_smaller_model_is_made_of_it(here: Path) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    lb.prune((model, tokenizer), some_units(model), here / "smaller")
    smaller = load(here / "smaller", device="cpu")
    assert smaller.model.num_parameters() < model.num_parameters()
    with lesion(model, some_units(model)):
        expected = logits(model)
    np.testing.assert_allclose(logits(smaller.model), expected, rtol=1e-3, atol=1e-4)
