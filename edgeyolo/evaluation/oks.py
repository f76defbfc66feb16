"""Mean average precision of joints by object keypoint similarity (OKS), counted by pycocotools.

Source: https://cocodataset.org/#keypoints-eval
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from edgeyolo.data.person_crops import People, PersonCrops
from edgeyolo.evaluation.coco_map import index_rows, load_pycocotools, mean_percent
from edgeyolo.spec.detections import Float32
from edgeyolo.spec.errors import DataError
from edgeyolo.spec.joints import joint_sigmas
from edgeyolo.spec.model import Score
from edgeyolo.spec.poses import Poses

_Row: TypeAlias = dict[str, Any]
_PERSON = 1
_UNDEFINED = -1.0


def score_persons(found: Mapping[int, Poses], data: PersonCrops, *, artefact: str) -> Score:
    """OKS AP of joints that were found in the boxes that people drew, one person each, by their index in `data`.

    Persons of whom nothing is said count neither way.

    Raises:
        DataError: nothing is said of any. MissingPackageError: pycocotools is not installed.
    """
    rows = np.array(sorted(found), np.int64)
    people = data.people.of_rows(rows)
    pictures: dict[int, list[tuple[Poses, Float32]]] = {}
    for row, picture in zip(rows.tolist(), people.picture.tolist(), strict=True):
        pictures.setdefault(picture, []).append((found[row], np.ones(1, np.float32)))
    return score_poses(pictures, people, data, artefact=artefact)


def score_poses(
    found: Mapping[int, Sequence[tuple[Poses, Float32]]], people: People, data: PersonCrops, *, artefact: str
) -> Score:
    """OKS AP of the joints that were found in some pictures.

    Args:
        found: picture -> poses, and the scores (N,) of their boxes, by which those of the joints are multiplied.
        people: who is to be found there.

    Returns:
        AP in percent; there is none for small persons, whose joints COCO does not label.

    Raises:
        DataError: no pictures. MissingPackageError: pycocotools is not installed.
    """
    if not found:
        raise DataError("no picture can be read", where=f"{data.name}, split {data.split}")
    coco, coco_eval = load_pycocotools()
    images = sorted(picture + 1 for picture in found)
    others = data.others.of_rows(np.flatnonzero(np.isin(data.others.picture, list(found))))
    truth = _annotations(people, iscrowd=0) + _annotations(others, iscrowd=1)
    guesses = [row for picture, parts in found.items() for part in parts for row in _guesses(picture, *part)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        indices = (index_rows(coco, rows, images, [_PERSON]) for rows in (truth, guesses))
        run = coco_eval(*indices, "keypoints")
        run.params.kpt_oks_sigmas = np.array(joint_sigmas(data.class_names))
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, 0, :, -1]  # (10 thresholds, 101 recalls, 3 areas: all medium large)
    return Score(
        artefact=artefact,
        data=data.name,
        split=data.split,
        images=len(found),
        boxes=len(people.picture),
        ap=mean_percent(precision[..., 0]),
        ap50=mean_percent(precision[0, :, 0]),
        ap75=mean_percent(precision[5, :, 0]),
        ap_small=_UNDEFINED,
        ap_medium=mean_percent(precision[..., 1]),
        ap_large=mean_percent(precision[..., 2]),
    )


def _annotations(people: People, *, iscrowd: int) -> list[_Row]:
    columns = zip(people.picture.tolist(), people.boxes_xyxy, people.areas.tolist(), people.joints, strict=True)
    return [
        {
            "image_id": picture + 1,
            "category_id": _PERSON,
            "bbox": _xywh(box_xyxy),
            "area": area,
            "iscrowd": iscrowd,
            "keypoints": joints.ravel().tolist(),
            "num_keypoints": int((joints[:, 2] > 0).sum()),
        }
        for picture, box_xyxy, area, joints in columns
    ]


def _guesses(picture: int, poses: Poses, box_scores: Float32) -> list[_Row]:
    rows = []
    for joints, score in zip(poses.keypoints.astype(np.float64), (poses.scores * box_scores).tolist(), strict=True):
        low, high = joints[:, :2].min(axis=0), joints[:, :2].max(axis=0)
        box = [*low.tolist(), *(high - low).tolist()]
        placed = np.column_stack([joints[:, :2], np.ones(len(joints))])
        rows.append(
            {
                "image_id": picture + 1,
                "category_id": _PERSON,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "keypoints": placed.ravel().tolist(),
                "score": score,
            }
        )
    return rows


def _xywh(box_xyxy: Any) -> list[float]:
    left, top, right, bottom = box_xyxy.tolist()
    return [left, top, right - left, bottom - top]
