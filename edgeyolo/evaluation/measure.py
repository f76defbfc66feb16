"""Scores of anything that gives raw maps, taken through the runtime that ships."""

from __future__ import annotations

import msgspec
import numpy as np

from edgeyolo.backends import Session
from edgeyolo.data.dataset import Dataset
from edgeyolo.evaluation.coco_map import detect_pictures, load_pycocotools
from edgeyolo.evaluation.tasks import task_of
from edgeyolo.evaluation.tasks.detection import make_detector
from edgeyolo.runtime.detector import Detector
from edgeyolo.spec.detecting import Nms, Thresholds
from edgeyolo.spec.detections import Detections, Float32, Image
from edgeyolo.spec.model import ModelSpec, Score
from edgeyolo.spec.progress import SILENT, Progress

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
    """What a session is worth on a split, by its task: COCO mAP, with the thresholds that are usual for it, or OKS AP.

    Raises:
        UsageError: the data set's classes are not the model's, or it is of another task.
        MissingPackageError: pycocotools is not installed. DataError: no picture can be read.
    """
    load_pycocotools()
    task, rows = task_of(spec.decode), range(len(dataset))
    found = task.find(session, spec, dataset, rows, nms=nms, batch=spec.input.batch[1], progress=progress)
    return task.score(found, dataset, artefact=artefact)


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
