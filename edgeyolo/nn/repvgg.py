"""RepVGG: a 3x3 and a 1x1 branch (and the identity) trained side by side, one 3x3 convolution deployed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeyolo.nn.activation import make_activation
from edgeyolo.nn.conv import ConvAct, ConvBnAct, conv_like, fold_batch_norm


class RepVggBlock(nn.Module):
    """`act(bn(conv3x3(x)) + alpha * bn(conv1x1(x)) + bn(x))`; alpha and the last branch are optional.

    Args:
        identity: adds the batch-normed input; needs `in_chs == out_chs` and stride 1.
        alpha: puts one learned factor, 1 at first, on the 1x1 branch.

    Source: RepVGG, arXiv 2101.03697, section 3.2-3.3; PP-YOLOE, arXiv 2203.16250, figure 3 (no identity branch).
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int = 1,
        *,
        activation: str | None = "silu",
        identity: bool = False,
        alpha: bool = False,
    ) -> None:
        super().__init__()
        if identity and (in_chs != out_chs or stride != 1):
            raise ValueError(f"no identity branch from {in_chs} to {out_chs} channels with stride {stride}")
        self.activation = activation
        self.stride = stride
        self.conv3x3 = ConvBnAct(in_chs, out_chs, 3, stride, activation=None)
        self.conv1x1 = ConvBnAct(in_chs, out_chs, 1, activation=None)
        self.identity = nn.BatchNorm2d(in_chs) if identity else None
        self.alpha = nn.Parameter(torch.ones(1)) if alpha else None
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/s, W/s)."""
        # A 1x1 convolution of stride 2 writes beyond its memory on a CPU, while it is trained on three channels.
        pointwise = self.conv1x1(x if self.stride == 1 else x[..., :: self.stride, :: self.stride])
        if self.alpha is not None:
            pointwise = self.alpha * pointwise
        total = self.conv3x3(x) + pointwise
        if self.identity is not None:
            total = total + self.identity(x)
        out: Tensor = self.act(total)
        return out

    def fold(self) -> ConvAct:
        """One 3x3 convolution equal to all branches in eval mode."""
        weight, bias = fold_batch_norm(self.conv3x3.conv, self.conv3x3.bn)
        weight1x1, bias1x1 = fold_batch_norm(self.conv1x1.conv, self.conv1x1.bn)
        alpha = 1.0 if self.alpha is None else self.alpha.detach().double()
        weight, bias = weight + alpha * F.pad(weight1x1, (1, 1, 1, 1)), bias + alpha * bias1x1
        if self.identity is not None:
            weight_identity, bias_identity = fold_batch_norm(_identity_conv(self.identity), self.identity)
            weight, bias = weight + F.pad(weight_identity, (1, 1, 1, 1)), bias + bias_identity
        return ConvAct(conv_like(self.conv3x3.conv, weight, bias), self.activation)


def _identity_conv(bn: nn.BatchNorm2d) -> nn.Conv2d:
    """A 1x1 convolution that changes nothing, in front of `bn`."""
    chs = bn.num_features
    conv = nn.Conv2d(chs, chs, 1, bias=False, device=bn.weight.device)
    conv.weight = nn.Parameter(torch.eye(chs, device=bn.weight.device)[:, :, None, None])
    return conv
