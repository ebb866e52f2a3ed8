"""Whose units are meant: what says which model a file is of, and refusing to pair units of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm2bids.errors import MaskError

if TYPE_CHECKING:
    from collections.abc import Mapping

IDENTITY = ("Model", "Revision", "WeightsSHA256", "Dtype", "Site")
"""Keys of a provenance that say whose units are meant."""


def check_same_model(
    one: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str] = ("the mask", "the model")
) -> None:
    """Refuse to pair units of two models.

    Weights decide where both are known, so that one model under two names is one; else name and revision do. What is
    unknown on one side is taken to agree.

    `one`, `other`: provenance of a mask, object ``Llm2bids`` of a sidecar, or a model's own description.

    >>> check_same_model({"Model": "gpt2", "Site": "mlp"}, {"Model": "gpt2", "Revision": "main"})
    >>> check_same_model({"Model": "gpt2"}, {"Model": "opt"}, ("a.tsv", "b.tsv"))
    Traceback (most recent call last):
    ...
    llm2bids.errors.MaskError: a.tsv is of model gpt2 and b.tsv of model opt; use files of one model and site
    """
    both = {key for key in IDENTITY if one.get(key) is not None and other.get(key) is not None}
    decisive = {"WeightsSHA256"} & both or {"Model", "Revision"} & both
    if any(one[key] != other[key] for key in decisive | ({"Site"} & both)):
        raise MaskError(
            f"{names[0]} is of {model_text(one)} and {names[1]} of {model_text(other)}; use files of one model and site"
        )


def model_text(fields: Mapping[str, Any]) -> str:
    """Say which model is meant.

    Returns name, revision, start of the weights' hash, and site.
    """
    details = [str(fields["Revision"])] if fields.get("Revision") else []
    if fields.get("WeightsSHA256"):
        details.append(f"weights {str(fields['WeightsSHA256'])[:12]}")
    model = f"model {fields.get('Model') or 'unknown'}" + (f" ({', '.join(details)})" if details else "")
    return f"{model}, site {fields['Site']}" if fields.get("Site") else model
