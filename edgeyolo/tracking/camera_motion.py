"""How a camera moved from one frame to the next, seen in how corners of the picture moved."""

from __future__ import annotations

import cv2
import numpy as np

from edgeyolo.geometry.network_input import bgr_from_any
from edgeyolo.spec.detections import Float32, Image
from edgeyolo.spec.tracks import Float64

DOWNSCALE = 2  # corners are looked for in a picture of half the size
MAX_CORNERS, CORNER_QUALITY, CORNER_DISTANCE_PX, CORNER_BLOCK_PX = 1000, 0.01, 1, 3
FEWEST_CORNERS = 5  # a movement is not trusted with fewer


class CameraMotion:
    """Follows corners by sparse optical flow; what most of them did is what the camera did.

    Corners by Shi and Tomasi, flow by pyramids of Lucas and Kanade, and RANSAC over movements that turn, scale and
    shift. Objects that move are outvoted, not masked.

    Source: arXiv 2206.14651, section 3.2.
    """

    def __init__(self) -> None:
        self._grey: Image | None = None
        self._corners: Float32 | None = None

    def follow(self, frame: Image) -> Float64:
        """The movement since the last frame that was given.

        Args:
            frame: as `bgr_from_any` takes it.

        Returns:
            (2, 3) [R | t] from pixels of the last frame to pixels of this one; the identity for the first frame, after
            a change of size, and where too few corners could be followed.

        Raises:
            ImageError: not a picture.
        """
        grey = _prepare(frame)
        before, corners = self._grey, self._corners
        self._grey, self._corners = grey, _find_corners(grey)
        if before is None or corners is None or before.shape != grey.shape:
            return np.eye(2, 3)
        moved, found, _ = cv2.calcOpticalFlowPyrLK(before, grey, corners, None)  # type: ignore[call-overload]
        seen = found.ravel() == 1
        if np.count_nonzero(seen) < FEWEST_CORNERS:
            return np.eye(2, 3)
        warp, _ = cv2.estimateAffinePartial2D(corners[seen], moved[seen], method=cv2.RANSAC)
        if warp is None or not np.isfinite(warp).all():
            return np.eye(2, 3)
        warp[:, 2] *= DOWNSCALE
        return np.asarray(warp, np.float64)


def _prepare(frame: Image) -> Image:
    grey = cv2.cvtColor(bgr_from_any(frame), cv2.COLOR_BGR2GRAY)
    height, width = grey.shape
    size_wh = (max(1, width // DOWNSCALE), max(1, height // DOWNSCALE))
    return np.asarray(cv2.resize(grey, size_wh), np.uint8)


def _find_corners(grey: Image) -> Float32 | None:
    """(N, 1, 2) in pixels of `grey`; None where the picture is flat."""
    corners = cv2.goodFeaturesToTrack(grey, MAX_CORNERS, CORNER_QUALITY, CORNER_DISTANCE_PX, blockSize=CORNER_BLOCK_PX)
    return None if corners is None or not len(corners) else np.asarray(corners, np.float32)
