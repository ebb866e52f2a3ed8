"""How far long work is: one bar for all verbs, hidden where nobody looks."""

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
    shown: bool | None = None,
) -> tqdm[Any]:
    """Show how far work is.

    >>> with progress_bar("runs", 2, over=["one", "other"], shown=False) as bar:
    ...     list(bar)
    ['one', 'other']
    """
    hidden = None if shown is None else not shown
    return tqdm(over, name, total, unit=f" {unit}", initial=done, disable=hidden, dynamic_ncols=True)
