"""Which layers of a built int8 network run in int8: some are turned back to float, with nothing but the network itself.

A device may run a layer faster in float than in int8, by what quantizing its input costs. The weights stay the
integers that were calibrated or trained, as float numbers; only the input is no longer rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from edgeyolo.backends.ncnn.files import CONVOLUTIONAL, INT8_TERM_KEY, MASK_KEY, Blob, Layer
from edgeyolo.backends.ncnn.int8 import store_half
from edgeyolo.backends.ncnn.requantize import break_chains, give_float, is_requantized
from edgeyolo.spec.errors import UnknownNameError


def int8_layer_names(layers: Sequence[Layer]) -> list[str]:
    """Names of the layers that run in int8, in the network's order."""
    return [layer.name for layer in layers if layer.kind in CONVOLUTIONAL and layer.integer(INT8_TERM_KEY) != 0]


def group_int8_layers(layers: Sequence[Layer]) -> dict[str, list[str]]:
    """The same names by what decides whether int8 pays: how much is computed for each number that is quantized."""
    groups: dict[str, list[str]] = {}
    pictures = {blob for layer in layers if layer.kind == "Input" for blob in layer.outputs}
    for layer in layers:
        if layer.kind in CONVOLUTIONAL and layer.integer(INT8_TERM_KEY) != 0:
            label = "first layers" if pictures & set(layer.inputs) else _kind_and_kernel(layer)
            groups.setdefault(label, []).append(layer.name)
    return groups


def _kind_and_kernel(layer: Layer) -> str:
    if layer.kind == "InnerProduct":
        return "linear"
    width = layer.integer(1)
    kernel = f"{layer.integer(11, width)}x{width}"
    return f"depthwise {kernel}" if layer.kind == "ConvolutionDepthWise" else kernel


def float_layers(layers: Sequence[Layer], names: Collection[str], *, half: bool) -> list[Layer]:
    """`layers` of an int8 network with those of `names` in float.

    A layer before one of them gives float again where it gave int8; the other layers stay as they are.

    Args:
        layers: with their weights, as `read_bin` gives them.
        half: store the float weights in half precision.

    Raises:
        UnknownNameError: a name that is none of `int8_layer_names`. BackendError: a weight too large for half.
    """
    known = int8_layer_names(layers)
    for name in names:
        if name not in known:
            raise UnknownNameError("int8 layer", name, known)
    wanted = frozenset(names)
    return break_chains([_in_float(layer, half=half) if layer.name in wanted else layer for layer in layers])


def _in_float(layer: Layer, *, half: bool) -> Layer:
    if is_requantized(layer):
        layer = give_float(layer)
    weight, *bias, multipliers, _ = layer.weights
    per_scale = weight.values.reshape(len(multipliers.values), -1).astype(np.float32)
    values = np.float32(per_scale / multipliers.values.astype(np.float32)[:, None]).reshape(-1)
    params = {key: value for key, value in layer.params.items() if key not in (INT8_TERM_KEY, MASK_KEY)}
    in_float = replace(layer, params=params, weights=(Blob(values, tagged=True), *bias))
    return store_half([in_float])[0] if half else in_float
