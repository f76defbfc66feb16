"""Depthwise convolutions: the numbers of `nn.Conv2d`, and under autocast a gradient as exact as bf16 allows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeyolo.models import create
from edgeyolo.nn.depthwise import DepthwiseConv2d

CASES = [(5, 2, True), (5, 1, False), (3, 2, False), (3, 1, True)]


def pair(kernel: int, stride: int, bias: bool) -> tuple[DepthwiseConv2d, nn.Conv2d]:
    """Ours and PyTorch's, of the same values."""
    torch.manual_seed(0)
    ours = DepthwiseConv2d(6, 6, kernel, stride, kernel // 2, groups=6, bias=bias)
    plain = nn.Conv2d(6, 6, kernel, stride, kernel // 2, groups=6, bias=bias)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def gradients(conv: nn.Conv2d, x: Tensor, out_gradient: Tensor) -> list[Tensor]:
    """What it says, and the gradients of the input and the parameters."""
    x = x.clone().requires_grad_()
    out = conv(x)
    out.backward(out_gradient.to(out))
    found = [x.grad, *(parameter.grad for parameter in conv.parameters())]
    return [out.detach(), *(gradient for gradient in found if gradient is not None)]


@pytest.mark.parametrize(("kernel", "stride", "bias"), CASES)
def test_it_is_a_convolution(kernel: int, stride: int, bias: bool) -> None:
    """Without autocast, to the bit."""
    ours, plain = pair(kernel, stride, bias)
    x = torch.randn(2, 6, 13, 10)
    out_gradient = torch.randn_like(plain(x))
    for mine, theirs in zip(gradients(ours, x, out_gradient), gradients(plain, x, out_gradient), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("kernel", "stride", "bias"), CASES)
def test_gradients_in_half_precision(kernel: int, stride: int, bias: bool) -> None:
    """Types and values are those of autocast; float64 of the same rounded values is no further than bf16's own step."""
    ours, plain = pair(kernel, stride, bias)
    x = torch.randn(2, 6, 13, 10)
    out_gradient = torch.randn_like(plain(x)).bfloat16().float()
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = gradients(ours, x, out_gradient), gradients(plain, x, out_gradient)
    assert [one.dtype for one in mine] == [one.dtype for one in theirs]
    exact = plain.double()
    exact.load_state_dict({name: value.bfloat16().double() for name, value in exact.state_dict().items()})
    exact.zero_grad()
    for got, want in zip(mine, gradients(exact, x.bfloat16().double(), out_gradient.double()), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=2**-7, atol=2**-7)


def test_networks_have_them_where_every_channel_is_a_group() -> None:
    """YOLOX's nano size convolves depthwise; folded, all convolutions are PyTorch's own."""
    network = create("yolox-nano", 3)
    depthwise = [part for part in network.modules() if isinstance(part, nn.Conv2d) and part.groups > 1]
    assert depthwise and all(isinstance(part, DepthwiseConv2d) for part in depthwise)
