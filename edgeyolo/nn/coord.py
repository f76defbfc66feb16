"""CoordConv: a convolution that sees, beside its input, where it is.

Folded, what it makes of the place is a map of its own, which is added: a constant of the size that it is exported for.
Source: arXiv 1807.03247, section 3; coordinates run from -1 to 1, x before y.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from edgeyolo.nn.activation import make_activation
from edgeyolo.nn.conv import ConvBnAct, conv_like, fold_batch_norm

_AXES = 2


def coordinates_of(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (1, 2, H, W): the x of each column and the y of each row, from -1 to 1."""
    return _shifted(x, 0, 0)[None]


def place_map(x: Tensor, weight: Tensor) -> Tensor:
    """What a convolution (out_chs, 2, k, k), padded to keep the size, makes of the coordinates: (1, out_chs, H, W)."""
    reach = weight.shape[2] // 2
    taps = [_shifted(x, row, column) for row in range(-reach, reach + 1) for column in range(-reach, reach + 1)]
    seen = torch.stack(taps, dim=1).flatten(2).flatten(0, 1)  # (2 x k x k, H x W)
    return (weight.flatten(1) @ seen).reshape(1, weight.shape[0], x.shape[2], x.shape[3])


def _shifted(x: Tensor, row: int, column: int) -> Tensor:
    """(2, H, W): the coordinates of the cells so many rows and columns further on, 0 outside of the map."""
    (down, is_row), (across, is_column) = _axis(x, 2, row), _axis(x, 3, column)
    inside = is_row[:, None] * is_column
    return torch.stack((across * inside, down[:, None] * inside))


def _axis(x: Tensor, axis: int, shift: int) -> tuple[Tensor, Tensor]:
    """Of each index of an axis, moved: its coordinate, and 1 where there is one; without a slice, which would not be
    computed beforehand by the tracer."""
    side = x.shape[axis]
    index = torch.arange(side, device=x.device) + shift
    inside = ((index >= 0) & (index < side)).to(x.dtype)
    return index.to(x.dtype) * 2 / (torch.ones_like(index).sum() - 1).clamp(min=1) - 1, inside


fx.wrap("place_map")  # its size is a number when it runs, and none while the graph is found


class CoordConvAct(nn.Module):
    """What `CoordConv` folds into: the convolution of the features, plus the map of the place."""

    def __init__(self, conv: nn.Conv2d, place: Tensor, activation: str | None) -> None:
        super().__init__()
        self.conv = conv
        self.place = nn.Parameter(place)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        out: Tensor = self.act(self.conv(x) + place_map(x, self.place))
        return out


class CoordConv(nn.Module):
    """`ConvBnAct` on the input and two channels more, which hold the x and the y of each cell."""

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int = 1, *, activation: str | None = "silu") -> None:
        super().__init__()
        self.conv = ConvBnAct(in_chs + _AXES, out_chs, kernel_size, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H, W)."""
        place = coordinates_of(x).expand(x.shape[0], -1, -1, -1)
        out: Tensor = self.conv(torch.cat((x, place), dim=1))
        return out

    def fold(self) -> CoordConvAct:
        """The same function in eval mode, batch norm inside."""
        weight, bias = fold_batch_norm(self.conv.conv, self.conv.bn)
        conv = conv_like(self.conv.conv, weight[:, :-_AXES], bias)
        return CoordConvAct(conv, weight[:, -_AXES:].to(conv.weight), self.conv.activation)
