"""Templates of the texts in datasets; no other module reads ``bids_templates``."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def templates() -> Traversable:
    """Find the folder of templates: inside an installed package, beside the package in a checkout."""
    installed = files("llm2bids").joinpath("bids_templates")
    return installed if installed.is_dir() else Path(__file__).parents[2] / "bids_templates"


def template_text(name: str, **values: object) -> str:
    """Fill in a text template."""
    text = templates().joinpath(name).read_text(encoding="utf-8")
    return Template(text).substitute(values)


def raw_text(name: str) -> str:
    """Read a template without variables, such as a script."""
    return templates().joinpath(name).read_text(encoding="utf-8")


def template_json(name: str, **values: object) -> dict[str, Any]:
    """Fill in a JSON template."""
    escaped = {key: json.dumps(str(value))[1:-1] for key, value in values.items()}
    fields: dict[str, Any] = json.loads(template_text(name, **escaped))
    return fields
