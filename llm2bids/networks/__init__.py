"""Questions about the networks in a folder of results: each is a function, loaded when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llm2bids.networks.depth_profile import profile
    from llm2bids.networks.functional_connectivity import connectivity
    from llm2bids.networks.identification import identify
    from llm2bids.networks.matching import match
    from llm2bids.networks.repeatability import reliability
    from llm2bids.networks.unit_overlap import overlap

__all__ = ["connectivity", "identify", "match", "overlap", "profile", "reliability"]

_MODULES: Final = {
    "connectivity": "functional_connectivity",
    "identify": "identification",
    "match": "matching",
    "overlap": "unit_overlap",
    "profile": "depth_profile",
    "reliability": "repeatability",
}
"""Module of each question; none has the name of its function, which it would hide."""


def __getattr__(name: str) -> Any:
    """Load a question."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Names of the questions, and of what is loaded."""
    return sorted({*globals(), *_MODULES})
