"""The modules that a `Plan` is of. Parts are called by their kind and number: `conv_12` is darknet's layer 12."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeyolo.nn.activation import make_activation
from edgeyolo.nn.conv import BnAct, ConvAct, ConvBnAct
from edgeyolo.nn.plan import (
    PICTURE,
    Combine,
    Conv,
    Grow,
    Join,
    Layer,
    LayerError,
    MeanPool,
    Norm,
    Pool,
    Reorg,
    Shape,
    trace_shapes,
)
from edgeyolo.nn.reorg import ReorgConv

_RGB = 3


class Concat(nn.Module):
    """Maps one after the other; of the channels those of one part.

    Args:
        first, end: of the channels that are kept, None for all.
    """

    def __init__(self, first: int = 0, end: int | None = None) -> None:
        super().__init__()
        self.first, self.end = first, end

    def forward(self, *maps: Tensor) -> Tensor:
        """(B, C_i, H, W) each -> (B, C, H, W)."""
        joined = torch.cat(maps, dim=1) if len(maps) > 1 else maps[0]
        return joined if self.end is None else joined[:, self.first : self.end]


class Sum(nn.Module):
    """Maps added, then an activation."""

    def __init__(self, activation: str | None) -> None:
        super().__init__()
        self.act = make_activation(activation)

    def forward(self, first: Tensor, *rest: Tensor) -> Tensor:
        """(B, C, H, W) each -> the same."""
        for other in rest:
            first = first + other
        out: Tensor = self.act(first)
        return out


class Product(nn.Module):
    """Maps multiplied: spatial attention (SAM), or attention to channels.

    Source: of SAM, CBAM, arXiv 1807.06521, in the form of YOLOv4, arXiv 2004.10934, section 3.4.
    """

    def __init__(self, activation: str | None) -> None:
        super().__init__()
        self.act = make_activation(activation)

    def forward(self, first: Tensor, *rest: Tensor) -> Tensor:
        """(B, C, H, W), or (B, C, 1, 1), each -> (B, C, H, W)."""
        for other in rest:
            first = first * other
        out: Tensor = self.act(first)
        return out


class RightPool(nn.Module):
    """Maximum over each position and its neighbours to the right and below; beyond the edge there is nothing.

    The pool pads on all sides, which never wins a maximum, and its first row and column are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, 1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        out: Tensor = self.pool(x)[:, :, 1:, 1:]
        return out


