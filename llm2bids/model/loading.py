"""Loads a model with its tokenizer, and describes exactly which model it is."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import cached_file

from llm2bids.errors import ModelError
from llm2bids.model.memory import explain_memory_errors
from llm2bids.model.quiet import quietly
from llm2bids.model.smollm2 import read_provenance
from llm2bids.space.identity import check_same_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from llm2bids.space.pattern import Network

Result = TypeVar("Result")

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Identity:
    """Name, revision and hash of a model, by which a map can be traced back to its weights.

    Parameters
    ----------
    name : str
        Hub id, folder name, ``"phantom"``, or the name of a model in memory.
    revision : str
        Commit of the hub, or ``"local"``.
    weights_sha256 : str
        SHA-256 over the safetensors files in order of name, or of a model in memory over its tensors.
    """

    name: str
    revision: str
    weights_sha256: str

    def to_json(self) -> dict[str, str]:
        """Return the fields that sidecars hold.

        Returns
        -------
        dict
            ``Model``, ``Revision`` and ``WeightsSHA256``.
        """
        return {"Model": self.name, "Revision": self.revision, "WeightsSHA256": self.weights_sha256}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Parameters
    ----------
    temperature : float
        0 takes the likeliest token; with higher values tokens are drawn.
    top_p : float
        Draw among the likeliest tokens that together have this probability.
    top_k : int
        Draw among this number of likeliest tokens; 0 for all.
    seed : int
        Seed of the random numbers. Each text has its own generator, so that results do not depend on batches.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True, eq=False)  # without slots, which leave no room for the cached property
class Subject:
    """A model ready for the scanner; `load` makes one.

    Parameters
    ----------
    model : PreTrainedModel
        In evaluation mode, on its device.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    identity : Identity
        Which model it is.
    causal : bool
        Whether it predicts the next token, so that it can generate and surprisal is defined.
    sampling : Sampling
        How the model's makers advise to choose the next token.
    provenance : mapping
        Licence, source and the like, as the file ``llm2bids_provenance.json`` beside the model says; often empty.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: Identity
    causal: bool = True
    sampling: Sampling = Sampling()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Device of the first layer, and so of the input."""
        weight = self.model.get_input_embeddings().weight
        if not isinstance(weight, torch.Tensor):
            raise ModelError(f"{type(self.model).__name__} has no input embeddings; a text model is needed")
        return weight.device

    @property
    def dtype(self) -> str:
        """Precision of the weights, e.g. ``"float32"``."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def context(self) -> int | None:
        """Longest sequence in tokens, or None where there is no limit.

        Where position embeddings begin after the padding token (roberta), fewer fit than the configuration says.
        """
        limit = context_length(self.model.config)
        for name, module in self.model.named_modules():
            if limit and name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
                limit -= 0 if module.padding_idx is None else module.padding_idx + 1
        return limit

    @property
    def n_embedded(self) -> int:
        """Number of tokens that the model has an embedding for."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of padding, start, end and other special tokens, which are never scans.

        The token for unknown words stands for part of the text, so it counts as special only if it has another role
        too. The ids are looked up once: make a new subject after adding tokens to a tokenizer.
        """
        tokenizer = self.tokenizer
        roles = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
        unknown = {tokenizer.unk_token_id} - set(roles)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        marked = {number for number, token in added.items() if token.special}
        return (frozenset(tokenizer.all_special_ids) | marked) - unknown

    @property
    def generation(self) -> GenerationConfig:
        """Greedy generation with the model's own end, start and padding tokens, and without its other settings."""
        config, tokenizer = self.model.generation_config, self.tokenizer
        return GenerationConfig(
            eos_token_id=_or(config.eos_token_id, tokenizer.eos_token_id),
            pad_token_id=pad_id(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            do_sample=False,
        )

    @contextmanager
    def plain_generation(self) -> Iterator[None]:
        """Make ``model.generate`` use `generation` inside the ``with``.

        To pass the configuration to it is not enough: transformers fills what is not set with the model's own settings.

        Yields
        ------
        None
            While it does.
        """
        config = self.model.generation_config
        self.model.generation_config = self.generation
        try:
            yield
        finally:
            self.model.generation_config = config

    def describe(self) -> dict[str, Any]:
        """Describe the model for sidecars.

        Returns
        -------
        dict
            Name, revision, hash of the weights, class, type, sizes, dtype and tokenizer; provenance if it is known.
        """
        config = self.model.config.get_text_config()
        return {
            **self.identity.to_json(),
            "Architecture": type(self.model).__name__,
            "ModelType": config.model_type,
            "NumberOfBlocks": config.num_hidden_layers,
            "NumberOfParameters": self.model.num_parameters(),
            "Dtype": self.dtype,
            "Tokenizer": type(self.tokenizer).__name__,
            **({"ModelProvenance": dict(self.provenance)} if self.provenance else {}),
        }


LoadedModel: TypeAlias = "PreTrainedModel | Subject | tuple[PreTrainedModel, PreTrainedTokenizerBase]"
"""What a context manager takes as its model."""


def load_pretrained(
    name: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
) -> Subject:
    """Load a model and its tokenizer from a folder or the hub.

    `dtype`: precision of the weights; auto is float32 on a CPU and the model's own elsewhere.
    """
    folder = Path(name)
    local = _is_folder(name)
    if local:
        _check_folder(folder)
        if revision:
            raise ModelError(f"{folder} is a folder, which has no revisions; leave `revision` out, or give a hub id")
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(name, **options)
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        failure = "could not be read" if local else "is no folder here and could not be had from the hub"
        raise ModelError(
            f"model {name!r} {failure} ({_first_line(error)}); check "
            f"{'its config.json and tokenizer files' if local else 'the spelling and the network'}, and whether it "
            "needs `trust_remote_code`"
        ) from error
    if not len(tokenizer):
        raise ModelError(f"{name} has no tokenizer files; save its tokenizer beside it with save_pretrained")
    causal = is_causal(config, name)
    place = pick_device(device)
    placed = {"device_map": device_map} if device_map else {}
    model = _load_model(_auto_class(config, causal=causal), name, _pick_dtype(dtype, place), options | placed)
    if not device_map:
        with explain_memory_errors():
            model = model.to(place)
    identity = Identity(
        name=folder.resolve().name if local else name,
        revision="local" if local else getattr(config, "_commit_hash", None) or options["revision"],
        weights_sha256=_hash_files(_weight_files(folder if local else _cached(name, revision))),
    )
    subject = make_subject(model, tokenizer, identity, causal=causal)
    return replace(subject, provenance=read_provenance(folder)) if local else subject


def make_subject(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, identity: Identity | None = None, *, causal: bool = True
) -> Subject:
    """Make a subject of a model in memory, which is put into evaluation mode.

    `identity`: which model it is; by default its class name and a hash of its weights.
    """
    identity = identity or Identity(type(model).__name__, "local", hash_weights(model))
    sampling = Sampling()
    if model.can_generate() and model.generation_config.do_sample:
        config = model.generation_config
        sampling = Sampling(_or(config.temperature, 1.0), _or(config.top_p, 1.0), _or(config.top_k, 0))
    return Subject(model.eval(), tokenizer, identity, causal, sampling)


def unwrap_model(model: LoadedModel, network: Network) -> PreTrainedModel:
    """Return the transformers model itself; raise if the mask or pattern is of another model, as far as that is known.

    A subject knows which weights it has. A model alone does not: the hash of its tensors differs from that of the
    files it came from, and its name may be any folder's. So only its hookpoints and widths can be compared, where they
    are used, and a caller may put a mask onto other weights, such as those of a model trained further.
    """
    if isinstance(model, Subject):
        check_same_model(network.provenance, model.identity.to_json() | {"Site": network.space.site})
        return model.model
    return model[0] if isinstance(model, tuple | list) else model


def context_length(config: PretrainedConfig) -> int | None:
    """Return the tokens that fit into a model's context; None without a limit (alibi, state-space models)."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length and length > 0 else None


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the padding token, else the end token, else 0. Any token will do, since it is masked."""
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(token) for token in candidates if token is not None)


