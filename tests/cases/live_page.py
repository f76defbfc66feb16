"""A bundle whose network is one layer, sources of coloured blocks, and what a client of the live page does."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from blocks import SPEC, draw_blocks, save_model

from edgeyolo import backends
from edgeyolo.bundle import write_bundle
from edgeyolo.live import Live
from edgeyolo.live.server import Limits
from edgeyolo.runtime import Detector
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.serving import RecordOptions, ServeOptions
from edgeyolo.spec.target import load_target

HW = (120, 160)
BOUNDARY = b"--edgeyolo-frame\r\n"


def write_blocks_bundle(folder: Path) -> Path:
    """A bundle for ONNX Runtime."""
    save_model(folder / "model.onnx")
    out = folder / "artefact"
    artefact = backends.build(folder / "model.onnx", SPEC, None, load_target("host-onnx"), out, precision="fp32")
    write_bundle(folder / "blocks.eyb", Manifest(model=SPEC, target="host-onnx", artefact=artefact, sha256={}), out)
    return folder / "blocks.eyb"


def write_video(path: Path, *, count: int = 30, seed: int = 0, fps: float = 20.0, grey: bool = False) -> Path:
    """Other blocks in each frame, or nothing that the network would find."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, HW[::-1])
    rng = np.random.default_rng(seed)
    for _ in range(count):
        writer.write(np.full((*HW, 3), 90, np.uint8) if grey else draw_blocks(rng, HW))
    writer.release()
    return path


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


@dataclass
class Client:
    """Asks one page."""

    port: int
    token: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def open(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Iterator[HTTPResponse]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        connection.request(method, path, body, sent)
        with closing(connection), connection.getresponse() as response:
            yield response

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        with self.open(method, path, body, **headers) as response:
            return response.status, response.read()

    def refusal(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
        status, raw = self.ask(method, path, body, **headers)
        return status, json.loads(raw)["error"]["kind"]

    def status(self) -> dict[str, Any]:
        return json.loads(self.ask("GET", "/status")[1])

    def send_raw(self, raw: bytes, timeout_s: float = 20.0) -> bytes:
        """Bytes on a connection of its own, and all that comes back until it is closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as wire:
            wire.sendall(raw)
            parts = []
            try:
                while part := wire.recv(65536):
                    parts.append(part)
            except (ConnectionResetError, TimeoutError):
                pass
            return b"".join(parts)


def read_pictures(response: HTTPResponse, count: int) -> list[bytes]:
    """JPEGs of a stream."""
    assert response.readline() == BOUNDARY
    pictures = []
    for _ in range(count):
        assert response.readline() == b"Content-Type: image/jpeg\r\n"
        size = int(response.readline().removeprefix(b"Content-Length: "))
        assert response.readline() == b"\r\n"
        pictures.append(response.read(size))
        assert response.readline() == b"\r\n" and response.readline() == BOUNDARY
    return pictures


@contextmanager
def serving(
    bundle: Path,
    sources: list[str],
    options: ServeOptions | None = None,
    recording: RecordOptions | None = None,
    limits: Limits | None = None,
) -> Iterator[tuple[Live, Client]]:
    """A live page in threads of this process."""
    options = options or ServeOptions(port=0, threads=1)
    with (
        Detector.load(bundle, threads=1, score_threshold=0.3) as detector,
        Live(detector, sources, options, recording or RecordOptions(), limits=limits) as live,
    ):
        thread = threading.Thread(target=live.run)
        thread.start()
        try:
            yield live, Client(live.port, live.token)
        finally:
            live.stop()
            thread.join(20)
            assert not thread.is_alive()


def wait_until(holds: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first value of `holds` that is true."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if found := holds():
            return found
        pause.wait(0.05)
    raise AssertionError(f"not within {seconds} s: {holds}")


def memory_kib() -> int:
    """Resident set of this process, in which the page runs."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


def png_that_says(width: int, height: int) -> bytes:
    """A whole PNG of a few bytes that asks for a picture of that size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
