"""A lesion study: the states of the model that lesions and random masks make, and all of them scored."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llm2bids.bids.provenance import hash_parts
from llm2bids.errors import LesionError
from llm2bids.lesioning.controls import draw_controls
from llm2bids.lesioning.evaluation import Evaluation, stimulus_hashes
from llm2bids.lesioning.output import RUNS, RunLog, remove_results
from llm2bids.lesioning.plan import Surgery
from llm2bids.lesioning.scores import INTACT, StudyResults
from llm2bids.model.lesions import Method, mean_activations
from llm2bids.model.lesions import lesion as lesioned
from llm2bids.progress import progress_bar
from llm2bids.space.identity import check_same_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from llm2bids.lesioning.controls import Controls
    from llm2bids.lesioning.evaluation import Materials, TaskFile, Text
    from llm2bids.lesioning.plan import Lesion
    from llm2bids.lesioning.settings import LesionOptions
    from llm2bids.model.loading import Subject
    from llm2bids.model.scoring import Intervention
    from llm2bids.space import UnitMask, UnitSpace

logger = logging.getLogger(__name__)

MASK_FILE: Final = "LesionMaskFile"
"""Key of a mask's provenance that holds the name of its file during a study."""
_FAR: Final = 0.25
"""Part by which the activation of a lesion and its random masks may differ without a warning."""


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """A state of the model.

    - `name`: of the lesion; empty for the intact model.
    - `control`: number of the random mask; None for the lesion itself.
    - `mask`: units; None for the intact model.
    - `surgery`: what is done to them.
    - `means` (n_units,): mean activation of all units, where the method needs it.
    """

    name: str = INTACT
    control: int | None = None
    mask: UnitMask | None = None
    surgery: Surgery = field(default_factory=Surgery)
    means: NDArray[np.float64] | None = None

    def intervention(self, model: PreTrainedModel) -> Intervention | None:
        """Make the function that brings the model into this state for a batch; None for the intact model."""
        mask, surgery = self.mask, self.surgery
        if mask is None:
            return None

        def enter(n_prompt: list[int]) -> AbstractContextManager[None]:
            return lesioned(
                model,
                mask,
                surgery.method,
                keep=surgery.keep,
                positions=surgery.positions,
                means=self.means,
                n_prompt=n_prompt,
            )

        return enter

    def key(self, shared: str) -> str:
        """Hash all that the scores of this state depend on; `shared` is the hash of what those of all states do."""
        digest = hashlib.sha256(shared.encode())
        if self.control is None:
            digest.update(b"continued")  # rows of random masks hold no continuations
        if self.mask is not None:
            digest.update(json.dumps([self.mask.space.to_json(), str(self.surgery)], sort_keys=True).encode())
            digest.update(np.packbits(self.mask.selected).tobytes())
        if self.means is not None:
            digest.update(self.means.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class LesionStudy:
    """What is done to a model and what it is scored on: all that is known before a model is loaded.

    - `masks`: masks by name.
    - `surgery`, `lesions`: what is done to units, and to which.
    - `materials`: what is scored.
    - `leaks`: by name of a mask, how many texts that defined it are scored all the same.
    - `options`: how the materials are put to the model, how random masks are drawn, and whether leaks are allowed.
    """

    masks: Mapping[str, UnitMask]
    surgery: Surgery
    lesions: tuple[Lesion, ...]
    materials: Materials
    leaks: Mapping[str, int]
    options: LesionOptions

    def run(self, subject: Subject) -> tuple[StudyResults, dict[str, Any]]:
        """Score every state that is not scored yet; returns the results and the metadata for the sidecar."""
        self._check_model(subject)
        evaluation = Evaluation.prepare(subject, self.materials.texts, self.materials.tasks, self.options)
        controls, means = self._draw(subject)
        conditions = [Condition(), *self._conditions(controls, means)]
        shared = self._hash_shared(subject)
        # states with the same key are scored once; filled backwards, the dict holds the first of them
        keys = {condition.key(shared): condition for condition in reversed(conditions)}
        if self.options.overwrite:
            remove_results(self.options.home)
        log = RunLog.open(self.options.home / RUNS)
        _score_missing(evaluation, log, dict(reversed(keys.items())), progress=self.options.progress)
        rows = [((condition.name, condition.control), log.rows[condition.key(shared)]) for condition in conditions]
        results = StudyResults(self.lesions, tuple(rows), self.options.control, controls)
        return results, self._describe(evaluation, controls)

    def _check_model(self, subject: Subject) -> None:
        """Raise if the model predicts no next token, or if a mask is of another model."""
        if not subject.causal:
            raise LesionError(
                f"{subject.identity.name} does not predict the next token, so it has no perplexity; use a causal model"
            )
        description = subject.describe()
        for name, mask in self.masks.items():
            check_same_model(mask.provenance, description | {"Site": mask.space.site}, (name, "the model"))
            with lesioned(subject.model, mask):  # raises if the model has no such hookpoints
                pass

    def _draw(self, subject: Subject) -> tuple[dict[str, Controls], dict[UnitSpace, NDArray[np.float64]]]:
        """Random masks of every lesion, and mean activations where the method needs them."""
        texts, options = self.materials.averaged, self.options
        strength: dict[UnitSpace, NDArray[np.float64]] = {}
        means: dict[UnitSpace, NDArray[np.float64]] = {}
        for space in dict.fromkeys(lesion.mask.space for lesion in self.lesions):
            if options.control == "matched" and options.controls:
                strength[space] = mean_activations(subject, texts, space, absolute=True, batch_size=options.batch_size)
            if Method.parse(self.surgery.method).needs_means:
                means[space] = mean_activations(subject, texts, space, batch_size=options.batch_size)
        kind = options.control if options.controls else "layer"  # without random masks no activations are needed
        controls = {
            lesion.name: draw_controls(
                lesion.mask,
                options.controls,
                kind=kind,
                strength=strength.get(lesion.mask.space),
                seed=options.seed,
            )
            for lesion in self.lesions
        }
        return {lesion.name: _usable_controls(lesion, controls[lesion.name]) for lesion in self.lesions}, means

    def _conditions(
        self, controls: Mapping[str, Controls], means: Mapping[UnitSpace, NDArray[np.float64]]
    ) -> Iterator[Condition]:
        """Every lesion, followed by its random masks."""
        for lesion in self.lesions:
            level = means.get(lesion.mask.space)
            for number, mask in [(None, lesion.mask), *enumerate(controls[lesion.name].masks)]:
                yield Condition(lesion.name, number, mask, lesion.surgery, level)

    def _hash_shared(self, subject: Subject) -> str:
        """Hash what the scores of all states depend on: the model, the materials and how they are put to it."""
        model, options = subject.describe(), self.options
        files = [[file.name, file.sha256] for file in self.materials.files]
        contents = ["\0".join(text.documents) for text in self.materials.texts]
        documents = [hashlib.sha256(content.encode()).hexdigest() for content in contents]
        fields = [options.window, options.stride, options.answers, options.new_tokens, options.generations]
        parts = [model["WeightsSHA256"], model["Dtype"], files, documents, fields, options.batch_size]
        return hash_parts(*parts)

    def _describe(self, evaluation: Evaluation, controls: Mapping[str, Controls]) -> dict[str, Any]:
        """Metadata of the study for the sidecar."""
        materials = self.materials
        return {
            **evaluation.subject.describe(),
            "Masks": [_describe_mask(name, mask, self.leaks[name]) for name, mask in self.masks.items()],
            "Lesions": [_describe_lesion(lesion, controls[lesion.name]) for lesion in self.lesions],
            "Texts": [_describe_file(text, evaluation) for text in materials.texts],
            "Tasks": [_describe_file(task, evaluation) for task in materials.tasks],
            "Method": str(self.surgery),
            "Keep": self.surgery.keep,
            "Positions": self.surgery.positions,
            "Controls": {"Kind": self.options.control, "Number": self.options.controls, "Seed": self.options.seed},
            "ActivationOver": materials.reference.name if materials.reference else "what is scored",
            "AllowOverlap": self.options.allow_overlap,
            "Settings": self.options.to_json(),
        }


def _usable_controls(lesion: Lesion, controls: Controls) -> Controls:
    """Random masks that differ from the lesion; warns of what they do not match."""
    if controls.masks and all((mask.selected == lesion.mask.selected).all() for mask in controls.masks):
        logger.warning("%s takes so many units that no others are left: it has no random masks", lesion.name)
        return replace(controls, masks=())
    if controls.masks and controls.crowded:
        logger.warning(
            "%s takes more than half of %s: there, its random masks hold units of its own, which makes them alike",
            lesion.name,
            ", ".join(controls.crowded),
        )
    activation, random = controls.activation, controls.control_activation
    if activation is not None and random is not None and controls.masks and abs(activation - random) > _FAR * random:
        logger.warning(
            "%s is not matched in activation: mean absolute activation %.3g, of its random masks %.3g",
            lesion.name,
            activation,
            random,
        )
    return controls


def _score_missing(
    evaluation: Evaluation, log: RunLog, conditions: Mapping[str, Condition], *, progress: bool | None
) -> None:
    """Score the states that are not in the log yet, one after the other."""
    missing = {key: condition for key, condition in conditions.items() if key not in log.rows}
    with progress_bar("runs", len(conditions), done=len(conditions) - len(missing), visible=progress) as bar:
        for key, condition in missing.items():
            bar.set_description(condition.name or "intact")
            intervention = condition.intervention(evaluation.subject.model)
            row: dict[str, Any] = {
                "key": key,
                "mask": condition.name,
                "control": condition.control,
                "values": evaluation.score(intervention),
            }
            if condition.control is None:
                row["continued"] = evaluation.continue_excerpts(intervention)
            log.add(row)
            bar.update()


def _describe_mask(name: str, mask: UnitMask, n_leaks: int) -> dict[str, Any]:
    """A mask for the sidecar."""
    return {
        "Name": name,
        "File": mask.provenance.get(MASK_FILE, name),
        "Units": mask.n_selected,
        "UnitSpace": mask.space.to_json(),
        "SelectedSHA256": _sha256(mask),
        "Provenance": {key: value for key, value in mask.provenance.items() if key != MASK_FILE},
        "StimuliKnown": bool(stimulus_hashes(mask.provenance)),
        "StimuliInScoredTexts": n_leaks,
    }


def _describe_lesion(lesion: Lesion, controls: Controls) -> dict[str, Any]:
    """A lesion and its random masks for the sidecar."""
    return {
        "Name": lesion.name,
        "Masks": list(lesion.masks),
        "Method": str(lesion.surgery),
        "Units": lesion.mask.n_selected,
        "ShareOfUnits": lesion.share,
        "SelectedSHA256": _sha256(lesion.mask),
        "MeanActivation": controls.activation,
        "MeanActivationOfControls": controls.control_activation,
        "ControlsMayHoldOwnUnitsAt": list(controls.crowded),
        "DistinctControls": len({mask.selected.tobytes() for mask in controls.masks}),
    }


def _sha256(mask: UnitMask) -> str:
    """Hash of which units are chosen."""
    return hashlib.sha256(np.packbits(mask.selected).tobytes()).hexdigest()


def _describe_file(material: Text | TaskFile, evaluation: Evaluation) -> dict[str, Any]:
    """A file that was scored, for the sidecar."""
    return {
        "Name": material.name,
        "File": material.file or material.name,
        "SHA256": material.sha256,
        **evaluation.sizes()[material.name],
    }
