"""Winograd F(4,3) for int8 layers, exact on every processor: their weights are small enough, or it is off for them.

Its integers are 576 times the sums of the convolution and wrap around in int32, so a result is exact if, and only if,
576 times the sum itself fits. Inputs are at most 127: that bounds the sum of the weights of an output channel.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308; github.com/Tencent/ncnn,
src/layer/arm/convolution_3x3_winograd_int8.h (transforms scaled by 24 x 24), src/net.cpp (feature mask of a layer).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeyolo.backends.ncnn.files import INT8_TERM_KEY, MASK_KEY, WITHOUT_WINOGRAD, Array, Blob, Layer

MOST = (2**31 - 1) // (576 * 127)  # sum of the sizes of an output channel's weights


def is_winograd(layer: Layer) -> bool:
    """Whether the engine may compute this int8 layer by winograd."""
    if layer.kind != "Convolution" or layer.integer(INT8_TERM_KEY) == 0 or layer.integer(MASK_KEY) & WITHOUT_WINOGRAD:
        return False
    numbers = [layer.integer(1), layer.integer(11, 3), layer.integer(2, 1), layer.integer(3, 1), layer.integer(13, 1)]
    return numbers == [3, 3, 1, 1, 1]


def without_winograd(layer: Layer) -> Layer:
    """The layer, computed directly."""
    return replace(layer, params=layer.params | {MASK_KEY: layer.integer(MASK_KEY) | WITHOUT_WINOGRAD})


def is_exact(layer: Layer) -> bool:
    """Whether no input can make its sums wrap around."""
    return not is_winograd(layer) or bool((_sums(layer) <= MOST).all())


def shrink(layer: Layer, weight: Array) -> Layer:
    """An int8 layer whose weights have larger steps in those output channels that would not be exact.

    Args:
        weight: its float weights, in the engine's order.
    """
    integers, *bias, multipliers, bottom = layer.weights
    rows = integers.values.reshape(len(multipliers.values), -1).copy()
    floats = weight.reshape(rows.shape).astype(np.float32)
    scales = np.array(multipliers.values, np.float32)
    sums = _sums(layer)
    for channel in np.flatnonzero(sums > MOST):
        factor = MOST / sums[channel]
        while np.abs(rows[channel].astype(np.int64)).sum() > MOST:
            scales[channel] = factor * multipliers.values[channel]
            rows[channel] = np.clip(np.rint(floats[channel] * scales[channel]), -127, 127)
            factor *= 0.999
    return replace(layer, weights=(Blob(rows.reshape(-1), tagged=True), *bias, Blob(scales), bottom))


def _sums(layer: Layer) -> npt.NDArray[np.int64]:
    rows = layer.weights[0].values.reshape(layer.integer(0), -1).astype(np.int64)
    sums: npt.NDArray[np.int64] = np.abs(rows).sum(axis=1)
    return sums
