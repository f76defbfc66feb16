"""A picture in 16 x 16 pixels: enough to see whether two are the same, and how bright they are."""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from edgeyolo.geometry.network_input import bgr_from_any
from edgeyolo.spec.detections import Image

Thumbnails: TypeAlias = npt.NDArray[np.uint8]  # (N, 16, 16, 3) BGR

SIDE = 16


def make_thumbnail(image: Image) -> npt.NDArray[np.uint8]:
    """(H, W, 3) -> (16, 16, 3), each pixel the mean of its part, whatever the shape."""
    return np.asarray(cv2.resize(bgr_from_any(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
