"""Videos, cameras and network streams as frames, one after the other; a live one that goes away is opened again."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from edgeyolo.runtime.gstreamer import connect_pipeline, parse_pipeline
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import DataError

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
NETWORK_TIMEOUT_MS = 10_000  # of opening a stream, and of waiting for its next frame
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0  # between two attempts to open a live source again

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_CUT_OFF = 0.95  # of the frames that a file says it has; containers may be off by a few


class Capture(Protocol):
    """What is used of `cv2.VideoCapture`."""

    def read(self) -> tuple[bool, Any]:
        """Whether there was a frame, and the frame, (H, W, 3) uint8 BGR."""

    def get(self, propId: int) -> float:
        """A property, such as cv2.CAP_PROP_FPS; 0 where it is not known."""

    def release(self) -> None:
        """Let go of the device or file."""


@dataclass(frozen=True)
class Source:
    """Something to capture from.

    Attributes:
        stem: frames are named "<stem>-000000", "<stem>-000001" ...
        where: the file, camera or address, for messages.
        connect: opens it; one that cannot be opened gives no frame.
        live: goes on by itself, whether its frames are read or not.
        hint: what to do where it does not open.
    """

    stem: str
    where: str
    connect: Callable[[], Capture]
    live: bool
    hint: str


def make_source(text: str) -> Source | None:
    """The source that a camera's number, an address, a pipeline or a video's path names; None for anything else.

    Raises:
        UsageError: a pipeline that is not written as one.
    """
    pipeline = parse_pipeline(text)
    if pipeline is not None:
        hint = "What GStreamer says is above; try the pipeline with gst-launch-1.0"
        stem = re.sub(r"[^a-z0-9]+", "-", pipeline.shown.partition("!")[0].lower()).strip("-")
        return Source(stem, pipeline.shown, lambda: connect_pipeline(pipeline), pipeline.is_live, hint)
    if text.isdecimal():
        hint = "Is it plugged in and free?"
        return Source(f"camera{int(text)}", f"camera {int(text)}", lambda: cv2.VideoCapture(int(text)), True, hint)
    if _URL.match(text):
        shown = show_address(text)
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", shown.partition("://")[2]).strip("-.") or "stream"
        hint = "Check the address, and whether the camera or server answers"
        return Source(stem, shown, lambda: _connect_url(text), True, hint)
    path = Path(text)
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        hint = "Convert it, to H.264 MP4 say"
        return Source(path.stem, str(path), lambda: cv2.VideoCapture(str(path)), False, hint)
    return None


class FrameReader:
    """Reads a source frame by frame; an iterator of (index, frame). The first frame is read when it is made.

    Args:
        reconnect_s: for how long a live source that goes away is tried again, in seconds; 0 for not at all.
        wait: waits so many seconds, and says whether to give up.
        patient: take a live source that does not open for one that went away.

    Attributes:
        live: whether it goes on by itself; a source with an end, such as a video behind an address, does not.
        fps: frames per second, 0 where the source does not say.
        reconnects: how often it came back.

    Raises:
        DataError: it does not open or gives no frame; while iterating: it went away and did not come back.
    """

    def __init__(
        self,
        source: Source,
        *,
        reconnect_s: float = 0.0,
        wait: Callable[[float], bool] | None = None,
        patient: bool = False,
    ) -> None:
        self.source = source
        self.reconnects = 0
        self._reconnect_s = reconnect_s
        self._wait = wait or _sleep
        self._index = 0
        self._capture = source.connect()
        first = _read_frame(self._capture)
        if first is None and not (patient and source.live):
            self._capture.release()
            problem = "does not open or gives no frame" if source.live else "is no video that can be read"
            raise DataError(problem, where=source.where, hint=source.hint)
        self._next = first
        count, fps = self._capture.get(cv2.CAP_PROP_FRAME_COUNT), self._capture.get(cv2.CAP_PROP_FPS)
        self._count = int(count) if math.isfinite(count) and count > 0 else 0
        self.fps = fps if math.isfinite(fps) and 1 <= fps <= 1000 else 0.0
        self.live = source.live and self._count == 0

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        try:
            while self._next is not None or self._come_back():
                if self._next is not None:
                    yield self._index, self._next
                    self._index += 1
                self._next = _read_frame(self._capture)
        finally:
            self._capture.release()

    def name(self, index: int) -> str:
        """The name of a frame, such as "camera0-000012"."""
        return f"{self.source.stem}-{index:06d}"

    def _come_back(self) -> bool:
        """Open a live source again; False where frames simply end, or waiting was given up."""
        if not self.live:
            if self._index < _CUT_OFF * self._count:
                logger.warning("%s: ends after %d of %d frames", self.source.where, self._index, self._count)
            return False
        self._capture.release()
        gone = DataError(f"gives no more frames, after {self._index}", where=self.source.where, hint=self.source.hint)
        if self._reconnect_s <= 0:
            raise gone
        limit = f"for {self._reconnect_s:g} s" if math.isfinite(self._reconnect_s) else "until it is back"
        more = "more " if self._index else ""
        logger.warning("%s: gives no %sframes; trying to open it again %s", self.source.where, more, limit)
        lost, pause_s = time.monotonic(), SHORTEST_PAUSE_S
        while (left_s := lost + self._reconnect_s - time.monotonic()) > 0:
            if self._wait(min(pause_s, left_s)):
                return False
            self._capture = self.source.connect()
            self._next = _read_frame(self._capture)
            if self._next is not None:
                self.reconnects += 1
                logger.warning("%s: is back after %.1f s", self.source.where, time.monotonic() - lost)
                return True
            self._capture.release()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        raise gone


def _read_frame(capture: Capture) -> Image | None:
    """The next frame; None where there is none, also where OpenCV stumbles over it."""
    try:
        readable, frame = capture.read()
    except cv2.error as error:
        logger.warning("a frame cannot be read: %s", error)
        return None
    return np.asarray(frame, np.uint8) if readable and frame is not None and frame.size else None


def _connect_url(url: str) -> cv2.VideoCapture:
    """By FFmpeg, the one backend of OpenCV's that can be told not to wait for ever."""
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, NETWORK_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, NETWORK_TIMEOUT_MS]
    return cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits)


def show_address(text: str) -> str:
    """An address as it may be shown, scheme and host: cameras take passwords before the host, in the path and after.

    An @ after the host may mean that the password has a slash in it, and that what looks like the host is a part of it;
    no host is shown then. What is no address is shown as it is.
    """
    pipeline = parse_pipeline(text)
    if pipeline is not None:
        return pipeline.shown
    if not _URL.match(text):
        return text
    scheme, _, rest = text.partition("://")
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    host = "..." if "@" in rest[len(authority) :] else authority.rpartition("@")[2]
    return f"{scheme}://{host}"


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
