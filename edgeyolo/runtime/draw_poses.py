"""Draw joints and the lines between them on a picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edgeyolo.geometry.network_input import bgr_from_any
from edgeyolo.runtime.draw import class_colour
from edgeyolo.spec.detections import Image
from edgeyolo.spec.poses import SURE_SCORE, Poses

_LINE_SHARE, _FARTHEST_PX = 400, 1 << 14  # OpenCV's lines end where 16 bits do


def draw_poses(
    image: Image, poses: Poses, skeleton: Sequence[tuple[int, int]], *, least_score: float = SURE_SCORE
) -> Image:
    """A copy of the picture with every person in a colour of its own.

    Args:
        image: as `bgr_from_any` takes it.
        skeleton: pairs of joints, as `PoseEstimator.skeleton` gives them.
        least_score: joints below it are left out, and the lines to them.

    Returns:
        (H, W, 3) uint8 BGR.

    Raises:
        ImageError: not a picture.
    """
    canvas = bgr_from_any(image).copy()
    width_px = max(1, round(sum(canvas.shape[:2]) / _LINE_SHARE))
    for person, joints in enumerate(poses.keypoints):
        colour = class_colour(person)
        points = np.round(np.clip(joints[:, :2], -_FARTHEST_PX, _FARTHEST_PX)).astype(int).tolist()
        is_sure = (joints[:, 2] >= least_score).tolist()
        for first, second in skeleton:
            if max(first, second) < len(points) and is_sure[first] and is_sure[second]:
                cv2.line(canvas, points[first], points[second], colour, width_px, cv2.LINE_AA)
        for point, sure in zip(points, is_sure, strict=True):
            if sure:
                cv2.circle(canvas, point, width_px + 1, colour, cv2.FILLED, cv2.LINE_AA)
    return canvas
