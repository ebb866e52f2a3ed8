"""The doctor says what is missing, and what to do about it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement

from llm2bids import diagnosis as house
from llm2bids.cli import main
from llm2bids.diagnosis import doctor, enough, library
from llm2bids.validation import COMMAND

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def quick_validator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A program in the place of the validator, which takes a second to start."""
    program = tmp_path / COMMAND
    program.write_text('#!/bin/sh\ntest "$1" = --version\n')
    program.chmod(0o755)
    monkeypatch.setattr(house, "executable", lambda: str(program))
    return program


def by_name() -> dict[str, Any]:
    return {check.name: check for check in doctor()}


def test_all_is_well_here(capsys: pytest.CaptureFixture[str]) -> None:
    """The environment holds what pyproject.toml asks for, or no test would run."""
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == ["name", "state", "found", "needed"]
    assert shown.endswith("All is well; go on with llm2bids demo.\n")


def test_programs_are_told_every_library_with_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    told = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    for name in ("torch", "transformers", "nilearn", "nibabel", "pybids", "numpy", "pandas"):
        assert told[name]["found"] == version(name)
        assert told[name]["needed"].startswith(">=")
    assert {"python", "BIDS validator", "device", "processors", "memory", "disk here", "disk of models"} <= set(told)
    assert not {"pytest", "accelerate"} & set(told)  # needed by extras only


def test_what_is_missing_is_exit_1_with_one_line_of_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(house, "requires", lambda _: ["numpy>=99", "not-there-at-all>=1", "peft; extra == 'peft'"])
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "numpy: pip install 'numpy>=99'",
        "not-there-at-all: pip install 'not-there-at-all>=1'",
    ]


def test_versions_are_compared_as_versions() -> None:
    states = {text: library(Requirement(text)).state for text in ("numpy>=1.9", "numpy>=2.0", "numpy<2", "numpie")}
    assert list(states.values()) == ["ok", "ok", "old", "missing"]


def test_a_package_that_was_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: str) -> list[str]:
        raise PackageNotFoundError

    monkeypatch.setattr(house, "requires", none)
    assert by_name()["llm2bids"].state == "missing"


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 3\n", "no program"])
def test_a_validator_that_does_not_run_is_missing(quick_validator: Path, text: str) -> None:
    quick_validator.write_text(text)
    check = by_name()["BIDS validator"]
    assert (check.state, check.advice) == ("missing", f"reinstall it: pip install --force-reinstall {COMMAND}")


def test_a_validator_that_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("llm2bids.validation.sys.executable", str(tmp_path / "nowhere" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    check = by_name()["BIDS validator"]
    assert (check.state, check.advice) == ("missing", f"install it with: pip install {COMMAND}")


def test_a_torch_that_cannot_be_imported_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert by_name()["device"].state == "missing"


def test_python_itself_may_be_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.9.1")
    check = by_name()["python"]
    assert (check.state, check.needed) == ("old", ">=3.11")


def test_disk_is_looked_at_where_models_will_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder need not exist yet."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "later"))
    check = by_name()["disk of models"]
    assert check.found.endswith(f" free in {tmp_path / 'later' / 'hub'}")
    assert check.state == "ok"


def test_little_room_is_said() -> None:
    assert enough("disk here", 0.5, 1, "free some", " free in x") == house.Check(
        "disk here", "low", "0.5 GB free in x", "1 GB", "free some"
    )
    assert enough("disk here", 1, 1, "free some").advice == ""


def test_the_real_validator_says_its_version(quick_validator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    from llm2bids.validation import executable

    assert executable() != str(quick_validator)
    subprocess.run([executable(), "--version"], check=True, capture_output=True, timeout=60)
