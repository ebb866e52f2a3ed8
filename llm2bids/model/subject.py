"""What ``--model`` may be: the phantom, a folder, a hub id, or a model in memory."""

from __future__ import annotations

from llm2bids.model.loading import Subject, load_subject
from llm2bids.model.phantom import build_phantom


def subject_of(
    model: str | Subject,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
) -> Subject:
    """Have the model that was asked for, ready for the scanner.

    `model`: ``"phantom"``, a folder made by ``save_pretrained``, a hub id, or a model in memory, for which the other
    arguments mean nothing.

    >>> subject_of("phantom").identity.name
    'phantom'
    """
    if isinstance(model, Subject):
        return model
    if model == "phantom":
        return build_phantom(revision=revision, device=device, dtype=dtype, device_map=device_map)
    return load_subject(
        model,
        revision=revision,
        device=device,
        dtype=dtype,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
    )
