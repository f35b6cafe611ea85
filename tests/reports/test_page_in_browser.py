"""The page in headless Chromium: it fits, it fetches nothing, and it can be heard."""

from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = which("chromium-headless-shell") or which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page(browser: Any, page: Path, width: int, scheme: str) -> None:
    seen = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    seen.on("console", lambda message: said.append(message.text))
    seen.on("pageerror", lambda error: said.append(str(error)))
    seen.on("request", lambda request: asked.append(request.url))
    seen.goto(page.as_uri())
    heard = "[...document.querySelectorAll('audio')].every((a) => a.readyState >= 1)"
    seen.wait_for_function(heard, timeout=30000)  # 1: its metadata was read
    seconds = seen.evaluate("[...document.querySelectorAll('audio')].map((a) => a.duration)")
    assert len(seconds) == 2 and all(0.5 < s < 4 for s in seconds)
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert seen.evaluate("document.documentElement.scrollWidth") <= width
    plots = seen.query_selector_all("svg[role=img]")
    assert len(plots) == 8
    for plot in plots:
        assert plot.is_visible() and plot.bounding_box()["height"] > 150
    paper, ink = (
        sum(seen.evaluate(f"getComputedStyle(document.body).{of}.match(/\\d+/g).map(Number)"))
        for of in ("backgroundColor", "color")
    )
    assert (paper > 600 > 200 > ink) if scheme == "light" else (paper < 200 < 600 < ink)
    seen.click("nav a >> nth=2")
    assert seen.evaluate("location.hash") == "#section-3"
    seen.close()
