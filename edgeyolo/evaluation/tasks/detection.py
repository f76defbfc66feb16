"""Detectors: boxes in pictures, COCO mAP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeyolo.backends import Session
from edgeyolo.data.dataset import Dataset, list_splits, open_dataset
from edgeyolo.data.person_crops import PersonCrops
from edgeyolo.evaluation.coco_map import detect_pictures, score_detections
from edgeyolo.evaluation.tasks._task import Task
from edgeyolo.runtime.clock import Timing
from edgeyolo.runtime.detector import Detector
from edgeyolo.spec.detecting import Nms, Thresholds
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import ModelSpec, Score
from edgeyolo.spec.progress import SILENT, Progress

# Usual for mAP: every class of every box counts.
MAP_THRESHOLDS = Thresholds(score_threshold=0.001, iou_threshold=0.65, max_detections=300, multi_label=True)


class DetectionTask(Task):
    """Boxes of objects, in any format that pictures with boxes come in."""

    name = "detection"
    finds_boxes = True

    def list_splits(self, path: Path) -> list[str]:
        """See `Task.list_splits`."""
        return list_splits(path)

    def open_split(self, path: Path, split: str, input_hw: tuple[int, int]) -> Dataset:
        """See `Task.open_split`."""
        return open_dataset(path, split)

    def check_data(self, spec: ModelSpec, data: Dataset) -> None:
        """See `Task.check_data`."""
        check_classes(spec, data)

    def find(
        self,
        session: Session,
        spec: ModelSpec,
        data: Dataset,
        rows: Sequence[int],
        *,
        nms: Nms | None = None,
        batch: int = 1,
        progress: Progress = SILENT,
    ) -> dict[int, Any]:
        """See `Task.find`."""
        detector = make_detector(session, spec, data, nms=nms)
        return dict(detect_pictures(detector.detect_batch, data, rows, batch=batch, progress=progress))

    def make_timed(self, session: Session, spec: ModelSpec) -> Callable[[Image], Timing]:
        """See `Task.make_timed`."""
        detector = Detector(session, spec)

        def take_time(image: Image) -> Timing:
            detector.detect(image)
            return detector.timing

        return take_time

    def score(self, found: Mapping[int, Any], data: Dataset, *, artefact: str) -> Score:
        """See `Task.score`."""
        return score_detections(found, data, artefact=artefact)


def make_detector(session: Session, spec: ModelSpec, dataset: Dataset, *, nms: Nms | None = None) -> Detector:
    """A detector that reports all that counts for mAP; errors as `check_classes`."""
    check_classes(spec, dataset)
    return Detector(session, spec, msgspec.structs.replace(MAP_THRESHOLDS, nms=nms))


def check_classes(spec: ModelSpec, dataset: Dataset) -> None:
    """Raise UsageError where the data set's class names are not the model's, in order."""
    if spec.class_names != dataset.class_names:
        what = "joints" if isinstance(dataset, PersonCrops) else "classes"
        raise UsageError(
            f"the data set has {what} {', '.join(dataset.class_names)}; the model {', '.join(spec.class_names)}",
            where=dataset.name,
            hint="Measure on the data set that the model was trained for; `quantize --no-evaluate` takes any pictures",
        )
