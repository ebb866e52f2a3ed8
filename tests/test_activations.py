"""activations() equals what Hugging Face itself returns, and what record() writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

import llm2bids as lb
from llm2bids.errors import ModelError, PromptError, SiteError
from llm2bids.model.activations import activations
from llm2bids.space import UnitSpace

from .families import HIDDEN, N_BLOCKS, WORDS, texts, tiny_subject, tiny_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

CLOSE = {"rtol": 1e-4, "atol": 2e-5}


FINAL_NORMS = {
    "gpt2": "transformer.ln_f",
    "llama": "model.norm",
    "opt": "model.decoder.final_layer_norm",
    "gpt_neox": "gpt_neox.final_layer_norm",
}
"""Bert has none."""


def hidden_states(model: torch.nn.Module, text: str) -> np.ndarray:
    """The stream after each block, the last after the final norm, without the start token: (n_scans, n_units)."""
    ids = torch.tensor([tiny_tokenizer()(text)["input_ids"]])
    with torch.inference_mode():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    return torch.cat(states[1:], dim=-1)[0, 1:].numpy()


def with_final_norm(model: torch.nn.Module, family: str, signals: np.ndarray) -> np.ndarray:
    """The signals, with the final norm on the last block."""
    if family not in FINAL_NORMS:
        return signals
    with torch.inference_mode():
        last = model.get_submodule(FINAL_NORMS[family])(torch.from_numpy(signals[:, -HIDDEN:].copy()))
    return np.concatenate([signals[:, :-HIDDEN], last.numpy()], axis=1)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gpt_neox", "bert"])
def test_they_are_the_hidden_states_one_row_per_token(family: str) -> None:
    subject = tiny_subject(family)
    shown = texts(4)
    x = activations((subject.model, subject.tokenizer), shown, batch_size=3)
    expected = np.concatenate([hidden_states(subject.model, text) for text in shown])
    np.testing.assert_allclose(with_final_norm(subject.model, family, x.signals), expected, **CLOSE)
    assert x.signals.dtype == np.float32
    assert x.space == UnitSpace.uniform("block", x.space.hookpoints, HIDDEN)
    assert x.space.blocks == tuple(range(N_BLOCKS))
    assert x.texts == tuple(shown)


def test_the_table_says_which_token_each_row_is() -> None:
    subject = tiny_subject("llama")
    x = activations(subject, ["a model", "is shown one"])
    expected = {
        "text": [0, 0, 1, 1, 1],
        "position": [1, 2, 1, 2, 3],  # 0 is the start token
        "token_id": [subject.tokenizer.convert_tokens_to_ids(word) for word in WORDS[:5]],
        "token": WORDS[:5],
    }
    pd.testing.assert_frame_equal(x.tokens, pd.DataFrame(expected))


def test_they_are_what_a_recording_in_mode_read_holds(tmp_path: Path) -> None:
    (tmp_path / "two.tsv").write_text("text\ttrial_type\nthe fossil record\ta\nthe scan of the patient\tb\n")
    (recording,) = lb.record(tmp_path / "ds", task=tmp_path / "two.tsv", mode="read", sites="mlp", progress=False)
    x = lb.activations("phantom", ["the fossil record", "the scan of the patient"], site="mlp")
    np.testing.assert_array_equal(np.asarray(x), recording.signals)
    assert x.space == recording.space
    assert recording.events["trial_type"].tolist() == ["a", "b"]


def test_one_string_is_one_text() -> None:
    x = activations("phantom", "the fossil record", site="head")
    assert (x.texts, len(x.signals)) == (("the fossil record",), 3)


def test_numpy_takes_them_as_an_array() -> None:
    x = activations("phantom", "the fossil record")
    assert np.asarray(x) is x.signals
    assert np.asarray(x, np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(x), x.signals)
    assert np.allclose(np.mean(x, axis=0), x.signals.mean(0))


def test_they_show_their_size_and_first_tokens() -> None:
    x = activations("phantom", ["the fossil record", "the scan"], site="neuron")
    assert repr(x) == "Activations(5 scans × 1536 units of L6C256neuron, 2 texts)"
    assert repr(activations("phantom", "the scan")) == "Activations(2 scans × 768 units of L6C128block, 1 text)"
    assert "<td>fossil</td>" in x._repr_html_()


def test_a_pattern_of_module_paths_is_a_site() -> None:
    subject = tiny_subject("gpt2")
    x = activations(subject, texts(2), site="transformer.h.[02].mlp.c_proj:in")
    assert x.space == UnitSpace("custom", ("transformer.h.0.mlp.c_proj:in", "transformer.h.2.mlp.c_proj:in"), (44, 44))
    neurons = activations(subject, texts(2), site="neuron")
    np.testing.assert_array_equal(x.signals, np.delete(neurons.signals, np.s_[44:88], axis=1))
    assert activations(subject, texts(2), site="act=*.mlp.act").space.site == "act"


def test_batches_change_nothing_even_where_padding_would() -> None:
    for family in ("llama", "mamba"):
        subject = tiny_subject(family)
        together, alone = (activations(subject, texts(4), batch_size=size) for size in (4, 1))
        np.testing.assert_allclose(together.signals, alone.signals, **CLOSE)


def test_weights_are_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_config(tiny_subject("gpt2").model.config)
    monkeypatch.setattr("llm2bids.model.subject.hash_weights", lambda _model: pytest.fail("takes seconds per gigabyte"))
    assert activations((model, tiny_tokenizer()), "a model").signals.shape == (2, N_BLOCKS * HIDDEN)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"texts": []}, PromptError, "no text found"),
        ({"texts": ["a model", ""]}, PromptError, "empty"),
        ({"site": "neurons"}, SiteError, r"did you mean neuron\?"),
        ({"site": "*.nowhere"}, SiteError, "no module matches"),
        ({"batch_size": 0}, ModelError, "batch size of 0 found; 1 or more"),
        ({"model": 7}, ModelError, "int found as a model"),
    ],
)
def test_what_cannot_be_read_is_refused(given: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        activations(**({"model": tiny_subject("gpt2"), "texts": "a model"} | given))
