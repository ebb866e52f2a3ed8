"""Work of transformers without its progress bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


def quietly(work: Callable[[], Result]) -> Result:
    """Read or write files without the progress bars of transformers, which are shown again afterwards."""
    enabled = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        return work()
    finally:
        if enabled:
            enable_progress_bar()
