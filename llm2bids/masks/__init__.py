"""Statistic maps of any program → units: masks read, thresholded, combined, shown and saved."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from llm2bids.masks.conversion import combine_masks, convert_mask, show_mask
    from llm2bids.masks.display import profile, show_text
    from llm2bids.masks.files import load_mask, save_mask

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "conversion": ["combine_masks", "convert_mask", "show_mask"],
        "display": ["profile", "show_text"],
        "files": ["load_mask", "save_mask"],
    },
)
__all__ = ["combine_masks", "convert_mask", "load_mask", "profile", "save_mask", "show_mask", "show_text"]
