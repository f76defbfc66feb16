"""Requests with something wrong with them, thousands: each is answered in HTTP or not at all, and the page goes on."""

from __future__ import annotations

import contextlib
import random
import socket

import numpy as np
import pytest
from blocks import draw_blocks
from live_page import Client, encode, memory_kib, png_that_says, wait_until

from edgeyolo.live import Live

PICTURE = encode(draw_blocks(np.random.default_rng(0), (64, 64)))
METHODS = ("GET", "POST", "HEAD", "PUT", "G\0T")
PATHS = ("/", "/status", "/detect", "/token", "/healthz", "/metrics", "/snapshot/0", "/nothing")


def make_request(rng: random.Random) -> bytes:
    """A request with something wrong with it: bytes changed, cut, put twice or in."""
    bodies = (b"", PICTURE, png_that_says(9000, 9000), b"--x\r\nfilename\r\n\r\n" + PICTURE + b"\r\n--x--")
    body = rng.choice(bodies)
    lines = [
        f"{rng.choice(METHODS)} "
        f"{rng.choice(PATHS)}"
        f"{rng.choice(['', '?token=x', '?' + 'a=b&' * 30])} HTTP/1.{rng.choice('0112')}",
        rng.choice(["Host: localhost", "Host: [::1]:80", "Host: evil", "Host:", "host: [", "X: y"]),
        rng.choice(
            [
                f"Content-Length: {len(body)}",
                f"Content-Length: {rng.randrange(10**6)}",
                "Transfer-Encoding: chunked",
                "A: b",
            ]
        ),
        rng.choice(
            ["Content-Type: multipart/form-data; boundary=x", "Content-Type: image/png", "Cookie: edgeyolo=\x01;;="]
        ),
        rng.choice(
            ["Origin: null", "Expect: 100-continue", "Connection: close", "Upgrade: websocket", "Range: bytes=0-1"]
        ),
    ]
    raw = bytearray("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(raw))
        edit = rng.randrange(4)
        if edit == 0:
            raw[at] = rng.randrange(256)
        elif edit == 1:
            del raw[at : at + rng.randrange(1, 40)]
        elif edit == 2:
            raw[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20)))
        else:
            raw[at:at] = raw[max(0, at - 30) : at]
        if not raw:
            break
    return bytes(raw)


def fuzz(client: Client, seed: int, count: int) -> set[int]:
    """Statuses of the answers; every answer is HTTP, and nothing is kept."""
    rng, seen = random.Random(seed), set()
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", client.port), timeout=10) as wire:
            with contextlib.suppress(OSError):
                wire.sendall(make_request(rng))
                wire.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while part := wire.recv(65536):
                    answer += part
        for line in answer.split(b"\r\n"):
            if line.startswith(b"HTTP/1.1 "):
                seen.add(int(line.split()[1]))
        assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:200]
    return seen


def judge_fuzzed(page: tuple[Live, Client], count: int, caplog: pytest.LogCaptureFixture) -> None:
    live, client = page
    fuzz(client, 0, 50)  # what is taken once
    before = memory_kib()
    seen = fuzz(client, 1, count)
    assert seen <= {100, 200, 303, 400, 401, 403, 404, 405, 408, 411, 413, 415, 422, 429, 431, 503}
    assert {200, 400, 403, 404} <= seen
    assert memory_kib() - before < 20_000
    wait_until(lambda: live._web.connections <= 1)
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]
    detected = client.status()["sources"][0]["detected"]
    wait_until(lambda: client.status()["sources"][0]["detected"] > detected)
    assert live._web._app._uploads == 0


def test_fuzzed_requests(page: tuple[Live, Client], caplog: pytest.LogCaptureFixture) -> None:
    judge_fuzzed(page, 300, caplog)


@pytest.mark.slow
def test_ten_thousand_fuzzed_requests(page: tuple[Live, Client], caplog: pytest.LogCaptureFixture) -> None:
    judge_fuzzed(page, 10_000, caplog)
