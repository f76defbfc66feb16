"""A detector as a list of numbered layers, as darknet's `.cfg` files have it: what each one is and which it reads.

`Plan` writes such a list down, `trace_shapes` follows channels and strides through it without building anything, and
`nn.planned` makes modules of it. Layers are numbered from 0; -1 is the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

PICTURE = -1
_RGB = 3


class LayerError(ValueError):
    """A layer that cannot be; `index` is its number."""

    def __init__(self, index: int, what: str) -> None:
        super().__init__(what)
        self.index = index


@dataclass(frozen=True)
class Conv:
    """A convolution of odd size, padded by half of it; `activation` None for none; without `norm` it has a bias."""

    reads: tuple[int, ...]
    chs: int
    size: int = 1
    stride: int = 1
    groups: int = 1
    activation: str | None = None
    norm: bool = True


@dataclass(frozen=True)
class Norm:
    """A batch norm of a map, and its activation, where no convolution is right before it."""

    reads: tuple[int, ...]
    activation: str


@dataclass(frozen=True)
class Join:
    """The channels of all that it reads, one after the other; of them part `part` of `parts`."""

    reads: tuple[int, ...]
    parts: int = 1
    part: int = 0


@dataclass(frozen=True)
class Combine:
    """The sum, or the product, of all that it reads; in a product a map of one position counts for all."""

    reads: tuple[int, ...]
    by: Literal["sum", "product"] = "sum"
    activation: str | None = None


@dataclass(frozen=True)
class Pool:
    """Maximum over size x size; stride 1 keeps the size (an even window reaches right and down), others divide it."""

    reads: tuple[int, ...]
    size: int
    stride: int


@dataclass(frozen=True)
class MeanPool:
    """The mean of each channel."""

    reads: tuple[int, ...]


@dataclass(frozen=True)
class Grow:
    """Every position `factor` x `factor` times."""

    reads: tuple[int, ...]
    factor: int = 2


@dataclass(frozen=True)
class Reorg:
    """stride x stride positions as channels of one, in darknet's order; those of the picture in YOLOR's."""

    reads: tuple[int, ...]
    stride: int = 2


@dataclass(frozen=True)
class Vector:
    """YOLOR's implicit knowledge: one learned number per channel, around `mean`."""

    chs: int
    mean: float
    reads: tuple[int, ...] = ()


@dataclass(frozen=True)
class Apply:
    """A map and a `Vector` that is added to it, or multiplied with it; before and after an output only."""

    reads: tuple[int, ...]
    by: Literal["sum", "product"]


@dataclass(frozen=True)
class Detect:
    """What reads an output.

    Attributes:
        anchors_wh: input pixels.
        size, reach: as in `spec.model.AnchorDecode`.
        softmax: classes exclude each other (YOLOv2).
    """

    reads: tuple[int, ...]
    anchors_wh: tuple[tuple[float, float], ...]
    classes: int
    size: Literal["square", "exp"] = "exp"
    reach: float = 1.0
    softmax: bool = False


Layer: TypeAlias = Conv | Norm | Join | Combine | Pool | MeanPool | Grow | Reorg | Vector | Apply | Detect


