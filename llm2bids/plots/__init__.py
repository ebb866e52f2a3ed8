"""All pictures: functions that take arrays and tables and return a matplotlib ``Figure``; none reads or writes files.

Recordings and maps
    `draw_design` what runs were shown, and when; `draw_carpet` every unit at every scan of a run; `draw_activity` how
    active layers are, and massive units; `draw_layers` a map layer by layer; `draw_profile` and `draw_sizes` the size
    of one and of several networks over depth; `draw_design_matrix` a design matrix.
Networks
    `draw_overlap` what networks share; `draw_reliability` how well they repeat; `draw_identification` how well tasks
    were told apart; `draw_profiles`, `draw_effects`, `draw_sites` in which layers networks lie, and how large their
    effects are; `draw_connectivity` how they go together over time; `draw_match` two sets of networks; `draw_iou`
    planted networks and components; `draw_fingerprint` two models.
Lesions
    `draw_dissociation` what every lesion does to every text; `draw_curve` how well a model does with few units left.

`llm2bids.plots.pictures` has what they share: colours, matrices with numbers, and `llm2bids.plots.pictures.as_png`.
A picture's module is imported when the picture is first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from llm2bids.plots.activity import draw_activity
    from llm2bids.plots.carpet import draw_carpet
    from llm2bids.plots.connectivity import draw_connectivity
    from llm2bids.plots.design import draw_design, draw_design_matrix
    from llm2bids.plots.fingerprint import draw_fingerprint
    from llm2bids.plots.identification import draw_identification
    from llm2bids.plots.layers import draw_layers, draw_profile, draw_sizes
    from llm2bids.plots.lesions import draw_curve, draw_dissociation
    from llm2bids.plots.match import draw_iou, draw_match
    from llm2bids.plots.overlap import draw_overlap
    from llm2bids.plots.profiles import draw_effects, draw_profiles, draw_sites
    from llm2bids.plots.reliability import draw_reliability

__all__ = [
    "draw_activity",
    "draw_carpet",
    "draw_connectivity",
    "draw_curve",
    "draw_design",
    "draw_design_matrix",
    "draw_dissociation",
    "draw_effects",
    "draw_fingerprint",
    "draw_identification",
    "draw_iou",
    "draw_layers",
    "draw_match",
    "draw_overlap",
    "draw_profile",
    "draw_profiles",
    "draw_reliability",
    "draw_sites",
    "draw_sizes",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "activity": ["draw_activity"],
        "carpet": ["draw_carpet"],
        "connectivity": ["draw_connectivity"],
        "design": ["draw_design", "draw_design_matrix"],
        "fingerprint": ["draw_fingerprint"],
        "identification": ["draw_identification"],
        "layers": ["draw_layers", "draw_profile", "draw_sizes"],
        "lesions": ["draw_curve", "draw_dissociation"],
        "match": ["draw_iou", "draw_match"],
        "overlap": ["draw_overlap"],
        "profiles": ["draw_effects", "draw_profiles", "draw_sites"],
        "reliability": ["draw_reliability"],
    },
)
