"""From what a format says to checked records: one set of rules for every format, vectorised over a whole split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeyolo.data.dataset import Dataset, Record, make_report
from edgeyolo.data.report import ProblemKind, ProblemLog

Bools = npt.NDArray[np.bool_]

SPLIT_ALIASES = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
CUT_TOLERANCE_PX = 0.5  # labels are rounded; less than this over the border is not worth a finding


@dataclass
class RawRecord:
    """One picture as its format describes it.

    Attributes:
        label_path: where its annotations are, for findings.
        boxes_xyxy: in pixels, edge to edge, unchecked.
        class_ids: in [0, K), one per box.
        is_ignored: per box, whether it is a crowd or difficult.
    """

    image_path: Path
    image_id: str
    image_hw: tuple[int, int]
    label_path: Path
    boxes_xyxy: list[tuple[float, float, float, float]] = field(default_factory=list)
    class_ids: list[int] = field(default_factory=list)
    is_ignored: list[bool] = field(default_factory=list)

    def add(self, box_xyxy: tuple[float, float, float, float], class_id: int, *, is_ignored: bool = False) -> None:
        """One object more."""
        self.boxes_xyxy.append(box_xyxy)
        self.class_ids.append(class_id)
        self.is_ignored.append(is_ignored)


def assemble(
    path: Path, split: str, class_names: Sequence[str], raw_records: Sequence[RawRecord], log: ProblemLog
) -> Dataset:
    """Drop what cannot be trained on, clip what reaches over the border, and write all of it to `log`.

    Args:
        path: what was opened.
    """
    raw_records = _without_repeats(raw_records, log)
    rows = _Rows.stack(raw_records)
    boxes_xyxy, is_kept = _check_boxes(rows, raw_records, class_names, log)
    records = []
    ends = np.cumsum([len(raw.class_ids) for raw in raw_records])
    for raw, end in zip(raw_records, ends, strict=True):
        chosen = np.arange(end - len(raw.class_ids), end)
        chosen = chosen[is_kept[chosen]]
        trained, ignored = chosen[~rows.is_ignored[chosen]], chosen[rows.is_ignored[chosen]]
        records.append(
            Record(
                raw.image_path,
                raw.image_id,
                raw.image_hw,
                boxes_xyxy[trained],
                rows.class_ids[trained],
                boxes_xyxy[ignored],
                rows.class_ids[ignored],
            )
        )
    name = path.name or str(path.resolve().name)
    return Dataset(name, split, tuple(class_names), records, make_report(name, split, class_names, records, log))


@dataclass
class _Rows:
    """All boxes of a split: image index (N,), boxes (N, 4) float64, class ids (N,), ignored (N,), sizes (N, 2) wh."""

    images: npt.NDArray[np.int64]
    boxes_xyxy: npt.NDArray[np.float64]
    class_ids: npt.NDArray[np.int64]
    is_ignored: Bools
    size_wh: npt.NDArray[np.float64]

    @classmethod
    def stack(cls, raw_records: Sequence[RawRecord]) -> _Rows:
        counts = [len(raw.class_ids) for raw in raw_records]
        images = np.repeat(np.arange(len(counts)), counts)
        sizes_wh = np.array([raw.image_hw[::-1] for raw in raw_records], np.float64).reshape(-1, 2)
        return cls(
            images,
            np.array([box for raw in raw_records for box in raw.boxes_xyxy], np.float64).reshape(-1, 4),
            np.array([class_id for raw in raw_records for class_id in raw.class_ids], np.int64),
            np.array([flag for raw in raw_records for flag in raw.is_ignored], np.bool_),
            sizes_wh[images],
        )


def _without_repeats(raw_records: Sequence[RawRecord], log: ProblemLog) -> list[RawRecord]:
    """Each picture once, each with an id of its own."""
    by_path: dict[Path, RawRecord] = {}
    ids: set[str] = set()
    for raw in raw_records:
        if raw.image_path in by_path:
            log.add("repeated picture", raw.label_path, f"{raw.image_path.name} is listed more than once")
            continue
        if raw.image_id in ids:
            raw.image_id = raw.image_path.as_posix()
        by_path[raw.image_path] = raw
        ids.add(raw.image_id)
    return list(by_path.values())


def _check_boxes(
    rows: _Rows, raw_records: Sequence[RawRecord], class_names: Sequence[str], log: ProblemLog
) -> tuple[npt.NDArray[np.float32], Bools]:
    """Clipped boxes (N, 4) float32 and which of them to keep (N,); each dropped box is counted once."""
    is_kept = np.ones(len(rows.images), np.bool_)

    def note(kind: ProblemKind, suspects: Bools, *, drop: bool) -> None:
        found = suspects & is_kept
        for i in np.flatnonzero(found):
            raw = raw_records[rows.images[i]]
            corners = ", ".join(f"{value:g}" for value in rows.boxes_xyxy[i])
            size = f"{raw.image_hw[1]}x{raw.image_hw[0]}"
            log.add(kind, raw.label_path, f"{class_names[rows.class_ids[i]]} xyxy ({corners}) in {size}")
        if drop:
            is_kept[found] = False

    boxes = rows.boxes_xyxy
    note("bad label", _any_side(~np.isfinite(boxes)), drop=True)
    note("degenerate box", ~_has_area(boxes), drop=True)
    limits = np.concatenate([rows.size_wh, rows.size_wh], 1)
    inside = np.clip(boxes, 0, limits)
    note("box outside the picture", ~_has_area(inside), drop=True)
    note("box cut at the border", _any_side(np.abs(inside - boxes) > CUT_TOLERANCE_PX), drop=False)
    clipped = inside.astype(np.float32)
    note("degenerate box", ~_has_area(clipped), drop=True)  # thinner than float32 can tell
    note("duplicate box", _is_repeated(np.column_stack([rows.images, rows.class_ids, clipped]), is_kept), drop=True)
    return clipped, is_kept


def _has_area(boxes_xyxy: npt.NDArray[np.floating]) -> Bools:
    return ~_any_side(boxes_xyxy[:, 2:] <= boxes_xyxy[:, :2])


def _any_side(is_so: Bools) -> Bools:
    """(N, sides) -> (N,)"""
    return np.asarray(is_so.any(axis=1), np.bool_)


def _is_repeated(rows: npt.NDArray[np.float64], is_kept: Bools) -> Bools:
    """Whether an earlier row among those kept is the same."""
    kept = np.flatnonzero(is_kept)
    _, first = np.unique(rows[kept], axis=0, return_index=True)
    repeated = is_kept.copy()
    repeated[kept[first]] = False
    return repeated
