"""Checks an ncnn network before ncnn sees it: every layer known, every parameter and blob size consistent.

ncnn does not check that a convolution's weights fit its input, or that blobs that are joined agree: it reads beyond
them. Shapes are those of ncnn, without batch: (C, D, H, W), (C, H, W), (H, W) or (W,). A layer kind is supported when
it has a rule here; an unknown one is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from edgeyolo.backends.ncnn.files import INT8_TERM_KEY, MASK_KEY, REQUANTIZED, WITHOUT_WINOGRAD, Layer
from edgeyolo.backends.ncnn.requantize import find_chains, is_requantized
from edgeyolo.spec.errors import BackendError

Shape = tuple[int, ...]
Rule = Callable[[Layer, list[Shape]], Shape | list[Shape]]

_MAX_ELEMENTS = 2**26
_ALWAYS = 2**20  # elements that a blob may have however small the picture: 4 MiB
_MAX_PER_INPUT = 64  # elements of a blob for each of the picture; YOLOv7-X, the widest of those there are, has 13
_AUTOMATIC = -233
_ORDERS = {  # of Permute, by the number of dimensions: which of the input's are width, height, ... of the output
    2: "wh hw",
    3: "whc hwc wch cwh hcw chw",
    4: "whdc hwdc wdhc dwhc hdwc dhwc whcd hwcd wchd cwhd hcwd chwd "
    "wdch dwch wcdh cwdh dcwh cdwh hdcw dhcw hcdw chdw dchw cdhw",
}
_AXES = {2: "hw", 3: "chw", 4: "cdhw"}  # of a shape
_SIZE_KEYS = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}  # of Reshape and MemoryData, by dimensions


def check_network(layers: Sequence[Layer], image_hw: tuple[int, int], output_count: int, *, where: object) -> None:
    """Raise BackendError unless the network maps in0 (3, H, W) to out0, out1 ..., (C, h, w) or (C, N), safely.

    Args:
        layers: with their weights, as `read_bin` gives them.
    """
    shapes = infer_shapes(layers, image_hw, where=where)
    consumed = {name for layer in layers for name in layer.inputs}
    _check_chains(layers, where=where)
    wanted = [f"out{i}" for i in range(output_count)]
    found = sorted(name for name in shapes if name.startswith("out") and name not in consumed)
    if "in0" not in shapes or found != sorted(wanted) or any(len(shapes[name]) not in (2, 3) for name in wanted):
        raise BackendError(
            f"gives {found} from in0, and {wanted} of two or three dimensions were expected", where=where
        )


def infer_shapes(layers: Sequence[Layer], image_hw: tuple[int, int], *, where: object) -> dict[str, Shape]:
    """Shape of each blob; errors as in `check_network`."""
    shapes: dict[str, Shape] = {}
    for layer in layers:
        try:
            made = _infer(layer, [shapes[name] for name in layer.inputs], image_hw)
        except BackendError as error:
            raise BackendError(f"layer '{layer.name}' ({layer.kind}): {error.what}", where=where) from None
        shapes.update(zip(layer.outputs, made, strict=True))
    return shapes


def is_known_kind(kind: str) -> bool:
    """Whether a network with a layer of this kind can pass `check_network`."""
    return kind == "Input" or kind in _RULES


def _check_chains(layers: Sequence[Layer], *, where: object) -> None:
    """An int8 blob reaches int8 convolutions only, whose input scale is the one it was made with."""
    chains = find_chains(layers)
    for layer in layers:
        if is_requantized(layer) and chains.get(layer.name) != float(layer.weights[-1].values[0]):
            raise BackendError(
                f"layer '{layer.name}' gives int8 to a layer that does not take it, or with another scale", where=where
            )


def _infer(layer: Layer, inputs: list[Shape], image_hw: tuple[int, int]) -> list[Shape]:
    if layer.kind == "Input":
        _require(layer.outputs == ("in0",) and not inputs, "the only input is in0")
        declared = tuple(layer.integer(key) for key in (2, 1, 0))
        _require(declared in ((0, 0, 0), (3, *image_hw)), f"takes {declared}, and images are {(3, *image_hw)}")
        return [(3, *image_hw)]
    if layer.kind not in _RULES:
        raise BackendError("this kind is not supported on ncnn")
    rule, keys, input_count = _RULES[layer.kind]
    unknown = sorted(set(layer.params) - set(keys))
    _require(not unknown, f"parameters {unknown} are not known")
    _require(input_count in (len(inputs), -1) and len(layer.outputs) > 0, f"{len(inputs)} inputs")
    made = rule(layer, inputs)
    shapes = made if isinstance(made, list) else [made]
    _require(len(shapes) == len(layer.outputs), f"{len(layer.outputs)} outputs")
    most = min(_MAX_ELEMENTS, max(_ALWAYS, _MAX_PER_INPUT * 3 * math.prod(image_hw)))
    for shape in shapes:
        _require(all(size > 0 for size in shape) and math.prod(shape) <= most, f"makes a blob of shape {shape}")
    return shapes


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise BackendError(problem)


def _same(layer: Layer, inputs: list[Shape]) -> Shape:
    return inputs[0]


def _per_channel(layer: Layer, inputs: list[Shape]) -> Shape:
    count = layer.integer(0)
    _require(count == inputs[0][0] or (layer.kind == "PReLU" and count == 1), f"{count} weights for {inputs[0]}")
    return inputs[0]


def _filter_sizes(layer: Layer) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, dilation and stride, each (vertical, horizontal)."""
    pairs = []
    for horizontal, vertical in ((1, 11), (2, 12), (3, 13)):
        width = layer.integer(horizontal, 1)
        pairs.append((layer.integer(vertical, width), width))
    _require(all(1 <= size <= 255 for pair in pairs for size in pair), "kernel, dilation or stride out of range")
    return pairs[0], pairs[1], pairs[2]


