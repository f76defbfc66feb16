"""Output convolutions of YOLOv6, as training starts with them."""

from __future__ import annotations

import math

from torch import nn

from edgeyolo.nn.conv import start_normal

CLASS_BIAS = -math.log((1 - 0.01) / 0.01)  # the prior of Focal Loss, arXiv 1708.02002, section 3.3
_STD = 0.01


def make_output(in_chs: int, out_chs: int, bias: float) -> nn.Conv2d:
    """A 1x1 convolution that says nearly the same of everything."""
    conv = nn.Conv2d(in_chs, out_chs, 1)
    assert conv.bias is not None
    start_normal(conv, _STD)
    nn.init.constant_(conv.bias, bias)
    return conv
