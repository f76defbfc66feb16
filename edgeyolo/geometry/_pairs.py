"""What every box of one set has to do with every box of another, fast: boxes are given by their sides, (4, N)."""

from __future__ import annotations

import numpy as np

from edgeyolo.spec.detections import Float32

_SMALLEST = np.finfo(np.float32).tiny


def shared_areas(first: Float32, second: Float32) -> Float32:
    """(4, P) and (4, N) -> (P, N), 0 where two boxes do not meet."""
    area = _shared_length(first, second, 0)
    area *= _shared_length(first, second, 1)
    return area


def areas(boxes: Float32) -> Float32:
    """(4, N) -> (N,)."""
    area: Float32 = np.maximum(boxes[2] - boxes[0], 0) * np.maximum(boxes[3] - boxes[1], 0)
    return area


def centre_penalties(first: Float32, second: Float32) -> Float32:
    """Of two (4, P), pair by pair: squared distance of the centres over that of the enclosing box's corners, (P,).

    Source: arXiv 1911.08287, equation 6.
    """
    offset = (first[:2] + first[2:] - second[:2] - second[2:]) / 2
    around = np.maximum(first[2:], second[2:]) - np.minimum(first[:2], second[:2])
    penalty: Float32 = (offset * offset).sum(axis=0) / np.maximum((around * around).sum(axis=0), _SMALLEST)
    return penalty


def _shared_length(first: Float32, second: Float32, axis: int) -> Float32:
    """Along x (0) or y (1)."""
    length: Float32 = np.minimum(second[2 + axis], first[2 + axis][:, None])
    length -= np.maximum(second[axis], first[axis][:, None])
    np.maximum(length, np.float32(0), out=length)
    return length
