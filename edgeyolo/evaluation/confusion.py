"""What was taken for what: detections against objects, whatever the class of either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeyolo.evaluation.pairs import pair_boxes
from edgeyolo.geometry.boxes import box_iou
from edgeyolo.spec.detections import Detections, Int64

if TYPE_CHECKING:
    from edgeyolo.data.records import Record

IOU_THRESHOLD = 0.5


@dataclass(frozen=True)
class Pairing:
    """The detections of one picture and its objects.

    Attributes:
        pairs: (P, 2) index of the detection and of the object.
        extra: detections of nothing.
        missed: objects that were not detected.
    """

    pairs: Int64
    extra: Int64
    missed: Int64


def pair_up(detections: Detections, record: Record) -> Pairing:
    """Pair detections with objects, those that overlap most first, down to an IoU of 0.5; classes do not matter.

    A detection that is left over and overlaps a crowd or a difficult object so much is not counted.
    """
    pairs = pair_boxes(box_iou(detections.boxes_xyxy, record.boxes_xyxy), IOU_THRESHOLD)
    extra = np.setdiff1d(np.arange(len(detections)), pairs[:, 0])
    missed = np.setdiff1d(np.arange(len(record.boxes_xyxy)), pairs[:, 1])
    if len(record.ignored_boxes_xyxy):
        ignorable = box_iou(detections.boxes_xyxy[extra], record.ignored_boxes_xyxy) >= IOU_THRESHOLD
        extra = extra[~ignorable.any(1)]
    return Pairing(pairs, extra, missed)


def count_confusion(detections: Detections, record: Record, num_classes: int) -> Int64:
    """(K + 1, K + 1) of one picture: rows what it was, columns what it was taken for; the last is background."""
    pairing = pair_up(detections, record)
    nothing = np.array([num_classes])
    was = [record.class_ids[pairing.pairs[:, 1]], nothing.repeat(len(pairing.extra)), record.class_ids[pairing.missed]]
    taken_for = [
        detections.class_ids[pairing.pairs[:, 0]],
        detections.class_ids[pairing.extra],
        nothing.repeat(len(pairing.missed)),
    ]
    side = num_classes + 1
    cells = np.concatenate(was) * side + np.concatenate(taken_for)
    return np.bincount(cells, minlength=side**2).reshape(side, side).astype(np.int64)
