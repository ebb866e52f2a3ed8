"""One model intact, lesioned, and with random units lesioned instead, put through the same materials."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.bids.provenance import hash_parts
from llm2bids.errors import LesionError
from llm2bids.lesioning.controls import draw_controls
from llm2bids.lesioning.exam import Exam
from llm2bids.lesioning.ledger import Ledger
from llm2bids.lesioning.materials import known_texts
from llm2bids.lesioning.output import RUNS, forget
from llm2bids.lesioning.plan import Condition
from llm2bids.lesioning.tables import Results
from llm2bids.model.lesions import lesion as lesioned
from llm2bids.model.lesions import mean_activations
from llm2bids.progress import progress_bar
from llm2bids.space.identity import check_same_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from llm2bids.lesioning.controls import Controls, Drawing
    from llm2bids.lesioning.exam import Reading
    from llm2bids.lesioning.materials import Materials, Questions, Text
    from llm2bids.lesioning.plan import Lesion, Surgery
    from llm2bids.model.loading import Subject
    from llm2bids.space import UnitMask, UnitSpace

logger = logging.getLogger(__name__)

MASK_FILE: Final = "LesionMaskFile"
"""Key of a mask's provenance under which the name of its file goes along with it."""
_FAR: Final = 0.25
"""Part by which activation of a lesion and its controls may differ unmentioned."""


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """What is done to a model and what it is scored on: all that is known before one is loaded.

    - `surgery`: what is done to units.
    - `lesions`: to which: masks, or unions of them.
    - `reading`: how it is put to the model.
    - `leaks`: texts by which a mask was defined and which are scored all the same, by its name.
    - `allow_overlap`: whether there may be such.
    """

    masks: Mapping[str, UnitMask]
    surgery: Surgery
    lesions: tuple[Lesion, ...]
    materials: Materials
    reading: Reading
    drawing: Drawing
    leaks: Mapping[str, int]
    allow_overlap: bool = False

    def carry_out(
        self, subject: Subject, out_dir: Path, *, overwrite: bool = False, progress: bool | None = None
    ) -> tuple[Results, dict[str, Any]]:
        """Score what is not scored yet.

        Returns `results` every state of the model with what was measured in it.
        """
        self._check_model(subject)
        exam = Exam.prepare(subject, self.materials.texts, self.materials.questions, self.reading)
        drawn, means = self._draw(subject)
        conditions = [Condition(), *self._conditions(drawn, means)]
        common = self._common(subject)
        keys = {condition.key(common): condition for condition in reversed(conditions)}
        if overwrite:
            forget(out_dir)
        ledger = Ledger.open(out_dir / RUNS)
        _run_all(exam, ledger, dict(reversed(keys.items())), progress=progress)
        rows = [(condition, ledger.rows[condition.key(common)]) for condition in conditions]
        return Results(self.lesions, tuple(rows), self.drawing.kind, drawn), self._told(exam, drawn)

    def _check_model(self, subject: Subject) -> None:
        """Refuse a model that predicts nothing, and masks of other models."""
        if not subject.causal:
            raise LesionError(
                f"{subject.identity.name} does not predict the next token, so it has no perplexity; use a causal model"
            )
        own = subject.describe()
        for name, mask in self.masks.items():
            check_same_model(mask.provenance, own | {"Site": mask.space.site}, (name, "the model"))
            with lesioned(subject.model, mask):  # refuses places that the model does not have
                pass

    def _draw(self, subject: Subject) -> tuple[dict[str, Controls], dict[UnitSpace, NDArray[np.float64]]]:
        """Random masks of every lesion, and mean activations where they are needed."""
        shown, drawing, batch_size = self.materials.averaged, self.drawing, self.reading.batch_size
        strength: dict[UnitSpace, NDArray[np.float64]] = {}
        means: dict[UnitSpace, NDArray[np.float64]] = {}
        for space in dict.fromkeys(one.mask.space for one in self.lesions):
            if drawing.kind == "matched" and drawing.n_controls:
                strength[space] = mean_activations(subject, shown, space, absolute=True, batch_size=batch_size)
            if self.surgery.method.needs_means:
                means[space] = mean_activations(subject, shown, space, batch_size=batch_size)
        kind = drawing.kind if drawing.n_controls else "layer"
        drawn = {
            one.name: draw_controls(
                one.mask, drawing.n_controls, kind=kind, strength=strength.get(one.mask.space), seed=drawing.seed
            )
            for one in self.lesions
        }
        return {one.name: _worth_it(one, drawn[one.name]) for one in self.lesions}, means

    def _conditions(
        self, drawn: Mapping[str, Controls], means: Mapping[UnitSpace, NDArray[np.float64]]
    ) -> Iterator[Condition]:
        """Every lesion and its controls."""
        for one in self.lesions:
            level = means.get(one.mask.space)
            for number, mask in [(None, one.mask), *enumerate(drawn[one.name].masks)]:
                yield Condition(one.name, number, mask, one.surgery, level)

    def _common(self, subject: Subject) -> str:
        """Hash of what the scores of all states depend on."""
        model, reading = subject.describe(), self.reading
        shown = [[one.name, one.sha256] for one in self.materials.files]
        whole = ["\0".join(text.documents) for text in self.materials.texts]
        documents = [hashlib.sha256(text.encode()).hexdigest() for text in whole]
        settings = [reading.window, reading.stride, reading.answers, reading.new_tokens, reading.generations]
        parts = [model["WeightsSHA256"], model["Dtype"], shown, documents, settings, reading.batch_size]
        return hash_parts(*parts)

    def _told(self, exam: Exam, drawn: Mapping[str, Controls]) -> dict[str, Any]:
        """What the sidecar says of the study."""
        materials = self.materials
        return {
            **exam.subject.describe(),
            "Masks": [_about_mask(name, mask, self.leaks[name]) for name, mask in self.masks.items()],
            "Lesions": [_about_lesion(one, drawn[one.name]) for one in self.lesions],
            "Texts": [_about_material(one, exam) for one in materials.texts],
            "Tasks": [_about_material(one, exam) for one in materials.questions],
            "Method": str(self.surgery),
            "Keep": self.surgery.keep,
            "Positions": self.surgery.positions,
            "Controls": self.drawing.to_json(),
            "ActivationOver": materials.reference.name if materials.reference else "what is scored",
            "AllowOverlap": self.allow_overlap,
            "Settings": asdict(self.reading),
        }


