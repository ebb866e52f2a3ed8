"""Building blocks of all HTML pages: the frame, panels, tables, embedded figures. Pages load nothing from elsewhere."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from llm2bids.bids.tables import write_bytes
from llm2bids.bids.templates import template_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Panel:
    """A section of a page that the table of contents links to.

    - `anchor`: unique on the page.
    - `html`: content below the title; may be empty.
    """

    anchor: str
    title: str
    html: str
    panels: tuple[Panel, ...] = ()

    def render(self, level: int = 2) -> str:
        r"""Render the section as HTML.

        >>> Panel("size", "Size & depth", "<p>7 units</p>").render()
        '<section><h2 id="size">Size &amp; depth</h2>\n<p>7 units</p></section>'
        """
        heading = f'<h{level} id="{escape(self.anchor)}">{escape(self.title)}</h{level}>'
        inner = "\n".join([heading, self.html, *(panel.render(level + 1) for panel in self.panels)])
        return f"<section>{inner}</section>"


def save_page(path: Path, title: str, parts: Sequence[str | Panel]) -> Path:
    """Write a page."""
    panels = [part for part in parts if isinstance(part, Panel)]
    fields = {
        "kind": ' class="contents"' if panels else "",
        "before": '<a class="skip" href="#main">Skip to the content</a>\n' if panels else "",
        "contents": f'<nav aria-label="Contents">{_contents(panels)}</nav>\n' if panels else "",
        "body": "\n".join(part.render() if isinstance(part, Panel) else part for part in parts),
    }
    return write_bytes(path, template_text("page.html", title=escape(title), **fields).encode())


def _contents(panels: Sequence[Panel], depth: int = 2) -> str:
    """Table of contents: links to panels and to the panels inside them."""
    lines = []
    for panel in panels:
        inner = _contents(panel.panels, depth - 1) if panel.panels and depth > 1 else ""
        lines.append(f'<li><a href="#{escape(panel.anchor)}">{escape(panel.title)}</a>{inner}</li>')
    return f"<ul>{''.join(lines)}</ul>"


def table_html(
    columns: Sequence[str],
    rows: Iterable[tuple[Sequence[str], str | None]],
    text: Collection[str] = (),
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """Table of plain text.

    `rows`: cells, and the target of a link in the first cell, if any (``#anchor`` or a file). `text`: columns of text,
    which are aligned left; numbers are aligned right. `groups`: names and widths of groups of columns, for a row above.

    >>> table_html(["task", "units"], [(["a & b", "7"], None)], {"task"}).partition("<tbody>")[2]
    '<tr><td class="text">a &amp; b</td><td>7</td></tr></tbody></table></div>'
    """
    kinds = [' class="text"' if name in text else "" for name in columns]
    above = "".join(f'<th class="group" colspan="{span}">{escape(name)}</th>' for name, span in groups)
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(columns, kinds, strict=True))
    lines = []
    for row, target in rows:
        cells = [escape(cell) for cell in row]
        if target:
            cells[0] = f'<a href="{escape(target)}">{cells[0]}</a>'
        lines.append("".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(cells, kinds, strict=True)))
    heads = "".join(f"<tr>{line}</tr>" for line in (above, head) if line)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    # tabindex lets a keyboard scroll the table: only an element with the focus scrolls
    return f'<div class="scroll" tabindex="0"><table><thead>{heads}</thead><tbody>{body}</tbody></table></div>'


def figure_html(png: bytes, text: str, caption: str, *, wide: bool = False) -> str:
    """Embed a picture; on a small screen a wide one scrolls instead of shrinking. `text` replaces it for the blind."""
    kind = 'class="picture wide" tabindex="0"' if wide else 'class="picture"'
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return (
        f'<figure><div {kind}><img alt="{escape(text)}" src="{source}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def card_html(lines: Mapping[str, str]) -> str:
    """List of names and values; empty values are left out.

    >>> card_html({"Model": "gpt2", "Revision": ""})
    '<dl class="card"><dt>Model</dt><dd>gpt2</dd></dl>'
    """
    pairs = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in lines.items() if value)
    return f'<dl class="card">{pairs}</dl>'
