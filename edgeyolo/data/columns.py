"""Columns: what there is a million of, in a few blocks of memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from edgeyolo.spec.detections import Int64

Rows: TypeAlias = slice | Int64

_AT_ONCE = 1 << 14
_ENCODING = ("utf-8", "surrogatepass")  # names of files need not be text


class Texts(Sequence[str]):
    """Texts, one after the other in one block.

    Args:
        block: their bytes.
        starts: (N + 1,) where each begins, and where the last one ends.
    """

    def __init__(self, block: npt.NDArray[np.uint8], starts: Int64) -> None:
        self.block, self.starts = block, starts

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Columns of any texts."""
        return cls._of(text.encode(*_ENCODING) for text in texts)

    @classmethod
    def _of(cls, raws: Iterable[bytes]) -> Texts:
        block, starts = bytearray(), array("q", [0])
        for raw in raws:
            block += raw
            starts.append(len(block))
        return cls(np.frombuffer(block, np.uint8), np.frombuffer(starts, np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: Rows) -> Texts: ...
    def __getitem__(self, at: int | Rows) -> str | Texts:
        if isinstance(at, slice | np.ndarray):
            rows = np.arange(len(self))[at].tolist()
            return self._of(self._raw(i) for i in rows)
        return self._raw(range(len(self))[at]).decode(*_ENCODING)

    def __iter__(self) -> Iterator[str]:
        return (raw.decode(*_ENCODING) for raw in self._raws())

    def first_rows(self) -> Int64:
        """(N,) the row in which the text of each row stands for the first time."""
        hashes = np.fromiter(map(hash, self._raws()), np.int64, len(self))
        _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
        rows = first[group].astype(np.int64)
        for row in np.flatnonzero(rows != np.arange(len(self))).tolist():
            if self._raw(row) != self._raw(int(rows[row])):  # two texts of one hash
                rows[row] = row
        return rows

    def _raws(self) -> Iterator[bytes]:
        for first in range(0, len(self), _AT_ONCE):
            starts = self.starts[first : first + _AT_ONCE + 1]
            part = self.block[starts[0] : starts[-1]].tobytes()
            ends = (starts - starts[0]).tolist()
            yield from (part[start:end] for start, end in pairwise(ends))

    def _raw(self, row: int) -> bytes:
        return self.block[self.starts[row] : self.starts[row + 1]].tobytes()


class Column:
    """An array that grows at its end, without a second copy of it."""

    def __init__(self, kind: type[np.generic], width: int = 0) -> None:
        self._bytes, self._kind, self._width = bytearray(), kind, width

    def add(self, rows: npt.ArrayLike) -> None:
        """Put (n, width) or (n,) behind what is there."""
        self._bytes += np.ascontiguousarray(rows, self._kind).tobytes()

    def __len__(self) -> int:
        return len(self._bytes) // (np.dtype(self._kind).itemsize * max(1, self._width))

    def finish(self) -> npt.NDArray[Any]:
        """(N, width), or (N,) without a width."""
        column = np.frombuffer(self._bytes, self._kind)
        return column.reshape(-1, self._width) if self._width else column


class TextColumn:
    """Texts that grow at their end."""

    def __init__(self) -> None:
        self._block, self._counts = Column(np.uint8), Column(np.int64)

    def add(self, texts: Iterable[str]) -> None:
        """Put them behind those that are there."""
        part = Texts.of(texts)
        self._block.add(part.block)
        self._counts.add(np.diff(part.starts))

    def finish(self) -> Texts:
        """All of them."""
        return Texts(self._block.finish(), starts_of(self._counts.finish()))


def starts_of(counts: npt.ArrayLike) -> Int64:
    """(N,) counts -> (N + 1,) where each part begins, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(counts, np.int64))])
