"""What losses have in common whose objects go to the anchor of the best shape: YOLOv2, and all that came of it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeyolo.assigners.best_anchor import best_overlaps, match_best_anchors, unite_matches
from edgeyolo.assigners.ota import Cells, anchor_boxes, read_cells
from edgeyolo.criteria.criterion import Criterion, Loss
from edgeyolo.heads import raw_head_of
from edgeyolo.spec.model import AnchorDecode


@dataclass(frozen=True)
class Answers:
    """The maps of a batch, and the U predictions that answer for an object, each once.

    Attributes:
        rows: per level (B, anchors, 5 + K, h, w).
        overlaps: per level (B, anchors, 1, h, w) logits, none where the head predicts none.
        free: per level (B, anchors, h, w), whether a prediction answers for nothing and is to say so.
        cells: of the U predictions.
        raw: (U, 5 + K) their values.
        boxes_xyxy, asked_xyxy: (U, 4) what they predict and what is asked of them, input pixels.
        anchors_wh: (U, 2) input pixels.
        strides: (U, 1) input pixels.
        labels: (U, K) 1 for the class of every object that a prediction answers for.
        image_hw: of the input, pixels.
    """

    rows: list[Tensor]
    overlaps: list[Tensor]
    free: list[Tensor]
    cells: Cells
    raw: Tensor
    boxes_xyxy: Tensor
    asked_xyxy: Tensor
    anchors_wh: Tensor
    strides: Tensor
    labels: Tensor
    image_hw: tuple[int, int]

    @property
    def small_counts(self) -> Tensor:
        """(U,) 2 minus the object's share of the picture: a weight that keeps small ones from being outweighed."""
        sizes_wh = self.asked_xyxy[:, 2:] - self.asked_xyxy[:, :2]
        return 2 - sizes_wh.prod(dim=1) / (self.image_hw[0] * self.image_hw[1])

    @property
    def offsets_xy(self) -> Tensor:
        """(U, 2) how far the predicted centres are off, in cells."""
        sums = self.boxes_xyxy[:, :2] + self.boxes_xyxy[:, 2:] - self.asked_xyxy[:, :2] - self.asked_xyxy[:, 2:]
        return sums / 2 / self.strides

    @property
    def growth_wh(self) -> Tensor:
        """(U, 2) how far the logarithms of the predicted sides are off."""
        sizes_wh = self.asked_xyxy[:, 2:] - self.asked_xyxy[:, :2]
        return self.raw[:, 2:4] - (sizes_wh / self.anchors_wh).log()


class BestAnchorCriterion(Criterion):
    """Loss of an anchor head whose boxes grow by the exponential; sums over a picture, averaged over pictures.

    Where a prediction answers for several objects, its box is the last one's.

    Args:
        ignore: a prediction that answers for nothing, but overlaps an object by more, need not say so.
        iou_threshold: anchors whose shape overlaps an object by more answer for it, too; 1 for the best alone.
    """

    def __init__(self, decode: AnchorDecode, num_classes: int, *, ignore: float, iou_threshold: float = 1.0) -> None:
        super().__init__()
        self.decode = decode
        self.num_classes = num_classes
        self.ignore = ignore
        self.iou_threshold = iou_threshold
        self.head = raw_head_of(decode)

    @abstractmethod
    def list_parts(self, answers: Answers) -> dict[str, Tensor]:
        """The parts of the loss, weighted, each a sum over the batch."""

    def forward(self, maps: list[Tensor], targets: Tensor, image_hw: tuple[int, int]) -> Loss:
        """Loss of a batch."""
        with torch.autocast(maps[0].device.type, enabled=False):
            targets = targets.to(maps[0].device, torch.float32)
            parts = self.list_parts(self.match([raw.float() for raw in maps], targets, image_hw))
            parts = {name: part / len(maps[0]) for name, part in parts.items()}
            return Loss(torch.stack(list(parts.values())).sum(), {name: p.detach() for name, p in parts.items()})

    def match(self, maps: list[Tensor], targets: Tensor, image_hw: tuple[int, int]) -> Answers:
        """Who answers for which row of the targets (N, 6)."""
        overlaps, rows = zip(*(self._split(level, raw) for level, raw in enumerate(maps)), strict=True)
        level_hw = [(raw.shape[2], raw.shape[3]) for raw in maps]
        found = unite_matches(match_best_anchors(targets, self.decode, level_hw, iou_threshold=self.iou_threshold))
        cells, raw = found.cells, read_cells(rows, found.cells)
        labels = raw.new_zeros(len(raw), self.num_classes)
        labels[found.member, targets[found.owner, 1].long()] = 1
        return Answers(
            rows=list(rows),
            overlaps=[overlap for overlap in overlaps if overlap is not None],
            free=self._find_free(list(rows), cells, targets, image_hw),
            cells=cells,
            raw=raw,
            boxes_xyxy=anchor_boxes(raw, cells, self.decode),
            asked_xyxy=targets[found.last, 2:],
            anchors_wh=self._anchors_of(cells).to(raw),
            strides=raw.new_tensor(self.decode.strides)[cells.level, None],
            labels=labels,
            image_hw=image_hw,
        )

    def _split(self, level: int, raw: Tensor) -> tuple[Tensor | None, Tensor]:
        """A map -> overlaps (B, anchors, 1, h, w) or None, and rows (B, anchors, 5 + K, h, w)."""
        batch, _, height, width = raw.shape
        count = len(self.decode.anchors_wh[level])
        leading = count if self.decode.iou_power else 0
        rows = raw[:, leading:].reshape(batch, count, 5 + self.num_classes, height, width)
        return (raw[:, :leading, None] if leading else None), rows

    def _anchors_of(self, cells: Cells) -> Tensor:
        """(U, 2) input pixels."""
        counts = torch.tensor([len(level) for level in self.decode.anchors_wh], device=cells.level.device)
        first = counts.cumsum(0) - counts
        every = torch.tensor([anchor for level in self.decode.anchors_wh for anchor in level], device=first.device)
        return every[first[cells.level] + cells.anchor]

    @torch.no_grad()
    def _find_free(self, rows: list[Tensor], cells: Cells, targets: Tensor, image_hw: tuple[int, int]) -> list[Tensor]:
        """Per level (B, anchors, h, w)."""
        values = torch.cat([row[:, :, :4].movedim(2, -1).flatten(1, 3) for row in rows], dim=1)  # (B, N, 4)
        places = torch.from_numpy(self.head.make_places(image_hw)).to(values.device)
        free = best_overlaps(self.head.boxes_xyxy(values, places, torch), targets) <= self.ignore
        shapes = [row[:, :, 4].shape for row in rows]
        masks = torch.split(free, [shape[1:].numel() for shape in shapes], dim=1)
        levels = [mask.reshape(shape).clone() for mask, shape in zip(masks, shapes, strict=True)]
        for level, mask in enumerate(levels):
            at = cells.select(cells.level == level)
            mask[at.picture, at.anchor, at.row, at.column] = False
        return levels
