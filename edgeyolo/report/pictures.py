"""The pictures on which two detectors disagree most, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from edgeyolo.data.dataset import Dataset
from edgeyolo.data.sample import Sample
from edgeyolo.evaluation.drift import PictureDrift, measure_drift
from edgeyolo.report.quantization import WorstPicture
from edgeyolo.runtime.draw import draw_detections
from edgeyolo.spec.detections import Detections, Float32, Image
from edgeyolo.spec.errors import ImageError
from edgeyolo.spec.progress import SILENT, Progress

_LONGEST_SIDE = 640  # of each half, pixels
_STRIP = 26  # height of the heading above each half
_GAP = 6
_QUALITY = 85
_WHITE = (255, 255, 255)


def worst_pictures(
    detect_float: Callable[[Image], Detections],
    detect_int8: Callable[[Image], Detections],
    dataset: Dataset,
    *,
    count: int = 6,
    progress: Progress = SILENT,
) -> tuple[tuple[WorstPicture, ...], dict[str, bytes]]:
    """Find and draw the pictures of a split on which two detectors disagree most.

    Args:
        detect_float, detect_int8: `Detector.detect` with the thresholds of everyday use, not those of mAP.
        count: at most so many pictures; those on which both say the same are left out.

    Returns:
        The pictures, the worst first, and by image id a JPEG: float boxes left, int8 right, truth in thin white.

    Raises:
        DataError: no pictures.
    """
    index = {record.image_id: i for i, record in enumerate(dataset.records)}
    drift = measure_drift(detect_float, detect_int8, _named_images(dataset), worst_count=count, progress=progress)
    rows = [row for row in drift.worst if not _is_equal(row)]
    jpegs = {}
    for row in rows:
        sample = dataset[index[row.name]]
        found = {"float": detect_float(sample.image), "int8": detect_int8(sample.image)}
        jpegs[row.name] = encode_jpeg(draw_pair(sample, found, dataset.class_names), where=row.name)
    return tuple(_worst_picture(row) for row in rows), jpegs


def draw_pair(sample: Sample, found: dict[str, Detections], class_names: Sequence[str]) -> Image:
    """Halves side by side, one per entry of `found`, each under its name; (H, W, 3) uint8 BGR."""
    height, width = sample.image.shape[:2]
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(cv2.resize(sample.image, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    halves: list[Image] = []
    for name, detections in found.items():
        half = small.copy()
        _draw_truth(half, sample.boxes_xyxy * np.float32(scale))
        scaled = Detections(detections.boxes_xyxy * np.float32(scale), detections.scores, detections.class_ids)
        half = draw_detections(half, scaled, class_names)
        strip = np.full((_STRIP, half.shape[1], 3), 255, np.uint8)
        text = f"{name}: {len(detections)} objects"
        cv2.putText(strip, text, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
        halves += [np.vstack([strip, half]), np.full((_STRIP + half.shape[0], _GAP, 3), 255, np.uint8)]
    return np.hstack(halves[:-1])


def _draw_truth(image: Image, boxes_xyxy: Float32) -> None:
    """Thin white lines with a dark edge, which show on any ground."""
    for box in boxes_xyxy:
        left, top, right, bottom = (round(float(v)) for v in box)
        cv2.rectangle(image, (left - 1, top - 1), (right, bottom), (60, 60, 60), 1)
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), _WHITE, 1)


def _named_images(dataset: Dataset) -> Iterator[tuple[str, Image]]:
    for i in range(len(dataset)):
        sample = dataset[i]
        yield sample.image_id, sample.image


def _is_equal(row: PictureDrift) -> bool:
    """Whether both detectors report the same objects at the same places."""
    return row.only_reference + row.only_candidate == 0 and (row.matched == 0 or row.mean_iou >= 1.0)


def _worst_picture(row: PictureDrift) -> WorstPicture:
    matched = f", {row.matched} in both (mean IoU {row.mean_iou:.3f})" if row.matched else ", none in both"
    return WorstPicture(
        image_id=row.name,
        caption=f"{row.only_reference} objects only in float, {row.only_candidate} only in int8{matched}",
        matched=row.matched,
        only_float=row.only_reference,
        only_int8=row.only_candidate,
        mean_iou=row.mean_iou,
        mean_score_difference=row.mean_score_difference,
    )


def encode_jpeg(image: Image, *, where: str) -> bytes:
    """A picture as a JPEG file.

    Raises:
        ImageError: it cannot be encoded.
    """
    is_done, buffer = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not is_done:
        raise ImageError("cannot be encoded as JPEG", where=where)
    return buffer.tobytes()
