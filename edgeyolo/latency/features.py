"""What of a network decides how much faster or slower than another it is on some processor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeyolo.latency.regression import Floats
from edgeyolo.spec.work import Convolution


def features_of(convolutions: Sequence[Convolution], instructions: float, size: float) -> Floats:
    """(F,): shares of kinds of layers, and logarithms of amounts in relation to `size`.

    Args:
        instructions: of the board's core.
        size: what the estimate starts from, milliseconds or instructions.
    """
    products = sum(one.products for one in convolutions)

    def share(chosen: Sequence[bool]) -> float:
        return sum(one.products for one, is_in in zip(convolutions, chosen, strict=True) if is_in) / products

    spatial = [one.groups == 1 and one.kernel_hw == (3, 3) for one in convolutions]
    at_once = [one.stride == 1 for one in convolutions]
    plain = [one.groups == 1 and one.kernel_hw != (1, 1) for one in convolutions]
    int8 = [one.is_int8 for one in convolutions]
    both = [a and b for a, b in zip(spatial, at_once, strict=True)]
    shares = (
        share(int8),
        share(both),
        share([a and not b for a, b in zip(spatial, at_once, strict=True)]),
        share([a and not b for a, b in zip(plain, spatial, strict=True)]),
        share([one.groups > 1 for one in convolutions]),
        share([a and b for a, b in zip(both, int8, strict=True)]),
    )
    amounts = (
        len(convolutions),
        sum(one.weights for one in convolutions),
        sum(one.numbers for one in convolutions),
        products,
        instructions,
    )
    return np.array([*shares, *(math.log(amount / size) for amount in amounts)])
