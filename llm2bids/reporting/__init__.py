"""``report``: pages about a dataset and all its results, which open from the file system, without a network."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from llm2bids.reporting.verb import Report, report

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"verb": ["Report", "report"]})
__all__ = ["Report", "report"]
