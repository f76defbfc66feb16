"""What the labels of a split are like: how many of each class, where they are, how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeyolo.data.dataset import Dataset
from edgeyolo.data.letterboxed import letterboxed_sides
from edgeyolo.data.records import Records
from edgeyolo.geometry.boxes import box_area
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
    objects = records.objects
    centres, sides = _centres(records), letterboxed_sides(records, input_hw)
    areas = box_area(objects.boxes_xyxy)
    heat, _, _ = np.histogram2d(centres[:, 1], centres[:, 0], bins=_CELLS, range=((0, 1), (0, 1)))
    small, large = int((areas < _SMALL_PX**2).sum()), int((areas > _LARGE_PX**2).sum())
    return LabelStatistics(
        pictures=len(records),
        empty=int((objects.counts == 0).sum()),
        class_counts=np.bincount(objects.class_ids, minlength=len(dataset.class_names)).astype(np.int64),
        centres=heat,
        sides_px=sides[:: -(-len(sides) // _MOST_POINTS) or 1],
        size_counts={"small": small, "medium": len(areas) - small - large, "large": large},
    )


def _centres(records: Records) -> Float64:
    """(N, 2) x and y as parts of the picture."""
    boxes_xyxy = records.objects.boxes_xyxy
    middle: Float64 = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / (2.0 * records.sizes_hw[records.objects.pictures, ::-1])
    return middle
