"""Pages in a real browser: what they show, what they say to the console, and what they ask of the network."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
DRAWING = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
BLIND = ("--disable-gpu", "--disable-3d-apis")


@dataclass
class Visit:
    """An open page, and what it said and asked for since."""

    page: Page
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    @property
    def outside(self) -> list[str]:
        """What it asked of the network."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]


@pytest.fixture(scope="session")
def browsers() -> Iterator[Callable[[bool], Browser]]:
    """Browsers with WebGL and without, each started once."""
    executable = next((path for path in map(shutil.which, NAMES) if path), None)
    if executable is None:
        pytest.skip(f"no browser found, one of {', '.join(NAMES)} needed to look at pages")
    with sync_playwright() as playwright:

        @cache
        def start(webgl: bool) -> Browser:  # noqa: FBT001
            args = DRAWING if webgl else BLIND
            return playwright.chromium.launch(executable_path=executable, args=list(args))

        yield start


@pytest.fixture
def visit(browsers: Callable[[bool], Browser]) -> Iterator[Callable[..., Visit]]:
    """Open files as `open_file` does, until the test is over."""
    opened: list[Visit] = []

    def go(path: Path, *, width: int = 1400, webgl: bool = True, **options: Any) -> Visit:
        opened.append(open_file(browsers(webgl), path, width, **options))
        return opened[-1]

    yield go
    for visited in opened:
        visited.page.context.close()


def open_file(browser: Browser, path: Path, width: int = 1400, **options: Any) -> Visit:
    """Open a file in a window of its own; options are those of a browser context."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    visited = Visit(context.new_page())
    visited.listen()
    visited.page.goto(path.as_uri())
    return visited
