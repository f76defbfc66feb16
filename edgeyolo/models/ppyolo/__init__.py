"""PP-YOLO, PP-YOLO tiny and PP-YOLOv2: anchors that are stretched exponentially, the best one answers for an object.

Papers: PP-YOLO, arXiv 2007.12099; PP-YOLOv2, arXiv 2104.10419. ResNet-vd or MobileNetV3, a pyramid with SPP and
DropBlock, CoordConv in some; the r50 and r101 models predict how well a box fits, which weighs in its score. The
authors' suppression is Matrix-NMS (`--nms matrix`) but for the tiny ones.

Differs: objectness starts low, as in Focal Loss, arXiv 1708.02002; the authors start from even odds. A picture is
letterboxed; the official pipeline stretches it to the square.
"""

from __future__ import annotations

from edgeyolo.models.ppyolo.config import VARIANTS, PpYoloConfig
from edgeyolo.models.ppyolo.network import Network
from edgeyolo.models.ppyolo.official import PUBLISHED

__all__ = ["PUBLISHED", "VARIANTS", "Network", "PpYoloConfig"]
