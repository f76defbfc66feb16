"""Augmentations that change colours and leave boxes alone."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from edgeyolo.data.sample import Sample

_HUES = 180  # OpenCV's 8-bit hue circle


def jitter_hsv(sample: Sample, rng: np.random.Generator, *, hue: float, saturation: float, value: float) -> Sample:
    """Turn the hue and scale saturation and value, each by a random amount, through one lookup table.

    Differs: from the YOLO family, which scales the hue; a turn treats red, at 0, like every other colour.

    Args:
        hue: largest turn, as a part of the circle, in [0, 0.5].
        saturation: largest relative change, in [0, 1].
        value: largest relative change, in [0, 1].
    """
    amounts = rng.uniform(-1, 1, 3) * (hue * _HUES, saturation, value)
    levels = np.arange(256)
    tables = np.stack(
        [
            (levels + round(amounts[0])) % _HUES,
            np.clip(levels * (1 + amounts[1]) + 0.5, 0, 255),
            np.clip(levels * (1 + amounts[2]) + 0.5, 0, 255),
        ],
        axis=-1,
    )
    hsv = cv2.cvtColor(sample.image, cv2.COLOR_BGR2HSV)
    hsv = cv2.LUT(hsv, tables[None].astype(np.uint8))
    return replace(sample, image=np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), np.uint8))
