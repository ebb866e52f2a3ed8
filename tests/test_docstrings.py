"""What users call is documented as numpydoc wants it: parameters, returns, shapes have their place."""

from __future__ import annotations

import importlib
import inspect
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from numpydoc.validate import validate

if TYPE_CHECKING:
    from collections.abc import Iterator

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
LEFT_OUT = set(PYPROJECT["tool"]["numpydoc_validation"]["checks"]) - {"all"}
FRONT_DOOR = (
    "decomposition.ica",
    "diagnosis.doctor",
    "masks.combine_masks",
    "masks.convert_mask",
    "masks.load_mask",
    "masks.save_mask",
    "model.activations.Activations",
    "model.activations.activations",
    "model.lesions.lesion",
    "model.loading.Subject",
    "model.subject.load",
    "model.tuning.finetune_mask",
    "networks.answers.Answer",
    "networks.connectivity",
    "networks.fingerprinting.fingerprint",
    "networks.identify",
    "networks.match",
    "networks.overlap",
    "networks.profile",
    "networks.reliability",
    "preparation.prep",
    "recording.Recording",
    "recording.record",
    "space.UnitMask",
    "space.UnitSpace",
    "statistics.glm",
    "task.Task",
    "task.Trial",
    "validation.validate",
)


def names() -> Iterator[str]:
    """What is on the front door, and the public members of its classes."""
    for name in FRONT_DOOR:
        module, _, thing = name.rpartition(".")
        found = getattr(importlib.import_module(f"llm2bids.{module}"), thing)
        yield f"{found.__module__}.{thing}"
        if inspect.isclass(found):
            yield from (f"{found.__module__}.{thing}.{member}" for member in own_members(found))


def own_members(cls: type) -> Iterator[str]:
    for name, member in vars(cls).items():
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property | classmethod)):
            yield name


@pytest.mark.parametrize("name", sorted(names()))
def test_docstring(name: str) -> None:
    errors = [(code, text) for code, text in validate(name)["errors"] if code not in LEFT_OUT]
    assert not errors
