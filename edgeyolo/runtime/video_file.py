"""Pictures into a video that plays everywhere OpenCV's does: MPEG-4 in .mp4, even sizes, one size throughout."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from edgeyolo.geometry.letterbox import letterbox_image, make_letterbox
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import OutputError

DEFAULT_FPS = 15.0
LONGEST_HOLD_S = 2.0  # of one picture; a longer gap in a stream is shortened to it


class VideoFile:
    """A video being written; a context manager. It gets its name when it is closed, also after an error.

    Args:
        path: ends in .mp4.
        fps: pictures per second; 0 or what no player takes becomes 15.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, *, fps: float = 0.0) -> None:
        self.path = path
        self.fps = fps if 1.0 <= fps <= 240.0 else DEFAULT_FPS
        self.written = 0
        self._temporary = path.with_name(f"{path.stem}.tmp-{os.getpid()}.mp4")
        self._writer: cv2.VideoWriter | None = None
        self._size_hw = (0, 0)
        self._skipped = 0

    def write(self, image: Image, seconds: float) -> None:
        """Add a picture that is to be seen at `seconds` from the beginning, held until the next one.

        The first picture sets the size; others are fitted into it. A picture that comes sooner than the next one is due
        is left out.

        Args:
            image: (H, W, 3) uint8 BGR.
        """
        writer = self._writer or self._open((image.shape[0], image.shape[1]))
        if image.shape[:2] != self._size_hw:
            image = self._fit(image)
        due = max(int(seconds * self.fps + 0.5), 0) + 1 - self._skipped
        most = max(int(LONGEST_HOLD_S * self.fps), 1)
        if due - self.written > most:
            self._skipped += due - self.written - most
            due = self.written + most
        for _ in range(due - self.written):
            writer.write(image)
            self.written += 1

    def close(self) -> None:
        """Finish the file; without a picture there is none. Closing twice is harmless."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        if not self._temporary.is_file() or self._temporary.stat().st_size == 0:
            raise OutputError("was not written", where=self.path, hint="Check the free space")
        self._temporary.replace(self.path)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, image_hw: tuple[int, int]) -> cv2.VideoWriter:
        """Odd sides get one more pixel: the codec would cut one off."""
        self._size_hw = (image_hw[0] + image_hw[0] % 2, image_hw[1] + image_hw[1] % 2)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch()
        except OSError as error:
            raise OutputError(
                f"cannot be written ({error.strerror})", where=self.path, hint="Check its folder"
            ) from None
        writer = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, self._size_hw[::-1])
        if not writer.isOpened():
            self._temporary.unlink(missing_ok=True)
            raise OutputError("this OpenCV cannot write MP4", where=self.path, hint="Save pictures instead")
        self._writer = writer
        return writer

    def _fit(self, image: Image) -> Image:
        """On a black canvas of the video's size: padded where one pixel is missing, letterboxed otherwise."""
        missing = (self._size_hw[0] - image.shape[0], self._size_hw[1] - image.shape[1])
        if missing in ((0, 1), (1, 0), (1, 1)):
            canvas = np.zeros((*self._size_hw, 3), np.uint8)
            canvas[: image.shape[0], : image.shape[1]] = image
            return canvas
        return letterbox_image(image, make_letterbox((image.shape[0], image.shape[1]), self._size_hw), value=0)
