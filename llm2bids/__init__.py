"""Put a language model in the scanner: record its units as a BIDS dataset for the tools of functional MRI.

``import llm2bids as lb`` opens the front door: every verb of the command line is a function, every noun a type.

- Load: `load`, `activations`.
- Record and analyse: `record`, `validate`, `prep`, `glm`, `ica`, `fingerprint`, `report`, `demo`, `doctor`.
- Ask about networks: ``lb.networks.overlap`` and its sisters.
- Act on the model: `lesion` and `finetune_mask` are context managers; `lesion_study` is the study that
  ``llm2bids lesion`` runs; `prune` saves a smaller model.
- Masks: `load_mask`, `save_mask`, `convert_mask`, `combine_masks`, `show_mask`.
- Types: `UnitSpace`, `UnitMask`, `Subject`, `Activations`, `Task`, `Trial`, `Recording`, `ContrastResult`, and
  `LLM2BIDSError` for whatever a user can mend.

Nothing heavy is imported before it is used.
"""

from typing import TYPE_CHECKING

import lazy_loader

from llm2bids.version import __version__ as __version__

if TYPE_CHECKING:
    from llm2bids import networks
    from llm2bids.decomposition import ica
    from llm2bids.demonstration import demo
    from llm2bids.diagnosis import doctor
    from llm2bids.errors import LLM2BIDSError
    from llm2bids.lesioning import lesion_study
    from llm2bids.masks import combine_masks, convert_mask, load_mask, save_mask, show_mask
    from llm2bids.model.activations import Activations, activations
    from llm2bids.model.lesions import lesion
    from llm2bids.model.loading import Subject
    from llm2bids.model.subject import load
    from llm2bids.model.tuning import finetune_mask
    from llm2bids.networks.fingerprinting import fingerprint
    from llm2bids.preparation import prep
    from llm2bids.pruning import prune
    from llm2bids.recording import Recording, record
    from llm2bids.reporting import report
    from llm2bids.space import UnitMask, UnitSpace
    from llm2bids.statistics import ContrastResult, glm
    from llm2bids.task import Task, Trial
    from llm2bids.validation import validate

__all__ = [
    "Activations",
    "ContrastResult",
    "LLM2BIDSError",
    "Recording",
    "Subject",
    "Task",
    "Trial",
    "UnitMask",
    "UnitSpace",
    "activations",
    "combine_masks",
    "convert_mask",
    "demo",
    "doctor",
    "finetune_mask",
    "fingerprint",
    "glm",
    "ica",
    "lesion",
    "lesion_study",
    "load",
    "load_mask",
    "networks",
    "prep",
    "prune",
    "record",
    "report",
    "save_mask",
    "show_mask",
    "validate",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submodules={"networks"},
    submod_attrs={
        "decomposition": ["ica"],
        "demonstration": ["demo"],
        "diagnosis": ["doctor"],
        "errors": ["LLM2BIDSError"],
        "lesioning": ["lesion_study"],
        "masks": ["combine_masks", "convert_mask", "load_mask", "save_mask", "show_mask"],
        "model.activations": ["Activations", "activations"],
        "model.lesions": ["lesion"],
        "model.loading": ["Subject"],
        "model.subject": ["load"],
        "model.tuning": ["finetune_mask"],
        "networks.fingerprinting": ["fingerprint"],
        "preparation": ["prep"],
        "pruning": ["prune"],
        "recording": ["Recording", "record"],
        "reporting": ["report"],
        "space": ["UnitMask", "UnitSpace"],
        "statistics": ["ContrastResult", "glm"],
        "task": ["Task", "Trial"],
        "validation": ["validate"],
    },
)
