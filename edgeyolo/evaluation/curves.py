"""How precision, recall and F1 of each class depend on the score that is asked for, at an IoU of 0.5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeyolo.evaluation.coco_map import run_cocoeval
from edgeyolo.evaluation.judged import Float64, Judged, judge
from edgeyolo.spec.detections import Detections

if TYPE_CHECKING:
    from edgeyolo.data.dataset import Dataset

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
    return Curves(precision, np.stack([_f1(judged) for judged in judge(run, len(dataset.class_names))]))


def _f1(judged: Judged) -> Float64:
    """(101,) F1 of one class."""
    if not judged.objects:
        return np.full(len(STEPS), np.nan)
    first = len(judged.scores) - np.searchsorted(judged.scores[::-1], STEPS, side="left")  # with at least that score
    hits = np.concatenate([[0], np.cumsum(judged.right)])[first]
    f1: Float64 = 2 * hits / (first + judged.objects)
    return f1
