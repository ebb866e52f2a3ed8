"""``import llm2bids as lb``: quick, complete, and no name is a module but one."""

from __future__ import annotations

import subprocess
import sys
import types
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import llm2bids as lb
from llm2bids.cli import build_parser

from .test_history import actions_of

HEAVY = {"torch", "transformers", "nilearn", "pandas", "numpy", "nibabel", "matplotlib", "scipy"}
ELSEWHERE = {
    "completion": "of the shell",
    "doctor": "doctor",
    "fetch": "llm2bids.model.smollm2.fetch",
    "lesion": "lesion_study",
    "mask": "convert_mask",
    "tasks": "lists what a file may say",
}


def test_importing_loads_nothing_heavy() -> None:
    script = f"import sys, llm2bids; sys.exit(' '.join({HEAVY} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", lb.__all__)
def test_every_name_is_there_and_no_module_but_networks(name: str) -> None:
    assert isinstance(getattr(lb, name), types.ModuleType) == (name == "networks")
    assert name in dir(lb)
    assert name in (lb.__doc__ or "")


def test_the_door_is_small() -> None:
    assert len(lb.__all__) <= 30


def test_a_package_never_hides_a_verb() -> None:
    """All modules imported, every name is still what it was."""
    script = """
import importlib, pkgutil, types, llm2bids as lb
for found in pkgutil.walk_packages(lb.__path__, "llm2bids."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
assert [name for name in lb.__all__ if isinstance(getattr(lb, name), types.ModuleType)] == ["networks"]
assert [name for name in lb.networks.__all__ if isinstance(getattr(lb.networks, name), types.ModuleType)] == []
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_command_has_a_function() -> None:
    (verbs,) = (action for action in actions_of(build_parser()) if action.dest == "==SUPPRESS==")
    for verb in verbs.choices or ():
        assert callable(getattr(lb, verb, None)) or verb in {*ELSEWHERE, "networks"}, verb


def test_from_a_model_in_memory_to_its_lesion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script of the README: at most twelve lines and one import."""
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "README.md").read_text()
    script = page.split("<!-- twelve lines -->\n\n```python\n")[1].split("```")[0]
    lines = [line for line in script.splitlines() if line.strip()]
    assert len(lines) <= 12
    assert [line for line in lines if "import" in line] == ["import llm2bids as lb"]
    phantom = lb.load("phantom")
    exec(compile(script, "README", "exec"), {"model": phantom.model, "tokenizer": phantom.tokenizer})  # noqa: S102
    assert "units" in capsys.readouterr().out


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not even for type checkers, or inside a function."""
    graph = grimp.build_graph("llm2bids")
    TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()
