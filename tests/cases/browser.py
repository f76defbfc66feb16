"""A real Chromium, driven through the DevTools protocol over a pair of pipes; no package is needed for it.

Messages are JSON, each with a zero byte behind it; the browser reads them from its descriptor 3 and writes to 4.
Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40, "ArrowRight": 39}
SECONDS = 120
_PHONE_PX = 500


def find_browser() -> str | None:
    """Path of a Chromium that is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _pipe() -> list[int]:
    """Read and write ends; neither is one of the numbers that the browser expects them at."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends


class Browser:
    """One page at a time; a context manager.

    Attributes:
        errors: what the console said as errors, and exceptions that nothing caught.
        requests: addresses that the page asked for, its own and data of its own left out.
    """

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._write = _pipe()
        self._read, from_browser = _pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        flags += ["--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        # The shell gives the pipes the numbers that the browser expects.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *flags],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest, self._last, self._session = b"", 0, ""
        self._loaded = False
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(SECONDS)
        os.close(self._write)
        os.close(self._read)

    def open(self, place: Path | str, *, width: int, scheme: str = "light", motion: str = "no-preference") -> None:
        """Show a file, whole, or what comes from an address, which may never end; forget errors and requests.

        Args:
            width: of the window, pixels; `scheme` of colours and `motion`: what its user prefers.
        """
        self.errors.clear()
        self.requests.clear()
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < _PHONE_PX}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self._ask("Emulation.setEmulatedMedia", features=features)
        self._loaded = False
        self._ask("Page.navigate", url=place if isinstance(place, str) else place.as_uri())
        end = time.monotonic() + SECONDS
        while isinstance(place, Path) and not self._loaded:
            assert time.monotonic() < end, f"{place} is not loaded"
            self._take(self._receive())

    def run(self, script: str) -> Any:
        """What an expression gives, promises awaited."""
        done = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """A key of the keyboard."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        code = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        for _ in range(times):
            self._ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **code)
            self._ask("Input.dispatchKeyEvent", type="keyUp", **code)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self._ask("Input.insertText", text=text)

    def tree(self) -> list[tuple[str, str]]:
        """Role and name of what a screen reader finds."""
        nodes = [node for node in self._ask("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes]

    def photograph(self) -> bytes:
        """The whole page as a PNG."""
        return base64.b64decode(self._ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._take(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], SECONDS)
            assert ready, "the browser says nothing"
            block = os.read(self._read, 1 << 20)
            assert block, "the browser has ended"
            self._rest += block
        first, _, self._rest = self._rest.partition(b"\0")
        return json.loads(first)

    def _take(self, event: dict[str, Any]) -> None:
        method, told = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.errors.append(str(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(str(told["entry"]))
        elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")):
            self.requests.append(told["request"]["url"])
