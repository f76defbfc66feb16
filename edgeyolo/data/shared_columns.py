"""Arrays in memory that a process started later opens too, instead of being sent a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import context
from multiprocessing.sharedctypes import RawArray
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 64


def is_starting_process() -> bool:
    """Whether what is pickled now goes to a process that is being started, and not to a file or a queue."""
    return context.get_spawning_popen() is not None


@dataclass(frozen=True)
class SharedColumns:
    """Some arrays in one block of shared memory, which is gone with the last process that uses it.

    Attributes:
        memory: the block. It can be pickled only for a process that is being started, and must be there before that.
        layout: of each array the first byte, the shape and the type.
    """

    memory: Any
    layout: tuple[tuple[int, tuple[int, ...], str], ...]

    @classmethod
    def of(cls, columns: Sequence[npt.NDArray[Any]]) -> SharedColumns:
        """A copy of the arrays."""
        layout, end = [], 0
        for column in columns:
            layout.append((end, column.shape, column.dtype.str))
            end += -(-column.nbytes // _ALIGNMENT) * _ALIGNMENT
        shared = cls(RawArray("B", max(1, end)), tuple(layout))
        for view, column in zip(shared.views(), columns, strict=True):
            view[...] = column
        return shared

    def views(self) -> list[npt.NDArray[Any]]:
        """The arrays, where they lie."""
        block = np.frombuffer(self.memory, np.uint8)
        return [
            block[start : start + int(np.prod(shape)) * np.dtype(kind).itemsize].view(kind).reshape(shape)
            for start, shape, kind in self.layout
        ]
