"""The report of the demo in a real browser, wide and narrow: silent, offline, nothing overlaps, everybody can read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe

if TYPE_CHECKING:
    from collections.abc import Callable

    from .browser import Visit
    from .conftest import Ran

OVERLAPS = """() => {
  const inFlow = one => !["fixed", "absolute", "sticky"].includes(getComputedStyle(one).position);
  const found = [];
  for (const parent of document.querySelectorAll("main, main section, main figure, main details[open]")) {
    const blocks = [...parent.children].filter(one => one.getClientRects().length && inFlow(one));
    blocks.forEach((one, n) => {
      const box = one.getBoundingClientRect(), next = blocks[n + 1]?.getBoundingClientRect();
      if (next && box.bottom > next.top + 1 && box.right > next.left + 1) found.push(one.outerHTML.slice(0, 80));
      if (box.right > innerWidth + 1) found.push("too wide: " + one.outerHTML.slice(0, 80));
    });
  }
  return found;
}"""
"""Blocks of the page that lie on the next one, or stick out of the window."""


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("name", ["report.html", "sub-phantom.html"])
def test_a_page_is_silent_offline_whole_and_for_everybody(
    ran: Ran, visit: Callable[..., Visit], name: str, width: int
) -> None:
    seen = visit(ran.pages / name, width=width)
    page = seen.page
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    if name == "sub-phantom.html":
        page.locator(".viewer canvas").first.scroll_into_view_if_needed()
        page.wait_for_function("Object.values(window.llm2bids).every(one => one.unit() !== undefined)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 250)")
    assert violations(seen) == []
    assert seen.messages == []
    assert seen.outside == []


def violations(seen: Visit) -> list[tuple[str, list[str]]]:
    """What axe-core finds against WCAG 2.2 A and AA and its best practices: rules, and where they are broken."""
    options = {"resultTypes": ["violations"]}  # a report of all that is well takes as long as the search
    results: list[dict[str, Any]] = Axe().run(seen.page, options=options).response["violations"]
    return [(rule["id"], [node["html"][:100] for node in rule["nodes"][:3]]) for rule in results]


def test_the_contents_lead_everywhere_by_keyboard(ran: Ran, visit: Callable[..., Visit]) -> None:
    page = visit(ran.pages / "report.html").page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    page.locator("nav a", has_text="Methods").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.getElementById('methods').getBoundingClientRect().top") < 300
    page.locator("a", has_text="sub-phantom").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/sub-phantom.html")
    assert page.locator("h1").inner_text().startswith("sub-phantom")
