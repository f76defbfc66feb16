"""What a split's pictures and boxes measure once they are letterboxed; a million pictures have few sizes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeyolo.data.records import Records, rows_by_size
from edgeyolo.geometry.letterbox import make_letterbox
from edgeyolo.spec.detections import Int64


def letterboxed_sizes_hw(records: Records, input_hw: tuple[int, int]) -> Int64:
    """(N, 2) height and width of each picture on the canvas, without the padding."""
    resized = np.zeros((len(records), 2), np.int64)
    for image_hw, rows in rows_by_size(records.sizes_hw):
        resized[rows] = make_letterbox(image_hw, input_hw).resized_hw
    return resized


def letterboxed_sides(records: Records, input_hw: tuple[int, int]) -> npt.NDArray[np.float64]:
    """(T, 2) width and height of every object on the canvas, in the order of `records.objects`."""
    objects = records.objects
    sides = np.zeros((len(objects.class_ids), 2))
    for image_hw, rows in rows_by_size(records.sizes_hw[objects.pictures]):
        boxes_xyxy = make_letterbox(image_hw, input_hw).apply(objects.boxes_xyxy[rows])
        sides[rows] = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    return sides
