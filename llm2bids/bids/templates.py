"""The texts we write into datasets: alone reads ``bids_templates``."""

from __future__ import annotations

import json
from importlib.resources import files
from string import Template
from typing import Any


def template_text(name: str, **values: object) -> str:
    """Fill in a text template.

    Parameters
    ----------
    name : str
        File in ``bids_templates``.
    **values : object
        What to put for each ``${name}``.

    Returns
    -------
    str
        The text.
    """
    text = files("bids_templates").joinpath(name).read_text(encoding="utf-8")
    return Template(text).substitute(values)


def raw_text(name: str) -> str:
    """Read a text that has nothing to fill in, such as a script.

    Parameters
    ----------
    name : str
        File in ``bids_templates``.

    Returns
    -------
    str
        The text, as it is.
    """
    return files("bids_templates").joinpath(name).read_text(encoding="utf-8")


def template_json(name: str, **values: object) -> dict[str, Any]:
    """Fill in a JSON template.

    Parameters
    ----------
    name : str
        File in ``bids_templates``.
    **values : object
        Text to put for each ``${name}`` inside a string.

    Returns
    -------
    dict
        The fields.
    """
    escaped = {key: json.dumps(str(value))[1:-1] for key, value in values.items()}
    fields: dict[str, Any] = json.loads(template_text(name, **escaped))
    return fields
