"""Model × mask → a smaller model: units taken out, saved so that ``from_pretrained`` alone loads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig

from llm2bids.bids.history import noted_call
from llm2bids.bids.provenance import generated_by
from llm2bids.errors import PruneError
from llm2bids.lesioning.evaluation import read_text
from llm2bids.masks import load_mask
from llm2bids.masks.files import file_sha256
from llm2bids.model.lesions import lesion, mean_activations
from llm2bids.model.loading import load_pretrained
from llm2bids.model.memory import explain_memory_errors
from llm2bids.model.scoring import measure_surprisal, split_texts
from llm2bids.model.subject import load
from llm2bids.pruning.output import REPORT, check_folder, describe_model, published, write_model
from llm2bids.pruning.surgery import count_zeroed, cut_model, plan_cut
from llm2bids.space import UnitMask
from llm2bids.space.identity import check_same_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from llm2bids.lesioning.evaluation import Text
    from llm2bids.model.loading import Subject
    from llm2bids.pruning.surgery import Cut

__all__ = ["REPORT", "Pruned", "prune"]

_EXACT, _ROUGH = 1e-3, 5e-2
"""Difference of logits that is rounding, relative to the largest: in single precision, and in half precision."""


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """A smaller model that was written.

    Parameters
    ----------
    folder : Path
        Where; ``AutoModelForCausalLM.from_pretrained`` loads it.
    report : dict
        What ``llm2bids_prune.json`` in it says.
    """

    folder: Path
    report: dict[str, Any]


def _wrote(pruned: Pruned, _asked: Mapping[str, Any]) -> tuple[Path, list[Path]]:
    """All files of the smaller model, whose folder is new."""
    return pruned.folder, [path for path in pruned.folder.rglob("*") if path.is_file()]


@noted_call("prune", _wrote)
def prune(  # noqa: PLR0913 - the arguments of the command
    model: str | Subject,
    mask: str | Path | UnitMask,
    out: str | Path,
    *,
    like: str | Path | None = None,
    keep: bool = False,
    protect_first: int = 0,
    protect_last: int = 0,
    pad: bool = False,
    compensate_bias: bool = False,
    text: str | Path | None = None,
    batch_size: int = 8,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    overwrite: bool = False,
) -> Pruned:
    """Take units out of a model and save what is left as a smaller model.

    Parameters
    ----------
    model : str or Subject
        ``"phantom"``, a folder made by ``save_pretrained``, a hub id, or a model in memory, which stays as it is.
    mask : path-like or UnitMask
        Neurons or heads to take out: a mask of site ``neuron`` or ``head``.
    out : path-like
        Folder to write.
    like : path-like, optional
        Says which voxel is which unit, for masks of other programs.
    keep : bool
        Whether the mask holds the units to keep, and all others go.
    protect_first, protect_last : int
        Blocks at either end that lose nothing.
    pad : bool
        Write the model also where it cannot be made smaller, with all units that are to go set to 0.
    compensate_bias : bool
        Add what the units contributed on average over `text` to the biases of the maps that read them.
    text : path-like, optional
        Text file: perplexity before and after is reported on it.
    batch_size : int
        Windows of text in the model at a time.
    revision : str, optional
        Branch, tag or commit of the hub.
    device, dtype : str
        ``"auto"`` or a name of torch. The smaller model is saved in this precision; with auto in that of the files.
    trust_remote_code : bool
        Whether code that comes with the model may run.
    overwrite : bool
        Replace a model that `prune` wrote there.

    Returns
    -------
    Pruned
        The folder and the report, which says how many parameters went and how many were set to 0.

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
    out = Path(out)
    check_folder(out, overwrite=overwrite)
    material = _material(text, needed=compensate_bias)
    network = mask if isinstance(mask, UnitMask) else load_mask(mask, like)
    subject = load(model, revision=revision, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    check_same_model(network.provenance, {**subject.describe(), "Site": network.space.site})
    _check_can_read(subject, material)
    going = _going(network, keep=keep, first=protect_first, last=protect_last)
    cut = _plan(subject, going, biased=compensate_bias, pad=pad)
    means = None
    if compensate_bias and material is not None:
        means = mean_activations(subject, material.documents, going.space, batch_size=batch_size)
    with explain_memory_errors(), published(out) as stage:
        shrunk = cut_model(subject.model, cut, means)
        if dtype == "auto" and isinstance(model, str) and model != "phantom":
            shrunk = shrunk.to(_stored_dtype(model, subject, revision, trust_remote_code=trust_remote_code))
        write_model(subject, shrunk, stage)
        smaller = load_pretrained(
            str(stage), device=str(subject.device), dtype=subject.dtype, trust_remote_code=trust_remote_code
        )
        _check_equal(subject, smaller, cut, means)
        report = _report(subject, smaller, cut, means) | {
            "Mask": _mask_fields(mask, network),
            "Keep": keep,
            "Protected": {"First": protect_first, "Last": protect_last},
        }
        if material is not None:
            report["Perplexity"] = _perplexities(subject, smaller, material, batch_size)
        describe_model(stage, out.name, report)
    return Pruned(out, report)


def _material(text: str | Path | None, *, needed: bool) -> Text | None:
    """The text to score and to average over, if there is one."""
    if needed and text is None:
        raise PruneError("--compensate-bias without texts found; give the file to average over with --text")
    return None if text is None else read_text(Path(text))


def _check_can_read(subject: Subject, material: Text | None) -> None:
    """Refuse perplexity of a model that predicts no next token."""
    if material is not None and not subject.causal:
        raise PruneError(f"{subject.identity.name} does not predict the next token; leave --text out")


def _going(network: UnitMask, *, keep: bool, first: int, last: int) -> UnitMask:
    """The units to take out: those of the mask or all others, outside protected blocks."""
    n_blocks = network.space.n_hookpoints
    if min(first, last) < 0 or first + last >= n_blocks:
        raise PruneError(f"{first} first and {last} last blocks of {n_blocks} protected; leave one at least")
    open_blocks = np.zeros(n_blocks, bool)
    open_blocks[first : n_blocks - last] = True
    wanted = ~network.selected if keep else network.selected
    return UnitMask(network.space, wanted & open_blocks.repeat(network.space.n_channels), network.provenance)


def _plan(subject: Subject, going: UnitMask, *, biased: bool, pad: bool) -> Cut:
    """What becomes of the units; refused where nothing gets smaller, unless that is wanted."""
    with explain_memory_errors():
        cut = plan_cut(subject.model, going, biased=biased)
    if cut.obstacle and not pad:
        raise PruneError(
            f"nothing can be removed, only set to 0: {cut.obstacle}; write it at full size with --pad, or use lesion"
        )
    return cut


def _check_equal(subject: Subject, smaller: Subject, cut: Cut, means: NDArray[np.float64] | None) -> None:
    """Refuse a smaller model that does not compute what the lesioned one does."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(subject.n_embedded, (2, 8), generator=generator).to(subject.device)
    shown = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    method = "zero" if means is None else "mean"
    with torch.inference_mode():
        with lesion(subject.model, cut.silenced, method, means=means):
            wanted = subject.model(**shown)[0].float()
        found = smaller.model(**shown)[0].float()
    tolerance = _EXACT if subject.model.dtype == torch.float32 else _ROUGH
    if not (found - wanted).abs().max() <= tolerance * wanted.abs().max():
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


def _mask_fields(mask: str | Path | UnitMask, network: UnitMask) -> dict[str, Any]:
    """Which mask it was, for the report."""
    file = {} if isinstance(mask, UnitMask) else {"File": Path(mask).name, "FileSHA256": file_sha256(Path(mask))}
    return {
        **file,
        "Units": network.n_selected,
        "UnitSpace": network.space.to_json(),
        "Provenance": dict(network.provenance),
    }


def _perplexities(subject: Subject, smaller: Subject, material: Text, batch_size: int) -> dict[str, Any]:
    """Perplexity on a text before and after, for the report."""
    before, after = (_perplexity(one, material, batch_size) for one in (subject, smaller))
    return {"Text": material.name, "TextSHA256": material.sha256, "Before": before, "After": after}


def _perplexity(subject: Subject, material: Text, batch_size: int) -> float:
    """Two to the mean surprisal, in bits, of the tokens of a text."""
    found = measure_surprisal(subject, split_texts(subject, material.documents), batch_size=batch_size)
    return float(2 ** (found.bits.sum() / found.n_tokens.sum()))


def _stored_dtype(name: str, subject: Subject, revision: str | None, *, trust_remote_code: bool) -> torch.dtype:
    """Precision of a model's files; on a CPU it is loaded in a higher one."""
    config = AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=trust_remote_code)
    found = config.get_text_config().dtype
    return found if isinstance(found, torch.dtype) else subject.model.dtype
