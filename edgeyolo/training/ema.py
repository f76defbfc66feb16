"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EmaModel:
    """Keeps `average`, a copy of the model whose weights trail the trained ones.

    The decay rises as (1 + n) / (10 + n) towards its final value, so that short runs are averaged over
    their last tenth and long ones over the time that `decay` says.

    Args:
        decay: final decay per step, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def step(self, model: nn.Module) -> None:
        """Move the average towards `model`; integer buffers are copied."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        targets, sources = [], []
        for mine, theirs in zip(self.average.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.dtype.is_floating_point:
                targets.append(mine)
                sources.append(theirs.detach())
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(targets, sources, 1.0 - decay)
