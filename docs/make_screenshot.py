"""Draw README's picture: the viewer in the report of the demo, as a browser shows it.

``python docs/make_screenshot.py [llm2bids-demo]`` needs a demo (``make demo``) and Chromium, and writes
``docs/report.png``.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1060, 880
DRAWING = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")


def main(demo: str = "llm2bids-demo") -> None:
    """Open the page of the phantom, choose a map and a unit, and look."""
    page_file = Path(demo, "derivatives", "report", "sub-phantom.html").resolve()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=list(DRAWING))
        page = opened.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(page_file.as_uri())
        viewer = page.locator(".viewer").first
        viewer.scroll_into_view_if_needed()
        page.wait_for_function("Object.values(window.llm2bids)[0].unit() !== undefined")
        viewer.locator("select").first.select_option(label="pathology, onVsOff")
        page.evaluate("Object.values(window.llm2bids)[0].select(3, 40)")
        page.wait_for_timeout(1500)  # until it is drawn
        viewer.screenshot(path=Path(__file__).with_name("report.png"))
        opened.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
