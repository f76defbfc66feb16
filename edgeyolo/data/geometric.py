"""Augmentations that move pixels and boxes together: flips, and one warp for everything else.

A matrix is (3, 3) float64 and maps (x, y, 1) columns of box coordinates, in which pixel i reaches from i to i + 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from edgeyolo.data.sample import Sample
from edgeyolo.geometry.boxes import box_area, clip_boxes
from edgeyolo.spec.detections import Float32, Image

Matrix = npt.NDArray[np.float64]

LEAST_VISIBLE = 0.1
LEAST_SIDE_PX = 2.0
LARGEST_ASPECT = 20.0


@dataclass(frozen=True)
class AffineRange:
    """How far a random affine map may go.

    Attributes:
        degrees: largest rotation, either way.
        translate: largest shift, as a part of the output's sides.
        scale: the factor is drawn from [1 - scale, 1 + scale]; in [0, 1).
        shear: largest shear angle along each axis, degrees, below 90.
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0


def flip_left_right(sample: Sample) -> Sample:
    """Mirror image: left becomes right."""
    width = sample.image.shape[1]
    x1, y1, x2, y2 = sample.boxes_xyxy.T
    return replace(sample, image=_flipped(sample.image, 1), boxes_xyxy=np.stack([width - x2, y1, width - x1, y2], 1))


def flip_up_down(sample: Sample) -> Sample:
    """Upside down."""
    height = sample.image.shape[0]
    x1, y1, x2, y2 = sample.boxes_xyxy.T
    return replace(sample, image=_flipped(sample.image, 0), boxes_xyxy=np.stack([x1, height - y2, x2, height - y1], 1))


def translation(x: float, y: float) -> Matrix:
    """The matrix that shifts by (x, y) pixels."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def random_affine(rng: np.random.Generator, output_hw: tuple[int, int], limits: AffineRange) -> Matrix:
    """A random map from a plane with its origin in the middle to output pixels: scale, rotate, shear, shift."""
    height, width = output_hw
    factor = rng.uniform(1 - limits.scale, 1 + limits.scale)
    angle = math.radians(rng.uniform(-limits.degrees, limits.degrees))
    shear_x, shear_y = (math.tan(math.radians(rng.uniform(-limits.shear, limits.shear))) for _ in range(2))
    shift_x, shift_y = rng.uniform(0.5 - limits.translate, 0.5 + limits.translate, 2) * (width, height)
    cosine, sine = factor * math.cos(angle), factor * math.sin(angle)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    shear = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
    moved: Matrix = translation(shift_x, shift_y) @ shear @ rotation
    return moved


def warp_onto(canvas: Image, image: Image, matrix: Matrix) -> None:
    """Draw `image` on `canvas` where `matrix` puts it, bilinear, in place; only the pixels it covers are touched."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = warp_boxes(np.array([[0, 0, width, height]], np.float32), matrix)[0].tolist()
    left, top = max(0, math.floor(x1)), max(0, math.floor(y1))
    right, bottom = min(canvas.shape[1], math.ceil(x2)), min(canvas.shape[0], math.ceil(y2))
    if right <= left or bottom <= top:
        return
    # OpenCV counts from pixel centres, boxes from pixel edges
    to_place = translation(-left - 0.5, -top - 0.5) @ matrix @ translation(0.5, 0.5)
    cv2.warpAffine(
        image,
        to_place[:2],
        (right - left, bottom - top),
        dst=canvas[top:bottom, left:right],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT,
    )


def warp_boxes(boxes_xyxy: Float32, matrix: Matrix) -> Float32:
    """(M, 4) -> (M, 4): the upright box around the four moved corners, not clipped."""
    corners_x, corners_y = boxes_xyxy[:, [0, 2, 2, 0]], boxes_xyxy[:, [1, 1, 3, 3]]
    x = matrix[0, 0] * corners_x + matrix[0, 1] * corners_y + matrix[0, 2]
    y = matrix[1, 0] * corners_x + matrix[1, 1] * corners_y + matrix[1, 2]
    return np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], 1).astype(np.float32)


def crop_boxes(boxes_xyxy: Float32, image_hw: tuple[int, int]) -> tuple[Float32, npt.NDArray[np.bool_]]:
    """Boxes cut at the borders, (M, 4), and which are still worth learning from, (M,).

    Kept are those of which at least a tenth is visible, with sides of 2 px and more, and at most 20 times longer
    than wide.
    """
    cut = clip_boxes(boxes_xyxy, image_hw)
    sides = cut[:, 2:] - cut[:, :2]
    shortest, longest = sides.min(1, initial=np.inf), sides.max(1, initial=0)
    is_kept = (
        (shortest >= LEAST_SIDE_PX)
        & (longest <= LARGEST_ASPECT * shortest)
        & (box_area(cut) >= LEAST_VISIBLE * box_area(boxes_xyxy))
    )
    return cut, is_kept


def _flipped(image: Image, axis: int) -> Image:
    return np.asarray(cv2.flip(image, axis), np.uint8)
