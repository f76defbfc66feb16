"""A darknet `.cfg`: sections of `key=value` lines, one for the network and one for each layer -> a plan of layers.

What a file says of training is passed over; a section or a value that would change what the network computes, and is
not known here, is refused with its line. Nothing is built: sizes are checked as numbers, so that a file of a few lines
cannot ask for memory.

Source: darknet's documented behaviour (public domain) in both of its forms; YOLOR's sections from its documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeyolo.nn.plan import (
    Apply,
    Combine,
    Conv,
    Detect,
    Grow,
    Join,
    Layer,
    LayerError,
    MeanPool,
    Pool,
    Reorg,
    Vector,
    count_values,
    trace_shapes,
)
from edgeyolo.spec.errors import CheckpointError

_MOST_BYTES = 1 << 20
_MOST_LAYERS = 2000
_MOST_CHANNELS = 16_384
_MOST_CLASSES = 10_000
_MOST_VALUES = 1_000_000_000  # 3.7 GiB; the largest network published has 288 million
_LARGEST_SIDE = 16_384
_LARGEST_REACH = 10
_ACTIVATIONS = {
    "linear": None,
    "leaky": "leaky_relu",
    "mish": "mish",
    "swish": "silu",
    "silu": "silu",
    "relu": "relu",
    "logistic": "sigmoid",
}
# Options that change what a layer computes, with the value at which they do not.
_NEUTRAL: dict[str, dict[str, float]] = {
    "convolutional": {
        "dilation": 1,
        "antialiasing": 0,
        "binary": 0,
        "xnor": 0,
        "share_index": 0,
        "stretch": 0,
        "stretch_sway": 0,
        "sway": 0,
        "rotate": 0,
        "deform": 0,
        "assisted_excitation": 0,
        "flipped": 0,
    },
    "maxpool": {"antialiasing": 0, "maxpool_depth": 0},
    "upsample": {"scale": 1},
    "route": {"stretch": 0},
    "reorg": {"reverse": 0, "extra": 0, "flatten": 0},
    "implicit_add": {"atoms": 1},
    "implicit_mul": {"atoms": 1},
    "region": {"coords": 4},
}
_HINT = "What darknet's YOLO files use is read: see docs/official-weights.md"


@dataclass(frozen=True)
class DarknetCfg:
    """What a cfg describes.

    Attributes:
        layers: as `nn.plan` has them; numbers as darknet prints them.
        image_hw: of the input, pixels.
    """

    layers: tuple[Layer, ...]
    image_hw: tuple[int, int]


def read_cfg(path: Path) -> DarknetCfg:
    """The plan in a file.

    Raises:
        CheckpointError: it cannot be read, or describes what is not built here; says the line.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CheckpointError(f"has more than {_MOST_BYTES} bytes", where=path, hint="It is no cfg of darknet")
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error})", where=path, hint="Give a .cfg of darknet") from None
    return parse_cfg(text, where=path)


def parse_cfg(text: str, *, where: object) -> DarknetCfg:
    """The plan in the text of a file; raises as `read_cfg`."""
    sections = list(_list_sections(text, where))
    if not sections or sections[0].kind not in ("net", "network"):
        raise CheckpointError("does not begin with [net]", where=where, hint="Give a .cfg of darknet")
    net, rest = sections[0], sections[1:]
    if len(rest) > _MOST_LAYERS:
        raise CheckpointError(f"has more than {_MOST_LAYERS} layers", where=where, hint="It is no detector")
    net.integer("channels", 3, 3, 3)
    image_hw = (net.integer("height", 1, _LARGEST_SIDE), net.integer("width", 1, _LARGEST_SIDE))
    layers: list[Layer] = []
    for section in rest:
        layers.append(section.read(layers))
    if not any(isinstance(layer, Detect) for layer in layers):
        raise CheckpointError("has no [yolo] or [region]", where=where, hint="It is no detector")
    _check_sizes(layers, rest)
    return DarknetCfg(_place_regions(layers), image_hw)


def without_training(text: str) -> str:
    """The same network in fewer lines: no comments, no spaces, and of `[net]` the size alone."""
    lines: list[str] = []
    for section in _list_sections(text, ""):
        is_net = section.kind in ("net", "network")
        lines.append(f"[{section.kind}]")
        kept = ("width", "height", "channels") if is_net else tuple(section.options)
        lines += [f"{name}={section.options[name][0]}" for name in kept if name in section.options]
    return "\n".join(lines)


def _check_sizes(layers: list[Layer], sections: list[_Section]) -> None:
    try:
        shapes = trace_shapes(layers)
        values = 0
        for index, (layer, shape) in enumerate(zip(layers, shapes, strict=True)):
            in_chs = sum(3 if read < 0 else shapes[read].chs for read in layer.reads)
            values += count_values(layer, in_chs)
            if shape.chs > _MOST_CHANNELS or values > _MOST_VALUES:
                raise LayerError(index, "makes the network larger than any detector")
            if isinstance(layer, Detect):
                _check_outputs(layer, shape.chs, index)
    except LayerError as error:
        section = sections[error.index]
        raise section.refuse(f"layer {error.index}, [{section.kind}], {error}") from None


