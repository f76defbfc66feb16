"""How far two detectors are apart on the same pictures, without any labels: a float one and its int8 copy, say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from edgeyolo.evaluation.pairs import pair_boxes
from edgeyolo.geometry.boxes import box_iou
from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.errors import DataError
from edgeyolo.spec.progress import SILENT, Progress


@dataclass(frozen=True)
class PictureDrift:
    """Two detectors on one picture.

    Attributes:
        matched: objects that both report.
        only_reference, only_candidate: objects that only one of them reports.
        mean_iou: of the matched boxes, in [0, 1]; -1 where nothing matches.
        mean_score_difference: absolute, of the matched objects, in [0, 1]; -1 where nothing matches.
    """

    name: str
    matched: int
    only_reference: int
    only_candidate: int
    mean_iou: float
    mean_score_difference: float


@dataclass(frozen=True)
class Drift:
    """Two detectors on all pictures; means are over all matched objects. Fields as in `PictureDrift`.

    Attributes:
        pictures: how many were compared.
        worst: those with the most unmatched objects first, then those with the lowest mean IoU.
    """

    pictures: int
    matched: int
    only_reference: int
    only_candidate: int
    mean_iou: float
    mean_score_difference: float
    worst: tuple[PictureDrift, ...]


def measure_drift(
    reference: Callable[[Image], Detections],
    candidate: Callable[[Image], Detections],
    pictures: Iterable[tuple[str, Image]],
    *,
    match_iou: float = 0.5,
    worst_count: int = 5,
    progress: Progress = SILENT,
) -> Drift:
    """Run two detectors on the same pictures and compare what they report.

    Args:
        pictures: names and pictures, as `edgeyolo.runtime.stream.open_stream` gives them.
        match_iou: boxes of one class that overlap at least so much are the same object.
        worst_count: how many pictures to list as the worst.

    Raises:
        DataError: there are no pictures.
    """
    rows: list[PictureDrift] = []
    for name, image in pictures:
        rows.append(compare_detections(name, reference(image), candidate(image), match_iou=match_iou))
        progress.step("compare", len(rows), 0)
    if not rows:
        raise DataError("no pictures to compare two detectors on", hint="Give at least one")
    matched = sum(row.matched for row in rows)
    return Drift(
        pictures=len(rows),
        matched=matched,
        only_reference=sum(row.only_reference for row in rows),
        only_candidate=sum(row.only_candidate for row in rows),
        mean_iou=sum(r.mean_iou * r.matched for r in rows) / matched if matched else -1.0,
        mean_score_difference=sum(r.mean_score_difference * r.matched for r in rows) / matched if matched else -1.0,
        worst=tuple(sorted(rows, key=_badness)[:worst_count]),
    )


def compare_detections(
    name: str, reference: Detections, candidate: Detections, *, match_iou: float = 0.5
) -> PictureDrift:
    """Pair the objects of two lists: same class, best overlap first, each object once."""
    iou = box_iou(reference.boxes_xyxy, candidate.boxes_xyxy)
    iou = np.where(reference.class_ids[:, None] == candidate.class_ids[None], iou, -1.0)
    pairs = pair_boxes(iou, match_iou)
    matched = len(pairs)
    ious = iou[pairs[:, 0], pairs[:, 1]]
    differences = np.abs(reference.scores[pairs[:, 0]] - candidate.scores[pairs[:, 1]])
    return PictureDrift(
        name=name,
        matched=matched,
        only_reference=len(reference) - matched,
        only_candidate=len(candidate) - matched,
        mean_iou=float(ious.mean()) if matched else -1.0,
        mean_score_difference=float(differences.mean()) if matched else -1.0,
    )


def _badness(row: PictureDrift) -> tuple[int, float, str]:
    """Sorts the worst picture first."""
    return -(row.only_reference + row.only_candidate), row.mean_iou if row.matched else 1.0, row.name
