"""Mean average precision by the COCO definitions, counted by pycocotools.

Source: https://cocodataset.org/#detection-eval
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgeyolo.spec.detections import Detections, Float32, Image, Int64
from edgeyolo.spec.errors import DataError, ImageError, MissingPackageError
from edgeyolo.spec.model import Score
from edgeyolo.spec.progress import SILENT, Progress

if TYPE_CHECKING:
    from edgeyolo.data.dataset import Dataset
    from edgeyolo.data.sample import Sample

_LOG = logging.getLogger(__name__)

_Row: TypeAlias = dict[str, Any]
_UNDEFINED = -1.0


def evaluate(
    detect: Callable[[Image], Detections], dataset: Dataset, *, artefact: str, progress: Progress = SILENT
) -> Score:
    """COCO mAP of `detect` on every picture of a split.

    Args:
        detect: for a true mAP it should report down to a score of about 0.001, and every class of each box.
        artefact: what is measured, for the record, such as "ncnn int8".

    Returns:
        AP in percent, -1 where there is nothing to find. At most 100 detections per picture and class count, the area
        of an object is that of its box, and a detection on a crowd or a difficult object is neither right nor wrong.

    Raises:
        DataError: no pictures, or `detect` reports a class that the data set does not have.
        MissingPackageError: pycocotools is not installed.
    """
    return evaluate_batches(
        lambda images: [detect(image) for image in images], dataset, artefact=artefact, progress=progress
    )


def evaluate_batches(
    detect_batch: Callable[[list[Image]], list[Detections]],
    dataset: Dataset,
    *,
    artefact: str,
    batch: int = 1,
    progress: Progress = SILENT,
) -> Score:
    """`evaluate` for what takes several pictures at a time, at most `batch`."""
    load_pycocotools()
    found = detect_pictures(detect_batch, dataset, range(len(dataset)), batch=batch, progress=progress)
    return score_detections(found, dataset, artefact=artefact)


def detect_pictures(
    detect_batch: Callable[[list[Image]], list[Detections]],
    dataset: Dataset,
    pictures: Sequence[int],
    *,
    batch: int = 1,
    progress: Progress = SILENT,
) -> dict[int, Detections]:
    """What is found in some pictures of a split, by their index; one that cannot be read is logged and left out.

    Args:
        batch: pictures that `detect_batch` is given at a time, at most.

    Raises:
        DataError: no pictures, or `detect_batch` reports a class that the data set does not have.
    """
    if len(dataset) == 0:
        raise DataError("has no pictures to evaluate on", where=f"{dataset.name}, split {dataset.split}")
    found: dict[int, Detections] = {}
    for start in range(0, len(pictures), batch):
        some = pictures[start : start + batch]
        progress.step("evaluate", start + len(some), len(pictures))
        samples = {i: sample for i in some if (sample := _read(dataset, i)) is not None}
        seen = detect_batch([sample.image for sample in samples.values()])
        found.update(zip(samples, seen, strict=True))
        for i, sample in samples.items():
            _check_classes(found[i], sample, len(dataset.class_names))
    return found


def _read(dataset: Dataset, index: int) -> Sample | None:
    try:
        return dataset[index]
    except ImageError as error:
        _LOG.warning("%s; the scores are without this picture", error)
        return None


def score_detections(detections: Mapping[int, Detections], dataset: Dataset, *, artefact: str) -> Score:
    """COCO mAP of what was found in the pictures of a split, by their index; as `evaluate`.

    A picture of which nothing is said counts neither way.

    Raises:
        DataError: nothing is said of any picture.
    """
    if not detections:
        raise DataError("no picture can be read", where=f"{dataset.name}, split {dataset.split}")
    run = run_cocoeval(detections, dataset)
    overall, per_class = _average(run.eval["precision"])
    return Score(
        artefact=artefact,
        data=dataset.name,
        split=dataset.split,
        images=len(detections),
        boxes=int(dataset.records.objects.counts[list(detections)].sum()),
        ap=overall[0],
        ap50=overall[1],
        ap75=overall[2],
        ap_small=overall[3],
        ap_medium=overall[4],
        ap_large=overall[5],
        per_class=dict(zip(dataset.class_names, per_class, strict=True)),
    )


def run_cocoeval(detections: Mapping[int, Detections], dataset: Dataset) -> Any:
    """pycocotools' `COCOeval` of what was found in these pictures, evaluated and accumulated.

    Raises:
        MissingPackageError: pycocotools is not installed.
    """
    coco, coco_eval = load_pycocotools()
    truth: list[_Row] = []
    ignored: list[_Row] = []
    found: list[_Row] = []
    for i, seen in sorted(detections.items()):
        record = dataset.records[i]
        truth += _annotations(i + 1, record.boxes_xyxy, record.class_ids)
        ignored += _annotations(i + 1, record.ignored_boxes_xyxy, record.ignored_class_ids, iscrowd=1)
        found += _annotations(i + 1, seen.boxes_xyxy, seen.class_ids, scores=seen.scores)
    images, classes = sorted(i + 1 for i in detections), range(1, len(dataset.class_names) + 1)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        run = coco_eval(
            index_rows(coco, truth + ignored, images, classes), index_rows(coco, found, images, classes), "bbox"
        )
        run.evaluate()
        run.accumulate()
    return run


def load_pycocotools() -> tuple[Any, Any]:
    """Its classes COCO and COCOeval; raises MissingPackageError where it is not installed."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise MissingPackageError(
            "pycocotools", needed_for="measuring mAP", install="pip install 'edgeyolo[evaluate]'"
        ) from None
    return COCO, COCOeval


