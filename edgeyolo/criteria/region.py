"""The YOLOv2 loss: half squared errors of boxes and of objectness, cross-entropy of the softmax of the classes.

In the first epoch, boxes that answer for nothing are drawn a little to their anchor in the middle of its cell.

Source: YOLOv2, arXiv 1612.08242, section 2; the weights, the ignored overlap and the warm-up are of the authors' public
configuration (darknet, yolov2.cfg): there it lasts for 12,800 pictures, 0.5 % of the training on VOC.
Differs: the warm-up takes its share of epochs, at least one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeyolo.criteria.best_anchor import Answers, BestAnchorCriterion
from edgeyolo.losses.iou import iou
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import AnchorDecode

_IGNORE = 0.6
_OBJECT, _EMPTY, _BOX, _DRAWN = 5.0, 1.0, 1.0, 0.01


class RegionCriterion(BestAnchorCriterion):
    """Loss of an anchor head with softmax classes.

    Args:
        warm_epochs: in which boxes are drawn to their anchors.
    """

    unit = _BOX

    def __init__(self, decode: AnchorDecode, num_classes: int, *, warm_epochs: int = 1) -> None:
        super().__init__(decode, num_classes, ignore=_IGNORE)
        self.warm_epochs = warm_epochs
        self.epoch = 0
        self.smoothing = 0.0

    def start_epoch(self, epoch: int) -> None:
        """Decides about the warm-up by `epoch`, counted from 0."""
        self.epoch = epoch

    def choose_box_loss(self, name: str | None, alpha: float | None) -> None:
        """As `Criterion.choose_box_loss`; there is no overlap to choose. Raises UsageError if one is named."""
        refuse_overlap(name, alpha)

    def choose_class_loss(self, name: str) -> None:
        """As `Criterion.choose_class_loss`: its softmax has one loss."""
        raise UsageError(
            f"class_loss is {name}, which is for classes that do not exclude each other; this model has their softmax",
            hint="Leave class_loss out",
        )

    def smooth_labels(self, amount: float) -> None:
        """As `Criterion.smooth_labels`, the smoothed share spread over the classes alike."""
        self.smoothing = amount

    def list_parts(self, answers: Answers) -> dict[str, Tensor]:
        """Parts `box`, `objectness`, `class` and, in the warm-up, `anchor`."""
        squares = answers.offsets_xy.square().sum(dim=1) + answers.growth_wh.square().sum(dim=1)
        quality = iou(answers.boxes_xyxy, answers.asked_xyxy).detach()
        sure = answers.raw[:, 4].sigmoid()
        pairs = list(zip(answers.rows, answers.free, strict=True))
        empty = torch.stack([(row[:, :, 4].sigmoid().square() * free).sum() for row, free in pairs]).sum()
        labels = answers.labels / answers.labels.sum(dim=1, keepdim=True).clamp(min=1)
        labels = labels * (1 - self.smoothing) + self.smoothing / self.num_classes
        parts = {
            "box": _BOX / 2 * (answers.small_counts * squares).sum(),
            "objectness": _OBJECT / 2 * (quality - sure).square().sum() + _EMPTY / 2 * empty,
            "class": F.cross_entropy(answers.raw[:, 5:], labels, reduction="sum"),
        }
        if self.epoch < self.warm_epochs:
            drawn = torch.stack([(_anchor_error(row) * free).sum() for row, free in pairs]).sum()
            parts["anchor"] = _DRAWN / 2 * drawn
        return parts


def refuse_overlap(name: str | None, alpha: float | None) -> None:
    """Raise UsageError where a loss of squared errors is told to train boxes by their overlap."""
    if name is not None or alpha is not None:
        raise UsageError(
            "box_loss and box_loss_alpha are for boxes trained by their overlap; this model has squared errors",
            hint="Leave them out",
        )


def _anchor_error(row: Tensor) -> Tensor:
    """(B, anchors, 5 + K, h, w) -> (B, anchors, h, w): squares from the middle of the cell and the anchor's size."""
    return (row[:, :, :2].sigmoid() - 0.5).square().sum(dim=2) + row[:, :, 2:4].square().sum(dim=2)