def _check_outputs(layer: Detect, chs: int, index: int) -> None:
    wanted = len(layer.anchors_wh) * (5 + layer.classes)
    if chs != wanted:
        what = f"{len(layer.anchors_wh)} anchors of 5 + {layer.classes} numbers are {wanted}"
        raise LayerError(index, f"reads {chs} channels, and {what}: set filters={wanted} in the layer before it")


def _place_regions(layers: list[Layer]) -> tuple[Layer, ...]:
    """The anchors of [region], which are in cells, as input pixels; what new_coords makes of an output left to it."""
    shapes = trace_shapes(layers)
    placed = list(layers)
    for index, layer in enumerate(layers):
        if not isinstance(layer, Detect):
            continue
        if layer.softmax:
            stride = shapes[index].stride
            anchors_wh = tuple((width * stride, height * stride) for width, height in layer.anchors_wh)
            placed[index] = Detect(layer.reads, anchors_wh, layer.classes, softmax=True)
        output = layers[layer.reads[0]]
        if layer.size == "square" and isinstance(output, Conv) and output.activation == "sigmoid":
            placed[layer.reads[0]] = Conv(output.reads, output.chs, output.size, output.stride, norm=output.norm)
    return tuple(placed)


@dataclass(frozen=True)
class _Section:
    """One section; options with their lines, and where it is."""

    kind: str
    line: int
    options: dict[str, tuple[str, int]]
    where: object

    def refuse(self, what: str, line: int | None = None) -> CheckpointError:
        """The error for it."""
        return CheckpointError(what, where=f"{self.where}, line {line or self.line}", hint=_HINT)

    def read(self, layers: list[Layer]) -> Layer:
        """The layer that it is, behind those that were read."""
        kind = {"conv": "convolutional", "max": "maxpool", "avg": "avgpool", "implicit": "implicit_add"}.get(
            self.kind, self.kind
        )
        if kind not in _READERS:
            raise self.refuse(f"[{self.kind}] is a section that is not known")
        for name, neutral in _NEUTRAL.get(kind, {}).items():
            if name in self.options and self.number(name, neutral) != neutral:
                raise self.refuse(f"{name} of [{self.kind}] is not known", self.options[name][1])
        return _READERS[kind](self, len(layers))

    def integer(self, name: str, least: int, most: int, default: int | None = None) -> int:
        """A whole number in a range."""
        value = self.number(name, default)
        if value != int(value) or not least <= value <= most:
            line = self.options[name][1] if name in self.options else None
            raise self.refuse(f"{name} of [{self.kind}] is {value:g}, not within {least} and {most}", line)
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        if name not in self.options:
            if default is None:
                raise self.refuse(f"[{self.kind}] has no {name}")
            return default
        return self._numbers(name)[0]

    def integers(self, name: str) -> list[int]:
        """Whole numbers, separated by commas."""
        return [int(value) for value in self._numbers(name)]

    def pairs(self, name: str) -> tuple[tuple[float, float], ...]:
        """Numbers above 0 by twos."""
        values = self._numbers(name)
        if len(values) % 2 or not all(0 < value <= _LARGEST_SIDE for value in values):
            raise self.refuse(f"{name} of [{self.kind}] are not pairs of sizes", self.options[name][1])
        return tuple(zip(values[0::2], values[1::2], strict=True))

    def layer(self, value: int, index: int) -> int:
        """The number of a layer that is given from the start, or backwards from this one."""
        found = index + value if value < 0 else value
        if not 0 <= found < index:
            raise self.refuse(f"layer {index}, [{self.kind}], reads layer {value}, which is not before it")
        return found

    def activation(self, default: str) -> str | None:
        """Our name of it."""
        name, line = self.options.get("activation", (default, self.line))
        if name not in _ACTIVATIONS:
            raise self.refuse(f"activation {name} is not known", line)
        return _ACTIVATIONS[name]

    def _numbers(self, name: str) -> list[float]:
        if name not in self.options:
            raise self.refuse(f"[{self.kind}] has no {name}")
        text, line = self.options[name]
        try:
            values = [float(part) for part in text.rstrip(",").split(",")]
        except ValueError:
            raise self.refuse(f"{name} of [{self.kind}] is {text[:40]!r}, which is no number", line) from None
        if not all(abs(value) < 1e12 for value in values):
            raise self.refuse(f"{name} of [{self.kind}] is no number", line)
        return values


def _list_sections(text: str, where: object) -> Iterator[_Section]:
    section: _Section | None = None
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.split("#")[0].split(";")[0].replace(" ", "").replace("\t", "")
        if line.startswith("["):
            if section is not None:
                yield section
            section = _Section(line.strip("[]").lower(), number, {}, where)
        elif line:
            name, equals, value = line.partition("=")
            if section is None or not equals:
                what = f"{line[:40]!r} is neither a section nor an option"
                raise CheckpointError(what, where=f"{where}, line {number}", hint="Give a .cfg of darknet")
            section.options[name] = (value, number)
    if section is not None:
        yield section


