"""Detections to and from what others use: supervision's `Detections`, and rows of COCO results.

Source: supervision.roboflow.com, Detections; cocodataset.org/#format-results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgeyolo.spec.detections import Detections
from edgeyolo.spec.errors import DataError
from edgeyolo.spec.packages import import_package


def supervision_from_detections(detections: Detections, class_names: Sequence[str] = ()) -> Any:
    """A `supervision.Detections` of the same objects.

    Args:
        class_names: of the detector; its annotators then write names.

    Raises:
        MissingPackageError: supervision is not installed.
    """
    supervision = import_package("supervision", needed_for="its Detections", extra="supervision")
    names = np.array([class_names[i] for i in detections.class_ids], dtype=np.str_) if class_names else None
    return supervision.Detections(
        xyxy=detections.boxes_xyxy,
        confidence=detections.scores,
        class_id=detections.class_ids,
        data={} if names is None else {"class_name": names},
    )


def detections_from_supervision(found: Any) -> Detections:
    """Detections of a `supervision.Detections`, best first; masks and the like are left out.

    Raises:
        DataError: it has no scores or no classes.
    """
    if found.confidence is None or found.class_id is None:
        raise DataError("has no confidence or no class_id", where="supervision.Detections", hint="Set both")
    return _best_first(found.xyxy, found.confidence, found.class_id)


def coco_from_detections(
    detections: Detections, image_id: int | str, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Rows of a COCO results file: `bbox` is left, top, width, height in pixels of the picture.

    Args:
        category_ids: of each class, in the order of the detector's names; the class ids themselves if not given.
    """
    size_wh = detections.boxes_xyxy[:, 2:] - detections.boxes_xyxy[:, :2]
    boxes = np.concatenate((detections.boxes_xyxy[:, :2], size_wh), axis=1).tolist()
    return [
        {
            "image_id": image_id,
            "category_id": class_id if category_ids is None else category_ids[class_id],
            "bbox": box,
            "score": score,
        }
        for box, score, class_id in zip(boxes, detections.scores.tolist(), detections.class_ids.tolist(), strict=True)
    ]


def detections_from_coco(
    rows: Iterable[Mapping[str, Any]], category_ids: Sequence[int] | None = None
) -> dict[int | str, Detections]:
    """Detections of each picture that rows of a COCO results file name, best first; arguments as above.

    Raises:
        DataError: a row without one of its fields, or of a category that is not among those given.
    """
    by_picture: dict[int | str, list[tuple[list[float], float, int]]] = {}
    for number, row in enumerate(rows):
        try:
            left, top, width, height = row["bbox"]
            category = row["category_id"]
            class_id = category if category_ids is None else category_ids.index(category)
            entry = ([left, top, left + width, top + height], float(row["score"]), int(class_id))
            by_picture.setdefault(row["image_id"], []).append(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"row {number} is not one of COCO's results ({error})",
                hint="A row has image_id, category_id, bbox (left, top, width, height) and score",
            ) from None
    return {picture: _best_first(*zip(*found, strict=True)) for picture, found in by_picture.items()}


def _best_first(boxes_xyxy: Any, scores: Any, class_ids: Any) -> Detections:
    scores = np.asarray(scores, np.float32)
    order = np.argsort(-scores, kind="stable")
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    return Detections(boxes[order], scores[order], np.asarray(class_ids, np.int64)[order])
