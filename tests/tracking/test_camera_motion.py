"""A camera that is shaken by known amounts: the movement is found, and ids survive it."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.tracking import TrackSettings
from edgeyolo.tracking import Tracker
from edgeyolo.tracking.camera_motion import CameraMotion
from tests.cases.bccd import BCCD, needs_bccd

SIZE_WH = (480, 360)


@pytest.fixture(scope="module", params=["clouds", pytest.param("photograph", marks=needs_bccd)])
def picture(request: pytest.FixtureRequest) -> Image:
    """Larger than what the camera sees of it."""
    if request.param == "clouds":
        noise = np.random.default_rng(0).uniform(0, 255, (90, 120, 3)).astype(np.float32)
        return cv2.resize(noise, (960, 720), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    photograph = cv2.imread(str(min((BCCD / "JPEGImages").glob("*.jpg"))))
    return np.asarray(cv2.resize(photograph, (960, 720)), np.uint8)


def views(count: int) -> list[np.ndarray]:
    """(2, 3) from the picture to each view: the camera is jerked and turned, back and forth."""
    rng = np.random.default_rng(1)
    made = []
    for _ in range(count):
        warp = cv2.getRotationMatrix2D((480, 360), rng.uniform(-4, 4), rng.uniform(0.97, 1.03))
        warp[:, 2] += rng.uniform(-35, 35, 2) - (240, 180)
        made.append(warp)
    return made


def see(picture: Image, warp: np.ndarray) -> Image:
    return np.asarray(cv2.warpAffine(picture, warp, SIZE_WH), np.uint8)


def whole(warp: np.ndarray) -> np.ndarray:
    return np.vstack([warp, [0, 0, 1]])


def test_the_movement_is_found(picture: Image) -> None:
    camera, warps = CameraMotion(), views(6)
    assert camera.follow(see(picture, warps[0])).tolist() == np.eye(2, 3).tolist()
    for before, after in itertools.pairwise(warps):
        expected = (whole(after) @ np.linalg.inv(whole(before)))[:2]
        moved = camera.follow(see(picture, after))
        corners = np.array([[0, 0, 1], [480, 0, 1], [0, 360, 1], [480, 360, 1]]).T
        assert np.abs(moved @ corners - expected @ corners).max() < 1.5  # pixels


def test_ids_survive_a_camera_that_shakes(picture: Image) -> None:
    """Twelve small things that stand still in the picture: all keep their ids; without the camera many lose them."""
    x, y = np.meshgrid([390, 450, 510, 570], [300, 360, 420])
    points = np.stack([x.ravel(), y.ravel(), np.ones(12)])
    kept = {}
    for follows in (True, False):
        tracker = Tracker("botsort", TrackSettings(camera_motion=follows))
        history = []
        for warp in views(25):
            centre_xy = (warp @ points).T
            boxes_xyxy = np.concatenate([centre_xy - 12, centre_xy + 12], axis=1)
            tracks = tracker.update(
                Detections(boxes_xyxy, np.full(12, 0.9), np.zeros(12, np.int64)), see(picture, warp)
            )
            nearest = np.abs(tracks.boxes_xyxy[:, None] - boxes_xyxy).sum(axis=2).argmin(axis=1)
            history.append(dict(zip(nearest.tolist(), tracks.track_ids.tolist(), strict=True)))
        kept[follows] = sum(all(frame.get(i) == i + 1 for frame in history) for i in range(12))
    assert kept[True] == 12
    assert kept[False] < 6


def test_a_flat_picture_or_another_size_is_no_movement(picture: Image) -> None:
    camera = CameraMotion()
    for frame in (np.zeros((100, 100, 3), np.uint8), picture, picture[:100], picture[:1, :1]):
        assert camera.follow(frame).tolist() == np.eye(2, 3).tolist()
