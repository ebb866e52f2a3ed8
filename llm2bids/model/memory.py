"""Errors of a device that runs out of memory, turned into advice."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import torch

from llm2bids.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MESSAGES: Final = (
    "out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
"""Messages of torch where it has no exception of its own: on Apple's devices, and on CPUs (Linux, macOS, Windows)."""


@contextmanager
def explain_memory_errors(batch_size: int | None = None) -> Iterator[None]:
    """Raise `ModelError` with advice where torch runs out of memory.

    >>> with explain_memory_errors(8):
    ...     raise torch.OutOfMemoryError("CUDA out of memory")
    Traceback (most recent call last):
    ...
    llm2bids.errors.ModelError: too little memory on the device for 8 texts at a time; lower `batch_size`, use \
dtype="bfloat16" or device="cpu", or spread the model with device_map="auto" (record, lesion)
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not typed and not any(message in str(error) for message in _MESSAGES):
            raise
        texts, advice = (f" for {batch_size} texts at a time", "lower `batch_size`, ") if batch_size else ("", "")
        raise ModelError(
            f'too little memory on the device{texts}; {advice}use dtype="bfloat16" or device="cpu", or spread the '
            'model with device_map="auto" (record, lesion)'
        ) from error
