"""PoseEstimator: crops, batches, mirror images and the way back, on sessions whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeyolo.runtime import Detections, Detector, PoseEstimator, Poses
from edgeyolo.runtime.draw_poses import draw_poses
from edgeyolo.runtime.pose import persons_among
from edgeyolo.spec.errors import BackendError, ImageError, UsageError
from edgeyolo.spec.model import DflDecode, HeatmapDecode, InputSpec, ModelSpec

SPEC = ModelSpec(
    name="by hand",
    activation="relu",
    class_names=("left_dot", "right_dot"),
    input=InputSpec(image_hw=(64, 48)),
    decode=HeatmapDecode(strides=(4,), skeleton=((0, 1),)),
)
BOXES = np.array([[20, 30, 50, 70], [60, 10, 90, 60]], np.float32)


class Brightest:
    """Answers with the brightness of blue and of red, each averaged around a cell: a joint is where a dot is."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.closed = False

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        self.calls.append(len(images))
        around = np.stack([np.roll(images, (dy, dx), (2, 3)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]).mean(0)
        return [around[:, [2, 0], ::4, ::4].copy()]

    def close(self) -> None:
        self.closed = True


def dotted() -> tuple[np.ndarray, np.ndarray]:
    """A picture with a blue and a red dot in each box, and their places (2, 2, 2)."""
    image = np.zeros((100, 120, 3), np.uint8)
    places = np.array([[[30, 40], [42, 60]], [[70, 20], [82, 50]]], float)
    ys, xs = np.mgrid[0:100, 0:120]
    for blue, red in places:
        for channel, (x, y) in ((0, blue), (2, red)):
            glow = 255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 18)
            image[..., channel] = np.maximum(image[..., channel], glow.astype(np.uint8))
    return image, places


@pytest.mark.parametrize("boxes", [BOXES, Detections(BOXES, np.ones(2, np.float32), np.zeros(2, np.int64))])
def test_joints_are_found_where_they_are(boxes) -> None:
    image, places = dotted()
    session = Brightest()
    with PoseEstimator(session, SPEC) as estimator:
        poses = estimator.estimate(image, boxes)
        assert session.calls == [2]  # all persons of a picture in one call
        assert poses.keypoints.shape == (2, 2, 3) and poses.keypoints.dtype == np.float32
        assert np.abs(poses.keypoints[..., :2] - places).max() < 2.5  # a cell is four input pixels
        assert estimator.timing.total_ms > 0 and estimator.joint_names == SPEC.class_names
    assert session.closed


def test_the_mirror_image_says_the_same() -> None:
    """Mirrored, sides are exchanged: a session that tells colours apart must be asked for the other colour there."""
    image, places = dotted()

    class Sides(Brightest):
        def run(self, images: np.ndarray) -> list[np.ndarray]:
            maps = super().run(images)[0]
            half = len(maps) // 2
            maps[half:] = maps[half:, ::-1]  # what is left in a mirror image is right
            return [maps]

    found = PoseEstimator(Sides(), SPEC, flip_test=True).estimate(image, BOXES)
    assert np.abs(found.keypoints[..., :2] - places).max() < 2.5
    plain = PoseEstimator(Brightest(), SPEC).estimate(image, BOXES)
    assert np.abs(found.keypoints - plain.keypoints)[..., :2].max() < 2.5


def test_nobody_and_nonsense() -> None:
    image, _ = dotted()
    session = Brightest()
    estimator = PoseEstimator(session, SPEC)
    assert estimator.estimate(image, Detections.empty()).keypoints.shape == (0, 2, 3)
    assert session.calls == []
    for boxes in (np.zeros((2, 3)), np.array([[0, 0, np.nan, 3]])):
        with pytest.raises(UsageError, match="boxes"):
            estimator.estimate(image, boxes)
    with pytest.raises(ImageError):
        estimator.estimate(np.zeros((4, 4, 2), np.uint8), BOXES)
    estimator.close()
    with pytest.raises(BackendError, match="closed"):
        estimator.estimate(image, BOXES)


def test_boxes_without_extent_or_far_away_give_joints_all_the_same() -> None:
    image, _ = dotted()
    boxes = np.array([[10, 10, 10, 10], [-900, -900, -800, -800], [0, 0, 120, 100]], np.float32)
    found = PoseEstimator(Brightest(), SPEC).estimate(image, boxes)
    assert np.isfinite(found.keypoints).all()


def test_other_maps_than_its_own_are_refused() -> None:
    class Wrong(Brightest):
        def run(self, images: np.ndarray) -> list[np.ndarray]:
            return [np.zeros((len(images), 3, 16, 12), np.float32)]

    with pytest.raises(BackendError, match="do not belong together"):
        PoseEstimator(Wrong(), SPEC).estimate(dotted()[0], BOXES)


def test_a_detector_is_no_estimator_and_the_other_way_round() -> None:
    boxes = ModelSpec(
        name="d", activation="relu", class_names=("a",), input=SPEC.input, decode=DflDecode(strides=(8,), bins=4)
    )
    with pytest.raises(UsageError, match="boxes, not joints"):
        PoseEstimator(Brightest(), boxes)
    with pytest.raises(UsageError, match="joints, not boxes"):
        Detector(Brightest(), SPEC)


def test_only_persons_are_looked_at_where_a_detector_knows_them() -> None:
    found = Detections(BOXES, np.array([0.9, 0.8], np.float32), np.array([1, 0]))
    assert persons_among(found, ("person", "dog")).scores.tolist() == pytest.approx([0.8])
    assert len(persons_among(found, ("figure", "dog"))) == 2


def test_drawing_shows_sure_joints_and_leaves_the_picture_alone(tmp_path: Path) -> None:
    image = np.zeros((100, 120, 3), np.uint8)
    keypoints = np.array([[[20, 20, 0.9], [80, 20, 0.9]], [[20, 60, 0.9], [80, 60, 0.05]]], np.float32)
    drawn = draw_poses(image, Poses(keypoints), ((0, 1), (0, 7)))
    assert not image.any()
    assert drawn[20, 50].any() and drawn[20, 20].any()
    assert drawn[60, 20].any() and not drawn[60, 50].any() and not drawn[60, 80].any()
    draw_poses(image, Poses(np.full((1, 2, 3), 1e9, np.float32)), ((0, 1),))
