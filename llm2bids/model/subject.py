"""`load`: the phantom, SmolLM2, a folder, a model of the hub or a model in memory becomes a `Subject`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm2bids.errors import ModelError
from llm2bids.model.loading import Identity, Subject, hash_weights, is_causal, load_pretrained, make_subject
from llm2bids.model.phantom import build_phantom
from llm2bids.model.smollm2 import SMOLLM2, smollm2_folder

ModelSource: TypeAlias = (
    str
    | Path
    | Subject
    | tuple[PreTrainedModel, PreTrainedTokenizerBase]
    | tuple[PreTrainedModel, PreTrainedTokenizerBase, str]
)
"""What a verb takes as its model: see `load`."""


def load(
    model: ModelSource,
    *,
    name: str | None = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
) -> Subject:
    """Load a model with its tokenizer, or take one that is loaded.

    Parameters
    ----------
    model : str, Path, Subject or tuple
        ``"phantom"``, ``"smollm2"`` (see `llm2bids.model.smollm2.fetch`), a folder made by ``save_pretrained``, a hub
        id, a subject, or a loaded model with its tokenizer: ``(model, tokenizer)``, or ``(model, tokenizer, name)``.
    name : str, optional
        What the model is called in files. By default the hub id or the name of the folder; for a loaded model the one
        that its configuration holds, else its class.
    revision : str, optional
        Branch, tag or commit of the hub.
    device : str
        A device of torch such as ``"cuda:1"``; ``"auto"`` is an accelerator if there is one, else the CPU.
    dtype : {"auto", "float32", "bfloat16", "float16"}
        Precision of the weights; ``"auto"`` is float32 on a CPU and the model's own elsewhere.
    device_map : str, optional
        ``"auto"`` spreads the model over several GPUs.
    trust_remote_code : bool
        Whether code that comes with the model may run.

    Returns
    -------
    Subject
        The model in evaluation mode, its tokenizer, and what identifies it.

    Raises
    ------
    ModelError
        If the model cannot be loaded or has no tokenizer, or its kind is not supported.

    Notes
    -----
    `revision`, `device`, `dtype`, `device_map` and `trust_remote_code` say how a model is loaded. A model in memory
    stays as it is and where it is, but for its evaluation mode: call ``model.train()`` to go on with its training.

    Examples
    --------
    >>> load("phantom").identity.name
    'phantom'
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16))
    >>> load((gpt2, load("phantom").tokenizer), name="tiny").identity.name
    'tiny'
    """
    if isinstance(model, Subject):
        subject = model
    elif isinstance(model, str | Path) and str(model) != "phantom":
        subject = load_pretrained(
            str(smollm2_folder() if str(model) == SMOLLM2 else model),
            revision=revision,
            device=device,
            dtype=dtype,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
        )
    elif isinstance(model, str | Path):
        subject = build_phantom(revision=revision, device=device, dtype=dtype, device_map=device_map)
    else:
        subject = in_memory(model)
    if isinstance(model, str | Path) and str(model) == SMOLLM2:
        name = name or SMOLLM2
    return subject if name is None else replace(subject, identity=replace(subject.identity, name=name))


def short_name(model: ModelSource) -> str:
    """Return the name of a model without loading it, and without the owner of a hub id."""
    if isinstance(model, str | Path):
        return Path(model).resolve().name
    name = model.identity.name if isinstance(model, Subject) else _parts(model)[2]
    return name.rpartition("/")[2]


def in_memory(model: object, weights_sha256: str | None = None) -> Subject:
    """Make a subject of a loaded model with its tokenizer; the hash of its weights is computed unless it is given."""
    transformer, tokenizer, name = _parts(model)
    causal = is_causal(transformer.config, name) and transformer.can_generate()
    identity = Identity(name, "local", hash_weights(transformer) if weights_sha256 is None else weights_sha256)
    return make_subject(transformer, tokenizer, identity, causal=causal)


def _parts(model: object) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """A loaded model, its tokenizer and its name; raises for anything else."""
    transformer, tokenizer, *names = model if isinstance(model, tuple | list) and len(model) in {2, 3} else (None, None)
    if not isinstance(transformer, PreTrainedModel) or not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(
            f"{type(model).__name__} found as a model; give its name, its folder, or the loaded model with its "
            "tokenizer: (model, tokenizer)"
        )
    source = transformer.config.name_or_path
    name = Path(source).resolve().name if source and Path(source).is_dir() else source
    return transformer, tokenizer, str(names[0] if names else name or type(transformer).__name__)
