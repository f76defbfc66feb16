"""Float beside int8: the same pictures, with the boxes that two artefacts draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeyolo.evaluation.drift import measure_drift
from edgeyolo.report.pairs import Half, draw_pair, encode_jpeg
from edgeyolo.runtime.stream import open_stream
from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.progress import SILENT, Progress

Detect = Callable[[Image], Detections]


@dataclass(frozen=True)
class SideBySide:
    """One picture twice.

    Attributes:
        title: which artefacts.
        caption: what they do not agree on.
        jpeg: the float one's boxes left, the int8 one's right.
    """

    title: str
    caption: str
    jpeg: bytes


def compare_on(
    place: Path,
    detect: tuple[Detect, Detect],
    names: tuple[str, str],
    class_names: Sequence[str],
    *,
    show: int,
    progress: Progress = SILENT,
) -> list[SideBySide]:
    """The pictures on which a float artefact and an int8 one differ most, the worst first.

    Args:
        place: a picture, or a folder of pictures.
        names: of the two.

    Raises:
        DataError: no pictures, or none that can be read.
    """
    drift = measure_drift(*detect, open_stream(place), worst_count=show, progress=progress)
    images = {name: image for name, image in open_stream(place) if name in {row.name for row in drift.worst}}
    shown = []
    for row in drift.worst:
        image = images[row.name]
        found = [one(image) for one in detect]
        left, right = (
            Half(f"{name}: {len(boxes)}", detections=boxes) for name, boxes in zip(names, found, strict=True)
        )
        differ = row.only_reference + row.only_candidate
        agree = f"{row.matched} objects in both" if row.matched else "no object in both"
        said = f"{agree}, {row.only_reference} only in float, {row.only_candidate} only in int8" if differ else agree
        shown.append(
            SideBySide(
                title=" beside ".join(names),
                caption=f"{row.name}: {said}",
                jpeg=encode_jpeg(draw_pair(image, left, right, class_names), where=row.name),
            )
        )
    return shown
