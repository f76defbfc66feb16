"""What a client may not do, how it is told, and that the rest goes on: refusals have a kind, memory has a bound."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from blocks import draw_blocks
from live_page import Client, encode, memory_kib, png_that_says, read_pictures, serving, wait_until

from edgeyolo.live import Live
from edgeyolo.live.access import find_token
from edgeyolo.spec.errors import FormatError
from edgeyolo.spec.serving import ServeOptions

TOKEN = "a-token-of-this-test"


def jpeg_with_scans(count: int) -> bytes:
    raw = encode(np.zeros((16, 16, 3), np.uint8), ".jpg")
    scan = raw.index(b"\xff\xda")
    return raw[:scan] + raw[scan:-2] * count + raw[-2:]


PICTURE = encode(draw_blocks(np.random.default_rng(0), (64, 64)))


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"", 400, "bad-request"),
        (b"hello", 415, "not-a-picture"),
        (PICTURE[:-20], 415, "not-a-picture"),
        (b"\xff\xd8" + bytes(500), 415, "not-a-picture"),
        (b"II*\0" + bytes(100), 415, "not-a-picture"),
        (b"RIFF\x10\0\0\0AVI LIST" + bytes(40), 415, "not-a-picture"),
        (png_that_says(50_000, 50_000), 422, "too-many-pixels"),
        (png_that_says(2**31 - 1, 2**31 - 1), 422, "too-many-pixels"),
        (png_that_says(1001, 1000), 422, "too-many-pixels"),
        (png_that_says(0, 10), 415, "not-a-picture"),
        (jpeg_with_scans(200), 415, "not-a-picture"),
        (bytes(256 * 1024 + 1), 413, "too-large"),
    ],
)
def test_a_picture_that_is_none_is_refused(client: Client, body: bytes, status: int, kind: str) -> None:
    before = memory_kib()
    assert client.refusal("POST", "/detect", body) == (status, kind)
    assert memory_kib() - before < 30_000
    assert client.ask("POST", "/detect", PICTURE)[0] == 200


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; filename=a\r\n\r\n" + PICTURE),
        ("multipart/form-data; boundary=x", b"--x--\r\n" * 50),
        ("multipart/form-data; boundary=" + "x" * 200, PICTURE),
        ("multipart/form-data; boundary=\xff", PICTURE),
    ],
)
def test_a_form_without_a_picture_is_refused(client: Client, content_type: str, body: bytes) -> None:
    assert client.refusal("POST", "/detect", body, Content_Type=content_type) == (400, "bad-request")


@pytest.mark.parametrize(
    "path",
    [
        *("/../../../../etc/passwd", "/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd"),
        *("/page.html", "/stream", "/stream/", "/stream/2", "/stream/-1", "/stream/0/../../x", "/stream/٣"),
        *("/snapshot/9999", "/snapshot/..", "/status/", "/\\..\\x", "/metrics/../healthz", "/%00"),
    ],
)
def test_nothing_but_the_routes_is_found(client: Client, path: str) -> None:
    raw = client.send_raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert raw.split(b" ", 2)[1] in (b"404", b"400"), raw[:80]
    assert b"root:" not in raw


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/status"), ("GET", "/detect"), ("PUT", "/"), ("DELETE", "/stream/0")]
)
def test_other_methods_are_refused(client: Client, method: str, path: str) -> None:
    assert client.refusal(method, path) == (405, "wrong-method")


def test_other_names_and_other_sites_are_refused(client: Client) -> None:
    assert client.refusal("GET", "/status", Host="evil.example") == (403, "wrong-host")
    assert client.refusal("GET", "/status", Host="localhost.evil.example:80") == (403, "wrong-host")
    assert client.ask("GET", "/status", Host=f"localhost:{client.port}")[0] == 200
    assert client.ask("GET", "/status", Host="192.168.1.7")[0] == 200
    assert client.ask("GET", "/status", Host=f"{socket.gethostname()}.local:8080")[0] == 200
    foreign = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
    assert client.refusal("GET", "/stream/0", **foreign) == (403, "cross-site")
    assert client.refusal("POST", "/detect", PICTURE, Origin="http://evil.example") == (403, "cross-site")
    assert client.ask("POST", "/detect", PICTURE, Origin=f"http://127.0.0.1:{client.port}")[0] == 200


def test_every_answer_keeps_the_browser_in(client: Client) -> None:
    for method, path in (("GET", "/"), ("GET", "/status"), ("GET", "/nothing"), ("POST", "/detect")):
        with client.open(method, path) as response:
            headers = response.headers
            body = response.read()
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'sha256-") and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "same-origin"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers
        assert b"http://" not in body and b"https://" not in body


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000, 431),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n", 400),
        (b"GET /?" + b"a=1&" * 30 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /detect HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", 411),
        (b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\nabc", 408),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", 408),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ],
)
def test_what_is_no_request_is_refused(client: Client, raw: bytes, status: int) -> None:
    answer = client.send_raw(raw)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["kind"]


def test_a_drop_now_and_then_does_not_keep_a_connection(page: tuple[Live, Client]) -> None:
    """The head has one deadline as a whole, a second here."""
    _, client = page
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as wire:
        started, answer = time.monotonic(), b""
        wire.settimeout(0.05)
        for byte in b"GET /status HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 200:
            with contextlib.suppress(TimeoutError):
                answer += wire.recv(4096)
            if answer:
                break
            wire.sendall(bytes([byte]))
        assert b"408" in answer.split(b"\r\n")[0] and 0.8 < time.monotonic() - started < 6


def test_a_thousand_connections_do_not_keep_others_out(page: tuple[Live, Client]) -> None:
    """40 places here: those that ask for nothing give way, a stream that is looked at does not."""
    live, client = page
    before = memory_kib()
    with client.open("GET", "/stream/0") as stream, contextlib.ExitStack() as held:
        assert read_pictures(stream, 1)
        for _ in range(1000):
            with contextlib.suppress(OSError):
                wire = held.enter_context(socket.create_connection(("127.0.0.1", client.port), timeout=5))
                wire.send(b"GET /status HT")
        assert live._web.connections <= 41
        detected = client.status()["sources"][0]["detected"]
        assert _next_picture(stream)
        wait_until(lambda: client.status()["sources"][0]["detected"] > detected)
    assert memory_kib() - before < 60_000
    assert live._metrics.refused["too-many-clients"] > 500


def _next_picture(stream) -> bytes:
    stream.readline()
    size = int(stream.readline().removeprefix(b"Content-Length: "))
    stream.readline()
    return stream.read(size)


def test_more_lookers_than_may_are_refused(page: tuple[Live, Client]) -> None:
    _, client = page
    with contextlib.ExitStack() as held:
        for _ in range(8):
            held.enter_context(client.open("GET", "/stream/1"))
        assert client.refusal("GET", "/stream/0") == (503, "too-many-clients")
    wait_until(lambda: client.status()["watchers"] == 0)


def test_who_does_not_read_is_cut_off_and_slows_nobody(page: tuple[Live, Client]) -> None:
    _, client = page
    with contextlib.ExitStack() as held:
        for _ in range(6):
            wire = held.enter_context(socket.socket())
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.connect(("127.0.0.1", client.port))
            wire.sendall(b"GET /stream/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: client.status()["watchers"] == 6)
        with client.open("GET", "/stream/0") as stream:
            assert len(read_pictures(stream, 5)) == 5
        wait_until(lambda: client.status()["watchers"] == 0)  # though they are still connected


def test_pictures_come_too_often(bundle: Path) -> None:
    with serving(bundle, [], ServeOptions(port=0, detect_rate=0.5)) as (_, client):
        assert client.ask("POST", "/detect", PICTURE)[0] == 200
        with client.open("POST", "/detect", PICTURE) as response:
            assert response.status == 429 and response.headers["Retry-After"] == "1"
            assert json.loads(response.read())["error"]["kind"] == "too-often"
        assert client.ask("GET", "/healthz")[0] == 200


def test_who_sends_much_too_much_still_hears_why(client: Client) -> None:
    """The body is let in for a moment and thrown away; without that the answer would be lost in a reset."""
    before = memory_kib()
    body = bytes(24 << 20)
    assert client.refusal("POST", "/detect", body) == (413, "too-large")
    assert memory_kib() - before < 30_000 + 24 * 1024


def test_who_asks_without_end_is_slowed(client: Client) -> None:
    statuses = [client.ask("GET", "/snapshot/0")[0] for _ in range(80)]  # 20 a second, and 40 at once
    assert set(statuses) == {200, 429} and statuses[:10] == [200] * 10
    statuses = [client.ask("GET", "/healthz")[0] for _ in range(30)]
    assert set(statuses) == {200}


def test_a_token_is_asked_for(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    with serving(bundle, [], ServeOptions(port=0, token_file=file)) as (live, known):
        assert live.url.endswith(f"/?token={TOKEN}")
        client = Client(live.port)
        for path in ("/status", "/metrics", "/stream/0", "/snapshot/0"):
            status, kind = client.refusal("GET", path)
            assert (status, kind) == (401, "no-token") or status == 404
        assert client.refusal("POST", "/detect", PICTURE) == (401, "no-token")
        wrong = ("", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\xff" * 20)
        assert {client.refusal("GET", "/status", Authorization=f"Bearer {each}")[0] for each in wrong} == {401}
        assert client.ask("GET", "/healthz")[0] == 200
        status, html = client.ask("GET", "/")
        assert status == 401 and b'<body data-view="token">' in html
        assert known.ask("GET", "/status")[0] == client.ask("GET", f"/status?token={TOKEN}")[0] == 200
        with client.open("GET", f"/?token={TOKEN}") as response:
            assert response.status == 303 and response.headers["Location"] == "/"
            cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        status, html = client.ask("GET", "/", Cookie=cookie.partition(";")[0])
        assert status == 200 and b'<body data-view="live">' in html
        assert client.refusal("POST", "/token", b"token=wrong") == (401, "no-token")
        assert client.ask("POST", "/token", f"token={TOKEN}".encode())[0] == 303


def test_where_a_token_comes_from(tmp_path: Path) -> None:
    assert find_token("127.0.0.1", None) is None and find_token("::1", None) is None
    first, second = find_token("0.0.0.0", None), find_token("192.168.1.2", None)
    assert first and second and first != second and len(first) >= 32
    made = find_token("0.0.0.0", tmp_path / "new" / "token")
    assert find_token("0.0.0.0", tmp_path / "new" / "token") == made
    assert stat.S_IMODE((tmp_path / "new" / "token").stat().st_mode) == 0o600
    for text in ("short", "with a space in the middle", ""):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(FormatError, match="holds no token"):
            find_token("127.0.0.1", tmp_path / "bad")
