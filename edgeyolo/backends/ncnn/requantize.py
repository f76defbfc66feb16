"""int8 from one convolution to the next: where all readers of a tensor are int8 convolutions, it is made int8 at once.

ncnn then neither writes the tensor as float nor reads it back to quantize it. An int8 tensor may reach int8
convolutions only, directly or by Split: other layers of ncnn take its bytes for floats. A convolution does not quantize
an input that is int8 already, so its scale must be the one that the tensor was made with.

Source: github.com/Tencent/ncnn, src/layer/convolution.cpp, convolutiondepthwise.cpp, tools/quantize/ncnn2int8.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgeyolo.backends.ncnn.files import INT8_TERM_KEY, REQUANTIZED, Blob, Layer

_CHAINED = ("Convolution", "ConvolutionDepthWise")


def requantize(layers: Sequence[Layer]) -> list[Layer]:
    """`layers` with every int8 convolution giving int8 whose readers all take it with one scale."""
    chains = find_chains(layers)
    result = []
    for layer in layers:
        if layer.name in chains and not is_requantized(layer):
            top = Blob(np.asarray([chains[layer.name]], np.float32))
            term = layer.integer(INT8_TERM_KEY) + REQUANTIZED
            layer = replace(layer, params=layer.params | {INT8_TERM_KEY: term}, weights=(*layer.weights, top))
        result.append(layer)
    return result


def break_chains(layers: Sequence[Layer]) -> list[Layer]:
    """`layers` with those int8 convolutions giving float again whose readers do not all take int8 with one scale."""
    chains = find_chains(layers)
    return [give_float(layer) if is_requantized(layer) and layer.name not in chains else layer for layer in layers]


def give_float(layer: Layer) -> Layer:
    """A requantized convolution that gives float."""
    term = layer.integer(INT8_TERM_KEY) - REQUANTIZED
    return replace(layer, params=layer.params | {INT8_TERM_KEY: term}, weights=layer.weights[:-1])


def is_requantized(layer: Layer) -> bool:
    """Whether it gives int8."""
    return layer.kind in _CHAINED and layer.integer(INT8_TERM_KEY) > REQUANTIZED


def find_chains(layers: Sequence[Layer]) -> dict[str, float]:
    """Name of each int8 convolution that may give int8 -> the scale that all its readers have (a multiplier)."""
    readers = {blob: layer for layer in layers for blob in layer.inputs}
    found = {}
    for layer in layers:
        if is_int8_convolution(layer):
            scales = {
                bottom_scale(reader) if reader is not None and is_int8_convolution(reader) else None
                for reader in list_readers(layer.outputs[0], readers)
            }
            scale = scales.pop()
            if not scales and scale is not None:
                found[layer.name] = scale
    return found


def bottom_scale(layer: Layer) -> float:
    """The multiplier that an int8 convolution quantizes its input with."""
    last = -2 if is_requantized(layer) else -1
    return float(layer.weights[last].values[0])


def is_int8_convolution(layer: Layer) -> bool:
    """Whether it takes int8."""
    return layer.kind in _CHAINED and layer.integer(INT8_TERM_KEY) != 0


def list_readers(blob: str, by_blob: Mapping[str, Layer]) -> list[Layer | None]:
    """All that read a blob, directly or by Split; None stands for the caller, who reads an output of the network."""
    readers: list[Layer | None] = []
    waiting = [blob]
    while waiting:
        reader = by_blob.get(waiting.pop())
        if reader is not None and reader.kind == "Split":
            waiting.extend(reader.outputs)
        else:
            readers.append(reader)
    return readers
