"""The convolutions that a detector's outputs are made of, and what they may mean by their number and channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from edgeyolo.spec.foreign import ForeignDescription
from edgeyolo.spec.model import AnchorDecode, DflDecode, PointDecode, RawDecode

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Shapes = Mapping[str, tuple[int, ...]]

_ANCHOR_VALUES, _MOST_ANCHORS = 5, 9  # of an anchor before its classes; anchors of a level
_BINS = range(4, 65)
_LEAST_STRIDE = 2


@dataclass(frozen=True)
class HeadMap:
    """A tensor (1, C, H/s, W/s) that may be a raw map."""

    tensor: str
    channels: int
    stride: int


@dataclass(frozen=True)
class Candidate:
    """What raw maps may mean, and their tensors in the order of the head."""

    decode: RawDecode
    tensors: tuple[str, ...]
    num_classes: int


def head_convolutions(model: ModelProto, shapes: Shapes, image_hw: tuple[int, int]) -> tuple[list[HeadMap], set[str]]:
    """The last convolutions over the picture on all ways to the outputs, in the order of the graph.

    Returns:
        Their maps, and the outputs of all convolutions behind which no other one is over the picture: of them too, and
        of such as sum up a distribution.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    weights = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, HeadMap] = {}
    ends: set[str] = set()
    pending, seen = [entry.name for entry in model.graph.output], set()
    while pending:
        name = pending.pop()
        node = producers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type == "Conv" and node.input[1] in weights:
            ends.add(name)
            stride = stride_of(shapes.get(name, ()), image_hw)
            if stride:
                found[name] = HeadMap(name, shapes[name][1], stride)
                continue
        pending.extend(node.input)
    return [found[name] for node in model.graph.node for name in node.output if name in found], ends


def stride_of(shape: Sequence[int], image_hw: tuple[int, int]) -> int:
    """Pixels of the picture for each cell of a map (1, C, h, w); 0 where it is none."""
    if len(shape) != 4 or shape[0] != 1:
        return 0
    stride = image_hw[0] // shape[2]
    fits = (shape[2] * stride, shape[3] * stride) == image_hw
    return stride if fits and stride >= _LEAST_STRIDE else 0


def list_candidates(maps: Sequence[HeadMap], told: ForeignDescription, num_classes: int | None) -> Iterator[Candidate]:
    """What the maps may mean, the likelier first, as far as `told` leaves it open."""
    strides = sorted({found.stride for found in maps})
    levels = [[found for found in maps if found.stride == stride] for stride in strides]
    counts = {len(level) for level in levels}
    if len(counts) != 1:
        return
    makers = {2: (_dfl, _point), 3: (_point,), 1: (_anchor,)}
    for make in makers.get(counts.pop(), ()):
        yield from make(levels, tuple(strides), told, num_classes)


def _orders(levels: Sequence[Sequence[HeadMap]]) -> Iterator[list[tuple[HeadMap, ...]]]:
    """The maps of all levels in each order that may be theirs."""
    for order in permutations(range(len(levels[0]))):
        yield [tuple(level[position] for position in order) for level in levels]


def _channels(levels: Sequence[Sequence[HeadMap]], position: int) -> int:
    """Of the maps at one position in all levels; 0 where they differ."""
    counts = {level[position].channels for level in levels}
    return counts.pop() if len(counts) == 1 else 0


def _tensors(levels: Sequence[Sequence[HeadMap]]) -> tuple[str, ...]:
    return tuple(found.tensor for level in levels for found in level)


def _dfl(
    levels: Sequence[Sequence[HeadMap]], strides: tuple[int, ...], told: ForeignDescription, num_classes: int | None
) -> Iterator[Candidate]:
    for ordered in _orders(levels):
        classes, distribution = _channels(ordered, 0), _channels(ordered, 1)
        bins = distribution // 4
        fits = classes == (num_classes or classes) and classes > 0 and distribution % 4 == 0
        if fits and (bins == told.bins if told.bins else bins in _BINS) and told.head in (None, "dfl"):
            for offset in (0.5, 0.0) if told.offset is None else (told.offset,):
                yield Candidate(DflDecode(strides=strides, bins=bins, offset=offset), _tensors(ordered), classes)


def _point(
    levels: Sequence[Sequence[HeadMap]], strides: tuple[int, ...], told: ForeignDescription, num_classes: int | None
) -> Iterator[Candidate]:
    objectness = len(levels[0]) == 3
    if told.head not in (None, "point", "boxes") or told.objectness not in (None, objectness):
        return
    for ordered in _orders(levels):
        classes, box = _channels(ordered, 0), _channels(ordered, -1)
        fits = classes == (num_classes or classes) and classes > 0 and box == 4
        if fits and (not objectness or _channels(ordered, 1) == 1):
            for kind in ("centre", "sides") if objectness else ("sides", "centre"):
                if told.box in (None, kind) or told.head == "boxes":
                    decode = PointDecode(strides=strides, box=kind, objectness=objectness)
                    yield Candidate(decode, _tensors(ordered), classes)


def _anchor(
    levels: Sequence[Sequence[HeadMap]], strides: tuple[int, ...], told: ForeignDescription, num_classes: int | None
) -> Iterator[Candidate]:
    channels = _channels(levels, 0)
    if told.head not in (None, "anchor") or not channels:
        return
    for count in [len(told.anchors_wh[0])] if told.anchors_wh else [3, *range(1, _MOST_ANCHORS + 1)]:
        classes = channels // count - _ANCHOR_VALUES
        if channels % count == 0 and classes > 0 and classes == (num_classes or classes):
            unknown = tuple(((1.0, 1.0),) * count for _ in strides)
            decode = AnchorDecode(strides=strides, anchors_wh=told.anchors_wh or unknown)
            yield Candidate(decode, _tensors(levels), classes)


def float_convolutions(model: ModelProto, shapes: Shapes, image_hw: tuple[int, int]) -> list[NodeProto]:
    """Convolutions that stay float in an int8 graph: those of the head's outputs, and what is behind them."""
    _, ends = head_convolutions(model, shapes, image_hw)
    return [node for node in model.graph.node if ends.intersection(node.output)]
