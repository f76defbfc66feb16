"""Decoded and resized pictures, kept in memory or on disk, where worker processes share them."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeyolo.data.columns import starts_of
from edgeyolo.spec.detections import Image, Int64
from edgeyolo.spec.errors import OutputError

_EMPTY, _FULL, _BROKEN = 0, 1, 2


class PictureCache:
    """A slot of fixed place and size for each of the first pictures that fit; each is filled when first met.

    The memory is an anonymous shared mapping: processes forked from this one fill and read the same slots, nobody
    decodes ahead, and a page costs nothing before it is written. Two that fill one slot at once write the same
    bytes. A copy sent to a process that was not forked starts empty and on its own.

    Args:
        sizes_hw: (N, 2) of each picture as it will be stored.
        limit_mib: pictures are given slots until this is used up, in the order of their indices.
        folder: keep them in a file there instead, which has no name and is gone with the last process that uses it;
            all of it is set aside at once, so that the disk cannot fill up on the way.

    Raises:
        OutputError: the folder cannot be written, or has too little room.
    """

    def __init__(self, sizes_hw: npt.ArrayLike, limit_mib: int, folder: Path | None = None) -> None:
        self._sizes_hw = np.asarray(sizes_hw, np.int64).reshape(-1, 2)
        self._arguments = (self._sizes_hw, limit_mib, folder)
        count = len(self._sizes_hw)
        ends = np.cumsum(self._sizes_hw.prod(1) * 3)
        self._slots = int(np.searchsorted(ends, limit_mib << 20, side="right"))
        self._starts = starts_of(self._sizes_hw[: self._slots].prod(1) * 3) + count
        size = max(1, int(self._starts[-1]))
        memory = mmap.mmap(-1, size) if folder is None else _map_file(folder, size)
        self._bytes = np.frombuffer(memory, np.uint8)
        self._states = self._bytes[:count]

    def __reduce__(self) -> tuple[type[PictureCache], tuple[Int64, int, Path | None]]:
        return PictureCache, self._arguments

    def find(self, index: int) -> Image | None:
        """The stored picture, not to be written to; None where there is none."""
        if index >= self._slots or self._states[index] != _FULL:
            return None
        return self._slot(index)

    def store(self, index: int, image: Image) -> None:
        """Keep a picture, if it has a slot."""
        if index < self._slots:
            self._slot(index)[:] = image
            self._states[index] = _FULL  # last: a reader in another process must not see half a picture

    def mark_broken(self, index: int) -> bool:
        """Remember that a picture cannot be used; True the first time."""
        is_new = self._states[index] != _BROKEN
        self._states[index] = _BROKEN
        return bool(is_new)

    def is_broken(self, index: int) -> bool:
        """Whether `mark_broken` was called for a picture, in any process."""
        return bool(self._states[index] == _BROKEN)

    def _slot(self, index: int) -> Image:
        return self._bytes[self._starts[index] : self._starts[index + 1]].reshape(*self._sizes_hw[index], 3)


def _map_file(folder: Path, size: int) -> mmap.mmap:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            reserve = getattr(os, "posix_fallocate", lambda number, _, length: os.truncate(number, length))
            reserve(file.fileno(), 0, size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise OutputError(
            f"{size >> 20} MiB of decoded pictures cannot be kept there ({error.strerror})",
            where=folder,
            hint="Lower cache_mib, or set EDGEYOLO_CACHE to a folder with more room",
        ) from None
