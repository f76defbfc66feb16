"""C3TR of YOLOv5: a C3 stage whose bottlenecks are a transformer encoder over the cells of the map.

Source: Attention is all you need, arXiv 1706.03762, section 3.2; ViT, arXiv 2010.11929. As in YOLOv5 there is no layer
norm and no activation, each projection is two linear layers, and a learned map of the cells stands for their positions.
Written with 1x1 convolutions, which are linear layers over cells, so that engines see what they know.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgeyolo.nn.c3 import C3

_HEADS = 4


class LinearPair(nn.Module):
    """Two 1x1 convolutions without anything between them; one, once folded.

    Args:
        bias: whether the second has one.
    """

    def __init__(self, chs: int, *, bias: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(chs, chs, 1, bias=False)
        self.second = nn.Conv2d(chs, chs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out: Tensor = self.second(self.first(x))
        return out

    def fold(self) -> nn.Conv2d:
        """One convolution with the product of both matrices."""
        first, second = (conv.weight.detach().double().flatten(1) for conv in (self.first, self.second))
        folded = nn.Conv2d(first.shape[1], second.shape[0], 1, bias=self.second.bias is not None, device="meta")
        folded.weight = nn.Parameter((second @ first)[:, :, None, None].to(self.first.weight))
        if self.second.bias is not None:
            folded.bias = nn.Parameter(self.second.bias.detach().clone())
        return folded


class CellAttention(nn.Module):
    """Scaled dot-product attention among the cells of a map, some heads side by side, and a linear layer behind it."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.head_chs = chs // _HEADS
        self.query, self.key, self.value = (LinearPair(chs, bias=True) for _ in range(3))
        self.join = nn.Conv2d(chs, chs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        asked, keys, values = (
            part(x).flatten(2).unflatten(1, (_HEADS, self.head_chs)) for part in (self.query, self.key, self.value)
        )  # (B, heads, C / heads, N)
        weights = (asked.transpose(2, 3) @ keys * self.head_chs**-0.5).softmax(dim=-1)  # (B, heads, N, N)
        out: Tensor = self.join((values @ weights.transpose(2, 3)).reshape(x.shape))
        return out


class EncoderLayer(nn.Module):
    """Attention, then two linear layers; the input is added to either."""

    def __init__(self, chs: int) -> None:
        super().__init__()
        self.attention = CellAttention(chs)
        self.mix = LinearPair(chs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = self.attention(x) + x
        out: Tensor = self.mix(x) + x
        return out


class Encoder(nn.Module):
    """A linear map of each cell added to it, then encoder layers."""

    def __init__(self, chs: int, count: int) -> None:
        super().__init__()
        self.position = nn.Conv2d(chs, chs, 1)
        self.layers = nn.Sequential(*(EncoderLayer(chs) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out: Tensor = self.layers(self.position(x) + x)
        return out


class C3Transformer(C3):
    """See above.

    Args:
        count: encoder layers, >= 1.
    """

    def __init__(self, in_chs: int, out_chs: int, count: int, *, activation: str | None = "silu") -> None:
        super().__init__(in_chs, out_chs, 1, shortcut=False, activation=activation)
        self.blocks = Encoder(out_chs // 2, count)
