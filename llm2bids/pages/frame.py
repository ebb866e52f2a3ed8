"""What all HTML pages share: one frame, tables, pictures inside. No page asks anything of the network."""

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
    """A part of a page that its contents lead to.

    - `anchor`: name of the place, unique on the page.
    - `html`: what stands below the title; nothing where it is empty.
    """

    anchor: str
    title: str
    html: str
    panels: tuple[Panel, ...] = ()

    def render(self, level: int = 2) -> str:
        r"""Write it out.

        >>> Panel("size", "Size & depth", "<p>7 units</p>").render()
        '<section><h2 id="size">Size &amp; depth</h2>\n<p>7 units</p></section>'
        """
        heading = f'<h{level} id="{escape(self.anchor)}">{escape(self.title)}</h{level}>'
        inner = "\n".join([heading, self.html, *(one.render(level + 1) for one in self.panels)])
        return f"<section>{inner}</section>"


def save_page(path: Path, title: str, parts: Sequence[str | Panel]) -> Path:
    """Write a page."""
    panels = [one for one in parts if isinstance(one, Panel)]
    shown = {
        "kind": ' class="contents"' if panels else "",
        "before": '<a class="skip" href="#main">Skip to the content</a>\n' if panels else "",
        "contents": f'<nav aria-label="Contents">{_contents(panels)}</nav>\n' if panels else "",
        "body": "\n".join(one.render() if isinstance(one, Panel) else one for one in parts),
    }
    return write_bytes(path, template_text("page.html", title=escape(title), **shown).encode())


def _contents(panels: Sequence[Panel], depth: int = 2) -> str:
    """Links to panels and to their parts."""
    lines = []
    for one in panels:
        inner = _contents(one.panels, depth - 1) if one.panels and depth > 1 else ""
        lines.append(f'<li><a href="#{escape(one.anchor)}">{escape(one.title)}</a>{inner}</li>')
    return f"<ul>{''.join(lines)}</ul>"


def table_html(
    columns: Sequence[str],
    rows: Iterable[tuple[Sequence[str], str | None]],
    text: Collection[str] = (),
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """Lay out rows of text.

    `rows`: cells as plain text, and the place to which the first of them leads, if any: ``#anchor`` or a file. `text`:
    columns that hold text, to be set to the left; numbers are set to the right.

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
    # whoever has no mouse scrolls what has the focus
    return f'<div class="scroll" tabindex="0"><table><thead>{heads}</thead><tbody>{body}</tbody></table></div>'


def figure_html(png: bytes, text: str, caption: str, *, wide: bool = False) -> str:
    """Put a picture inside a page.

    `wide`: whether it is scrolled on a small screen instead of becoming too small to read.
    """
    kind = 'class="picture wide" tabindex="0"' if wide else 'class="picture"'
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return (
        f'<figure><div {kind}><img alt="{escape(text)}" src="{source}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def card_html(lines: Mapping[str, str]) -> str:
    """Lay out names and values.

    >>> card_html({"Model": "gpt2", "Revision": ""})
    '<dl class="card"><dt>Model</dt><dd>gpt2</dd></dl>'
    """
    pairs = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in lines.items() if value)
    return f'<dl class="card">{pairs}</dl>'
