"""`prune`: takes units out of a model and saves what is left as a smaller model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig

from llm2bids.bids.history import noted
from llm2bids.bids.provenance import generated_by
from llm2bids.errors import PruneError
from llm2bids.lesioning.evaluation import read_text
from llm2bids.masks import load_mask
from llm2bids.masks.files import file_sha256
from llm2bids.model.lesions import lesion, mean_activations
from llm2bids.model.loading import load_pretrained
from llm2bids.model.memory import explain_memory_errors
from llm2bids.model.scoring import measure_surprisal, split_texts
from llm2bids.model.smollm2 import SMOLLM2
from llm2bids.model.subject import load
from llm2bids.options import takes
from llm2bids.pruning.output import check_folder, describe_model, published, write_model
from llm2bids.pruning.settings import PruneOptions
from llm2bids.pruning.surgery import count_zeroed, cut_model, plan_cut
from llm2bids.space import UnitMask
from llm2bids.space.identity import check_same_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llm2bids.lesioning.evaluation import Text
    from llm2bids.model.loading import Subject
    from llm2bids.pruning.surgery import Cut

__all__ = ["PrunedModel", "prune"]

_FULL_PRECISION, _HALF_PRECISION = 1e-3, 5e-2
"""Largest difference of logits that is rounding, relative to the largest logit."""


@dataclass(frozen=True, slots=True, eq=False)
class PrunedModel:
    """A smaller model that was written.

    Parameters
    ----------
    folder : Path
        Where it is; ``AutoModelForCausalLM.from_pretrained`` loads it.
    report : dict
        Content of ``llm2bids_prune.json`` in it.
    files : tuple of Path
        All files of the model.
    """

    folder: Path
    report: dict[str, Any]
    files: tuple[Path, ...]

    def __repr__(self) -> str:
        """One line: how many parameters are left, and where the model is."""
        parameters = self.report["Parameters"]
        return f"<PrunedModel of {parameters['After']:,} parameters, {parameters['Before']:,} before: {self.folder}>"


@noted("prune")
@takes(PruneOptions)
def prune(options: PruneOptions) -> PrunedModel:
    """Take units out of a model and save what is left as a smaller model.

    Returns
    -------
    PrunedModel
        The folder, and the report, which says how many parameters went and how many were set to 0.

    Raises
    ------
    LLM2BIDSError
        If the mask is of another model or site, the architecture does not allow it, nothing would get smaller, or the
        folder is there. Nothing is left behind then.

    Notes
    -----
    The smaller model equals the model whose units are held at 0 (at their mean, with `compensate_bias`), to rounding;
    this is checked on what was written before it gets its name. A configuration has one width for all blocks: blocks
    that were to lose more than the others keep the rest in place with weights of 0, and the report says which.
    """
    check_folder(options.home, overwrite=options.overwrite)
    material = None if options.text is None else read_text(options.text)
    mask = options.mask if isinstance(options.mask, UnitMask) else load_mask(options.mask, options.like)
    subject = load(options.model, **options.loading)
    check_same_model(mask.provenance, {**subject.describe(), "Site": mask.space.site})
    if material is not None and not subject.causal:
        raise PruneError(f"{subject.identity.name} does not predict the next token; leave `text` out")
    silenced = _units_to_go(mask, options)
    cut = _plan(subject, silenced, biased=options.compensate_bias, pad=options.pad)
    means = None
    if options.compensate_bias and material is not None:
        means = mean_activations(subject, material.documents, silenced.space, batch_size=options.batch_size)
    with explain_memory_errors(), published(options.home) as stage:
        smaller = _write_smaller(subject, cut, means, options, stage)
        report = _report(subject, smaller, cut, means) | {
            "Mask": _describe_mask(options.mask, mask),
            "Keep": options.keep,
            "Protected": {"First": options.protect_first, "Last": options.protect_last},
        }
        if material is not None:
            report["Perplexity"] = _perplexities(subject, smaller, material, options.batch_size)
        describe_model(stage, options.home.name, report)
    files = tuple(sorted(path for path in options.home.rglob("*") if path.is_file()))
    return PrunedModel(options.home, report, files)


def _units_to_go(mask: UnitMask, options: PruneOptions) -> UnitMask:
    """The units to take out: those of the mask or all others, outside protected blocks."""
    n_blocks, first, last = mask.space.n_hookpoints, options.protect_first, options.protect_last
    if min(first, last) < 0 or first + last >= n_blocks:
        raise PruneError(f"{first} first and {last} last blocks of {n_blocks} protected; leave one at least")
    unprotected = np.zeros(n_blocks, bool)
    unprotected[first : n_blocks - last] = True
    chosen = ~mask.selected if options.keep else mask.selected
    return UnitMask(mask.space, chosen & unprotected.repeat(mask.space.n_channels), mask.provenance)


def _plan(subject: Subject, silenced: UnitMask, *, biased: bool, pad: bool) -> Cut:
    """Plan the cut; raises if nothing gets smaller, unless the model is padded."""
    with explain_memory_errors():
        cut = plan_cut(subject.model, silenced, biased=biased)
    if cut.obstacle and not pad:
        raise PruneError(
            f"nothing can be removed, only set to 0: {cut.obstacle}; write it at full size with pad=True, or use lesion"
        )
    return cut


def _write_smaller(
    subject: Subject, cut: Cut, means: NDArray[np.float64] | None, options: PruneOptions, stage: Path
) -> Subject:
    """Write the smaller model, load it again, and check that it computes what the lesioned model does."""
    shrunk = cut_model(subject.model, cut, means)
    named = isinstance(options.model, str | Path) and str(options.model) not in {"phantom", SMOLLM2}
    if options.dtype == "auto" and named:
        shrunk = shrunk.to(_stored_dtype(str(options.model), subject, options))
    write_model(subject, shrunk, stage)
    smaller = load_pretrained(
        str(stage), device=str(subject.device), dtype=subject.dtype, trust_remote_code=options.trust_remote_code
    )
    _check_equal(subject, smaller, cut, means)
    return smaller


def _check_equal(subject: Subject, smaller: Subject, cut: Cut, means: NDArray[np.float64] | None) -> None:
    """Raise if the smaller model does not compute what the lesioned one does, on 2 random texts of 8 tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(subject.n_embedded, (2, 8), generator=generator).to(subject.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    method = "zero" if means is None else "mean"
    with torch.inference_mode():
        with lesion(subject.model, cut.silenced, method, means=means):
            expected = subject.model(**inputs)[0].float()
        logits = smaller.model(**inputs)[0].float()
    tolerance = _FULL_PRECISION if subject.model.dtype == torch.float32 else _HALF_PRECISION
    if not (logits - expected).abs().max() <= tolerance * expected.abs().max():  # so that NaN does not pass
        raise PruneError(
            f"a smaller {type(subject.model).__name__} does not compute what the lesioned one does, so it was not "
            "written; this architecture cannot be pruned: use lesion instead"
        )


def _report(subject: Subject, smaller: Subject, cut: Cut, means: NDArray[np.float64] | None) -> dict[str, Any]:
    """What was done, for the file beside the model."""
    return {
        "GeneratedBy": generated_by(),
        "Source": subject.describe(),
        "WeightsSHA256": smaller.identity.weights_sha256,
        "Site": cut.silenced.space.site,
        "Settings": {name: list(pair) for name, pair in cut.settings.items()},
        "Parameters": {
            "Before": subject.model.num_parameters(),
            "After": smaller.model.num_parameters(),
            "Zeroed": count_zeroed(subject.model, cut),
        },
        "Units": {
            "Asked": cut.silenced.n_selected,
            "Removed": cut.removed.n_selected,
            "Zeroed": cut.silenced.n_selected - cut.removed.n_selected,
        },
        "Obstacle": cut.obstacle or None,
        "BiasCompensation": means is not None,
        "Hookpoints": cut.per_hookpoint(),
    }


def _describe_mask(source: str | Path | UnitMask, mask: UnitMask) -> dict[str, Any]:
    """The mask, for the report."""
    file = {} if isinstance(source, UnitMask) else {"File": Path(source).name, "FileSHA256": file_sha256(Path(source))}
    return {
        **file,
        "Units": mask.n_selected,
        "UnitSpace": mask.space.to_json(),
        "Provenance": dict(mask.provenance),
    }


def _perplexities(subject: Subject, smaller: Subject, material: Text, batch_size: int) -> dict[str, Any]:
    """Perplexity on a text before and after, for the report."""
    before, after = (_perplexity(model, material, batch_size) for model in (subject, smaller))
    return {"Text": material.name, "TextSHA256": material.sha256, "Before": before, "After": after}


def _perplexity(subject: Subject, material: Text, batch_size: int) -> float:
    """Two to the mean surprisal, in bits, of the tokens of a text."""
    surprisal = measure_surprisal(subject, split_texts(subject, material.documents), batch_size=batch_size)
    return float(2 ** (surprisal.bits.sum() / surprisal.n_tokens.sum()))


def _stored_dtype(name: str, subject: Subject, options: PruneOptions) -> torch.dtype:
    """Precision of a model's files; on a CPU it is loaded in a higher one."""
    revision = options.revision or "main"
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=options.trust_remote_code)
    dtype = config.get_text_config().dtype
    return dtype if isinstance(dtype, torch.dtype) else subject.model.dtype
