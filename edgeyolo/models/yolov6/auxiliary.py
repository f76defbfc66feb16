"""Anchor-aided training: outputs relative to anchors beside those of the head, for training only.

Source: YOLOv6 v3.0, arXiv 2301.05586, section 2.2 and figure 2. The authors have it in the sizes with three levels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from edgeyolo.criteria.auxiliary_anchors import AuxiliaryAnchorCriterion
from edgeyolo.criteria.criterion import Loss
from edgeyolo.heads import Anchors
from edgeyolo.models._companion import Companion
from edgeyolo.models.yolov6.output import CLASS_BIAS, make_output


class AuxiliaryAnchors(Companion):
    """Two output convolutions per level, on what the head's own outputs see; boxes start as their anchors.

    Args:
        level_chs: channels of each level's head, finest first.
        strides: of the levels, input pixels.
        num_classes: K.
        box_overlap: that boxes are trained on.
    """

    anchors_wh: ClassVar[Anchors] = (
        ((10, 13), (19, 19), (33, 23)),
        ((30, 61), (59, 59), (59, 119)),
        ((116, 90), (185, 185), (373, 326)),
    )
    count = 2 * len(anchors_wh)

    def __init__(
        self,
        level_chs: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        box_overlap: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.class_logits, self.box_values = nn.ModuleList(), nn.ModuleList()
        for chs, anchors in zip(level_chs, self.anchors_wh, strict=True):
            self.class_logits.append(make_output(chs, len(anchors) * num_classes, CLASS_BIAS))
            self.box_values.append(make_output(chs, len(anchors) * 4, 0.0))
        self.criterion = AuxiliaryAnchorCriterion(strides, self.anchors_wh, num_classes, box_overlap=box_overlap)
        self._seen: dict[str, Tensor] = {}

    def watch(self, network: nn.Module) -> None:
        """See the features of both branches of each level's head."""
        for level in range(len(self.anchors_wh)):
            for branch in ("classes", "boxes"):
                name = f"heads.{level}.{branch}"
                network.get_submodule(name).register_forward_hook(functools.partial(self._keep, name))

    def forward(self) -> list[Tensor]:
        """Class logits (B, anchors x K, h, w) and boxes (B, anchors x 4, h, w) of each level, finest first."""
        maps = []
        for level, (class_logits, box_values) in enumerate(zip(self.class_logits, self.box_values, strict=True)):
            maps.append(class_logits(self._seen.pop(f"heads.{level}.classes")))
            maps.append(box_values(self._seen.pop(f"heads.{level}.boxes")))
        return maps

    def loss(self, seen: Sequence[Tensor], maps: Sequence[Tensor], targets: Tensor, images: Tensor) -> Loss:
        """Parts `auxiliary_class` and `auxiliary_iou`."""
        loss: Loss = self.criterion(list(seen), targets, (images.shape[2], images.shape[3]))
        return Loss(loss.total, {f"auxiliary_{name}": part for name, part in loss.parts.items()})

    def _keep(self, name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._seen[name] = output
