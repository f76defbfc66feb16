"""The YOLOv1 loss: squared errors on a grid, whose cells each answer for the object in their middle.

Of a cell's boxes the one that overlaps the object best answers for it; its confidence is to be that overlap. Roots of
sides are compared, so that a pixel counts more in a small box.

Source: YOLO, arXiv 1506.02640, section 2.2 and equation 3.
Differs: of several objects in one cell the first is learned, of several boxes with equal overlap the first answers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeyolo.criteria.criterion import Criterion, Loss
from edgeyolo.criteria.region import refuse_overlap
from edgeyolo.heads import raw_head_of
from edgeyolo.losses.bce import smoothed_one_hot
from edgeyolo.losses.iou import iou
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import GridDecode

_BOX, _EMPTY = 5.0, 0.5  # lambda_coord and lambda_noobj


class GridCriterion(Criterion):
    """Loss of a grid head; a sum over each picture, averaged over pictures."""

    unit = _BOX

    def __init__(self, decode: GridDecode, num_classes: int) -> None:
        super().__init__()
        self.decode = decode
        self.num_classes = num_classes
        self.head = raw_head_of(decode)
        self.smoothing = 0.0

    def choose_box_loss(self, name: str | None, alpha: float | None) -> None:
        """As `Criterion.choose_box_loss`; there is no overlap to choose. Raises UsageError if one is named."""
        refuse_overlap(name, alpha)

    def choose_class_loss(self, name: str) -> None:
        """As `Criterion.choose_class_loss`: there is no logit to take another loss of."""
        raise UsageError(
            f"class_loss is {name}, which is for logits; this model learns classes by squared errors",
            hint="Leave class_loss out",
        )

    def smooth_labels(self, amount: float) -> None:
        """As `Criterion.smooth_labels`."""
        self.smoothing = amount

    def forward(self, maps: list[Tensor], targets: Tensor, image_hw: tuple[int, int]) -> Loss:
        """Loss of a batch; parts `box`, `confidence` and `class`."""
        with torch.autocast(maps[0].device.type, enabled=False):
            raw, targets = maps[0].float(), targets.to(maps[0].device, torch.float32)
            sums = self._sums(raw, targets, image_hw)
            parts = {name: part / len(raw) for name, part in sums.items()}
            return Loss(torch.stack(list(parts.values())).sum(), {name: p.detach() for name, p in parts.items()})

    def _sums(self, raw: Tensor, targets: Tensor, image_hw: tuple[int, int]) -> dict[str, Tensor]:
        """Over the batch; `raw` (B, boxes x 5 + K, h, w)."""
        batch, _, height, width = raw.shape
        boxes = raw[:, : 5 * self.decode.boxes].reshape(batch, self.decode.boxes, 5, height, width)
        owner, picture, row, column = self._find_owners(targets, height, width)
        values, asked_xyxy = boxes[picture, :, :, row, column], targets[owner, 2:]  # (P, boxes, 5), (P, 4)
        same = raw.new_tensor([self.decode.strides[0], image_hw[1], image_hw[0]]).expand(len(owner), 3)
        places = torch.cat((column[:, None], row[:, None], same), dim=1)  # as the head has them
        overlaps = iou(self.head.boxes_xyxy(values[..., :4], places[:, None], torch), asked_xyxy[:, None]).detach()
        quality, best = overlaps.max(dim=1)
        answers = values[torch.arange(len(owner), device=raw.device), best]  # (P, 5)
        labels = smoothed_one_hot(targets[owner, 1].long(), self.num_classes, smoothing=self.smoothing)
        classes = raw[:, 5 * self.decode.boxes :][picture, :, row, column]
        empty = boxes[:, :, 4].square().sum() - answers[:, 4].square().sum()
        return {
            "box": _BOX * (answers[:, :4] - _box_values(asked_xyxy, places)).square().sum(),
            "confidence": (answers[:, 4] - quality).square().sum() + _EMPTY * empty,
            "class": (classes - labels).square().sum(),
        }

    def _find_owners(self, targets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Row in the targets of the object that each cell answers for, and the cell: picture, row and column."""
        real = (targets[:, 4:] > targets[:, 2:4]).all(dim=1).nonzero()[:, 0]
        centres_xy = (targets[real, 2:4] + targets[real, 4:]) / 2 / self.decode.strides[0]
        column, row = (centres_xy[:, i].long().clamp(0, side - 1) for i, side in enumerate((width, height)))
        cell = (targets[real, 0].long() * height + row) * width + column
        found, member = torch.unique(cell, return_inverse=True)
        first = torch.full_like(found, len(real))
        first.scatter_reduce_(0, member, torch.arange(len(real), device=real.device), reduce="amin")
        return real[first], targets[real[first], 0].long(), row[first], column[first]


def _box_values(boxes_xyxy: Tensor, places: Tensor) -> Tensor:
    """What a head must say for boxes (P, 4) at places (P, 5): offsets from the cell's corner, roots of shares."""
    centres_xy = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2 / places[:, 2:3]
    return torch.cat(
        (centres_xy - places[:, :2], ((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) / places[:, 3:]).sqrt()), dim=1
    )
