"""What a split says of its pictures, as columns: a million records are a dozen arrays, and one is made when asked for.

Arrays have one reference count for all of their rows, so that a process that was forked reads them where they lie; one
that is spawned opens the same memory after `Records.share`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from edgeyolo.data.columns import Rows, Texts, starts_of
from edgeyolo.data.shared_columns import SharedColumns, is_starting_process
from edgeyolo.spec.detections import Float32, Int64


@dataclass(frozen=True)
class Record:
    """One picture as its annotations describe it; the picture itself is read when a sample is asked for.

    Attributes:
        image_path: where the picture is.
        image_id: unique within its split.
        image_hw: height and width in pixels.
        boxes_xyxy: (M, 4) float32 in pixels, inside the picture, with area.
        class_ids: (M,) int64 in [0, K).
        ignored_boxes_xyxy: (I, 4) crowds (COCO) and difficult objects (VOC): a detection there is not wrong.
        ignored_class_ids: (I,).
    """

    image_path: Path
    image_id: str
    image_hw: tuple[int, int]
    boxes_xyxy: Float32
    class_ids: Int64
    ignored_boxes_xyxy: Float32 = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    ignored_class_ids: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class Objects:
    """Boxes of all pictures, one after the other.

    Attributes:
        starts: (N + 1,) where those of each picture begin, and where the last one's end.
        boxes_xyxy: (T, 4) float32.
        class_ids: (T,) int64.
    """

    starts: Int64
    boxes_xyxy: Float32
    class_ids: Int64

    @classmethod
    def of(cls, parts: Sequence[tuple[Float32, Int64]]) -> Objects:
        """Columns of the boxes and classes of each picture."""
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *(boxes for boxes, _ in parts)])
        class_ids = np.concatenate([np.zeros(0, np.int64), *(ids for _, ids in parts)])
        return cls(starts_of([len(ids) for _, ids in parts]), boxes, class_ids)

    @property
    def counts(self) -> Int64:
        """(N,) boxes of each picture."""
        return np.diff(self.starts)

    @property
    def pictures(self) -> Int64:
        """(T,) the picture of each box."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)

    def of_picture(self, row: int) -> tuple[Float32, Int64]:
        """(M, 4) boxes and (M,) classes."""
        chosen = slice(self.starts[row], self.starts[row + 1])
        return self.boxes_xyxy[chosen], self.class_ids[chosen]

    def of_pictures(self, rows: Int64) -> Objects:
        """Those of some pictures, in the order given."""
        counts = self.counts[rows]
        starts = starts_of(counts)
        chosen = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], counts)
        return Objects(starts, self.boxes_xyxy[chosen], self.class_ids[chosen])


class Records(Sequence[Record]):
    """The records of a split; one is made when it is asked for.

    Args:
        sizes_hw: (N, 2).
        objects: to be found.
        ignored: crowds and difficult objects.
    """

    def __init__(
        self, image_paths: Texts, image_ids: Texts, sizes_hw: Int64, objects: Objects, ignored: Objects
    ) -> None:
        self.image_paths, self.image_ids, self.sizes_hw = image_paths, image_ids, sizes_hw
        self.objects, self.ignored = objects, ignored
        self._shared: SharedColumns | None = None

    @classmethod
    def of(cls, records: Iterable[Record]) -> Records:
        """Columns of any records; these themselves if they are columns already."""
        if isinstance(records, Records):
            return records
        records = list(records)
        return cls(
            Texts.of(str(record.image_path) for record in records),
            Texts.of(record.image_id for record in records),
            np.array([record.image_hw for record in records], np.int64).reshape(-1, 2),
            Objects.of([(record.boxes_xyxy, record.class_ids) for record in records]),
            Objects.of([(record.ignored_boxes_xyxy, record.ignored_class_ids) for record in records]),
        )

    def __len__(self) -> int:
        return len(self.sizes_hw)

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: Rows) -> Records: ...
    def __getitem__(self, at: int | Rows) -> Record | Records:
        if isinstance(at, slice | np.ndarray):
            rows = np.arange(len(self))[at]
            return Records(
                self.image_paths[rows],
                self.image_ids[rows],
                self.sizes_hw[rows],
                self.objects.of_pictures(rows),
                self.ignored.of_pictures(rows),
            )
        row = range(len(self))[at]
        height, width = self.sizes_hw[row].tolist()
        return Record(
            Path(self.image_paths[row]),
            self.image_ids[row],
            (height, width),
            *self.objects.of_picture(row),
            *self.ignored.of_picture(row),
        )

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def share(self) -> None:
        """Move the columns to memory that processes started from now on open, instead of being sent a copy."""
        if self._shared is None:
            self._shared = SharedColumns.of(self._columns())
            self._take(self._shared.views())

    def __reduce__(self) -> tuple[Any, ...]:
        if self._shared is not None and is_starting_process():
            return _from_shared, (self._shared,)
        return _from_columns, (self._columns(),)

    def _columns(self) -> list[npt.NDArray[Any]]:
        texts, objects = (self.image_paths, self.image_ids), (self.objects, self.ignored)
        return [
            self.sizes_hw,
            *(column for each in texts for column in (each.block, each.starts)),
            *(column for each in objects for column in (each.starts, each.boxes_xyxy, each.class_ids)),
        ]

    def _take(self, columns: Sequence[npt.NDArray[Any]]) -> None:
        self.sizes_hw = columns[0]
        self.image_paths, self.image_ids = Texts(*columns[1:3]), Texts(*columns[3:5])
        self.objects, self.ignored = Objects(*columns[5:8]), Objects(*columns[8:11])


def _from_columns(columns: Sequence[npt.NDArray[Any]]) -> Records:
    records = Records.of(())
    records._take(columns)
    return records


def _from_shared(shared: SharedColumns) -> Records:
    return _from_columns(shared.views())


def rows_by_size(sizes_hw: Int64) -> Iterator[tuple[tuple[int, int], Int64]]:
    """Each size (height, width) that occurs in (N, 2), and the rows that have it."""
    heights, widths = sizes_hw.astype(np.uint64).T
    keys, group = np.unique(heights << np.uint64(32) | widths, return_inverse=True)
    rows = np.argsort(group, kind="stable")
    parts = np.split(rows, np.cumsum(np.bincount(group, minlength=len(keys)))[:-1])
    for key, part in zip(keys.tolist(), parts if len(keys) else (), strict=True):
        yield (key >> 32, key & 0xFFFFFFFF), part
