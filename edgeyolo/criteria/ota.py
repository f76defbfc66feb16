"""The YOLOv7 loss: optimal-transport assignment, CIoU boxes, CIoU as objectness, binary cross-entropy for classes.

Each match counts: the box and class losses of a level are means over its matches, also those of one prediction; the
objectness asked of a prediction is that of its last match in the order of `assigners.ota`, as on a CPU it is with the
authors, whose order on a GPU is left to chance.

Source: YOLOv7, arXiv 2207.02696, section 4.2 (auxiliary heads); weights, level balance and reach as published by the
authors: a lead head beside an auxiliary one counts 20 overlaps with reach 0.5, the auxiliary one 20 with reach 1.
Differs: a mean per picture, where the authors multiply by the number of pictures; classes are trained also when there
is one, where the authors leave the class score untrained, because the decode always multiplies objectness by it. In a
training of ours, which tells what to `expect`, levels and objectness are balanced otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from edgeyolo.assigners.ota import Cells, Matches, OtaRules, anchor_boxes, assign_ota
from edgeyolo.criteria.criterion import Criterion, Loss, mean_over_processes
from edgeyolo.losses.bce import smoothed_one_hot
from edgeyolo.losses.iou import ciou, clamped_ciou
from edgeyolo.losses.quality_focal import quality_focal_terms
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import AnchorDecode

_LEVEL_BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06), 5: (4.0, 1.0, 0.5, 0.4, 0.1)}
_AUXILIARY_SHARE = 0.25
_USUAL_OBJECTS = 7.3  # per picture of COCO, on which the weights were found
_RAREST_OBJECTS = 0.5  # per picture that objectness is still weighed up for
_CLASS_TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": functools.partial(F.binary_cross_entropy_with_logits, reduction="none"),
    "quality_focal": quality_focal_terms,
}
_RULES = OtaRules()
_LEAD_RULES = OtaRules(top=20)  # of a lead head beside an auxiliary one
_AUXILIARY_RULES = OtaRules(top=20, reach=1.0)


@dataclass(frozen=True)
class OtaWeights:
    """Weights of the parts.

    Attributes:
        box: of 1 - CIoU.
        objectness: at 640 x 640 and three levels; grows with the area of the input, falls with levels.
        classes: with 80 classes and three levels; grows with the classes, falls with levels.
        smoothing: of class labels, 0-1.
    """

    box: float = 0.05
    objectness: float = 0.7
    classes: float = 0.3
    smoothing: float = 0.0


class OtaCriterion(Criterion):
    """Loss of an anchor head, with auxiliary maps or without.

    Auxiliary maps are matched more generously, but by what the *lead* maps predict, and weigh a quarter.
    """

    def __init__(self, decode: AnchorDecode, num_classes: int, weights: OtaWeights) -> None:
        super().__init__()
        self.decode = decode
        self.num_classes = num_classes
        self.weights = weights
        self.unit = weights.box
        self.rarity = 1.0
        self.by_matches = False
        self.box_overlap = ciou
        self.class_terms = _CLASS_TERMS["bce"]

    def forward(self, maps: list[Tensor], targets: Tensor, image_hw: tuple[int, int]) -> Loss:
        """Loss of a batch; parts `box`, `objectness`, `classes`."""
        levels = len(self.decode.strides)
        split = [self._split_anchors(raw) for raw in maps]
        lead, auxiliary = split[:levels], split[levels:]
        targets = targets.to(lead[0].device, torch.float32)
        parts = self._parts(lead, targets, _LEAD_RULES if auxiliary else _RULES, lead)
        if auxiliary:
            parts = parts + _AUXILIARY_SHARE * self._parts(auxiliary, targets, _AUXILIARY_RULES, lead)
        parts = parts * parts.new_tensor(self._scales(image_hw))
        names = ("box", "objectness", "classes")
        return Loss(parts.sum(), dict(zip(names, parts.detach().unbind(), strict=True)))

    def expect(self, objects_per_picture: float) -> None:
        """Let objectness count more where objects are rarer than in the set that its weight is meant for.

        It is a mean over all cells, so that it fades with the objects; boxes are a mean over matches and do not. With
        one object per picture, what the boxes say of a layer's weights would be a hundred times louder.

        And let a level count by its matches: the one match in eight pictures that a level has would otherwise say as
        much of a layer's weights as the hundred of another level.
        """
        self.by_matches = True
        self.rarity = max(1.0, _USUAL_OBJECTS / max(_RAREST_OBJECTS, objects_per_picture))

    def choose_class_loss(self, name: str) -> None:
        """As `Criterion.choose_class_loss`; the objectness keeps its own."""
        if name not in _CLASS_TERMS:
            raise UsageError(
                f"class_loss is {name}, which is for graded class scores; this model asks for whole classes",
                hint=f"Set class_loss to one of {', '.join(_CLASS_TERMS)}",
            )
        self.class_terms = _CLASS_TERMS[name]

    def smooth_labels(self, amount: float) -> None:
        """As `Criterion.smooth_labels`; replaces what the model's own weights say, unless it is 0."""
        if amount:
            self.weights = replace(self.weights, smoothing=amount)

    def _parts(self, maps: list[Tensor], targets: Tensor, rules: OtaRules, judge: list[Tensor]) -> Tensor:
        """(3,) box, objectness and class loss of maps, matched by what the maps `judge` predict; not yet weighted."""
        matches = self.match(judge, targets, rules)
        raw, objectness = _read(maps, matches.cells)
        boxes_xyxy, asked_xyxy = anchor_boxes(raw, matches.cells, self.decode), targets[matches.target, 2:]
        quality = clamped_ciou(boxes_xyxy.detach(), asked_xyxy)
        labels = smoothed_one_hot(targets[matches.target, 1].long(), self.num_classes, smoothing=self.weights.smoothing)
        entropy = self.class_terms(raw[:, 5:], labels).mean(dim=1)
        level = matches.cells.level
        average = _levels_by_matches if self.by_matches else _sum_of_level_means
        box = average(1 - self.box_overlap(boxes_xyxy, asked_xyxy), level, len(maps))
        classes = average(entropy, level, len(maps))
        return torch.stack([box, _objectness_loss(objectness, matches, quality), classes])

    def match(self, maps: list[Tensor], targets: Tensor, rules: OtaRules) -> Matches:
        """Which predictions answer for which object; maps (B, anchors, 5 + K, h, w)."""
        return assign_ota(maps, targets, self.decode, rules)

    def _scales(self, image_hw: tuple[int, int]) -> tuple[float, float, float]:
        per_level = 3 / len(self.decode.strides)
        area = image_hw[0] * image_hw[1] / 640**2
        return (
            self.weights.box * per_level,
            self.weights.objectness * self.rarity * area * per_level,
            self.weights.classes * self.num_classes / 80 * per_level,
        )

    def _split_anchors(self, raw: Tensor) -> Tensor:
        """(B, anchors x (5 + K), h, w) -> (B, anchors, 5 + K, h, w)."""
        batch, _, height, width = raw.shape
        return raw.view(batch, len(self.decode.anchors_wh[0]), 5 + self.num_classes, height, width)


