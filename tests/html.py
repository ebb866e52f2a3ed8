"""Reading the pages we write."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import matplotlib.image

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """What is in a page, and whether its tags match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if not {"style", "script"} & set(self.open) else ""

    def values(self, tag: str, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for name, attrs in self.tags if name == tag and attribute in attrs]


def check_offline(page: Page) -> None:
    """It runs no code and asks nothing of the network."""
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "base", "form"} == set()
    linked = [*page.values("img", "src"), *page.values("link", "href")]
    assert all(link.startswith("data:") for link in linked)
    assert "url(" not in page.source
    assert "@import" not in page.source


def pictures_in(page: Page) -> list[Any]:
    """Its pictures as arrays."""
    sources = [image.removeprefix("data:image/png;base64,") for image in page.values("img", "src")]
    return [matplotlib.image.imread(io.BytesIO(base64.b64decode(image))) for image in sources]
