"""The page in a real browser: Chromium without a screen, driven over its own protocol on a pair of pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from live_page import Client, serving, wait_until

from edgeyolo.live.live import Live
from edgeyolo.spec.serving import ServeOptions

TOKEN = "a-token-of-this-test"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Browser:
    """One tab. Source: chromedevtools.github.io/devtools-protocol, `--remote-debugging-pipe`."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars"]
        flags += [f"--user-data-dir={profile}", "--no-first-run", "--disable-extensions", "about:blank"]

        def place() -> None:
            """The browser reads from file 3 and answers on file 4; neither end may be one of them by chance."""
            read, write = os.dup(to_browser), os.dup(from_browser)
            read, write = (os.dup(read) if read < 5 else read), (os.dup(write) if write < 5 else write)
            os.dup2(read, 3)
            os.dup2(write, 4)

        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([program, *flags], preexec_fn=place, close_fds=False, **quiet)
        os.close(to_browser)
        os.close(from_browser)
        self._number, self._answers = 0, {}
        self.errors: list[str] = []
        self.asked: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        targets = self._ask("Target.getTargets", session="")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self._ask("Target.attachToTarget", session="", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def open(self, url: str, width: int, height: int, *, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self._ask("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        told = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def press(self, key: str) -> None:
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": key, "windowsVirtualKeyCode": code, **(text if kind == "keyDown" else {})}
            self._ask("Input.dispatchKeyEvent", **event)

    def screenshot(self) -> np.ndarray:
        raw = base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])
        return cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)

    def tree(self) -> list[tuple[str, str]]:
        """Role and name of what a screen reader finds."""
        nodes = self._ask("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
        ]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        self._reader.join(5)
        os.close(self._in)

    def _ask(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if session is None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = wait_until(lambda: self._answers.pop(number, None), 40)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> None:
        waiting = b""
        while chunk := os.read(self._in, 1 << 16):
            *whole, waiting = (waiting + chunk).split(b"\0")
            for raw in whole:
                self._note(json.loads(raw))

    def _note(self, told: dict[str, Any]) -> None:
        kind, found = told.get("method"), told.get("params", {})
        if "id" in told:
            self._answers[told["id"]] = told
        elif kind == "Runtime.exceptionThrown":
            self.errors.append(str(found["exceptionDetails"]))
        elif kind == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.errors.append(found["entry"]["text"])
        elif kind == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning"):
            self.errors.append(str(found["args"]))
        elif kind == "Network.requestWillBeSent":
            self.asked.append(found["request"]["url"])


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no chromium is installed (Debian: apt install chromium)")
    opened = Browser(program, tmp_path / "profile")
    yield opened
    opened.close()


def place_of(browser: Browser, selector: str) -> tuple[slice, slice]:
    box = browser.run(
        f"(() => {{ const b = document.querySelectorAll('{selector}')[0].getBoundingClientRect(); "
        "return [b.top, b.bottom, b.left, b.right].map(Math.round) })()"
    )
    return slice(max(0, box[0]), box[1]), slice(max(0, box[2]), box[3])


def test_the_page(page: tuple[Live, Client], browser: Browser) -> None:
    """Both pictures move; by keyboard and screen reader; on a phone; nothing from outside, no error."""
    _, client = page
    browser.open(f"http://localhost:{client.port}/", 1280, 900)
    wait_until(lambda: browser.run("document.querySelectorAll('img').length") == 2)
    wait_until(lambda: browser.run("[...document.querySelectorAll('img')].every((i) => i.naturalWidth === 160)"))
    rows, columns = place_of(browser, "img")
    shots = [browser.screenshot()]
    wait_until(lambda: np.abs(browser.screenshot()[rows, columns].astype(int) - shots[0][rows, columns]).mean() > 5)
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
    browser.open(f"http://localhost:{client.port}/", 390, 844, dark=True)
    wait_until(lambda: browser.run("document.querySelectorAll('img').length") == 2)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.screenshot()[-3:, :3].mean() < 60  # dark, as was asked
    small = "[...document.querySelectorAll('button')].filter((b) => b.offsetHeight && b.offsetHeight < 44).length"
    assert browser.run(small) == 0
    assert not browser.errors and all(url.startswith(("http://localhost:", "data:")) for url in browser.asked)


def test_the_page_asks_for_the_token(bundle: Path, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with serving(bundle, [], ServeOptions(port=0, token_file=tmp_path / "token")) as (live, _):
        browser.open(f"http://localhost:{live.port}/", 390, 844)
        wait_until(lambda: browser.run("document.activeElement?.id") == "token")
        assert not browser.run("document.getElementById('pause').offsetHeight")  # the rest is not shown
        assert [text for text in browser.errors if "401" not in text] == []
        browser.run(f"document.getElementById('token').value = '{TOKEN}'")
        browser.press("Enter")
        wait_until(lambda: "one layer" in (browser.run("document.body?.innerText") or ""))
        assert browser.run("location.search") == "" and TOKEN not in browser.run("document.cookie")
        browser.open(f"http://127.0.0.1:{live.port}/?token={TOKEN}", 390, 844)
        wait_until(lambda: "one layer" in (browser.run("document.body?.innerText") or ""))
        assert browser.run("location.search") == ""
