"""How precision, recall and F1 of each class depend on the score that is asked for, at an IoU of 0.5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeyolo.evaluation.coco_map import run_cocoeval
from edgeyolo.spec.detections import Detections

if TYPE_CHECKING:
    from edgeyolo.data.dataset import Dataset

Float64: TypeAlias = npt.NDArray[np.float64]

STEPS = np.linspace(0.0, 1.0, 101)  # recalls, as COCO takes them, and scores


@dataclass(frozen=True)
class Curves:
    """Curves at IoU 0.5, by the matches of pycocotools; a class without objects is NaN throughout.

    Attributes:
        precision: (K, 101) the best precision at each recall of `STEPS` or a higher one; its mean is the class's AP50.
        f1: (K, 101) of what has at least each score of `STEPS`.
    """

    precision: Float64
    f1: Float64

    @property
    def mean_f1(self) -> Float64:
        """(101,) mean over the classes that have objects; 0 where no class has."""
        known = self.f1[~np.isnan(self.f1).any(1)]
        return known.mean(0) if len(known) else np.zeros(len(STEPS))

    @property
    def best_score(self) -> float:
        """The score, a multiple of 0.01, from which on detections count for the highest mean F1."""
        return float(STEPS[int(self.mean_f1.argmax())])


def measure_curves(detections: Mapping[int, Detections], dataset: Dataset) -> Curves:
    """Curves of what was found in the pictures of a split, by their index, with scores down to about 0.001.

    Raises:
        MissingPackageError: pycocotools is not installed.
    """
    run = run_cocoeval(detections, dataset)
    precision = run.eval["precision"][0, :, :, 0, -1].T.astype(np.float64)
    precision[(precision < 0).all(1)] = np.nan
    classes, pictures = len(dataset.class_names), len(detections)
    per_class = [run.evalImgs[k * pictures * len(run.params.areaRng) :][:pictures] for k in range(classes)]
    return Curves(precision, np.stack([_f1(images) for images in per_class]))


def _f1(images: list[dict[str, Any] | None]) -> Float64:
    """(101,) F1 of one class from pycocotools' matches in each picture, all areas."""
    known = [image for image in images if image is not None]
    objects = sum(int((np.asarray(image["gtIgnore"]) == 0).sum()) for image in known)
    if not objects:
        return np.full(len(STEPS), np.nan)
    counted = [~np.asarray(image["dtIgnore"][0], bool) for image in known]
    scores = np.concatenate([np.asarray(image["dtScores"])[c] for image, c in zip(known, counted, strict=True)])
    right = np.concatenate([np.asarray(image["dtMatches"][0])[c] > 0 for image, c in zip(known, counted, strict=True)])
    order = np.argsort(-scores, kind="stable")
    first = len(scores) - np.searchsorted(scores[order][::-1], STEPS, side="left")  # with at least that score
    hits = np.concatenate([[0], np.cumsum(right[order])])[first]
    f1: Float64 = 2 * hits / (first + objects)
    return f1