def hash_weights(model: PreTrainedModel) -> str:
    """Return the SHA-256 over name, type, shape and values of every tensor of a model's state, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_folder(folder: Path) -> None:
    """Raise if a folder holds no model, or only pickled weights, before anything is loaded."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json; give a folder made by save_pretrained, or a hub id")
    if any(folder.glob("*.safetensors")):
        return
    pickled = [path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt"}]
    content = f"only pickled weights ({pickled[0]})" if pickled else "no weights"
    raise ModelError(f"{folder} holds {content}; safetensors needed: load and save it again with save_pretrained")


def is_causal(config: PretrainedConfig, name: str) -> bool:
    """Return whether a model predicts the next token; raise for encoder-decoders."""
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name} is an encoder-decoder; one stack is needed: use a causal language model or an encoder"
        )
    kind = config.model_type
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return True
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not encoder


def _auto_class(config: PretrainedConfig, *, causal: bool) -> Any:
    """The Auto class whose models have the output layer that is needed."""
    if causal or getattr(config, "auto_map", None):
        return AutoModelForCausalLM
    return AutoModelForMaskedLM if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES else AutoModel


def _load_model(auto: Any, name: str, dtype: torch.dtype | str, options: dict[str, Any]) -> PreTrainedModel:
    """Load weights, from safetensors only."""
    options = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True} | options
    try:
        with explain_memory_errors():
            model, loading_info = quietly(lambda: auto.from_pretrained(name, dtype=dtype, **options))
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"the weights of {name!r} could not be loaded ({_first_line(error)}); make sure that they are whole and "
            "fit config.json"
        ) from error
    _check_complete(model, loading_info, name)
    loaded: PreTrainedModel = model
    return loaded


