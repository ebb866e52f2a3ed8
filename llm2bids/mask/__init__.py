"""Statistic maps of any program → units: masks read, thresholded, combined, shown and saved."""

from llm2bids.mask.files import check_same_model, load_mask, save_mask
from llm2bids.mask.profiles import profile, show_text
from llm2bids.mask.rules import Rule
from llm2bids.mask.verbs import combine, convert, show

__all__ = ["Rule", "check_same_model", "combine", "convert", "load_mask", "profile", "save_mask", "show", "show_text"]
