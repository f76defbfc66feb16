"""Live pictures: the latest result of a source is drawn and encoded once for all who look, and for nobody if none does.

The thread that detects leaves a result and goes on. One thread encodes, as many a second as are wanted at most; the
event loop hands the latest to each client when that client has taken the one before.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Sequence

import cv2
import numpy as np

from edgeyolo.live.state import Seen, SourceState
from edgeyolo.runtime.draw import draw_detections
from edgeyolo.runtime.follow import Follower
from edgeyolo.spec.detections import Detections, Image

logger = logging.getLogger(__name__)

BOUNDARY = "edgeyolo-frame"
CONTENT_TYPE = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
_QUALITY = 80
_REPEAT_S = 5.0  # a picture is sent again where no new one comes, which shows who has left


class LivePicture:
    """The pictures of one source.

    Attributes:
        state: of the source, with its latest result.
        watchers: clients that look at this moment; of the event loop.
    """

    def __init__(self, state: SourceState) -> None:
        self.state = state
        self.watchers = 0
        self.encoded_number = 0
        self.due_s = 0.0
        self._jpeg = b""
        self._changed = asyncio.Event()

    def publish(self, jpeg: bytes) -> None:
        """A new picture; in the event loop."""
        self._jpeg = jpeg
        self._changed.set()
        self._changed = asyncio.Event()

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """One part of the stream after the other, the latest each time; each ends with the mark of the next, for which
        browsers wait before they show it."""
        yield f"--{BOUNDARY}\r\n".encode()
        while True:
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), _REPEAT_S)
            except asyncio.TimeoutError:
                if not self._jpeg:
                    continue
            jpeg = self._jpeg
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            yield head.encode() + jpeg + f"\r\n--{BOUNDARY}\r\n".encode()


class Encoder:
    """The thread that draws and encodes.

    Args:
        loop: of the clients.
        fps: pictures a second of each source, at most.
        width: of a picture in pixels, at most.
    """

    def __init__(
        self,
        pictures: Sequence[LivePicture],
        class_names: Sequence[str],
        loop: asyncio.AbstractEventLoop,
        *,
        fps: float,
        width: int,
    ) -> None:
        self._pictures, self._class_names, self._loop = pictures, class_names, loop
        self._pause_s, self._width = 1.0 / fps, width
        self._wanted = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._encode_all, name="edgeyolo-encode", daemon=True)

    def start(self) -> None:
        """Begin to encode."""
        self._thread.start()

    def notice(self, position: int) -> None:
        """A source has a new result; never waits."""
        if self._pictures[position].watchers:
            self._wanted.set()

    def close(self) -> None:
        """End the thread."""
        self._is_over = True
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join()

    def _encode_all(self) -> None:
        while self._wanted.wait() and not self._is_over:
            self._wanted.clear()
            due = [picture for picture in self._pictures if picture.watchers and self._is_new(picture)]
            for picture in due:
                time.sleep(max(0.0, min(picture.due_s - time.perf_counter(), self._pause_s)))
                picture.due_s = time.perf_counter() + self._pause_s
                seen = picture.state.latest
                if seen is None or self._is_over:
                    continue
                picture.encoded_number = seen.number
                jpeg = encode(seen, self._class_names, self._width, picture.state.follower)
                self._loop.call_soon_threadsafe(picture.publish, jpeg)

    @staticmethod
    def _is_new(picture: LivePicture) -> bool:
        latest = picture.state.latest
        return latest is not None and latest.number != picture.encoded_number


def encode(seen: Seen, class_names: Sequence[str], width: int, follower: Follower | None) -> bytes:
    """A JPEG of a result with its boxes, `width` pixels wide at most.

    Args:
        follower: of the source, where objects are followed: ids, trails and zones are drawn.
    """
    if follower is None:
        image, detections = _shrink(seen.image, seen.detections, width)
        drawn = draw_detections(image, detections, class_names)
    else:
        drawn, _ = _shrink(follower.draw(seen.image, seen.tracks), Detections.empty(), width)
    return bytes(cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])


def _shrink(image: Image, detections: Detections, width: int) -> tuple[Image, Detections]:
    """So that lines and letters are drawn in the size that is looked at."""
    height, full = image.shape[:2]
    if full <= width:
        return image, detections
    size_wh = (width, max(1, round(height * width / full)))
    small = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
    scale = np.array([size_wh[0] / full, size_wh[1] / height] * 2, np.float32)
    moved = Detections(detections.boxes_xyxy * scale, detections.scores, detections.class_ids)
    return np.asarray(small, np.uint8), moved
