"""Scores of anything that gives raw maps, taken through the runtime that ships."""

from __future__ import annotations

import msgspec
import numpy as np

from edgeyolo.backends import Session
from edgeyolo.data.dataset import Dataset
from edgeyolo.evaluation.coco_map import detect_pictures, evaluate_batches
from edgeyolo.runtime.detector import Detector
from edgeyolo.spec.detecting import Nms, Thresholds
from edgeyolo.spec.detections import Detections, Float32, Image
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import ModelSpec, Score
from edgeyolo.spec.progress import SILENT, Progress

# Usual for mAP: every class of every box counts.
MAP_THRESHOLDS = Thresholds(score_threshold=0.001, iou_threshold=0.65, max_detections=300, multi_label=True)

# Of everyday use, but with all scores that a threshold could stand at.
EVERY_SCORE = Thresholds(score_threshold=0.01)


def measure_session(
    session: Session,
    spec: ModelSpec,
    dataset: Dataset,
    *,
    artefact: str,
    nms: Nms | None = None,
    progress: Progress = SILENT,
) -> Score:
    """COCO mAP of a session on a split, with the thresholds that are usual for mAP: every class of every box counts.

    Raises:
        UsageError: the data set's classes are not the model's.
    """
    detector = make_detector(session, spec, dataset, nms=nms)
    return evaluate_batches(detector.detect_batch, dataset, artefact=artefact, batch=detector.batch, progress=progress)


def detect_everyday(
    session: Session, spec: ModelSpec, dataset: Dataset, *, nms: Nms | None = None, progress: Progress = SILENT
) -> dict[int, Detections]:
    """What is found in each picture of a split, by its index, as a user would see it with the lowest threshold.

    Raises:
        UsageError: the data set's classes are not the model's.
    """
    return detect_twice(session, spec, dataset, nms=nms, progress=progress)[1]


def detect_twice(
    session: Session, spec: ModelSpec, dataset: Dataset, *, nms: Nms | None = None, progress: Progress = SILENT
) -> tuple[dict[int, Detections], dict[int, Detections]]:
    """What counts for mAP in each picture of a split, and what a user would see; the network runs once.

    Raises:
        UsageError: the data set's classes are not the model's.
    """
    once = _OnceForAPicture(session)
    everything = make_detector(once, spec, dataset, nms=nms)
    everyday = Detector(once, spec, msgspec.structs.replace(EVERY_SCORE, nms=nms))
    seen: list[Detections] = []

    def detect_batch(images: list[Image]) -> list[Detections]:
        seen.extend(everyday.detect(image) for image in images)
        return [everything.detect(image) for image in images]

    found = detect_pictures(detect_batch, dataset, range(len(dataset)), progress=progress)
    return found, dict(zip(found, seen, strict=True))


class _OnceForAPicture:
    """A session that remembers what it said of the latest input."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._images: Float32 | None = None
        self._maps: list[Float32] = []

    def run(self, images: Float32) -> list[Float32]:
        """See `Session.run`."""
        if self._images is None or not np.array_equal(self._images, images):
            self._images, self._maps = images.copy(), self._session.run(images)
        return self._maps

    def close(self) -> None:
        """Whoever opened the session closes it."""


def make_detector(session: Session, spec: ModelSpec, dataset: Dataset, *, nms: Nms | None = None) -> Detector:
    """A detector that reports all that counts for mAP; errors as `measure_session`."""
    check_classes(spec, dataset)
    return Detector(session, spec, msgspec.structs.replace(MAP_THRESHOLDS, nms=nms))


def check_classes(spec: ModelSpec, dataset: Dataset) -> None:
    """Raise UsageError where the data set's class names are not the model's, in order."""
    if spec.class_names != dataset.class_names:
        raise UsageError(
            f"the data set has classes {', '.join(dataset.class_names)}; the model {', '.join(spec.class_names)}",
            where=dataset.name,
            hint="Measure on the data set that the model was trained for; `quantize --no-evaluate` takes any pictures",
        )
