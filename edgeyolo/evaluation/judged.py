"""Which detections are right, by pycocotools' matches at an IoU of 0.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeyolo.evaluation.coco_map import run_cocoeval
from edgeyolo.spec.detections import Detections, Int64

if TYPE_CHECKING:
    from edgeyolo.data.dataset import Dataset

Float64: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """Detections of one class in all pictures, best first; those of crowds and difficult objects are left out.

    Attributes:
        scores: (N,).
        right: (N,) whether each is an object of the class that no better one is.
        pictures: (N,) position of its picture, in [0, `picture_count`).
        objects: to be found.
    """

    scores: Float64
    right: Bools
    pictures: Int64
    objects: int
    picture_count: int


def judge(run: Any, classes: int) -> list[Judged]:
    """Of each class.

    Args:
        run: what `run_cocoeval` gives.
    """
    pictures, areas = len(run.params.imgIds), len(run.params.areaRng)
    return [_judge(run.evalImgs[k * pictures * areas :][:pictures]) for k in range(classes)]


def judge_detections(detections: Mapping[int, Detections], dataset: Dataset) -> list[Judged]:
    """Of each class, what was found in the pictures of a split, by their index.

    Raises:
        MissingPackageError: pycocotools is not installed.
    """
    return judge(run_cocoeval(detections, dataset), len(dataset.class_names))


def join_classes(judged: Sequence[Judged]) -> Judged:
    """All classes as one."""
    scores = np.concatenate([one.scores for one in judged])
    order = np.argsort(-scores, kind="stable")
    right, pictures = (np.concatenate([getattr(one, name) for one in judged])[order] for name in ("right", "pictures"))
    return Judged(scores[order], right, pictures, sum(one.objects for one in judged), judged[0].picture_count)


def _judge(images: list[dict[str, Any] | None]) -> Judged:
    """One class, from pycocotools' matches in each picture, all areas."""
    scores, right, pictures = [np.zeros(0)], [np.zeros(0, bool)], [np.zeros(0, np.int64)]
    objects = 0
    for i, image in enumerate(images):
        if image is None:
            continue
        objects += int((np.asarray(image["gtIgnore"]) == 0).sum())
        counted = ~np.asarray(image["dtIgnore"][0], bool)
        scores.append(np.asarray(image["dtScores"], np.float64)[counted])
        right.append(np.asarray(image["dtMatches"][0])[counted] > 0)
        pictures.append(np.full(int(counted.sum()), i))
    every = np.concatenate(scores)
    order = np.argsort(-every, kind="stable")
    return Judged(every[order], np.concatenate(right)[order], np.concatenate(pictures)[order], objects, len(images))
