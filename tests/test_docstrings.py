"""Every public name is documented as numpydoc wants it: parameters, returns, shapes have their place."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from numpydoc.validate import validate

import llm2bids

if TYPE_CHECKING:
    from collections.abc import Iterator

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
LEFT_OUT = set(PYPROJECT["tool"]["numpydoc_validation"]["checks"]) - {"all"}


def public_names() -> Iterator[str]:
    """Modules, and the functions, classes, methods and properties that they define."""
    for found in pkgutil.walk_packages(llm2bids.__path__, "llm2bids."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", "") != found.name:
                continue
            if inspect.isclass(thing) or inspect.isfunction(thing):
                yield f"{found.name}.{name}"
            if inspect.isclass(thing):
                yield from (f"{found.name}.{name}.{member}" for member in own_members(thing))


def own_members(cls: type) -> Iterator[str]:
    for name, member in vars(cls).items():
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property | classmethod)):
            yield name


NAMES = sorted(set(public_names()))


def test_there_is_something_to_check() -> None:
    assert {"llm2bids.space.units.UnitSpace.to_image", "llm2bids.record.record"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_docstring(name: str) -> None:
    errors = [(code, text) for code, text in validate(name)["errors"] if code not in LEFT_OUT]
    assert not errors
