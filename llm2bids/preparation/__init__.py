"""``prep``: volumes that every fMRI program takes, confounds, masks and an atlas; like fMRIPrep for a brain."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from llm2bids.preparation.verb import PrepResult, prep

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"verb": ["PrepResult", "prep"]})
__all__ = ["PrepResult", "prep"]