def _worth_it(lesion: Lesion, drawn: Controls) -> Controls:
    """Controls that can say something; what they cannot match is warned about."""
    if drawn.masks and all((one.selected == lesion.mask.selected).all() for one in drawn.masks):
        logger.warning("%s takes so many units that no others are left: it has no random masks", lesion.name)
        return replace(drawn, masks=())
    if drawn.masks and drawn.own:
        logger.warning(
            "%s takes more than half of %s: there, its random masks hold units of its own, which makes them alike",
            lesion.name,
            ", ".join(drawn.own),
        )
    strength, others = drawn.activation, drawn.control_activation
    if strength is not None and others is not None and drawn.masks and abs(strength - others) > _FAR * others:
        logger.warning(
            "%s is not matched in activation: mean absolute activation %.3g, of its random masks %.3g",
            lesion.name,
            strength,
            others,
        )
    return drawn


def _run_all(exam: Exam, ledger: Ledger, keys: Mapping[str, Condition], *, progress: bool | None) -> None:
    """Score what is not scored yet, one state after the other."""
    missing = dict(ledger.missing(keys))
    with progress_bar("runs", len(keys), done=len(keys) - len(missing), visible=progress) as bar:
        for key, condition in missing.items():
            bar.set_description(condition.name or "intact")
            changed = condition.changed(exam.subject.model)
            row: dict[str, Any] = {
                "key": key,
                "mask": condition.name,
                "control": condition.control,
                "values": exam.take(changed),
            }
            if condition.control is None:
                row["continued"] = exam.continued(changed)
            ledger.add(row)
            bar.update()


def _about_mask(name: str, mask: UnitMask, n_leaks: int) -> dict[str, Any]:
    """What the sidecar says of a mask."""
    return {
        "Name": name,
        "File": mask.provenance.get(MASK_FILE, name),
        "Units": mask.n_selected,
        "UnitSpace": mask.space.to_json(),
        "SelectedSHA256": _sha256(mask),
        "Provenance": {key: value for key, value in mask.provenance.items() if key != MASK_FILE},
        "StimuliKnown": bool(known_texts(mask.provenance)),
        "StimuliInScoredTexts": n_leaks,
    }


def _about_lesion(lesion: Lesion, drawn: Controls) -> dict[str, Any]:
    """What the sidecar says of a lesion and its controls."""
    return {
        "Name": lesion.name,
        "Masks": list(lesion.of),
        "Method": str(lesion.surgery),
        "Units": lesion.mask.n_selected,
        "ShareOfUnits": lesion.share,
        "SelectedSHA256": _sha256(lesion.mask),
        "MeanActivation": drawn.activation,
        "MeanActivationOfControls": drawn.control_activation,
        "ControlsMayHoldOwnUnitsAt": list(drawn.own),
        "DistinctControls": len({one.selected.tobytes() for one in drawn.masks}),
    }


def _sha256(mask: UnitMask) -> str:
    """Hash of which units are chosen."""
    return hashlib.sha256(np.packbits(mask.selected).tobytes()).hexdigest()


def _about_material(material: Text | Questions, exam: Exam) -> dict[str, Any]:
    """What the sidecar says of a file that was scored."""
    return {
        "Name": material.name,
        "File": material.file or material.name,
        "SHA256": material.sha256,
        **exam.sizes()[material.name],
    }
