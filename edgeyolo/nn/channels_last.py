"""Memory layout of weights: channels last is what CPU and GPU convolutions are fastest on."""

from __future__ import annotations

import torch
from torch import nn


def use_channels_last(module: nn.Module) -> None:
    """Lay out every four-dimensional parameter of `module` with channels last, in place; values do not change."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
