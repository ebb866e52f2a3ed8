"""Which model the units of a file belong to, and the check that two files belong to the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm2bids.errors import MaskError

if TYPE_CHECKING:
    from collections.abc import Mapping

IDENTITY = ("Model", "Revision", "WeightsSHA256", "Dtype", "Site")
"""Keys of a provenance that say whose units are meant."""


def check_same_model(
    first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str] = ("the mask", "the model")
) -> None:
    """Raise if two descriptions are of two models, or of two sites.

    The weights decide where both are known, so that one model under two names is the same; else name and revision do.
    What one side does not say is taken to agree.

    `first`, `second`: provenance of a mask, object ``Llm2bids`` of a sidecar, or a model's own description.

    >>> check_same_model({"Model": "gpt2", "Site": "mlp"}, {"Model": "gpt2", "Revision": "main"})
    >>> check_same_model({"Model": "gpt2"}, {"Model": "opt"}, ("a.tsv", "b.tsv"))
    Traceback (most recent call last):
    ...
    llm2bids.errors.MaskError: a.tsv is of model gpt2 and b.tsv of model opt; use files of one model and site
    """
    shared = {key for key in IDENTITY if first.get(key) is not None and second.get(key) is not None}
    decisive = {"WeightsSHA256"} & shared or {"Model", "Revision"} & shared
    if any(first[key] != second[key] for key in decisive | ({"Site"} & shared)):
        raise MaskError(
            f"{names[0]} is of {model_text(first)} and {names[1]} of {model_text(second)}; "
            "use files of one model and site"
        )


def model_text(fields: Mapping[str, Any]) -> str:
    """Describe a model in words: name, revision, start of the weights' hash, and site."""
    details = [str(fields["Revision"])] if fields.get("Revision") else []
    if fields.get("WeightsSHA256"):
        details.append(f"weights {str(fields['WeightsSHA256'])[:12]}")
    model = f"model {fields.get('Model') or 'unknown'}" + (f" ({', '.join(details)})" if details else "")
    return f"{model}, site {fields['Site']}" if fields.get("Site") else model
