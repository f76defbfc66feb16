"""Batch normalisation over the pictures of all processes where there is no GPU; torch's own needs one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable


class SyncBatchNorm(nn.BatchNorm2d):
    """As `nn.BatchNorm2d`, with mean and variance over the pictures of all processes; also for none of one's own."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training or not distributed.is_initialized():
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # scale and shift cancel: half precision shows it
        mean, variance, count = _statistics(wide)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                assert self.momentum is not None and self.num_batches_tracked is not None
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), self.momentum)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        return (wide * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(x.dtype)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (C,) of (B, C, H, W) over all processes, and the number of values; differentiable.

    Two reductions: the variance is taken around the common mean, because E[x^2] - E[x]^2 cancels.
    """
    count = x.new_tensor([x.numel() // x.shape[1]])
    total = _sum_over_processes(torch.cat([x.sum(dim=(0, 2, 3)), count]))
    count = total[-1].detach()
    mean = total[:-1] / count
    variance = _sum_over_processes((x - mean.view(1, -1, 1, 1)).square().sum(dim=(0, 2, 3))) / count
    return mean, variance, count


class _SumOverProcesses(torch.autograd.Function):
    """A sum of which every process has the whole: so each one's part gets the gradients of all."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        """(...) -> (...)."""
        total = part.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> Tensor:
        """(...) -> (...)."""
        total = above.clone()
        distributed.all_reduce(total)
        return total


def _sum_over_processes(part: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(part)  # type: ignore[no-untyped-call]
    return total


def use_sync_batch_norm(module: nn.Module) -> nn.Module:
    """Put `SyncBatchNorm` in the place of every `nn.BatchNorm2d`, with the same parameters and statistics."""
    for name, child in module.named_children():
        if type(child) is not nn.BatchNorm2d:
            use_sync_batch_norm(child)
            continue
        with torch.device("meta"):
            other = SyncBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
        other.weight, other.bias = child.weight, child.bias
        other.running_mean, other.running_var = child.running_mean, child.running_var
        other.num_batches_tracked = child.num_batches_tracked
        other.train(child.training)
        setattr(module, name, other)
    return module
