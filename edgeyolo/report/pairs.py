"""One picture twice, side by side, with what two sources say is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from edgeyolo.runtime.draw import class_colour, draw_detections
from edgeyolo.spec.detections import Detections, Float32, Image, Int64
from edgeyolo.spec.errors import ImageError

GAP = 6
HEADING = 26  # pixels above each half

_LONGEST_SIDE = 640  # of each half, pixels
_QUALITY = 85
_WHITE, _DARK, _GREY = (255, 255, 255), (20, 20, 20), (60, 60, 60)
_NO_BOXES = np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class Half:
    """What is drawn into one half; boxes in pixels of the picture.

    Attributes:
        heading: stands above the half.
        framed_xyxy: (F, 4) boxes with a black frame around them: something is wrong there.
        outlined_xyxy: (O, 4) boxes in thin white lines: for comparison.
        objects: boxes_xyxy (M, 4) and class ids (M,), in the colours of their classes.
        detections: in the colours of their classes, with names and scores.
    """

    heading: str
    framed_xyxy: Float32 = field(default_factory=lambda: _NO_BOXES)
    outlined_xyxy: Float32 = field(default_factory=lambda: _NO_BOXES)
    objects: tuple[Float32, Int64] = (_NO_BOXES, np.zeros(0, np.int64))
    detections: Detections = field(default_factory=Detections.empty)


def draw_pair(image: Image, left: Half, right: Half, class_names: Sequence[str]) -> Image:
    """Both halves under their headings; (H, W, 3) uint8 BGR.

    Args:
        image: (H, W, 3) uint8 BGR; a large one is made smaller.
    """
    factor = min(1.0, _LONGEST_SIDE / max(image.shape[:2]))
    small = resize_by(image, factor)
    left_drawn, right_drawn = (_draw_half(small, half, factor, class_names) for half in (left, right))
    gap = np.full((left_drawn.shape[0], GAP, 3), 255, np.uint8)
    return np.hstack([left_drawn, gap, right_drawn])


def resize_by(image: Image, factor: float) -> Image:
    """The picture with its sides times `factor`, at least one pixel each."""
    size_wh = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size_wh, interpolation=how), np.uint8)


def draw_objects(image: Image, boxes_xyxy: Float32, class_ids: Int64) -> None:
    """Boxes in the colours of their classes, drawn in place."""
    for (left, top, right, bottom), class_id in zip(_corners(boxes_xyxy), class_ids, strict=True):
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), class_colour(int(class_id)), 2)


def encode_jpeg(image: Image, *, where: str) -> bytes:
    """A picture as a JPEG file.

    Raises:
        ImageError: it cannot be encoded.
    """
    is_done, buffer = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not is_done:
        raise ImageError("cannot be encoded as JPEG", where=where)
    return buffer.tobytes()


def _draw_half(small: Image, half: Half, factor: float, class_names: Sequence[str]) -> Image:
    scale = np.float32(factor)
    drawn = small.copy()
    _draw_frames(drawn, half.framed_xyxy * scale)
    _draw_outlines(drawn, half.outlined_xyxy * scale)
    draw_objects(drawn, half.objects[0] * scale, half.objects[1])
    found = half.detections
    drawn = draw_detections(drawn, Detections(found.boxes_xyxy * scale, found.scores, found.class_ids), class_names)
    heading = np.full((HEADING, drawn.shape[1], 3), 255, np.uint8)
    cv2.putText(heading, half.heading, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _DARK, 1, cv2.LINE_AA)
    return np.vstack([heading, drawn])


def _draw_frames(image: Image, boxes_xyxy: Float32) -> None:
    """A black line on white around each box."""
    for colour, px in ((_WHITE, 7), (_DARK, 4)):
        for left, top, right, bottom in _corners(boxes_xyxy):
            cv2.rectangle(image, (left - 2, top - 2), (right + 1, bottom + 1), colour, px)


def _draw_outlines(image: Image, boxes_xyxy: Float32) -> None:
    """Thin white lines with a dark edge, which show on any ground."""
    for left, top, right, bottom in _corners(boxes_xyxy):
        cv2.rectangle(image, (left - 1, top - 1), (right, bottom), _GREY, 1)
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), _WHITE, 1)


def _corners(boxes_xyxy: Float32) -> list[list[int]]:
    """Whole pixels."""
    corners: list[list[int]] = boxes_xyxy.round().astype(int).tolist()
    return corners