@dataclass
class Plan:
    """Layers written down one by one; each method gives the number of the one that it added.

    A layer reads the one before it unless said otherwise.

    Attributes:
        width: multiplies the channels of every convolution but the outputs.
        backbone: how many layers are the backbone.
    """

    width: float = 1.0
    layers: list[Layer] = field(default_factory=list)
    backbone: int = 0

    @property
    def last(self) -> int:
        """The number of the latest layer."""
        return len(self.layers) - 1

    def add(self, layer: Layer) -> int:
        """Any layer."""
        self.layers.append(layer)
        return self.last

    def end_backbone(self) -> None:
        """What follows is neck and outputs."""
        self.backbone = len(self.layers)

    def conv(self, chs: int, size: int = 1, stride: int = 1, *, activation: str) -> int:
        """A convolution with batch norm."""
        return self.add(Conv((self.last,), self.scaled(chs), size, stride, activation=activation))

    def scaled(self, chs: int) -> int:
        """Channels at this width, an even number."""
        return chs if self.width == 1 else max(4, 2 * round(chs * self.width / 2))

    def normalise(self, activation: str) -> int:
        """A batch norm of its own."""
        return self.add(Norm((self.last,), activation))

    def join(self, *reads: int) -> int:
        """Concatenation; of one layer, that layer again."""
        return self.add(Join(reads))

    def residual(self, start: int) -> int:
        """The latest layer added to an earlier one."""
        return self.add(Combine((self.last, start)))

    def pool(self, size: int, stride: int) -> int:
        """Maximum."""
        return self.add(Pool((self.last,), size, stride))

    def pyramid(self, *sizes: int) -> int:
        """The latest layer and its pools, largest first; rows of the list as in darknet's files."""
        start = self.last
        pools: list[int] = []
        for size in sizes:
            if pools:
                self.join(start)
            pools.append(self.pool(size, 1))
        return self.join(*pools[::-1], start)

    def grow(self) -> int:
        """Nearest up-sampling by two."""
        return self.add(Grow((self.last,)))

    def detect(
        self, anchors_wh: tuple[tuple[float, float], ...], classes: int, *, size: Literal["square", "exp"], reach: float
    ) -> int:
        """An output convolution and what reads it."""
        self.add(Conv((self.last,), len(anchors_wh) * (5 + classes), norm=False))
        return self.add(Detect((self.last,), anchors_wh, classes, size, reach))


@dataclass(frozen=True)
class Shape:
    """Channels of a layer, and the input pixels per position; stride 0 for one position in all."""

    chs: int
    stride: int


def trace_shapes(layers: Sequence[Layer]) -> list[Shape]:
    """The shape of every layer.

    Raises:
        LayerError: a layer that reads one that is not before it, or whose inputs do not fit together.
    """
    shapes: list[Shape] = []
    for index, layer in enumerate(layers):
        for read in layer.reads:
            if not PICTURE <= read < index:
                raise LayerError(index, f"reads layer {read}, which is not before it")
        inputs = [Shape(_RGB, 1) if read == PICTURE else shapes[read] for read in layer.reads]
        try:
            shapes.append(_RULES[type(layer)](layer, inputs))
        except ValueError as error:
            raise LayerError(index, str(error)) from None
    return shapes