def _check_classes(detections: Detections, sample: Sample, num_classes: int) -> None:
    if len(detections) and int(detections.class_ids.max()) >= num_classes:
        raise DataError(
            f"the detector reports class {int(detections.class_ids.max())} and the data set has {num_classes} classes",
            where=sample.image_id,
            hint="Evaluate on the data set that the model was trained for",
        )


def _annotations(
    image: int, boxes_xyxy: Float32, class_ids: Int64, *, scores: Float32 | None = None, iscrowd: int = 0
) -> list[_Row]:
    """Objects of one picture as COCO writes them, without ids; with scores if they are detections."""
    boxes = boxes_xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]  # x, y, width, height
    columns = zip(boxes.tolist(), class_ids.tolist(), strict=True)
    rows = [
        {"image_id": image, "category_id": c + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": iscrowd}
        for box, c in columns
    ]
    if scores is None:
        return rows
    return [{**row, "score": score} for row, score in zip(rows, scores.tolist(), strict=True)]


def index_rows(coco: Any, rows: list[_Row], images: Iterable[int], classes: Iterable[int]) -> Any:
    """A COCO index made from rows; also for detections, because `COCO.loadRes` refuses an empty list."""
    index = coco()
    index.dataset = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": category} for category in classes],
        "annotations": [{**row, "id": i} for i, row in enumerate(rows, start=1)],
    }
    index.createIndex()
    return index


def _average(precision: Any) -> tuple[list[float], list[float]]:
    """AP, AP50, AP75, small, medium, large; and AP of each class; in percent.

    Args:
        precision: (10 IoU thresholds 0.50 ... 0.95, 101 recalls, K, 4 areas: all small medium large, 3 limits).
    """
    precision = precision[..., -1]
    all_areas = precision[..., 0]
    overall = [all_areas, all_areas[0], all_areas[5], precision[..., 1], precision[..., 2], precision[..., 3]]
    return [mean_percent(p) for p in overall], [mean_percent(all_areas[..., k]) for k in range(all_areas.shape[-1])]


def mean_percent(precision: Any) -> float:
    """Mean over what is defined (pycocotools marks the rest -1), 0-100."""
    defined = precision[precision > -1]
    return round(100.0 * float(defined.mean()), 4) if defined.size else _UNDEFINED
