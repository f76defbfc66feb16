"""The PP-YOLO loss: L1 and IoU for boxes, cross-entropy of objectness and classes, and of the overlap it predicts.

All classes of the objects that a prediction answers for are asked of it.

Source: PP-YOLO, arXiv 2007.12099, section 3 (IoU loss, IoU aware, grid sensitive), and PP-YOLOv2, arXiv 2104.10419,
section 3.2, whose soft label of the overlap this is; weights as published by the authors.
Differs: an object without area is not learned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeyolo.assigners.ota import read_cells
from edgeyolo.criteria.best_anchor import Answers, BestAnchorCriterion
from edgeyolo.losses.by_name import BoxOverlap
from edgeyolo.losses.iou import iou
from edgeyolo.losses.quality_focal import quality_focal_terms
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import AnchorDecode

_CLASS_TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": functools.partial(F.binary_cross_entropy_with_logits, reduction="none"),
    "quality_focal": quality_focal_terms,
}
_SQUARED_IOU: BoxOverlap = functools.partial(iou, alpha=2.0)


@dataclass(frozen=True)
class PpYoloWeights:
    """Numbers of the loss.

    Attributes:
        ignore: overlap with an object above which a prediction that answers for none need not say so.
        iou: weight of 1 - IoU^2.
        aware: weight of the predicted overlap, where there is one.
    """

    ignore: float = 0.7
    iou: float = 2.5
    aware: float = 1.0


class PpYoloCriterion(BestAnchorCriterion):
    """Loss of an anchor head whose boxes grow by the exponential, with a predicted overlap or without."""

    def __init__(self, decode: AnchorDecode, num_classes: int, weights: PpYoloWeights) -> None:
        super().__init__(decode, num_classes, ignore=weights.ignore)
        self.weights = weights
        self.unit = weights.iou
        self.box_overlap = _SQUARED_IOU
        self.class_terms = _CLASS_TERMS["bce"]
        self.smoothing = 0.0

    def choose_class_loss(self, name: str) -> None:
        """As `Criterion.choose_class_loss`; the objectness keeps its own."""
        if name not in _CLASS_TERMS:
            raise UsageError(
                f"class_loss is {name}, which is for graded class scores; this model asks for whole classes",
                hint=f"Set class_loss to one of {', '.join(_CLASS_TERMS)}",
            )
        self.class_terms = _CLASS_TERMS[name]

    def smooth_labels(self, amount: float) -> None:
        """As `Criterion.smooth_labels`."""
        self.smoothing = amount

    def list_parts(self, answers: Answers) -> dict[str, Tensor]:
        """Parts `xy`, `wh`, `iou`, `objectness`, `class` and, where it is predicted, `overlap`."""
        weight = answers.small_counts
        lost = 1 - self.box_overlap(answers.boxes_xyxy, answers.asked_xyxy)
        labels = answers.labels * (1 - self.smoothing) + self.smoothing / 2
        empty = [(F.softplus(row[:, :, 4]) * free).sum() for row, free in zip(answers.rows, answers.free, strict=True)]
        parts = {
            "xy": (weight * answers.offsets_xy.abs().sum(dim=1)).sum(),
            "wh": (weight * answers.growth_wh.abs().sum(dim=1)).sum(),
            "iou": self.weights.iou * (weight * lost).sum(),
            "objectness": torch.stack(empty).sum() + F.softplus(-answers.raw[:, 4]).sum(),
            "class": self.class_terms(answers.raw[:, 5:], labels).sum(),
        }
        if answers.overlaps:
            logits = read_cells(answers.overlaps, answers.cells)[:, 0]
            quality = iou(answers.boxes_xyxy, answers.asked_xyxy).detach()
            entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="sum")
            parts["overlap"] = self.weights.aware * entropy
        return parts
