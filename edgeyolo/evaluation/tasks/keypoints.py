"""Networks of joints: the persons of pictures, cut out by the boxes that people drew; OKS AP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeyolo.backends import Session
from edgeyolo.data.dataset import Dataset
from edgeyolo.data.keypoints import list_people_splits, open_people
from edgeyolo.data.person_crops import PersonCrops
from edgeyolo.evaluation.oks import score_persons
from edgeyolo.evaluation.tasks._task import Task
from edgeyolo.evaluation.tasks.detection import check_classes
from edgeyolo.runtime.clock import Timing
from edgeyolo.runtime.pose import PoseEstimator
from edgeyolo.spec.detecting import Nms
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import DataError, ImageError, UsageError
from edgeyolo.spec.model import ModelSpec, Score
from edgeyolo.spec.poses import Poses
from edgeyolo.spec.progress import SILENT, Progress

_LOG = logging.getLogger(__name__)


class KeypointsTask(Task):
    """Joints of persons, in COCO's format; a sample is a person."""

    name = "keypoints"
    finds_boxes = False

    def list_splits(self, path: Path) -> list[str]:
        """See `Task.list_splits`."""
        return list_people_splits(path)

    def open_split(self, path: Path, split: str, input_hw: tuple[int, int]) -> Dataset:
        """See `Task.open_split`."""
        return open_people(path, split, input_hw)

    def check_data(self, spec: ModelSpec, data: Dataset) -> None:
        """See `Task.check_data`."""
        people_in(data)
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
        """See `Task.find`; the persons of a picture that follow each other are looked at together."""
        self.check_data(spec, data)
        people = people_in(data)
        if not len(data):
            raise DataError("has no persons to evaluate on", where=f"{data.name}, split {data.split}")
        estimator = PoseEstimator(session, spec)
        found: dict[int, Any] = {}
        done = 0
        for some in _of_one_picture(rows, people):
            done += len(some)
            progress.step("evaluate", done, len(rows))
            try:
                image = people.read_picture(some[0])
            except ImageError as error:
                _LOG.warning("%s; the scores are without its persons", error)
                continue
            poses = estimator.estimate(image, people.people.boxes_xyxy[some].astype(np.float32))
            found.update({row: Poses(poses.keypoints[i : i + 1]) for i, row in enumerate(some)})
        return found

    def make_timed(self, session: Session, spec: ModelSpec) -> Callable[[Image], Timing]:
        """See `Task.make_timed`; one person, who fills the picture."""
        estimator = PoseEstimator(session, spec)

        def take_time(image: Image) -> Timing:
            estimator.estimate(image, np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32))
            return estimator.timing

        return take_time

    def score(self, found: Mapping[int, Any], data: Dataset, *, artefact: str) -> Score:
        """See `Task.score`."""
        return score_persons(found, people_in(data), artefact=artefact)


def people_in(data: Dataset) -> PersonCrops:
    """The data as persons with joints; raises UsageError where it has none."""
    if not isinstance(data, PersonCrops):
        raise UsageError("the data set has boxes, and the model finds joints", where=data.name)
    return data


def _of_one_picture(rows: Sequence[int], people: PersonCrops) -> list[list[int]]:
    """Rows that follow each other and are of one picture, together."""
    groups: list[list[int]] = []
    pictures = people.people.picture
    for row in rows:
        if groups and pictures[groups[-1][0]] == pictures[row]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
