"""What the labels of a split are like: how many of each class, where they are, how large they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeyolo.data.dataset import Dataset, Record
from edgeyolo.geometry.boxes import box_area
from edgeyolo.geometry.letterbox import make_letterbox
from edgeyolo.spec.detections import Int64

_CELLS = 32
_MOST_POINTS = 20_000
_SMALL_PX, _LARGE_PX = 32, 96

Float64: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LabelStatistics:
    """What the labels of one split are like.

    Attributes:
        pictures, empty: how many, and how many of them without objects.
        class_counts: (K,) objects.
        centres: (32, 32) objects whose centre is in each cell of the picture, rows from the top.
        sides_px: (N, 2) width and height in the network input; evenly thinned out where there are very many.
        size_counts: objects small, medium and large by COCO's areas, in pixels of the pictures.
    """

    pictures: int
    empty: int
    class_counts: Int64
    centres: Float64
    sides_px: Float64
    size_counts: dict[str, int]


def count_labels(dataset: Dataset, input_hw: tuple[int, int]) -> LabelStatistics:
    """Statistics of a split whose pictures are letterboxed to `input_hw`."""
    records = dataset.records
    class_ids = np.concatenate([np.zeros(0, np.int64), *(record.class_ids for record in records)])
    centres = _stack([_centres(record) for record in records])
    sides = _stack([_input_sides(record, input_hw) for record in records])
    areas = np.concatenate([np.zeros(0), *(box_area(record.boxes_xyxy) for record in records)])
    heat, _, _ = np.histogram2d(centres[:, 1], centres[:, 0], bins=_CELLS, range=((0, 1), (0, 1)))
    small, large = int((areas < _SMALL_PX**2).sum()), int((areas > _LARGE_PX**2).sum())
    return LabelStatistics(
        pictures=len(records),
        empty=sum(len(record.class_ids) == 0 for record in records),
        class_counts=np.bincount(class_ids, minlength=len(dataset.class_names)).astype(np.int64),
        centres=heat,
        sides_px=sides[:: -(-len(sides) // _MOST_POINTS) or 1],
        size_counts={"small": small, "medium": len(areas) - small - large, "large": large},
    )


def _stack(parts: Sequence[Float64]) -> Float64:
    return np.concatenate([np.zeros((0, 2)), *parts])


def _centres(record: Record) -> Float64:
    """(M, 2) x and y as parts of the picture."""
    height, width = record.image_hw
    middle: Float64 = (record.boxes_xyxy[:, :2] + record.boxes_xyxy[:, 2:]) / (2.0 * np.array([width, height]))
    return middle


def _input_sides(record: Record, input_hw: tuple[int, int]) -> Float64:
    boxes_xyxy = make_letterbox(record.image_hw, input_hw).apply(record.boxes_xyxy)
    return (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).astype(np.float64)
