"""Batch normalisation of a part of a batch by the parts before it, too: CmBN.

Source: arXiv 2004.10934, section 3.4 and figure 4. Weights do not change within a batch, so the statistics of its parts
need no compensation, which arXiv 2002.05712 has for those of earlier batches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossBatchNorm(nn.BatchNorm2d):
    """As `nn.BatchNorm2d`, with mean and variance over this part of a batch and those that went before it.

    Gradients go through the statistics of this part alone. What is remembered is what the last part went by.
    """

    def __init__(self, like: nn.BatchNorm2d) -> None:
        """With the parameters and the statistics of `like`, which it shares."""
        with torch.device("meta"):
            super().__init__(like.num_features, like.eps, like.momentum, like.affine)
        self.weight, self.bias = like.weight, like.bias
        self.running_mean, self.running_var = like.running_mean, like.running_var
        self.num_batches_tracked = like.num_batches_tracked
        self.train(like.training)
        self.start_batch()

    def start_batch(self) -> None:
        """The next part is the first one of a batch."""
        self._parts: list[tuple[int, Tensor, Tensor]] = []  # values per channel, their mean and variance
        self._remembered: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); B may be 0."""
        if not self.training or not x.numel():
            return super().forward(x) if x.numel() else x
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
        parts = [*self._parts, (x.numel() // x.shape[1], mean, variance)]
        self._parts.append((parts[-1][0], mean.detach(), variance.detach()))
        count = sum(n for n, _, _ in parts)
        mean = torch.stack([n / count * m for n, m, _ in parts]).sum(0)
        variance = torch.stack([n / count * (v + (m - mean).square()) for n, m, v in parts]).sum(0)
        if self.track_running_stats:
            self._remember(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        scale = (variance + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale
        shift = shift if self.bias is None else shift + self.bias
        return (wide * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """One step of the moving averages for the whole batch, however many parts it has."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        if self._remembered is None:
            self._remembered = (self.running_mean.clone(), self.running_var.clone())
        for running, before, new in zip(
            (self.running_mean, self.running_var), self._remembered, (mean, variance), strict=True
        ):
            running.copy_(torch.lerp(before, new.to(before), self.momentum))


def use_cross_batch_norm(module: nn.Module) -> None:
    """Put `CrossBatchNorm` in the place of every `nn.BatchNorm2d`, with the same parameters and statistics."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(module, name, CrossBatchNorm(child))
        else:
            use_cross_batch_norm(child)


def start_batch(model: nn.Module) -> None:
    """Let every `CrossBatchNorm` of a model forget the parts of the batch before."""
    for part in model.modules():
        if isinstance(part, CrossBatchNorm):
            part.start_batch()
