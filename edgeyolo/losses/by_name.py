"""The losses that a config can name in place of a model's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from edgeyolo.losses.bce import quality_cross_entropy
from edgeyolo.losses.iou import ciou, diou, eiou, giou, iou, siou
from edgeyolo.losses.quality_focal import quality_focal_loss
from edgeyolo.losses.varifocal import varifocal_loss

BoxOverlap = Callable[..., Tensor]  # as `losses.iou` has them
ClassLoss = Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]  # maps, logits that a score is asked of, these scores

BOX_OVERLAPS: dict[str, BoxOverlap] = {
    "iou": iou,
    "giou": giou,
    "diou": diou,
    "ciou": ciou,
    "eiou": eiou,
    "siou": siou,
}
CLASS_LOSSES: dict[str, ClassLoss] = {
    "bce": quality_cross_entropy,
    "quality_focal": quality_focal_loss,
    "varifocal": varifocal_loss,
}
