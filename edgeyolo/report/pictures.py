"""The pictures on which two detectors disagree most, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgeyolo.data.dataset import Dataset
from edgeyolo.evaluation.drift import PictureDrift, measure_drift
from edgeyolo.report.pairs import Half, draw_pair, encode_jpeg
from edgeyolo.report.quantization import WorstPicture
from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.progress import SILENT, Progress


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
    index = {image_id: i for i, image_id in enumerate(dataset.records.image_ids)}
    drift = measure_drift(detect_float, detect_int8, _named_images(dataset), worst_count=count, progress=progress)
    rows = [row for row in drift.worst if not _is_equal(row)]
    jpegs = {}
    for row in rows:
        sample = dataset[index[row.name]]
        left, right = (
            Half(f"{name}: {len(found)} objects", outlined_xyxy=sample.boxes_xyxy, detections=found)
            for name, found in (("float", detect_float(sample.image)), ("int8", detect_int8(sample.image)))
        )
        jpegs[row.name] = encode_jpeg(draw_pair(sample.image, left, right, dataset.class_names), where=row.name)
    return tuple(_worst_picture(row) for row in rows), jpegs


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
