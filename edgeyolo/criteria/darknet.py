"""The losses of YOLOv3 and YOLOv4: cross-entropy of objectness and classes; boxes by squares, or by their overlap.

Source: YOLOv3, arXiv 1804.02767, sections 2.1 and 2.2; YOLOv4, arXiv 2004.10934, section 3.4 (CIoU, several anchors for
an object, grid sensitivity); numbers as in the authors' cfg files. Squares of x and y have the gradient that darknet
gives them, which is that of a cross-entropy.
Differs: of the boxes that one prediction answers for, the last one of the batch is learned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeyolo.criteria.best_anchor import Answers, BestAnchorCriterion
from edgeyolo.losses.iou import ciou
from edgeyolo.losses.quality_focal import quality_focal_terms
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import AnchorDecode

_CLASS_TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": functools.partial(F.binary_cross_entropy_with_logits, reduction="none"),
    "quality_focal": quality_focal_terms,
}


@dataclass(frozen=True)
class DarknetRules:
    """Numbers of the loss, called there `ignore_thresh`, `iou_thresh`, `iou_normalizer`, `obj_normalizer` and
    `cls_normalizer`.

    Attributes:
        ignore: overlap with an object above which a prediction that answers for none need not say so.
        threshold: anchors whose shape overlaps an object by more answer for it, too; 1 for the best alone.
        box: weight of 1 - CIoU; None for squares, weighted by how small the object is.
        objectness, classes: weights of their cross-entropies.
    """

    ignore: float = 0.7
    threshold: float = 1.0
    box: float | None = None
    objectness: float = 1.0
    classes: float = 1.0


class DarknetCriterion(BestAnchorCriterion):
    """Loss of an anchor head whose boxes grow by the exponential."""

    def __init__(self, decode: AnchorDecode, num_classes: int, rules: DarknetRules) -> None:
        super().__init__(decode, num_classes, ignore=rules.ignore, iou_threshold=rules.threshold)
        self.rules = rules
        self.unit = 1.0 if rules.box is None else rules.box
        self.box_overlap = ciou
        self.class_terms = _CLASS_TERMS["bce"]
        self.smoothing = 0.0

    def choose_box_loss(self, name: str | None, alpha: float | None) -> None:
        """As `Criterion.choose_box_loss`. Raises UsageError where boxes are learned by squares."""
        if self.rules.box is None and (name is not None or alpha is not None):
            raise UsageError(
                "box_loss and box_loss_alpha are for boxes trained by their overlap; this model has squared errors",
                hint="Leave them out",
            )
        super().choose_box_loss(name, alpha)

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
        """Parts `box`, `objectness` and `class`."""
        labels = answers.labels * (1 - self.smoothing) + self.smoothing / 2
        empty = [(F.softplus(row[:, :, 4]) * free).sum() for row, free in zip(answers.rows, answers.free, strict=True)]
        objectness = torch.stack(empty).sum() + F.softplus(-answers.raw[:, 4]).sum()
        return {
            "box": self._box_loss(answers),
            "objectness": self.rules.objectness * objectness,
            "class": self.rules.classes * self.class_terms(answers.raw[:, 5:], labels).sum(),
        }

    def _box_loss(self, answers: Answers) -> Tensor:
        if self.rules.box is not None:
            return self.rules.box * (1 - self.box_overlap(answers.boxes_xyxy, answers.asked_xyxy)).sum()
        centres_xy = (answers.asked_xyxy[:, :2] + answers.asked_xyxy[:, 2:]) / 2 / answers.strides
        cells_xy = torch.stack([answers.cells.column, answers.cells.row], dim=1)
        wanted_xy = (centres_xy - cells_xy).clamp(0, 1)
        moved = F.binary_cross_entropy_with_logits(answers.raw[:, :2], wanted_xy, reduction="none").sum(dim=1)
        grown = answers.growth_wh.square().sum(dim=1) / 2
        return (answers.small_counts * (moved + grown)).sum()
