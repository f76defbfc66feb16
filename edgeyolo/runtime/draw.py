"""Draw detections on a picture, legible on small and big ones alike."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from edgeyolo.geometry.network_input import bgr_from_any
from edgeyolo.spec.detections import Detections, Image

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN = 0.618033988749895  # steps of the golden section spread hues evenly, however many classes there are


def class_colour(class_id: int) -> tuple[int, int, int]:
    """The BGR colour of a class: the same in every run, and well apart from those of its neighbours."""
    hue = (0.33 + class_id * _GOLDEN) % 1.0
    value = 1.0 if class_id % 2 == 0 else 0.8
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_detections(image: Image, detections: Detections, class_names: Sequence[str]) -> Image:
    """A copy of the picture with boxes and labels on it.

    Args:
        image: as `bgr_from_any` takes it.
        detections: in pixels of `image`; the best are drawn last, on top.
        class_names: K names; letters the font lacks are drawn as "?".

    Returns:
        (H, W, 3) uint8 BGR.

    Raises:
        ImageError: not a picture.
    """
    canvas = bgr_from_any(image).copy()
    line_px = line_width(canvas)
    objects = zip(detections.boxes_xyxy, detections.scores.tolist(), detections.class_ids.tolist(), strict=True)
    for box_xyxy, score, class_id in reversed(list(objects)):
        left, top, right, bottom = (round(float(v)) for v in box_xyxy)
        colour = class_colour(class_id)
        cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), colour, line_px)
        draw_label(canvas, f"{class_names[class_id]} {score:.2f}", (left, top), colour)
    return canvas


def line_width(canvas: Image) -> int:
    """Pixels, more on a larger picture."""
    height, width = canvas.shape[:2]
    width_px: int = max(1, round((height + width) / 560))
    return width_px


def draw_label(canvas: Image, text: str, corner_xy: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Put `text` on a filled ground above `corner_xy`, or below where there is no room, all inside the picture."""
    height, width = canvas.shape[:2]
    scale = max(0.4, (height + width) / 3600)
    thickness = max(1, round(scale * 1.6))
    (text_width, text_height), below = cv2.getTextSize(text, _FONT, scale, thickness)
    pad = max(1, round(scale * 4))
    label_height = text_height + below + pad
    left = max(0, min(corner_xy[0], width - text_width - 2 * pad))
    top = corner_xy[1] - label_height
    if top < 0:
        top = max(0, min(corner_xy[1], height - label_height))
    cv2.rectangle(canvas, (left, top), (left + text_width + 2 * pad - 1, top + label_height - 1), colour, cv2.FILLED)
    ink = (0, 0, 0) if _brightness(colour) > 110 else (255, 255, 255)
    baseline = (left + pad, top + label_height - below)
    cv2.putText(canvas, text, baseline, _FONT, scale, ink, thickness, cv2.LINE_AA)


def _brightness(colour: tuple[int, int, int]) -> float:
    """Perceived brightness of a BGR colour, 0-255. Source: ITU-R BT.601 luma."""
    return float(np.dot(colour, (0.114, 0.587, 0.299)))
