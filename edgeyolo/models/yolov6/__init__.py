"""YOLOv6: a backbone of RepVGG convolutions, a pyramid with bi-directional concatenation, a decoupled head.

Papers: YOLOv6, arXiv 2209.02976; YOLOv6 v3.0, arXiv 2301.05586; release 0.4.1. n and s are rows of RepVGG convolutions
and give the four sides of a box; m stacks them in cross-stage-partial stages, l has plain convolutions there, and both
give distributions. The P6 models have a level more.

The three-level sizes have the auxiliary anchors of v3.0 while they are trained.

Differs: output convolutions start from N(0, 0.01) in place of zero, as in PP-YOLOE, auxiliary boxes from their anchors;
ATSS takes the share of the epochs that it takes of the authors' schedule.
"""

from __future__ import annotations

from edgeyolo.models.yolov6.network import VARIANTS, Network, Yolov6Config
from edgeyolo.models.yolov6.official import PUBLISHED

__all__ = ["PUBLISHED", "VARIANTS", "Network", "Yolov6Config"]
