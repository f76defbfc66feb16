"""What a network computes, as a list of its convolutions: enough to say what a picture costs, nothing of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Convolution:
    """One convolution of one picture; a fully connected layer is one of a single position.

    Attributes:
        kernel_hw: of the filter.
        stride: the larger of both directions.
        groups: 1 for a plain one, in_chs for a depthwise one.
        positions: places where the filter is laid on, of the output, or of the input where it is transposed.
        is_int8: whether it computes in int8.
    """

    kernel_hw: tuple[int, int]
    stride: int
    groups: int
    in_chs: int
    out_chs: int
    positions: int
    is_int8: bool = False

    @property
    def weights(self) -> int:
        """How many it has, bias left out."""
        return self.kernel_hw[0] * self.kernel_hw[1] * self.in_chs * self.out_chs // self.groups

    @property
    def products(self) -> int:
        """Multiplications, each with an addition."""
        return self.weights * self.positions

    @property
    def numbers(self) -> int:
        """Numbers that it reads and gives."""
        return self.positions * (self.out_chs + self.stride**2 * self.in_chs)


def count_gflops(convolutions: Sequence[Convolution]) -> float:
    """Operations of all, in 1e9, a multiplication and an addition counted as two."""
    return 2 * sum(one.products for one in convolutions) / 1e9
