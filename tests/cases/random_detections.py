"""Objects in pictures that are not there, and detections near most of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeyolo.data.dataset import Dataset, Record, make_report
from edgeyolo.data.report import ProblemLog
from edgeyolo.spec.detections import Detections

NAMES = ("a", "b", "never")


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.uniform(0, 150, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(10, 50, (count, 2))], 1).astype(np.float32)


def make_case(seed: int, *, pictures: int = 8, crowds: bool = True) -> tuple[Dataset, dict[int, Detections]]:
    """Objects, and detections near most of them, some of another class, and some of nothing."""
    rng = np.random.default_rng(seed)
    records, found = [], {}
    for i in range(pictures):
        boxes, classes = random_boxes(rng, 6), rng.integers(0, 2, 6)
        crowd = random_boxes(rng, 2 if crowds else 0)
        records.append(
            Record(Path(f"{i}.png"), str(i), (200, 200), boxes, classes, crowd, rng.integers(0, 2, len(crowd)))
        )
        near = boxes[:5] + rng.normal(0, 3, (5, 4)).astype(np.float32)
        taken = np.where(rng.random(5) < 0.8, classes[:5], 1 - classes[:5])
        places = np.concatenate([near, crowd, random_boxes(rng, 3)])
        labels = np.concatenate([taken, rng.integers(0, 2, len(places) - 5)])
        scores = np.sort(rng.uniform(0.01, 1, len(places)))[::-1].astype(np.float32)
        shuffled = rng.permutation(len(places))
        found[i] = Detections(places[shuffled], scores, labels[shuffled])
    return Dataset("d", "val", NAMES, records, make_report("d", "val", NAMES, records, ProblemLog())), found


def iou(a: np.ndarray, b: np.ndarray) -> float:
    inter = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return float(inter / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter))
