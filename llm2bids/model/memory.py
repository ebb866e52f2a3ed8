"""Where a device has too little memory: what the user is told."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import torch

from llm2bids.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEXTS: Final = (
    "out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
"""What torch says where it has no exception of its own: on Apple's devices, and on CPUs (Linux and macOS, Windows)."""


@contextmanager
def enough_memory(batch_size: int | None = None) -> Iterator[None]:
    """Say what to do where a device has too little memory.

    >>> with enough_memory(8):
    ...     raise torch.OutOfMemoryError("CUDA out of memory")
    Traceback (most recent call last):
    ...
    llm2bids.errors.ModelError: too little memory on the device for 8 texts at a time; lower --batch-size, use --dtype \
bfloat16 or --device cpu, or spread the model with --device-map auto (record, lesion)
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not any(text in str(error) for text in _TEXTS):
            raise
        texts, lower = (f" for {batch_size} texts at a time", "lower --batch-size, ") if batch_size else ("", "")
        raise ModelError(
            f"too little memory on the device{texts}; {lower}use --dtype bfloat16 or --device cpu, or spread the model "
            "with --device-map auto (record, lesion)"
        ) from error
