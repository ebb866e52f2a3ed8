"""Model × mask → a smaller model: units taken out, saved so that ``from_pretrained`` alone loads it."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from llm2bids.pruning.verb import PrunedModel, prune

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"verb": ["PrunedModel", "prune"]})
__all__ = ["PrunedModel", "prune"]