def count_values(layer: Layer, in_chs: int) -> int:
    """Numbers that a layer has learned, the statistics of a batch norm among them."""
    if isinstance(layer, Vector):
        return layer.chs
    if isinstance(layer, Norm):
        return 4 * in_chs
    if not isinstance(layer, Conv):
        return 0
    return layer.chs * (in_chs // layer.groups * layer.size**2 + (4 if layer.norm else 1))


@dataclass(frozen=True)
class Output:
    """One map that leaves the network.

    Attributes:
        detect: what reads it.
        conv: number of the convolution that gives it.
        source: number of the layer whose map that reads.
        stride: input pixels per position.
        offset, scale: numbers of the vectors that are added before and multiplied after; None without.
    """

    detect: Detect
    conv: int
    source: int
    stride: int
    offset: int | None
    scale: int | None


def find_outputs(layers: Sequence[Layer]) -> list[Output]:
    """Finest first.

    Raises:
        LayerError: as `trace_shapes`, or a head that does not read a bare convolution.
    """
    shapes = trace_shapes(layers)
    outputs = [
        _output(layers, index, shapes[index].stride) for index, layer in enumerate(layers) if type(layer) is Detect
    ]
    return sorted(outputs, key=lambda output: output.stride)


def _output(layers: Sequence[Layer], index: int, stride: int) -> Output:
    detect = layers[index]
    assert isinstance(detect, Detect)
    conv, scale = _past_vector(layers, detect.reads[0])
    layer = layers[conv]
    if not isinstance(layer, Conv) or layer.norm or (layer.size, layer.stride, layer.activation) != (1, 1, None):
        raise LayerError(index, "reads no bare 1x1 convolution")
    source, offset = _past_vector(layers, layer.reads[0])
    if source == PICTURE or not stride or (offset is None) != (scale is None) or layer.groups > 1:
        raise LayerError(index, "reads an output that is not built here")
    return Output(detect, conv, source, stride, offset, scale)


def _past_vector(layers: Sequence[Layer], index: int) -> tuple[int, int | None]:
    """The layer that a vector is applied to, and the vector; the layer itself, and None, where none is."""
    layer = layers[index] if index >= 0 else None
    return layer.reads if isinstance(layer, Apply) else (index, None)  # type: ignore[return-value]


def _conv(layer: Conv, inputs: list[Shape]) -> Shape:
    (given,) = inputs
    if given.chs % layer.groups or layer.chs % layer.groups:
        raise ValueError(f"{layer.groups} groups do not divide {given.chs} and {layer.chs} channels")
    return Shape(layer.chs, given.stride * layer.stride)


def _join(layer: Join, inputs: list[Shape]) -> Shape:
    stride = _same([given.stride for given in inputs], "strides")
    chs = sum(given.chs for given in inputs)
    if chs % layer.parts or not 0 <= layer.part < layer.parts:
        raise ValueError(f"there is no part {layer.part} of {layer.parts} of {chs} channels")
    return Shape(chs // layer.parts, stride)


def _combine(layer: Combine, inputs: list[Shape]) -> Shape:
    strides = [given.stride for given in inputs if given.stride or layer.by == "sum"]
    return Shape(_same([given.chs for given in inputs], "numbers of channels"), _same(strides, "strides"))


def _same(values: list[int], what: str) -> int:
    if not values or len(set(values)) > 1:
        raise ValueError(f"joins maps of other {what}: {', '.join(map(str, values)) or 'none'}")
    return values[0]


def _pool(layer: Pool, inputs: list[Shape]) -> Shape:
    if layer.size % 2 == 0 and layer.size != layer.stride and (layer.size, layer.stride) != (2, 1):
        raise ValueError(f"a maximum over {layer.size} with stride {layer.stride} is not built here")
    return Shape(inputs[0].chs, inputs[0].stride * layer.stride)


def _grow(layer: Grow, inputs: list[Shape]) -> Shape:
    if not inputs[0].stride or inputs[0].stride % layer.factor:
        raise ValueError(f"makes a map of stride {inputs[0].stride} {layer.factor} times larger")
    return Shape(inputs[0].chs, inputs[0].stride // layer.factor)


def _reorg(layer: Reorg, inputs: list[Shape]) -> Shape:
    chs, step = inputs[0].chs, layer.stride
    if layer.reads != (PICTURE,) and chs % step**2:
        raise ValueError(f"reads {chs} channels, which {step} x {step} does not divide")
    return Shape(chs * step**2, inputs[0].stride * step)


def _apply(layer: Apply, inputs: list[Shape]) -> Shape:
    values, vector = inputs
    if vector.stride or values.chs != vector.chs:
        raise ValueError(f"gives {vector.chs} numbers to {values.chs} channels")
    return values


_RULES: dict[type[Layer], Callable[..., Shape]] = {
    Conv: _conv,
    Norm: lambda _layer, inputs: inputs[0],
    Join: _join,
    Combine: _combine,
    Pool: _pool,
    MeanPool: lambda _layer, inputs: Shape(inputs[0].chs, 0),
    Grow: _grow,
    Reorg: _reorg,
    Vector: lambda layer, _inputs: Shape(layer.chs, 0),
    Apply: _apply,
    Detect: lambda _layer, inputs: inputs[0],
}
