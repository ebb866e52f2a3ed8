"""Provenance in sidecars: the program, versions of libraries, a hash of the inputs."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version

from llm2bids.version import __version__


def generated_by() -> list[dict[str, str]]:
    """Return the field ``GeneratedBy`` of sidecars."""
    return [{"Name": "llm2bids", "Version": __version__}]


def versions(*libraries: str) -> dict[str, str]:
    """Return the versions of this package and of some libraries."""
    return {"llm2bids": __version__} | {name: version(name) for name in libraries}


def hash_parts(*parts: object) -> str:
    """Hash the inputs of a result, independent of the order of keys.

    >>> hash_parts({"a": 1, "b": 2}) == hash_parts({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
