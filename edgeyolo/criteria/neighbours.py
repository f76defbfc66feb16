"""The YOLOv5 loss: every anchor of fitting shape in an object's cell and its two nearest neighbours is a match.

No prediction is asked how good it is, so this needs no first idea of the objects. Boxes, objectness and classes are
those of `criteria.ota`, with other weights.

Source: the published code and configuration of YOLOv5, release 7.0; there is no paper.
Differs: as `criteria.ota` does, and a class score is trained also where there is one class.
"""

from __future__ import annotations

from torch import Tensor

from edgeyolo.assigners.ota import Matches, OtaRules, list_candidates
from edgeyolo.criteria.ota import OtaCriterion, OtaWeights
from edgeyolo.spec.model import AnchorDecode


class NeighbourCriterion(OtaCriterion):
    """Loss of an anchor head without auxiliary maps."""

    def __init__(self, decode: AnchorDecode, num_classes: int) -> None:
        super().__init__(decode, num_classes, OtaWeights(box=0.05, objectness=1.0, classes=0.5))

    def match(self, maps: list[Tensor], targets: Tensor, rules: OtaRules) -> Matches:
        """Every candidate answers for the object that it is there for."""
        return list_candidates(maps, targets, self.decode, rules)
