"""What a network computes, as a list, and what that comes to in instructions of a core."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgeyolo.backends.ncnn.costs import CoreCosts, Way, instructions, size_kind
from edgeyolo.backends.ncnn.files import INT8_TERM_KEY, Layer
from edgeyolo.backends.ncnn.shapes import Shape
from edgeyolo.spec.work import Convolution

# Of a convolution that no table has, such as a depthwise one: for each product, four or eight at once, and for each
# number given.
_PER_PRODUCT, _PER_SHORT_PRODUCT, _PER_NUMBER = 0.5, 0.25, 3.0


def list_convolutions(layers: Sequence[Layer], shapes: Mapping[str, Shape]) -> list[Convolution]:
    """The convolutions among `layers`, in their order.

    Args:
        shapes: of the blobs.
    """
    found = []
    for layer in layers:
        if layer.kind == "InnerProduct":
            out_chs = layer.integer(0)
            count, is_int8 = layer.integer(2), layer.integer(INT8_TERM_KEY) != 0
            found.append(Convolution((1, 1), 1, 1, count // out_chs, out_chs, 1, is_int8))
        elif layer.kind.startswith(("Convolution", "Deconvolution")):
            found.append(_convolution(layer, shapes))
    return found


def _convolution(layer: Layer, shapes: Mapping[str, Shape]) -> Convolution:
    is_transposed = layer.kind.startswith("Deconvolution")
    width, step = layer.integer(1, 1), layer.integer(3, 1)
    kernel_hw = (layer.integer(11, width), width)
    groups = layer.integer(7, 1) if layer.kind.endswith("DepthWise") else 1
    out_chs = layer.integer(0)
    in_chs = layer.integer(6) * groups // (out_chs * math.prod(kernel_hw))
    laid_on = shapes[layer.inputs[0] if is_transposed else layer.outputs[0]]
    return Convolution(
        kernel_hw=kernel_hw,
        stride=1 if is_transposed else max(step, layer.integer(13, step)),
        groups=groups,
        in_chs=in_chs,
        out_chs=out_chs,
        positions=math.prod(laid_on[1:]),
        is_int8=not is_transposed and layer.integer(INT8_TERM_KEY) != 0,
    )


def count_instructions(convolutions: Sequence[Convolution], table: CoreCosts, float_way: Way) -> float:
    """Instructions of a core, estimated from its table of costs.

    Args:
        float_way: how the core computes what is not int8.
    """
    return sum(_instructions(one, table, float_way) for one in convolutions)


def _instructions(one: Convolution, table: CoreCosts, float_way: Way) -> float:
    height, width = one.kernel_hw
    kind = size_kind(width, one.stride, one.in_chs, one.out_chs) if one.groups == 1 and height == width else ""
    way: Way = "int8" if one.is_int8 else float_way
    rates = table.convolutions.get(kind, {}).get(way)
    if rates is None:
        per_product = _PER_PRODUCT if way == "fp32" else _PER_SHORT_PRODUCT
        return per_product * one.products + _PER_NUMBER * one.positions * one.out_chs
    side = max(1, round(math.sqrt(one.positions)))
    return instructions(rates, kind, one.in_chs, (one.out_chs, side, side))