class DarknetReorg(nn.Module):
    """Positions to channels in the order of darknet's reorg layer, which reads the map as one of fewer channels.

    Source: darknet's published behaviour; YOLOv2, arXiv 1612.08242, calls it passthrough.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C x stride^2, H / stride, W / stride)."""
        batch, chs, height, width = x.shape
        step = self.stride
        patches = x.reshape(batch, chs // step**2, height, step, width, step)  # of a map that is step times as wide
        out: Tensor = patches.permute(0, 3, 5, 1, 2, 4).reshape(batch, chs * step**2, height // step, width // step)
        return out


@dataclass(frozen=True)
class _Step:
    """One part of a body: its name, its number, the numbers that it reads, and those that nobody reads after it."""

    name: str
    index: int
    reads: tuple[int, ...]
    done: tuple[int, ...]


class PlannedBody(nn.Module):
    """What a plan computes from some of its layers up to others.

    Args:
        layers: a whole plan; what `ends` do not need of it is left out.
        ends: numbers of the layers whose maps are returned, in this order.
        starts: numbers of those whose maps are given.

    Raises:
        LayerError: as `trace_shapes`, or a layer that is not built here.
    """

    def __init__(self, layers: Sequence[Layer], ends: Sequence[int], starts: Sequence[int] = (PICTURE,)) -> None:
        super().__init__()
        shapes = trace_shapes(layers)
        self.starts, self.ends = tuple(starts), tuple(seen_through(layers, end) for end in ends)
        needed = _needed(layers, self.ends, self.starts)
        last_read = {read: index for index in needed for read in _reads(layers, index)}
        self.steps: list[_Step] = []
        for index in needed:
            reads = _reads(layers, index)
            name = f"{type(layers[index]).__name__.lower()}_{index}"
            self.add_module(name, _make(layers, index, shapes))
            done = tuple(sorted({read for read in reads if last_read[read] == index} - set(self.ends)))
            self.steps.append(_Step(name, index, reads, done))

    def forward(self, given: list[Tensor]) -> list[Tensor]:
        """Maps (B, C, H/s, W/s) of `starts` -> those of `ends`."""
        maps = dict(zip(self.starts, given, strict=True))
        for step in self.steps:
            maps[step.index] = self.get_submodule(step.name)(*(maps[read] for read in step.reads))
            for index in step.done:
                del maps[index]
        return [maps[end] for end in self.ends]


def seen_through(layers: Sequence[Layer], index: int) -> int:
    """The layer that a layer is, where that only hands on another."""
    while index != PICTURE:
        layer = layers[index]
        if not (isinstance(layer, Join) and len(layer.reads) == 1 and layer.parts == 1):
            break
        index = layer.reads[0]
    return index


def _reads(layers: Sequence[Layer], index: int) -> tuple[int, ...]:
    """What a layer reads, seen through; a convolution right behind the picture's Reorg reads the picture.

    A pool of stride 1 reads a smaller one of the same map, if there is one, as in `nn.spp`.
    """
    if (smaller := _smaller_pool(layers, index)) is not None:
        return (smaller[1],)
    reads = tuple(seen_through(layers, read) for read in layers[index].reads)
    return (PICTURE,) if isinstance(layers[index], Conv) and _is_picture_reorg(layers, reads[0]) else reads


def _smaller_pool(layers: Sequence[Layer], index: int) -> tuple[int, int] | None:
    """Size and number of the largest earlier pool that a pool of stride 1 and odd size can go on from."""
    pool = layers[index]
    if not (isinstance(pool, Pool) and _keeps_size(pool)):
        return None
    source = seen_through(layers, pool.reads[0])
    pools = [(layer.size, number, layer) for number, layer in enumerate(layers[:index]) if isinstance(layer, Pool)]
    found = [
        (size, number)
        for size, number, layer in pools
        if _keeps_size(layer) and 1 < size < pool.size and seen_through(layers, layer.reads[0]) == source
    ]
    return max(found, default=None)


def _keeps_size(pool: Pool) -> bool:
    return pool.stride == 1 and pool.size % 2 == 1


def _is_picture_reorg(layers: Sequence[Layer], index: int) -> bool:
    return index != PICTURE and isinstance(layers[index], Reorg) and layers[index].reads == (PICTURE,)


def list_features(layers: Sequence[Layer], ends: Sequence[int], first: int) -> list[int]:
    """Numbers of the layers before `first` that those from there on read, as far as `ends` need them; finest first."""
    rest = [index for index in _needed(layers, ends, ()) if index >= first]
    read = {read for index in rest for read in _reads(layers, index)} | set(ends)
    return sorted(index for index in read if index < first)


def _needed(layers: Sequence[Layer], ends: Sequence[int], starts: Sequence[int]) -> list[int]:
    pending, needed = list(ends), set()
    while pending:
        index = pending.pop()
        if index != PICTURE and index not in needed and index not in starts:
            needed.add(index)
            pending += _reads(layers, index)
    return sorted(needed)


def _make(layers: Sequence[Layer], index: int, shapes: Sequence[Shape]) -> nn.Module:
    layer = layers[index]
    match layer:
        case Conv():
            return _make_conv(layers, layer, index, shapes)
        case Norm():
            return BnAct(shapes[index].chs, layer.activation)
        case Join():
            chs = shapes[index].chs
            return Concat(layer.part * chs, (layer.part + 1) * chs) if layer.parts > 1 else Concat()
        case Combine():
            return (Sum if layer.by == "sum" else Product)(layer.activation)
        case Pool() if layer.size % 2:
            smaller = _smaller_pool(layers, index)
            size = layer.size if smaller is None else layer.size - smaller[0] + 1
            return nn.MaxPool2d(size, layer.stride, padding=size // 2)
        case Pool():
            return RightPool() if layer.stride == 1 else nn.MaxPool2d(layer.size, layer.stride)
        case MeanPool():
            return nn.AdaptiveAvgPool2d(1)
        case Grow():
            return nn.Upsample(scale_factor=layer.factor, mode="nearest")
        case Reorg() if layer.reads != (PICTURE,):
            return DarknetReorg(layer.stride)
    raise LayerError(index, f"{type(layer).__name__} has no place inside of a network")


def _make_conv(layers: Sequence[Layer], layer: Conv, index: int, shapes: Sequence[Shape]) -> nn.Module:
    (read,) = layer.reads
    in_chs = _RGB if read == PICTURE else shapes[read].chs
    if _is_picture_reorg(layers, seen_through(layers, read)):
        if (layer.size, layer.stride, layer.groups, layer.norm) != (3, 1, 1, True):
            raise LayerError(index, "only a 3x3 convolution with batch norm is built behind the picture's reorg")
        return ReorgConv(_RGB, layer.chs, activation=layer.activation)
    if layer.norm:
        return ConvBnAct(
            in_chs,
            layer.chs,
            layer.size,
            layer.stride,
            groups=layer.groups,
            activation=layer.activation,
        )
    conv = nn.Conv2d(in_chs, layer.chs, layer.size, layer.stride, layer.size // 2, groups=layer.groups)
    return ConvAct(conv, layer.activation)
