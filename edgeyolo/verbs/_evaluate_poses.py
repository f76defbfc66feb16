"""Joints in the boxes that a detector finds, as they are on a board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.errors import ImageError, UsageError
from edgeyolo.spec.model import Score
from edgeyolo.spec.progress import SILENT, Progress

if TYPE_CHECKING:
    from edgeyolo.data.dataset import Dataset
    from edgeyolo.spec.detections import Float32
    from edgeyolo.spec.poses import Poses

_LEAST_SCORE = 0.05  # of a box; what is below hardly counts for AP


def evaluate_in_boxes(
    source: Path, detector_bundle: Path, data: Dataset, artefact: str, *, threads: int = 0, progress: Progress = SILENT
) -> Score:
    """OKS AP of a bundle in the boxes of a detector's, in the pictures of a split that have persons with joints.

    The score of a person is that of its box, times the mean of its joints that are sure.

    Args:
        artefact: how the score calls what is measured.

    Raises:
        UsageError: the data has no joints, or the bundles are of other tasks. Otherwise as `evaluate`.
    """
    import numpy as np

    from edgeyolo.data.person_crops import PersonCrops
    from edgeyolo.evaluation.oks import score_poses
    from edgeyolo.runtime import Detector, PoseEstimator
    from edgeyolo.runtime.pose import persons_among

    if not isinstance(data, PersonCrops):
        raise UsageError("boxes are for networks that find joints", where=source, hint="Leave out --boxes")
    pictures, rows = np.unique(data.people.picture, return_index=True)
    found: dict[int, list[tuple[Poses, Float32]]] = {}
    with (
        Detector.load(detector_bundle, threads=threads, score_threshold=_LEAST_SCORE) as detector,
        PoseEstimator.load(source, threads=threads) as estimator,
    ):
        for done, (picture, row) in enumerate(zip(pictures.tolist(), rows.tolist(), strict=True), start=1):
            progress.step("evaluate", done, len(rows))
            try:
                image = data.read_picture(row)
            except ImageError:
                continue
            persons = persons_among(detector.detect(image), detector.class_names)
            found[picture] = [(estimator.estimate(image, persons), persons.scores)]
    people = data.people.of_rows(np.flatnonzero(np.isin(data.people.picture, list(found))))
    return score_poses(found, people, data, artefact=f"{artefact}, in boxes of {detector_bundle.name}")
