"""Scores of anything that gives raw maps, taken through the runtime that ships."""

from __future__ import annotations

import msgspec

from edgeyolo.backends import Session
from edgeyolo.data.dataset import Dataset
from edgeyolo.evaluation.coco_map import evaluate
from edgeyolo.runtime.detector import Detector
from edgeyolo.spec.detecting import Nms, Thresholds
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import ModelSpec, Score
from edgeyolo.spec.progress import SILENT, Progress

# Usual for mAP: every class of every box counts.
MAP_THRESHOLDS = Thresholds(score_threshold=0.001, iou_threshold=0.65, max_detections=300, multi_label=True)


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
    return evaluate(detector.detect, dataset, artefact=artefact, progress=progress)


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
