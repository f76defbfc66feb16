"""Resize-and-pad with its inverse beside it: how a picture of any shape becomes a network input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from edgeyolo.geometry.boxes import Boxes, clip_boxes
from edgeyolo.spec.detections import Float32, Image


@dataclass(frozen=True)
class Letterbox:
    """Where a picture stands on the input canvas.

    Attributes:
        image_hw: height and width of the picture.
        input_hw: height and width of the canvas.
        scale: input pixels per picture pixel, before `resized_hw` is rounded to whole pixels.
        pad_left, pad_top: canvas pixels before the picture.
    """

    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    scale: float
    pad_left: int
    pad_top: int

    @property
    def resized_hw(self) -> tuple[int, int]:
        """Height and width of the picture on the canvas, at least 1."""
        return resized_hw(self.image_hw, self.scale)

    def apply(self, boxes_xyxy: Boxes) -> Float32:
        """Boxes (M, 4) from picture pixels to input pixels, not clipped."""
        factor, offset = self._factor_and_offset()
        return (np.asarray(boxes_xyxy, np.float32) * factor + offset).astype(np.float32)

    def invert(self, boxes_xyxy: Boxes) -> Float32:
        """Boxes (M, 4) from input pixels to picture pixels, clipped to the picture."""
        factor, offset = self._factor_and_offset()
        return clip_boxes((np.asarray(boxes_xyxy, np.float32) - offset) / factor, self.image_hw)

    def _factor_and_offset(self) -> tuple[Float32, Float32]:
        """Per axis: the resized size is whole pixels, so the true factors differ slightly from `scale`."""
        (height, width), (resized_height, resized_width) = self.image_hw, self.resized_hw
        factor_xy = (resized_width / width, resized_height / height)
        return np.array(factor_xy * 2, np.float32), np.array((self.pad_left, self.pad_top) * 2, np.float32)


def resized_hw(image_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    """Size in whole pixels, halves up, at least 1, of a picture that is resized by `scale`."""
    return max(1, int(image_hw[0] * scale + 0.5)), max(1, int(image_hw[1] * scale + 0.5))


def make_letterbox(
    image_hw: tuple[int, int],
    input_hw: tuple[int, int],
    *,
    alignment: Literal["center", "top-left"] = "center",
) -> Letterbox:
    """Fit a picture into a canvas with its aspect kept.

    Args:
        image_hw: of the picture, each at least 1.
        input_hw: of the canvas, each at least 1.
        alignment: where the picture stands; centred padding that is odd has the smaller half first.

    Raises:
        ValueError: a side is less than 1.
    """
    if min(*image_hw, *input_hw) < 1:
        raise ValueError(f"picture {image_hw} and canvas {input_hw} must have sides of at least 1 pixel")
    scale = min(input_hw[0] / image_hw[0], input_hw[1] / image_hw[1])
    height, width = resized_hw(image_hw, scale)
    centred = alignment == "center"
    pad_left = (input_hw[1] - width) // 2 if centred else 0
    pad_top = (input_hw[0] - height) // 2 if centred else 0
    return Letterbox(image_hw, input_hw, scale, pad_left, pad_top)


def letterbox_image(image: Image, letterbox: Letterbox, *, value: int = 114) -> Image:
    """Picture (h, w, 3) uint8 -> canvas (H, W, 3) uint8, bilinear; the padding has grey `value`.

    Raises:
        ValueError: the picture is not the one the letterbox was made for.
    """
    if image.shape[:2] != letterbox.image_hw:
        raise ValueError(f"the picture is {image.shape[:2]} and its letterbox was made for {letterbox.image_hw}")
    canvas = np.full((*letterbox.input_hw, 3), value, np.uint8)
    height, width = letterbox.resized_hw
    place = canvas[letterbox.pad_top : letterbox.pad_top + height, letterbox.pad_left : letterbox.pad_left + width]
    place[:] = resize_image(image, letterbox.resized_hw)
    return canvas


def resize_image(image: Image, size_hw: tuple[int, int], *, out: Image | None = None) -> Image:
    """Picture (h, w, 3) uint8 -> (H, W, 3) uint8, bilinear; itself when the size is right already.

    Args:
        out: (H, W, 3) uint8 to write into, unless the size is right already.
    """
    if image.shape[:2] == size_hw:
        return image
    return np.asarray(cv2.resize(image, size_hw[::-1], dst=out, interpolation=cv2.INTER_LINEAR), np.uint8)