def _convolutional(section: _Section, index: int) -> Layer:
    size = section.integer("size", 1, 31, 1)
    padding = size // 2 if section.number("pad", 0) else section.integer("padding", 0, 31, 0)
    if size % 2 == 0 or padding != size // 2:
        raise section.refuse(f"a convolution of size {size} with padding {padding} is not known")
    stride = section.integer("stride", 1, 8, 1)
    if {section.integer(name, 1, 8, stride) for name in ("stride_x", "stride_y")} != {stride}:
        raise section.refuse("a convolution of two strides is not known")
    return Conv(
        (index - 1,),
        section.integer("filters", 1, _MOST_CHANNELS, 1),
        size,
        stride,
        section.integer("groups", 1, _MOST_CHANNELS, 1),
        section.activation("logistic"),
        bool(section.number("batch_normalize", 0)),
    )


def _route(section: _Section, index: int) -> Layer:
    parts = section.integer("groups", 1, _MOST_CHANNELS, 1)
    part = section.integer("group_id", 0, parts - 1, 0)
    return Join(tuple(section.layer(value, index) for value in section.integers("layers")), parts, part)


def _shortcut(section: _Section, index: int) -> Layer:
    if section.options.get("weights_type", ("none", 0))[0] != "none":
        raise section.refuse("a weighted shortcut is not known", section.options["weights_type"][1])
    others = tuple(section.layer(value, index) for value in section.integers("from"))
    return Combine((section.layer(-1, index), *others), activation=section.activation("linear"))


def _product(section: _Section, index: int) -> Layer:
    reads = (section.layer(-1, index), section.layer(section.integers("from")[0], index))
    return Combine(reads, "product", section.activation("linear"))


def _maxpool(section: _Section, index: int) -> Layer:
    stride = section.integer("stride", 1, 8, 1)
    size = section.integer("size", 1, 63, stride)
    usual = 0 if size == stride else size - 1
    if section.integer("padding", 0, 63, size - 1) not in (usual, size - 1):
        raise section.refuse("a maxpool of this padding is not known", section.options["padding"][1])
    return Pool((index - 1,), size, stride)


def _yolo(section: _Section, index: int) -> Layer:
    anchors_wh = section.pairs("anchors")
    mask = section.integers("mask") if "mask" in section.options else list(range(len(anchors_wh)))
    if not mask or not all(0 <= chosen < len(anchors_wh) for chosen in mask):
        raise section.refuse(f"mask names anchors that the {len(anchors_wh)} there are have not")
    is_new = bool(section.number("new_coords", 0))
    reach = section.number("scale_x_y", 1.0)
    if not 1 <= reach <= _LARGEST_REACH:
        raise section.refuse(f"scale_x_y is {reach:g}", section.options["scale_x_y"][1])
    return Detect(
        (section.layer(-1, index),),
        tuple(anchors_wh[chosen] for chosen in mask),
        section.integer("classes", 1, _MOST_CLASSES, 20),
        "square" if is_new else "exp",
        reach,
    )


def _region(section: _Section, index: int) -> Layer:
    if "tree" in section.options or not section.number("softmax", 0):
        raise section.refuse("a region without softmax, or with a tree of classes, is not known")
    classes = section.integer("classes", 1, _MOST_CLASSES, 20)
    return Detect((section.layer(-1, index),), section.pairs("anchors"), classes, softmax=True)


def _same(section: _Section, index: int) -> Layer:
    """Dropout and silence, which hand on what they read."""
    return Join((section.layer(-1, index),))


def _apply(section: _Section, index: int) -> Layer:
    reads = (section.layer(-1, index), section.layer(section.integers("from")[0], index))
    return Apply(reads, "sum" if section.kind == "shift_channels" else "product")


def _vector(section: _Section, _index: int) -> Layer:
    return Vector(section.integer("filters", 1, _MOST_CHANNELS), 1.0 if section.kind == "implicit_mul" else 0.0)


_READERS: dict[str, Callable[[_Section, int], Layer]] = {
    "convolutional": _convolutional,
    "route": _route,
    "shortcut": _shortcut,
    "sam": _product,
    "scale_channels": _product,
    "maxpool": _maxpool,
    "avgpool": lambda section, index: MeanPool((section.layer(-1, index),)),
    "upsample": lambda section, index: Grow((index - 1,), section.integer("stride", 1, 8, 2)),
    "reorg": lambda section, index: Reorg((index - 1,), section.integer("stride", 1, 8, 2)),
    "yolo": _yolo,
    "region": _region,
    "dropout": _same,
    "silence": _same,
    "implicit_add": _vector,
    "implicit_mul": _vector,
    "shift_channels": _apply,
    "control_channels": _apply,
}
