"""`edgeyolo detect`: pictures, a video or a camera -> boxes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeyolo.cli._report import Json, Report, reporting

if TYPE_CHECKING:
    from edgeyolo.runtime import Detections, Detector
    from edgeyolo.spec.detections import Image

PLACE = (5, "On the board")


def detect(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `edgeyolo deploy` wrote.")],
    sources: Annotated[list[str], typer.Argument(help="Pictures, folders, patterns, videos or a camera's number.")],
    save: Annotated[Path | None, typer.Option(help="Folder for pictures with the boxes drawn on them.")] = None,
    score_threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Weaker boxes are not reported.")] = 0.25,
    iou_threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of boxes of a class that overlap more, the best is kept.")
    ] = 0.45,
    max_detections: Annotated[int, typer.Option(min=1, help="Per picture.")] = 300,
    threads: Annotated[int, typer.Option(min=0, help="Engine threads, 0 for the bundle's own number.")] = 0,
    frames: Annotated[int, typer.Option(min=0, help="Stop after so many pictures; 0 for all there are.")] = 0,
    json: Json = False,
) -> None:
    """Find objects in pictures, a video or a camera."""
    with reporting(json=json) as report:
        from edgeyolo.runtime import Detector

        with Detector.load(
            bundle,
            threads=threads,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
        ) as detector:
            records, errors = _detect_all(detector, _expand(sources), save, frames or None, report)
        if save is not None and records:
            report.say(f"Wrote {len(records)} pictures into {save}")
        if errors:
            report.warn(f"{len(errors)} of {len(records) + len(errors)} could not be read")
        report.show_json({"pictures": records, "errors": errors})


def _expand(sources: list[str]) -> list[str]:
    """Folders and patterns as the pictures in them, so that each can fail for itself; the rest as it is."""
    from edgeyolo.runtime.stream import PICTURE_SUFFIXES

    expanded: list[str] = []
    for source in sources:
        path = Path(source)
        inside = path.iterdir() if path.is_dir() else Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        pictures = sorted(str(found) for found in inside if found.suffix.lower() in PICTURE_SUFFIXES)
        expanded += pictures or [source]
    return expanded


def _detect_all(
    detector: Detector, sources: list[str], save: Path | None, frames: int | None, report: Report
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """One record per picture, and one per source that could not be read."""
    from edgeyolo.runtime.stream import open_stream
    from edgeyolo.spec.errors import DataError

    records: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    names: set[str] = set()
    for source in sources:
        try:
            for name, image in open_stream(source):
                if frames is not None and len(records) >= frames:
                    return records, errors
                detections = detector.detect(image)
                records.append(_make_record(name, image, detections, detector))
                report.say(_summarise(records[-1]))
                if save is not None:
                    _save_drawn(save / _free_name(name, names), image, detections, detector.class_names)
        except DataError as error:
            report.fail(error)
            errors.append({"source": source, "what": error.what, "hint": error.hint})
    return records, errors


def _make_record(name: str, image: Image, detections: Detections, detector: Detector) -> dict[str, Any]:
    return {
        "picture": name,
        "image_hw": [image.shape[0], image.shape[1]],
        "latency_ms": round(detector.timing.total_ms, 3),
        "objects": detections.as_dicts(detector.class_names),
    }


def _summarise(record: dict[str, Any]) -> str:
    """One line, such as "cells.jpg: 3 RBC, 1 WBC (12.1 ms)"."""
    counts = Counter(found["class"] for found in record["objects"])
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
    return f"{record['picture']}: {listed} ({record['latency_ms']:.1f} ms)"


def _free_name(name: str, taken: set[str]) -> str:
    """A file name that no earlier picture has; what has no picture's suffix, such as a frame, becomes a JPEG."""
    from edgeyolo.runtime.stream import PICTURE_SUFFIXES

    path = Path(name if Path(name).suffix.lower() in PICTURE_SUFFIXES else f"{name}.jpg")
    free, number = path.name, 2
    while free in taken:
        free, number = f"{path.stem}-{number}{path.suffix}", number + 1
    taken.add(free)
    return free


def _save_drawn(path: Path, image: Image, detections: Detections, class_names: tuple[str, ...]) -> None:
    import cv2

    from edgeyolo.runtime.draw import draw_detections
    from edgeyolo.spec.atomic import write_file

    encoded = cv2.imencode(path.suffix, draw_detections(image, detections, class_names))[1]
    write_file(path, encoded.tobytes())
