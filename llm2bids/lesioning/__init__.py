"""Model × masks → scores: intact, lesioned, and with random units lesioned instead."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from llm2bids.lesioning.controls import draw_controls
    from llm2bids.lesioning.scores import LesionScore, dissociation, tabulate
    from llm2bids.lesioning.verb import LesionResults, lesion_study

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "controls": ["draw_controls"],
        "scores": ["LesionScore", "dissociation", "tabulate"],
        "verb": ["LesionResults", "lesion_study"],
    },
)
__all__ = ["LesionResults", "LesionScore", "dissociation", "draw_controls", "lesion_study", "tabulate"]
