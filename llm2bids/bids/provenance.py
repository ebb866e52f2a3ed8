"""What files say of the program that made them: its name, versions of what computes, a hash of what went in."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version

from llm2bids import __version__


def generated_by() -> list[dict[str, str]]:
    """Name the program, as sidecars do."""
    return [{"Name": "llm2bids", "Version": __version__}]


def versions(*libraries: str) -> dict[str, str]:
    """Name the versions of what computes."""
    return {"llm2bids": __version__} | {name: version(name) for name in libraries}


def hash_parts(*parts: object) -> str:
    """Hash what a result depends on.

    >>> hash_parts({"a": 1, "b": 2}) == hash_parts({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