def _check_complete(model: PreTrainedModel, loading_info: dict[str, Any], name: str) -> None:
    """Raise if transformers drew weights that the files lack; it may for the unused head of an encoder."""
    keys = [*loading_info["missing_keys"], *loading_info["mismatched_keys"]]
    missing = {key if isinstance(key, str) else key[0] for key in keys}
    if not model.can_generate():
        missing = {key for key in missing if key.startswith(f"{model.base_model_prefix}.") and "pooler" not in key}
    if missing:
        raise ModelError(
            f"{name} lacks {len(missing)} of the weights its config.json asks for, e.g. {min(missing)}; "
            "make sure that its files are whole and belong together"
        )


def pick_device(name: str) -> torch.device:
    """Find the device to use; ``auto`` is the accelerator if there is one."""
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f'device {name!r} cannot be used ({_first_line(error)}); try device="cpu"') from error
    return device


def _pick_dtype(name: str, device: torch.device) -> torch.dtype | str:
    """The precision to load in."""
    if name != "auto":
        if name not in DTYPES:
            raise ModelError(f"dtype {name!r} found; use auto, {', '.join(DTYPES)}")
        return DTYPES[name]
    return torch.float32 if device.type == "cpu" else "auto"


def _is_folder(name: str) -> bool:
    """Whether a model's name is a folder; raises for a path that does not exist."""
    try:
        exists = Path(name).exists()
    except OSError as error:
        raise ModelError(
            f"model {name[:60]!r}… cannot be looked up ({error.strerror}); give a folder or hub id"
        ) from error
    if not exists and (name.startswith(("/", ".", "~")) or name.count("/") > 1):
        raise ModelError(f"model {name!r} does not exist; give a folder made by save_pretrained, or a hub id")
    return exists


def _cached(name: str, revision: str | None) -> Path:
    """The folder in which the hub's files of a model lie."""
    return Path(str(cached_file(name, "config.json", revision=revision or "main"))).parent


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, in order of name."""
    return sorted(folder.glob("*.safetensors"))


def _hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over files, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def _or(value: Any, default: Any) -> Any:
    """A setting, or its default if it is None."""
    return default if value is None else value


def _first_line(error: BaseException) -> str:
    """The first line of an error's text, without a trailing full stop."""
    lines = str(error).strip().split(os.linesep)
    return lines[0].rstrip(".") or type(error).__name__
