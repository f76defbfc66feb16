"""The page in a real browser: Chromium without a screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import Browser, find_browser
from live_page import Client, serving, wait_until

from edgeyolo.live import Live
from edgeyolo.spec.serving import ServeOptions

TOKEN = "a-token-of-this-test"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no chromium is installed (Debian: apt install chromium)")
    with Browser(program, tmp_path / "profile") as opened:
        yield opened


def see(browser: Browser) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(browser.photograph(), np.uint8), cv2.IMREAD_COLOR)


def place_of(browser: Browser, selector: str) -> tuple[slice, slice]:
    box = browser.run(
        f"(() => {{ const b = document.querySelectorAll('{selector}')[0].getBoundingClientRect(); "
        "return [b.top, b.bottom, b.left, b.right].map(Math.round) })()"
    )
    return slice(max(0, box[0]), box[1]), slice(max(0, box[2]), box[3])


def test_the_page(page: tuple[Live, Client], browser: Browser) -> None:
    """Both pictures move; by keyboard and screen reader; on a phone; nothing from outside, no error."""
    _, client = page
    browser.open(f"http://localhost:{client.port}/", width=1280)
    wait_until(lambda: browser.run("document.querySelectorAll('img').length") == 2)
    wait_until(lambda: browser.run("[...document.querySelectorAll('img')].every((i) => i.naturalWidth === 160)"))
    rows, columns = place_of(browser, "img")
    shots = [see(browser)]
    wait_until(lambda: np.abs(see(browser)[rows, columns].astype(int) - shots[0][rows, columns]).mean() > 5)
    text = browser.run("document.body.innerText")
    assert "yard" in text and "gate" in text and "Frames a second" in text and "p99" in text and "one layer" in text
    named = browser.tree()
    assert ("heading", "edgeyolo live") in named and ("heading", "gate") in named
    assert ("image", "Live picture of yard") in named and ("button", "Pause pictures") in named
    browser.press("Tab")
    assert browser.run("document.activeElement.id") == "pause"
    browser.press("Enter")
    assert browser.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    wait_until(lambda: client.status()["watchers"] == 0)
    browser.press("Enter")
    wait_until(lambda: client.status()["watchers"] == 2)
    assert not browser.errors and all(url.startswith("http://localhost:") for url in browser.requests)
    browser.open(f"http://localhost:{client.port}/", width=390, scheme="dark")
    wait_until(lambda: browser.run("document.querySelectorAll('img').length") == 2)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert see(browser)[-3:, :3].mean() < 60  # dark, as was asked
    small = "[...document.querySelectorAll('button')].filter((b) => b.offsetHeight && b.offsetHeight < 44).length"
    assert browser.run(small) == 0
    assert not browser.errors and all(url.startswith("http://localhost:") for url in browser.requests)


def test_the_page_asks_for_the_token(bundle: Path, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with serving(bundle, [], ServeOptions(port=0, token_file=tmp_path / "token")) as (live, _):
        browser.open(f"http://localhost:{live.port}/", width=390)
        wait_until(lambda: browser.run("document.activeElement?.id") == "token")
        assert not browser.run("document.getElementById('pause').offsetHeight")  # the rest is not shown
        assert [text for text in browser.errors if "401" not in text] == []
        browser.run(f"document.getElementById('token').value = '{TOKEN}'")
        browser.press("Enter")
        wait_until(lambda: "one layer" in (browser.run("document.body?.innerText") or ""))
        assert browser.run("location.search") == "" and TOKEN not in browser.run("document.cookie")
        browser.open(f"http://127.0.0.1:{live.port}/?token={TOKEN}", width=390)
        wait_until(lambda: "one layer" in (browser.run("document.body?.innerText") or ""))
        assert browser.run("location.search") == ""
