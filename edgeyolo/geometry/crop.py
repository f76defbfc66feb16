"""The part of a picture that is cut out for one person, as an affine map with its inverse beside it.

Pixels are counted from their centres here, as OpenCV's warp and joints in COCO files do.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edgeyolo.spec.detections import Float32, Image

Matrix = npt.NDArray[np.float64]  # (2, 3): from (x, y, 1) in one picture to (x, y) in another


@dataclass(frozen=True)
class Crop:
    """A rectangle of a picture, perhaps turned, that fills a network's input.

    Attributes:
        centre_xy: of the rectangle, picture pixels.
        size_wh: of it, of the same shape as the input.
        degrees: by which it is turned, clockwise as seen.
        input_hw: height and width of the input.
    """

    centre_xy: tuple[float, float]
    size_wh: tuple[float, float]
    input_hw: tuple[int, int]
    degrees: float = 0.0

    @property
    def matrix(self) -> Matrix:
        """(2, 3) float64, from picture pixels to input pixels."""
        angle, factor = np.deg2rad(self.degrees), self.input_hw[1] / self.size_wh[0]
        cosine, sine = factor * np.cos(angle), factor * np.sin(angle)
        turn = np.array([[cosine, sine], [-sine, cosine]])
        middle_xy = np.array([self.input_hw[1] * 0.5, self.input_hw[0] * 0.5])
        return np.column_stack([turn, middle_xy - turn @ np.array(self.centre_xy)])

    def cut(self, image: Image) -> Image:
        """The part of a picture (H, W, 3) uint8 at the size of the input, bilinear; black where there is no picture."""
        size_wh = (self.input_hw[1], self.input_hw[0])
        return np.asarray(cv2.warpAffine(image, self.matrix, size_wh, flags=cv2.INTER_LINEAR), np.uint8)

    def apply(self, points_xy: npt.NDArray[np.floating]) -> Float32:
        """Points (..., 2) from picture pixels to input pixels."""
        return _moved(points_xy, self.matrix)

    def invert(self, points_xy: npt.NDArray[np.floating]) -> Float32:
        """Points (..., 2) from input pixels to picture pixels."""
        return _moved(points_xy, np.asarray(cv2.invertAffineTransform(self.matrix), np.float64))


def crop_around(box_xyxy: npt.NDArray[np.floating], input_hw: tuple[int, int], *, margin: float = 1.25) -> Crop:
    """The crop of a box: as large as the box at least, of the shape of the input, then `margin` times as large."""
    left, top, right, bottom = (float(side) for side in box_xyxy)
    aspect = input_hw[1] / input_hw[0]
    width, height = max(right - left, 1e-3), max(bottom - top, 1e-3)
    width, height = max(width, height * aspect), max(height, width / aspect)
    return Crop(((left + right) / 2, (top + bottom) / 2), (width * margin, height * margin), input_hw)


def _moved(points_xy: npt.NDArray[np.floating], matrix: Matrix) -> Float32:
    moved = np.asarray(points_xy, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(moved, np.float32)
