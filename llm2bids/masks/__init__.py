"""Statistic maps of any program → units: masks read, thresholded, combined, shown and saved."""

from llm2bids.masks.conversion import combine_masks, convert_mask, show_mask
from llm2bids.masks.display import profile, show_text
from llm2bids.masks.files import load_mask, save_mask
from llm2bids.space.identity import check_same_model

__all__ = [
    "check_same_model",
    "combine_masks",
    "convert_mask",
    "load_mask",
    "profile",
    "save_mask",
    "show_mask",
    "show_text",
]
