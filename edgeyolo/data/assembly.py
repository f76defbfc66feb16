"""From what a format says to checked records: one set of rules for every format, vectorised over many pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgeyolo.data.columns import Column, TextColumn, Texts, starts_of
from edgeyolo.data.dataset import Dataset, make_report
from edgeyolo.data.records import Objects, Records
from edgeyolo.data.report import ProblemKind, ProblemLog
from edgeyolo.spec.detections import Float32, Int64

_Item = TypeVar("_Item")
Bools = npt.NDArray[np.bool_]

SPLIT_ALIASES = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
PICTURES_AT_ONCE = 4096  # in a block, so that what its checks need for a moment stays small
CUT_TOLERANCE_PX = 0.5  # labels are rounded; less than this over the border is not worth a finding


@dataclass
class RawPictures:
    """Some pictures as their format describes them, with all boxes of theirs one after the other.

    Attributes:
        image_ids: each unique within the split.
        sizes_hw: height and width of each in pixels.
        label_paths: where the annotations of each are, for findings.
        counts: boxes of each.
        boxes_xyxy: list or array (M, 4) in pixels, edge to edge, unchecked.
        class_ids: list or array (M,) in [0, K).
        is_ignored: list or array (M,): whether it is a crowd or difficult; None where none is.
    """

    image_paths: list[str] = field(default_factory=list)
    image_ids: list[str] = field(default_factory=list)
    sizes_hw: list[tuple[int, int]] = field(default_factory=list)
    label_paths: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    boxes_xyxy: Any = field(default_factory=list)
    class_ids: Any = field(default_factory=list)
    is_ignored: Any = None

    def add_picture(
        self,
        image_path: str,
        image_id: str,
        image_hw: tuple[int, int],
        label_path: str,
        boxes_xyxy: Sequence[tuple[float, ...]] = (),
        class_ids: Sequence[int] = (),
    ) -> None:
        """One picture more, whose objects are trained on unless `is_ignored` says something else."""
        self.image_paths.append(image_path)
        self.image_ids.append(image_id)
        self.sizes_hw.append(image_hw)
        self.label_paths.append(label_path)
        self.counts.append(len(class_ids))
        self.boxes_xyxy += boxes_xyxy
        self.class_ids += class_ids


def without_repeats(image_paths: Texts, label_path: Callable[[int], object], log: ProblemLog) -> list[int]:
    """The rows that name a picture for the first time; the others are written to `log`.

    Args:
        label_path: where the annotations of a row are, for findings.
    """
    first = image_paths.first_rows()
    is_repeated = first != np.arange(len(first))
    for row in np.flatnonzero(is_repeated).tolist():
        log.add("repeated picture", label_path(row), f"{Path(image_paths[row]).name} is listed more than once")
    rows: list[int] = np.flatnonzero(~is_repeated).tolist()
    return rows


def in_parts(rows: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """As many at once as make a block."""
    return (rows[first : first + PICTURES_AT_ONCE] for first in range(0, len(rows), PICTURES_AT_ONCE))


def assemble(
    path: Path, split: str, class_names: Sequence[str], blocks: Iterable[RawPictures], log: ProblemLog
) -> Dataset:
    """Drop what cannot be trained on, clip what reaches over the border, and write all of it to `log`.

    Args:
        path: what was opened.
        blocks: pictures, each once.
    """
    paths, ids, sizes_hw = TextColumn(), TextColumn(), Column(np.int64, 2)
    trained, ignored = _ObjectColumns(), _ObjectColumns()
    for block in blocks:
        paths.add(block.image_paths)
        ids.add(block.image_ids)
        sizes_hw.add(block.sizes_hw)
        boxes = _Boxes.of(block)
        clipped, is_kept = _check_boxes(boxes, block, class_names, log)
        for columns, chosen in ((trained, is_kept & ~boxes.is_ignored), (ignored, is_kept & boxes.is_ignored)):
            columns.add(boxes.pictures[chosen], len(block.counts), clipped[chosen], boxes.class_ids[chosen])
    records = Records(paths.finish(), ids.finish(), sizes_hw.finish(), trained.finish(), ignored.finish())
    name = path.name or str(path.resolve().name)
    return Dataset(name, split, tuple(class_names), records, make_report(name, split, class_names, records, log))


class _ObjectColumns:
    def __init__(self) -> None:
        self._counts, self._boxes, self._class_ids = Column(np.int64), Column(np.float32, 4), Column(np.int64)

    def add(self, pictures: Int64, count: int, boxes_xyxy: Float32, class_ids: Int64) -> None:
        """Objects of `count` pictures more, which are numbered from 0."""
        self._counts.add(np.bincount(pictures, minlength=count))
        self._boxes.add(boxes_xyxy)
        self._class_ids.add(class_ids)

    def finish(self) -> Objects:
        return Objects(starts_of(self._counts.finish()), self._boxes.finish(), self._class_ids.finish())


@dataclass
class _Boxes:
    """All boxes of a block: its picture (N,), boxes (N, 4) float64, class ids (N,), ignored (N,), sizes (N, 2) wh."""

    pictures: Int64
    boxes_xyxy: npt.NDArray[np.float64]
    class_ids: Int64
    is_ignored: Bools
    size_wh: npt.NDArray[np.float64]

    @classmethod
    def of(cls, block: RawPictures) -> _Boxes:
        pictures = np.repeat(np.arange(len(block.counts)), block.counts)
        sizes_wh = np.array([image_hw[::-1] for image_hw in block.sizes_hw], np.float64).reshape(-1, 2)
        return cls(
            pictures,
            np.asarray(block.boxes_xyxy, np.float64).reshape(-1, 4),
            np.asarray(block.class_ids, np.int64),
            np.zeros(len(pictures), np.bool_) if block.is_ignored is None else np.asarray(block.is_ignored, np.bool_),
            sizes_wh[pictures],
        )


def _check_boxes(
    boxes: _Boxes, block: RawPictures, class_names: Sequence[str], log: ProblemLog
) -> tuple[Float32, Bools]:
    """Clipped boxes (N, 4) float32 and which of them to keep (N,); each dropped box is counted once."""
    is_kept = np.ones(len(boxes.pictures), np.bool_)

    def note(kind: ProblemKind, suspects: Bools, *, drop: bool) -> None:
        found = suspects & is_kept
        for i in np.flatnonzero(found):
            picture = boxes.pictures[i]
            corners = ", ".join(f"{value:g}" for value in boxes.boxes_xyxy[i])
            height, width = block.sizes_hw[picture]
            what = f"{class_names[boxes.class_ids[i]]} xyxy ({corners}) in {width}x{height}"
            log.add(kind, block.label_paths[picture], what)
        if drop:
            is_kept[found] = False

    note("bad label", _any_side(~np.isfinite(boxes.boxes_xyxy)), drop=True)
    note("degenerate box", ~_has_area(boxes.boxes_xyxy), drop=True)
    limits = np.concatenate([boxes.size_wh, boxes.size_wh], 1)
    inside = np.clip(boxes.boxes_xyxy, 0, limits)
    note("box outside the picture", ~_has_area(inside), drop=True)
    note("box cut at the border", _any_side(np.abs(inside - boxes.boxes_xyxy) > CUT_TOLERANCE_PX), drop=False)
    clipped = inside.astype(np.float32)
    note("degenerate box", ~_has_area(clipped), drop=True)  # thinner than float32 can tell
    note("duplicate box", _is_repeated(boxes, clipped, is_kept), drop=True)
    return clipped, is_kept


def _has_area(boxes_xyxy: npt.NDArray[np.floating]) -> Bools:
    return ~_any_side(boxes_xyxy[:, 2:] <= boxes_xyxy[:, :2])


def _any_side(is_so: Bools) -> Bools:
    """(N, sides) -> (N,)"""
    return np.asarray(is_so.any(axis=1), np.bool_)


def _is_repeated(boxes: _Boxes, clipped_xyxy: Float32, is_kept: Bools) -> Bools:
    """Whether an earlier row among those kept is of the same picture, class and place."""
    kept = np.flatnonzero(is_kept)
    columns = [*clipped_xyxy[kept].T, boxes.class_ids[kept], boxes.pictures[kept]]
    order = np.lexsort(columns)
    is_next = np.ones(max(0, len(kept) - 1), np.bool_)
    for column in columns:
        is_next &= column[order[1:]] == column[order[:-1]]
    repeated = np.zeros(len(is_kept), np.bool_)
    repeated[kept[order[1:][is_next]]] = True
    return repeated
