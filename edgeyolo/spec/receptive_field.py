"""What a cell of a raw map can see of the picture."""

from __future__ import annotations

import msgspec


class ReceptiveField(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of a cell of one level.

    Attributes:
        stride: of the level, input pixels.
        theoretical_hw: input pixels that a way of convolutions and pools leads from, height and width; of a network
            whose way is longer than the picture, more than that has.
        sees_all: whether it also knows something of the whole picture, by global pooling or attention.
        effective_px: side of the square around the cell that holds 95 % of the energy of its gradient by the input;
            None where that was not measured.
    """

    stride: int
    theoretical_hw: tuple[int, int]
    sees_all: bool = False
    effective_px: int | None = None
