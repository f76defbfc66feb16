"""Depthwise convolution, whose gradient in half precision PyTorch leaves to a slow loop on a processor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` of as many groups as channels, the same numbers but for the gradient under autocast on a processor.

    There the forward pass is in bf16 as autocast wants it, and the gradient is computed in float32, from the same bf16
    values: of kernels above 3 x 3 and of strides the float32 one is 2 to 15 times as fast.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H/s, W/s)."""
        slow = max(self.kernel_size) > 3 or max(self.stride) > 1
        if slow and x.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
            half = torch.get_autocast_dtype("cpu")
            bias = None if self.bias is None else self.bias.to(half)
            out: Tensor = _Depthwise.apply(x.to(half), self.weight.to(half), bias, self)  # type: ignore[no-untyped-call]
            return out
        return super().forward(x)


class _Depthwise(torch.autograd.Function):
    """A convolution in the type of its input, whose gradient is computed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d) -> Tensor:
        """What `conv` says, of these weights."""
        ctx.save_for_backward(x, weight)
        ctx.how = (conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups)
        ctx.bias_shape = None if bias is None else bias.shape
        with torch.autocast("cpu", enabled=False):
            out: Tensor = conv._conv_forward(x, weight, bias)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of the input, the weights and the bias."""
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        found = torch.ops.aten.convolution_backward(
            gradient.float(), x.float(), weight.float(), ctx.bias_shape, *ctx.how, ctx.needs_input_grad[:3]
        )
        return *(None if one is None else one.to(gradient.dtype) for one in found), None