def _read(maps: list[Tensor], cells: Cells) -> tuple[Tensor, list[Tensor]]:
    """Values (P, 5 + K) of cells and the objectness (B, anchors, h, w) of every level, float32."""
    values = maps[0].new_empty((len(cells.level), maps[0].shape[2]), dtype=torch.float32)
    objectness = []
    for level, raw in enumerate(maps):
        here = (cells.level == level).nonzero()[:, 0]
        at = cells.select(here)
        found, logits = _ReadLevel.apply(raw, at.picture, at.anchor, at.row, at.column)  # type: ignore[no-untyped-call]
        values = values.index_copy(0, here, found.float())
        objectness.append(logits.float())
    return values, objectness


class _ReadLevel(torch.autograd.Function):
    """`raw[picture, anchor, :, row, column]` and `raw[:, :, 4]`, whose gradient is one tensor and not a sum of two.

    Nearly all of that gradient is zero: to write it twice and add costs more than the rest of the loss.
    """

    @staticmethod
    def forward(ctx: Any, raw: Tensor, *place: Tensor) -> tuple[Tensor, Tensor]:
        """(B, anchors, 5 + K, h, w) and four times (P,) -> (P, 5 + K), (B, anchors, h, w)."""
        ctx.save_for_backward(raw, *place)
        picture, anchor, row, column = place
        return raw[picture, anchor, :, row, column], raw[:, :, 4].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, values: Tensor, objectness: Tensor) -> tuple[Tensor | None, ...]:
        """(P, 5 + K), (B, anchors, h, w) -> (B, anchors, 5 + K, h, w)."""
        raw, picture, anchor, row, column = ctx.saved_tensors
        gradient = torch.zeros_like(raw)
        gradient[:, :, 4] = objectness
        gradient.permute(0, 1, 3, 4, 2).index_put_((picture, anchor, row, column), values, accumulate=True)
        return gradient, None, None, None, None


def _sum_of_level_means(values: Tensor, level: Tensor, levels: int) -> Tensor:
    """Mean of (P,) values on each level, summed over levels; a level without any counts 0."""
    sums = values.new_zeros(levels).index_add(0, level, values)
    counts = mean_over_processes(torch.bincount(level, minlength=levels).to(values.dtype))
    return (sums / torch.where(counts > 0, counts, 1)).sum()


def _levels_by_matches(values: Tensor, level: Tensor, levels: int) -> Tensor:
    """Mean of (P,) values on all levels, times the levels; 0 without any."""
    count = mean_over_processes(values.new_tensor(float(len(level))), least=1.0)
    return levels * values.sum() / count


def _objectness_loss(maps: list[Tensor], matches: Matches, quality: Tensor) -> Tensor:
    """Cross-entropy of objectness (B, anchors, h, w), (P,) `quality` where matched, 0 elsewhere; balanced over levels.

    Of a prediction that is matched more than once, the last match counts.
    """
    counts = quality.new_tensor([logits.numel() for logits in maps])
    shares = counts / mean_over_processes(counts)
    total = quality.new_zeros(())
    for level, (logits, balance) in enumerate(zip(maps, _LEVEL_BALANCE[len(maps)], strict=True)):
        here = (matches.cells.level == level).nonzero()[:, 0]
        wanted = _last_written(logits, matches.cells.select(here), quality[here])
        if len(logits):
            total = total + balance * shares[level] * F.binary_cross_entropy_with_logits(logits, wanted)
    return total


def _last_written(logits: Tensor, cells: Cells, values: Tensor) -> Tensor:
    """Zeros (B, anchors, h, w) like `logits` with (P,) values at cells; the last one where a cell is repeated."""
    _, anchors, height, width = logits.shape
    place = ((cells.picture * anchors + cells.anchor) * height + cells.row) * width + cells.column
    place, order = place.sort(stable=True)
    is_last = F.pad(place[1:] != place[:-1], (0, 1), value=True) if len(place) else place.bool()
    wanted = torch.zeros(logits.numel(), device=logits.device)
    wanted[place[is_last]] = values[order[is_last]]
    return wanted.view_as(logits)
