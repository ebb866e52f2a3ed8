"""Records a model: shows it a task and writes the activations of its units as a BIDS dataset."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from llm2bids.recording.verb import Recording, record

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"verb": ["Recording", "record"]})
__all__ = ["Recording", "record"]
