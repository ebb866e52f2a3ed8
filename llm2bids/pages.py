"""What all HTML pages share: one frame, tables, pictures inside. No page asks anything of the network."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from llm2bids.bids.tables import write_bytes
from llm2bids.bids.templates import template_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path


def save_page(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Write a page.

    Parameters
    ----------
    path : Path
        The file; an existing one is replaced.
    title : str
        Plain text, for the top of the page and of the window.
    parts : sequence of str
        What follows, as HTML.

    Returns
    -------
    Path
        The same file.
    """
    return write_bytes(path, template_text("page.html", title=escape(title), body="\n".join(parts)).encode())


def table_html(
    columns: Sequence[str],
    rows: Iterable[tuple[Sequence[str], str | None]],
    text: Collection[str] = (),
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """Lay out rows of text.

    Parameters
    ----------
    columns : sequence of str
        Names of the columns.
    rows : iterable of tuple
        Cells as plain text, and the place to which the first of them leads, if any: ``#anchor`` or a file.
    text : collection of str
        Columns that hold text, to be set to the left; numbers are set to the right.
    groups : sequence of tuple of str and int
        What stands above so many columns, from the left.

    Returns
    -------
    str
        HTML.

    Examples
    --------
    >>> table_html(["task", "units"], [(["a & b", "7"], None)], {"task"}).partition("<tbody>")[2]
    '<tr><td class="text">a &amp; b</td><td>7</td></tr></tbody></table>'
    """
    kinds = [' class="text"' if name in text else "" for name in columns]
    above = "".join(f'<th class="group" colspan="{span}">{escape(name)}</th>' for name, span in groups)
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(columns, kinds, strict=True))
    lines = []
    for row, target in rows:
        cells = [escape(cell) for cell in row]
        if target:
            cells[0] = f'<a href="{escape(target)}">{cells[0]}</a>'
        lines.append("".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(cells, kinds, strict=True)))
    heads = "".join(f"<tr>{line}</tr>" for line in (above, head) if line)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead>{heads}</thead><tbody>{body}</tbody></table>"


def figure_html(png: bytes, text: str, caption: str, *, wide: bool = False) -> str:
    """Put a picture inside a page.

    Parameters
    ----------
    png : bytes
        The picture.
    text : str
        What it shows, for who cannot see it.
    caption : str
        What stands below it.
    wide : bool
        Whether it is scrolled on a small screen instead of becoming too small to read.

    Returns
    -------
    str
        HTML.
    """
    kind = "picture wide" if wide else "picture"
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return (
        f'<figure><div class="{kind}"><img alt="{escape(text)}" src="{source}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
