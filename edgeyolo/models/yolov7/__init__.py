"""YOLOv7: tiny, base, X, W6, E6, D6, E6E, and a nano of our own.

Source: YOLOv7, arXiv 2207.02696: architecture section 3 and figure 2, RepConv without identity and implicit vectors
section 4.1, coarse-to-fine auxiliary heads section 4.2. Channel numbers and anchors as published by the authors.
One shape serves all: a backbone of (down-sampling, ELAN), SPPCSPC, a neck of ELANs down and up, and a head.

Differs:
    - SPPCSPC's pools are a chain of three (the same function, cheaper).
    - The 6-pixel stem of W6 and larger is ReOrg + 3x3 in training; folded it is one 6x6 convolution of stride 2.
    - nano is tiny with half of the channels.
Parameter counts of both forms are the published ones; D6's published GFLOPs (806.8) are of the training form.
"""

from __future__ import annotations

from edgeyolo.models.yolov7.config import VARIANTS, StageShape, Yolov7Config
from edgeyolo.models.yolov7.network import Network
from edgeyolo.models.yolov7.official import PUBLISHED

__all__ = ["PUBLISHED", "VARIANTS", "Network", "StageShape", "Yolov7Config"]