def _pads(layer: Layer) -> tuple[int, int]:
    """Top plus bottom, left plus right."""
    left = layer.integer(4)
    top = layer.integer(14, left)
    pads = (left, top, layer.integer(15, left), layer.integer(16, top))
    _require(all(0 <= pad <= 255 for pad in pads), "padding out of range")
    return pads[1] + pads[3], pads[0] + pads[2]


def _check_activation(layer: Layer) -> None:
    kind, values = layer.integer(9), layer.numbers(10)
    needed = {0: 0, 1: 0, 2: 1, 3: 2, 4: 0, 5: 0, 6: 2}
    _require(kind in needed and len(values) >= needed[kind], f"activation {kind} with {len(values)} parameters")


def _convolution(layer: Layer, inputs: list[Shape]) -> Shape:
    kernel, dilation, stride = _filter_sizes(layer)
    shape = inputs[0] if len(inputs[0]) == 3 else (*inputs[0], 1, 1)
    pads = _pads(layer)
    _require(len(shape) == 3 and (len(inputs[0]) == 3 or kernel == (1, 1)), f"cannot read a blob of {inputs[0]}")
    out_chs, groups = layer.integer(0), layer.integer(7, 1) if layer.kind == "ConvolutionDepthWise" else 1
    _require(groups > 0 and out_chs > 0 and out_chs % groups == 0 and shape[0] % groups == 0, "groups do not divide")
    count = out_chs * (shape[0] // groups) * kernel[0] * kernel[1]
    _require(layer.integer(6) == count, f"has {layer.integer(6)} weights, and {count} fit its input {inputs[0]}")
    term = 1 if layer.kind == "ConvolutionDepthWise" else 2
    _require(layer.integer(INT8_TERM_KEY) in (0, term, REQUANTIZED + term), "int8 term")
    _require(layer.integer(5) in (0, 1) and layer.integer(19) == 0, "bias or dynamic weight")
    _require(layer.integer(MASK_KEY) in (0, WITHOUT_WINOGRAD), "mask of options")
    _check_activation(layer)
    sizes = [
        (size + pad - (dil * (k - 1) + 1)) // step + 1 if size + pad >= dil * (k - 1) + 1 else 0
        for size, pad, k, dil, step in zip(shape[1:], pads, kernel, dilation, stride, strict=True)
    ]
    return (out_chs, *sizes) if len(inputs[0]) == 3 else (out_chs,)


def _deconvolution(layer: Layer, inputs: list[Shape]) -> Shape:
    kernel, dilation, stride = _filter_sizes(layer)
    _require(len(inputs[0]) == 3, f"cannot read a blob of {inputs[0]}")
    out_chs, groups = layer.integer(0), layer.integer(7, 1) if layer.kind == "DeconvolutionDepthWise" else 1
    _require(groups > 0 and out_chs > 0 and out_chs % groups == 0 and inputs[0][0] % groups == 0, "groups")
    count = out_chs // groups * inputs[0][0] * kernel[0] * kernel[1]
    _require(layer.integer(6) == count, f"has {layer.integer(6)} weights, and {count} fit its input {inputs[0]}")
    _require(layer.integer(5) in (0, 1) and not any(layer.integer(key) for key in (8, 20, 21, 28)), "parameters")
    _check_activation(layer)
    right = layer.integer(18)
    extra = (layer.integer(19, right), right)
    _require(all(0 <= size <= 255 for size in extra), "output padding out of range")
    sizes = [
        (size - 1) * step + dil * (k - 1) + 1 + more - pad
        for size, step, dil, k, more, pad in zip(
            inputs[0][1:], stride, dilation, kernel, extra, _pads(layer), strict=True
        )
    ]
    return (out_chs, *sizes)


def _inner_product(layer: Layer, inputs: list[Shape]) -> Shape:
    out_chs, count = layer.integer(0), layer.integer(0) * math.prod(inputs[0])
    _require(len(inputs[0]) in (1, 3) and out_chs > 0, f"cannot read a blob of {inputs[0]}")
    _require(layer.integer(2) == count, f"has {layer.integer(2)} weights, and {count} fit its input {inputs[0]}")
    _require(layer.integer(8) in (0, 2) and layer.integer(1) in (0, 1), "int8 term or bias")
    _check_activation(layer)
    return (out_chs,)


def _pooling(layer: Layer, inputs: list[Shape]) -> Shape:
    _require(len(inputs[0]) == 3 and layer.integer(0) in (0, 1), f"cannot pool a blob of {inputs[0]}")
    channels, height, width = inputs[0]
    if layer.integer(4):
        return (channels,)
    if layer.integer(7):
        sizes = (layer.integer(18, layer.integer(8)), layer.integer(8))
        return (channels, *(old if new == _AUTOMATIC else new for old, new in zip((height, width), sizes, strict=True)))
    left = layer.integer(3)
    top, right = layer.integer(13, left), layer.integer(14, left)
    pads = (top + layer.integer(15, top), left + right)
    kernel_width, step_width = layer.integer(1), layer.integer(2, 1)
    kernel = (layer.integer(11, kernel_width), kernel_width)
    stride = (layer.integer(12, step_width), step_width)
    _require(all(1 <= size <= 255 for size in (*kernel, *stride)), "kernel or stride out of range")
    _require(
        min(left, top, right, *pads) >= 0 and all(p <= 2 * k for p, k in zip(pads, kernel, strict=True)), "padding"
    )
    _require(layer.integer(5) in (0, 1) and layer.integer(6) in (0, 1), "padding mode")
    out_hw = []
    for size, pad, k, step in zip((height, width), pads, kernel, stride, strict=True):
        span = size + pad - k
        out_hw.append((-(-span // step) if layer.integer(5) == 0 else span // step) + 1 if span >= 0 else 0)
    return (channels, *out_hw)


def _interp(layer: Layer, inputs: list[Shape]) -> Shape:
    _require(len(inputs[0]) == 3 and layer.integer(0) in (1, 2, 3), f"cannot resize a blob of {inputs[0]}")
    _require(layer.integer(5) == 0, "a size that is known only at run time")
    sizes = []
    for size, scale_key, size_key in zip(inputs[0][1:], (1, 2), (3, 4), strict=True):
        scale, fixed = layer.params.get(scale_key, 1.0), layer.integer(size_key)
        if isinstance(scale, tuple) or not 0 < scale <= 64 or not 0 <= fixed <= 65536:
            raise BackendError("scale out of range")
        sizes.append(fixed or int(size * scale))
    return (inputs[0][0], *sizes)


def _axis(layer: Layer, key: int, rank: int) -> int:
    axis = layer.integer(key)
    _require(-rank <= axis < rank, f"axis {axis} of {rank}")
    return axis % rank


def _concat(layer: Layer, inputs: list[Shape]) -> Shape:
    _require(len(inputs) > 0 and len({len(shape) for shape in inputs}) == 1, "blobs of different rank")
    axis = _axis(layer, 0, len(inputs[0]))
    rests = {(*shape[:axis], *shape[axis + 1 :]) for shape in inputs}
    _require(len(rests) == 1, f"cannot join {inputs} along axis {axis}")
    return (*inputs[0][:axis], sum(shape[axis] for shape in inputs), *inputs[0][axis + 1 :])


def _split(layer: Layer, inputs: list[Shape]) -> list[Shape]:
    return [inputs[0]] * len(layer.outputs)


def _slice(layer: Layer, inputs: list[Shape]) -> list[Shape]:
    axis = _axis(layer, 1, len(inputs[0]))
    counts = layer.numbers(0)
    _require(len(counts) == len(layer.outputs), f"{len(counts)} slices for {len(layer.outputs)} outputs")
    made: list[Shape] = []
    left = inputs[0][axis]
    for index, count in enumerate(counts):
        size = left // (len(counts) - index) if count == _AUTOMATIC else count
        _require(isinstance(size, int) and 0 < size <= left, f"slices {counts} of {inputs[0]}")
        left -= int(size)
        made.append((*inputs[0][:axis], int(size), *inputs[0][axis + 1 :]))
    return made


def _crop(layer: Layer, inputs: list[Shape]) -> Shape:
    starts, ends, axes = (layer.numbers(key) for key in (9, 10, 11))
    _require(len(starts) == len(ends) == len(axes) == len(set(axes)) > 0, "starts, ends or axes")
    sizes = list(inputs[0])
    for start, end, axis in zip(starts, ends, axes, strict=True):
        _require(isinstance(axis, int) and 0 <= axis < len(sizes), f"axis {axis} of {len(sizes)}")
        end = sizes[int(axis)] if end == _AUTOMATIC else end
        _require(0 <= start < end <= sizes[int(axis)], f"crops {start} to {end} of {inputs[0]}")
        sizes[int(axis)] = int(end) - int(start)
    return tuple(sizes)


def _binary(layer: Layer, inputs: list[Shape]) -> Shape:
    _require(0 <= layer.integer(0) <= 11, f"operator {layer.integer(0)}")
    _require(len(inputs) == (1 if layer.integer(1) else 2), f"{len(inputs)} inputs")
    if len(inputs) == 1 or inputs[0] == inputs[1]:
        return inputs[0]
    small, large = sorted(inputs, key=lambda shape: (len(shape), math.prod(shape)))
    if len(small) == 1 and small[0] in (1, large[0]):  # ncnn lines a vector up with the channels
        return large
    fits = len(small) == len(large) and all(a in (1, b) for a, b in zip(small, large, strict=True))
    _require(fits, f"cannot combine {inputs[0]} and {inputs[1]}")
    return large


def _eltwise(layer: Layer, inputs: list[Shape]) -> Shape:
    _require(0 <= layer.integer(0) <= 2, f"operator {layer.integer(0)}")
    _require(len(inputs) > 1 and len(set(inputs)) == 1, f"cannot combine {inputs}")
    _require(len(layer.numbers(1)) in (0, len(inputs)), f"{len(layer.numbers(1))} factors")
    return inputs[0]


def _reduction(layer: Layer, inputs: list[Shape]) -> Shape:
    axes = [axis % len(inputs[0]) if isinstance(axis, int) else -1 for axis in layer.numbers(3)]
    valid = all(0 <= axis < len(inputs[0]) for axis in axes) and len(set(axes)) == len(axes) > 0
    _require(valid and not layer.integer(1) and layer.integer(4) == 1, "only reduction of given axes, kept as 1")
    _require(0 <= layer.integer(0) <= 10, f"operator {layer.integer(0)}")
    return tuple(1 if axis in axes else size for axis, size in enumerate(inputs[0]))


def _reshape(layer: Layer, inputs: list[Shape]) -> Shape:
    keys = _SIZE_KEYS.get(len(layer.params), ())
    shape = tuple(layer.integer(key) for key in keys)
    fits = all(size > 0 for size in shape) and math.prod(shape) == math.prod(inputs[0])
    _require(fits and set(layer.params) == set(keys), f"cannot make {inputs[0]} into {shape}")
    return shape


def _permute(layer: Layer, inputs: list[Shape]) -> Shape:
    rank = len(inputs[0])
    orders = _ORDERS.get(rank, "").split()
    _require(0 <= layer.integer(0) < len(orders), f"order {layer.integer(0)} of {rank} dimensions")
    return tuple(inputs[0][_AXES[rank].index(axis)] for axis in reversed(orders[layer.integer(0)]))


def _matmul(layer: Layer, inputs: list[Shape]) -> Shape:
    one, other = inputs
    _require(len(one) == len(other) == 3 and one[0] == other[0] and layer.integer(0) in (0, 1), f"{one} times {other}")
    inner, columns = (other[2], other[1]) if layer.integer(0) else (other[1], other[2])
    _require(one[2] == inner, f"{one} times {other}")
    return (one[0], one[1], columns)


def _softmax(layer: Layer, inputs: list[Shape]) -> Shape:
    _axis(layer, 0, len(inputs[0]))
    return inputs[0]


def _memory_data(layer: Layer, inputs: list[Shape]) -> Shape:
    given = {key for key, value in layer.params.items() if key != 21 and value}
    keys = _SIZE_KEYS.get(len(given), ())
    sizes = tuple(layer.integer(key) for key in keys)
    _require(given == set(keys) and all(size > 0 for size in sizes) and len(sizes) > 0, "sizes")
    _require(layer.integer(21, 1) in (0, 1), "load type")
    return sizes


_FILTER_KEYS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19)
_RULES: dict[str, tuple[Rule, Sequence[int], int]] = {  # rule, parameters it knows, number of inputs (-1: any)
    "Convolution": (_convolution, (*_FILTER_KEYS, MASK_KEY), 1),
    "ConvolutionDepthWise": (_convolution, _FILTER_KEYS, 1),
    "Deconvolution": (_deconvolution, (*_FILTER_KEYS, 20, 21, 28), 1),
    "DeconvolutionDepthWise": (_deconvolution, (*_FILTER_KEYS, 20, 21, 28), 1),
    "InnerProduct": (_inner_product, (0, 1, 2, 8, 9, 10), 1),
    "Pooling": (_pooling, (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 18), 1),
    "Interp": (_interp, (0, 1, 2, 3, 4, 5, 6), 1),
    "Concat": (_concat, (0,), -1),
    "Split": (_split, (), 1),
    "Slice": (_slice, (0, 1), 1),
    "Crop": (_crop, (9, 10, 11), 1),
    "BinaryOp": (_binary, (0, 1, 2), -1),
    "Eltwise": (_eltwise, (0, 1), -1),
    "Reduction": (_reduction, (0, 1, 2, 3, 4, 5), 1),
    "Reshape": (_reshape, (0, 1, 2, 11), 1),
    "Permute": (_permute, (0,), 1),
    "MatMul": (_matmul, (0,), 2),
    "Softmax": (_softmax, (0, 1), 1),
    "MemoryData": (_memory_data, (0, 1, 2, 11, 21), 0),
    "BatchNorm": (_per_channel, (0, 1), 1),
    "Scale": (_per_channel, (0, 1), 1),
    "PReLU": (_per_channel, (0,), 1),
    "ReLU": (_same, (0,), 1),
    "Clip": (_same, (0, 1), 1),
    "HardSwish": (_same, (0, 1), 1),
    "HardSigmoid": (_same, (0, 1), 1),
    "Sigmoid": (_same, (), 1),
    "Swish": (_same, (), 1),
    "Mish": (_same, (), 1),
    "TanH": (_same, (), 1),
    "GELU": (_same, (0,), 1),
    "UnaryOp": (_same, (0,), 1),
    "Dropout": (_same, (0,), 1),
}
