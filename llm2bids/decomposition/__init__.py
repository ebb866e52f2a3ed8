"""Networks without a task: units whose activity goes together, by independent components."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from llm2bids.decomposition.result import Decomposition
    from llm2bids.decomposition.verb import ica

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"result": ["Decomposition"], "verb": ["ica"]})
__all__ = ["Decomposition", "ica"]
