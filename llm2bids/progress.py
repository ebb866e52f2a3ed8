"""The progress bar of all verbs; hidden where output is no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterable


def progress_bar(
    unit: str,
    total: int,
    name: str | None = None,
    over: Iterable[Any] | None = None,
    done: int = 0,
    *,
    visible: bool | None = None,
) -> tqdm[Any]:
    """Show a progress bar.

    >>> with progress_bar("runs", 2, over=["first", "second"], visible=False) as bar:
    ...     list(bar)
    ['first', 'second']
    """
    hidden = None if visible is None else not visible
    return tqdm(over, name, total, unit=f" {unit}", initial=done, disable=hidden, dynamic_ncols=True)
