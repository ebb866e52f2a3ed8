"""Which units answer to a task: effects, tests and networks per subject and over subjects, by nilearn's estimators."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from llm2bids.results.summaries import ContrastResult
    from llm2bids.statistics.verb import glm

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"verb": ["ContrastResult", "glm"]})
__all__ = ["ContrastResult", "glm"]
