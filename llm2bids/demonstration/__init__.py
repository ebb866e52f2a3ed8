"""``demo``: the whole chain on the phantom, whose networks are known by construction."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from llm2bids.demonstration.verb import Demo, demo

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"verb": ["Demo", "demo"]})
__all__ = ["Demo", "demo"]
