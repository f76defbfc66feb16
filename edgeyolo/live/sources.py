"""Sources of a run without end: a camera is waited for, and a video file is played as a camera would give it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from edgeyolo.runtime.capture import Source, make_source
from edgeyolo.spec.errors import DataError

_DEFAULT_FPS = 25.0


def make_endless_source(text: str) -> Source:
    """The source that `make_source` makes; a video file begins again at its end, at its own speed.

    Raises:
        DataError: no video, address, pipeline or camera number; a file that cannot be read. UsageError: see there.
    """
    source = make_source(text)
    if source is None:
        raise DataError(
            "is no video, address or camera number", where=text, hint="Check the path; for pictures use detect"
        )
    if source.live or not Path(text).is_file():
        return source
    video = LoopedVideo(Path(text))
    is_readable, _ = video.read()
    video.release()
    if not is_readable:
        raise DataError("is no video that can be read", where=text, hint=source.hint)
    return replace(source, connect=lambda: LoopedVideo(Path(text)), live=True)


class LoopedVideo:
    """A video file as a `Capture`: a frame when it is time for it, and the first after the last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._video = cv2.VideoCapture(str(path))
        fps = self._video.get(cv2.CAP_PROP_FPS)
        self._fps = fps if 1 <= fps <= 1000 else _DEFAULT_FPS
        self._next_s = time.perf_counter()

    def read(self) -> tuple[bool, Any]:
        """See `Capture.read`."""
        time.sleep(max(0.0, self._next_s - time.perf_counter()))
        self._next_s = max(self._next_s, time.perf_counter() - 1.0) + 1.0 / self._fps
        readable, frame = self._video.read()
        if not readable:
            self._video.release()
            self._video = cv2.VideoCapture(str(self._path))
            readable, frame = self._video.read()
        return readable, frame

    def get(self, propId: int) -> float:
        """See `Capture.get`; it has no last frame."""
        return 0.0 if propId == cv2.CAP_PROP_FRAME_COUNT else float(self._video.get(propId))

    def release(self) -> None:
        """See `Capture.release`."""
        self._video.release()
