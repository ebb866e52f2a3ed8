"""Tiny models of ten families with random weights, and a tokenizer for them; no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

from llm2bids.model.loading import make_subject

if TYPE_CHECKING:
    from llm2bids.model.loading import Subject

WORDS = "a model is shown one word after another and every unit of it answers in its own way or not at all".split()
N_VOCABULARY = 5 + len(set(WORDS))
N_BLOCKS = 3
HIDDEN = 24

_GQA = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 44}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": HIDDEN, "n_layer": N_BLOCKS, "n_head": 4, "n_inner": 44},
    "opt": {"hidden_size": HIDDEN, "word_embed_proj_dim": HIDDEN, "num_attention_heads": 4, "ffn_dim": 44},
    "llama": {"hidden_size": HIDDEN, **_GQA},
    "phi3": {"hidden_size": HIDDEN, **_GQA},
    "gpt_neox": {"hidden_size": HIDDEN, "num_attention_heads": 4, "intermediate_size": 44},
    "qwen3": {"hidden_size": HIDDEN, **_GQA},
    "gemma3_text": {"hidden_size": HIDDEN, "sliding_window": 16, **_GQA},
    "bloom": {"hidden_size": HIDDEN, "n_layer": N_BLOCKS, "n_head": 4},
    "mixtral": {"hidden_size": HIDDEN, "num_local_experts": 3, **_GQA},
    "mamba": {"hidden_size": HIDDEN, "state_size": 4},
    "bert": {"hidden_size": HIDDEN, "num_attention_heads": 4, "intermediate_size": 44},
}
LACKING = {"mixtral": {"neuron"}, "mamba": {"attn", "mlp", "neuron", "head"}}
"""Sites that an architecture does not have."""
CAUSAL = [family for family in FAMILIES if family != "bert"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words; begins each text with a start token."""
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", *dict.fromkeys(WORDS)]
    raw = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def tiny_subject(family: str, *, wide: float = 0.3, **settings: Any) -> Subject:
    """A model of a family; weights drawn wide enough that units differ and no token is nearly as likely as another."""
    torch.manual_seed(7)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes = {"vocab_size": N_VOCABULARY, "num_hidden_layers": N_BLOCKS, "initializer_range": wide}
    config = AutoConfig.for_model(family, **(sizes | FAMILIES[family] | ids | settings))
    causal = family != "bert"
    model = (AutoModelForCausalLM if causal else AutoModelForMaskedLM).from_config(config)
    return make_subject(model.eval(), tiny_tokenizer(), causal=causal)


def texts(n_texts: int = 5) -> list[str]:
    """Texts of different lengths."""
    return [" ".join(WORDS[start : start + 3 + 2 * start]) for start in range(n_texts)]
