"""What is asked for, and what answers. Every address is one of these; nothing of a request ever names a file."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from edgeyolo.live.access import Access
from edgeyolo.live.metrics import CONTENT_TYPE as METRICS_TYPE
from edgeyolo.live.metrics import Metrics
from edgeyolo.live.pictures import CONTENT_TYPE as MJPEG
from edgeyolo.live.pictures import LivePicture, encode
from edgeyolo.live.replies import Flow, Head, Refusal, Reply, json_reply
from edgeyolo.live.upload import read_upload
from edgeyolo.runtime import Detector
from edgeyolo.spec.serving import ServeOptions

HTML = "text/html; charset=utf-8"
_LIVE_VIEW, _TOKEN_VIEW = b'<body data-view="live">', b'<body data-view="token">'
_REQUESTS_S = 200.0  # that are answered, from all clients together; what they ask for costs a millisecond or so
_UPLOADS = 2  # that are received or wait for the engine at the same time
_TOKEN_FORM = 1024  # bytes
_NUMBERED = re.compile(r"/(stream|snapshot)/(\d{1,3})")
_METHODS = {
    "/": ("GET", "HEAD"),
    "/status": ("GET", "HEAD"),
    "/stream": ("GET", "HEAD"),
    "/snapshot": ("GET", "HEAD"),
    "/metrics": ("GET", "HEAD"),
    "/healthz": ("GET", "HEAD"),
    "/detect": ("POST",),
    "/token": ("POST",),
}
_OPEN = ("/healthz", "/token")  # without a token


@dataclass
class Bucket:
    """So many a second, and twice as many at once."""

    rate: float
    filled: float = 2.0
    at_s: float = 0.0

    def take(self) -> bool:
        """Whether one more may pass now."""
        now_s, most = time.perf_counter(), max(1.0, 2 * self.rate)
        self.filled = min(most, self.filled + (now_s - self.at_s) * self.rate)
        self.at_s = now_s
        if self.filled < 1:
            return False
        self.filled -= 1
        return True


class Routes:
    """The `App` of the live page.

    Args:
        status: gives what the page shows, for JSON.
        problem: gives what is wrong with the detector; empty where nothing is.
    """

    def __init__(
        self,
        detector: Detector,
        pictures: Sequence[LivePicture],
        metrics: Metrics,
        access: Access,
        options: ServeOptions,
        *,
        status: Callable[[], dict[str, Any]],
        problem: Callable[[], str],
    ) -> None:
        self._detector, self._pictures, self._metrics = detector, pictures, metrics
        self._access, self._options = access, options
        self._status, self._problem = status, problem
        self._page = files(__package__).joinpath("page.html").read_bytes()
        self._uploads = 0
        self._requests, self._pictures_sent = Bucket(_REQUESTS_S), Bucket(options.detect_rate)
        self._snapshots = Bucket(2 * options.page_fps)
        self._pool = ThreadPoolExecutor(1, "edgeyolo-upload")

    def headers(self) -> dict[str, str]:
        """Of every answer: nothing from outside, nothing to outside, nothing guessed, nothing kept."""
        script, style = (_hash_of(self._page, tag) for tag in (b"script", b"style"))
        policy = (
            f"default-src 'none'; script-src '{script}'; style-src '{style}'; img-src 'self' data:; connect-src 'self'"
        )
        return {
            "Content-Security-Policy": f"{policy}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }

    def admit(self, head: Head) -> int:
        """See `App.admit`."""
        self._access.check_origin(head)
        route, position = _find(head.path)
        if route not in _METHODS or (position is not None and position >= len(self._pictures)):
            raise Refusal("not-found", "there is nothing at that address", hint="Begin at /")
        if head.method not in _METHODS[route]:
            raise Refusal("wrong-method", f"takes {' and '.join(_METHODS[route])}")
        if route not in _OPEN and not (route == "/" and head.method == "GET"):  # where the page asks for it
            self._access.check_token(head)
        self._check_rate(route)
        if position is not None and route == "/stream":
            if sum(picture.watchers for picture in self._pictures) >= self._options.max_clients:
                raise Refusal("too-many-clients", "as many look already as may", hint="Try again later")
            self._pictures[position].watchers += 1
        if route == "/detect":
            if self._uploads >= _UPLOADS:
                raise Refusal("busy", "other pictures are being received", hint="Send one after the other")
            if not self._pictures_sent.take():
                raise Refusal("too-often", f"more than {self._options.detect_rate:g} pictures a second")
            self._uploads += 1
            return int(self._options.max_upload_mib * 2**20)
        return _TOKEN_FORM if route == "/token" else 0

    def _check_rate(self, route: str) -> None:
        """Of everything but what a service manager asks for."""
        if route != "/healthz" and not self._requests.take():
            raise Refusal("too-often", f"more than {_REQUESTS_S:g} requests a second")
        if route == "/snapshot" and not self._snapshots.take():
            raise Refusal("too-often", f"more than {self._snapshots.rate:g} pictures a second", hint="Take the stream")

    def leave(self, head: Head) -> None:
        """See `App.leave`."""
        route, position = _find(head.path)
        if route == "/stream" and position is not None:
            self._pictures[position].watchers -= 1
        if route == "/detect":
            self._uploads -= 1

    async def answer(self, head: Head, body: bytes) -> Reply | Flow:
        """See `App.answer`."""
        route, position = _find(head.path)
        if position is not None:
            picture = self._pictures[position]
            return Flow(MJPEG, picture.parts()) if route == "/stream" else await self._snapshot(picture)
        if route == "/detect":
            return json_reply(await self._in_thread(self._detect, head, body))
        if route == "/token":
            return self._take_token(parse_qs(body.decode("latin-1")).get("token", [""])[0])
        if route == "/status":
            return json_reply(self._status())
        if route == "/metrics":
            return Reply(self._metrics.render(), METRICS_TYPE)
        if route == "/healthz":
            problem = self._problem()
            return json_reply({"status": "failing" if problem else "ok", "problem": problem}, 503 if problem else 200)
        return self._show_page(head)

    def close(self) -> None:
        """End the thread that reads pictures."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _show_page(self, head: Head) -> Reply:
        """With a token in the address: the cookie, and the address without it. Without any: the page that asks."""
        try:
            self._access.check_token(head)
        except Refusal as refusal:
            self._metrics.refuse(refusal.kind)
            return Reply(self._page.replace(_LIVE_VIEW, _TOKEN_VIEW), HTML, status=refusal.status)
        if "token" in head.query and self._access.token is not None:
            return Reply(b"", HTML, 303, {"Location": "/", "Set-Cookie": self._access.cookie()})
        return Reply(self._page, HTML)

    def _take_token(self, given: str) -> Reply:
        if self._access.token is None or not self._access.is_token(given.strip()):
            raise Refusal("no-token", "the token is wrong", hint="It is in the terminal, or in the token file")
        return Reply(b"", HTML, 303, {"Location": "/", "Set-Cookie": self._access.cookie()})

    async def _snapshot(self, picture: LivePicture) -> Reply:
        seen = picture.state.latest
        if seen is None:
            raise Refusal("busy", "no frame has come yet", hint="Try again when the source is there")
        names, width = self._detector.class_names, self._options.page_width
        return Reply(await self._in_thread(encode, seen, names, width, picture.state.follower), "image/jpeg")

    def _detect(self, head: Head, body: bytes) -> dict[str, Any]:
        image = read_upload(head, body, int(self._options.max_megapixels * 1e6))
        started_s = time.perf_counter()
        detections = self._detector.detect(image)
        latency_ms = (time.perf_counter() - started_s) * 1e3
        return {
            "image_hw": [image.shape[0], image.shape[1]],
            "latency_ms": round(latency_ms, 3),
            "objects": detections.as_dicts(self._detector.class_names),
        }

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """One at a time, beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


def _find(path: str) -> tuple[str, int | None]:
    """The route of an address, and the source it is of."""
    numbered = _NUMBERED.fullmatch(path)
    return (
        (f"/{numbered[1]}", int(numbered[2])) if numbered else ("" if path in ("/stream", "/snapshot") else path, None)
    )


def _hash_of(page: bytes, tag: bytes) -> str:
    """What a policy calls the one script or style that stands in the page. Source: W3C, CSP level 3, section 2.3.1."""
    found = re.search(rb"<" + tag + rb">(.*?)</" + tag + rb">", page, re.DOTALL)
    assert found is not None, "the page has one of each"
    return f"sha256-{base64.b64encode(hashlib.sha256(found[1]).digest()).decode()}"
