"""The tracker against the papers read track by track, in float64: ids, order, boxes and scores of hard sequences."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from edgeyolo.spec.detections import Detections
from edgeyolo.spec.errors import BackendError, UnknownNameError, UsageError
from edgeyolo.spec.tracking import TrackMethod, TrackSettings
from edgeyolo.tracking import Tracker
from edgeyolo.tracking.camera_motion import CameraMotion
from tests.cases.plain_tracker import PlainTracker

BLANK = np.zeros((400, 400, 3), np.uint8)


def found(boxes_xyxy: object, scores: object, class_ids: object = None) -> Detections:
    count = len(np.asarray(scores))
    return Detections(
        np.asarray(boxes_xyxy, np.float64).reshape(count, 4),
        np.asarray(scores, np.float64),
        np.zeros(count, np.int64) if class_ids is None else np.asarray(class_ids, np.int64),
    )


def hard_frames(seed: int, count: int, *, buffer: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Six objects that cross, hide for about as long as lost tracks are kept, score low, and false detections."""
    rng = np.random.default_rng(seed)
    centre_xy, size_wh = rng.uniform(0, 160, (6, 2)), rng.uniform(20, 70, (6, 2))
    speed_xy, hidden = rng.normal(0, 4, (6, 2)), np.zeros(6, int)
    for _ in range(count):
        speed_xy += rng.normal(0, 0.5, speed_xy.shape)
        centre_xy = centre_xy + speed_xy
        speed_xy[(centre_xy < 0) | (centre_xy > 160)] *= -1
        starts = (hidden == 0) & (rng.random(6) < 0.06)
        hidden = np.where(starts, rng.integers(1, buffer + 5, 6), np.maximum(hidden - 1, 0))
        boxes_xyxy = np.concatenate([centre_xy - size_wh / 2, centre_xy + size_wh / 2], axis=1)
        boxes_xyxy = (boxes_xyxy + rng.normal(0, 2, boxes_xyxy.shape))[hidden == 0]
        false = rng.uniform(0, 160, (rng.integers(0, 2), 2))
        boxes_xyxy = np.concatenate([boxes_xyxy, np.concatenate([false, false + 30], axis=1)])
        yield boxes_xyxy, rng.uniform(0.05, 1, len(boxes_xyxy))


@pytest.mark.parametrize("method", ["bytetrack", "botsort"])
@pytest.mark.parametrize(
    ("pixel_boxes", "fuse_score", "buffer"), [(False, True, 4), (True, True, 12), (False, False, 4)]
)
def test_hard_sequences_are_followed_as_published(
    method: TrackMethod, pixel_boxes: bool, fuse_score: bool, buffer: int
) -> None:
    settings = TrackSettings(pixel_boxes=pixel_boxes, fuse_score=fuse_score, buffer=buffer)
    for seed in range(3):
        tracker = Tracker(method, settings)
        plain = PlainTracker(method, one=float(pixel_boxes), fuse=fuse_score, buffer=buffer)
        refound = 0
        for boxes_xyxy, scores in hard_frames(seed, 80, buffer=buffer):
            tracks, expected = tracker.update(found(boxes_xyxy, scores)), plain.update(boxes_xyxy, scores)
            assert tracks.track_ids.tolist() == [track["id"] for track in expected]
            boxes = np.array([plain.filter.box(track["x"]) for track in expected]).reshape(-1, 4)
            np.testing.assert_allclose(tracks.boxes_xyxy, boxes, atol=1e-6)
            assert tracks.scores.tolist() == [track["score"] for track in expected]
            refound += sum(track.get("was") in ("lost", "removed") for track in expected)
        assert plain.once_removed
        assert refound
        assert plain.last_id > 20


def look(box_xyxy: np.ndarray) -> np.ndarray:
    """A vector that changes slowly as a box moves."""
    return np.array([np.sin(box_xyxy[0] / 40), np.cos(box_xyxy[0] / 40), np.sin(box_xyxy[1] / 30), 0.3])


def test_camera_and_appearance_are_followed_as_published() -> None:
    noise = np.random.default_rng(0).uniform(0, 255, (40, 50, 3)).astype(np.float32)
    picture = cv2.resize(noise, (400, 320), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    tracker = Tracker(
        "botsort",
        TrackSettings(buffer=8, proximity_threshold=0.95),
        embed=lambda frame, boxes_xyxy: np.array([look(box) for box in boxes_xyxy]),
    )
    plain = PlainTracker("botsort", buffer=8, look=look, proximity=0.95)
    camera, rng = CameraMotion(), np.random.default_rng(1)
    turned = 0.0
    for boxes_xyxy, scores in hard_frames(5, 80, buffer=8):
        view = cv2.getRotationMatrix2D((200, 160), rng.uniform(-2, 2), rng.uniform(0.98, 1.02))
        view[:, 2] += rng.uniform(-8, 8, 2) - (100, 80)
        frame = np.asarray(cv2.warpAffine(picture, view, (200, 160)), np.uint8)
        tracks = tracker.update(found(boxes_xyxy, scores), frame)
        warp = camera.follow(frame)
        expected = plain.update(boxes_xyxy, scores, warp)
        assert tracks.track_ids.tolist() == [track["id"] for track in expected]
        boxes = np.array([plain.filter.box(track["x"]) for track in expected]).reshape(-1, 4)
        np.testing.assert_allclose(tracks.boxes_xyxy, boxes, atol=1e-6)
        turned += abs(warp[0, 1])
    assert turned > 1


def test_an_object_is_confirmed_at_its_second_sight() -> None:
    first, late = [10, 10, 50, 50], [200, 200, 260, 260]
    for method, at_once in (("bytetrack", 1), ("botsort", 2)):
        tracker = Tracker(method)
        assert tracker.update(found([first], [0.9])).track_ids.tolist() == [1]
        assert len(tracker.update(found([first, late], [0.9, 0.9]))) == at_once
        assert tracker.update(found([first, late], [0.9, 0.9])).track_ids.tolist() == [1, 2]


def test_a_lost_object_is_kept_for_a_time_whatever_the_frame_rate() -> None:
    box, nothing = [10, 10, 50, 50], found(np.zeros((0, 4)), [])
    for rate, kept in ((30, 31), (15, 16), (60, 61)):  # the authors look a frame late
        for missing, comes_back in ((kept, True), (kept + 1, False)):
            tracker = Tracker(settings=TrackSettings(buffer=30), frame_rate=rate)
            tracker.update(found([box], [0.9]))
            for _ in range(missing):
                assert len(tracker.update(nothing)) == 0
            tracks = tracker.update(found([box], [0.9]))
            assert (tracks.track_ids.tolist() == [1]) == comes_back, (rate, missing)


def test_classes_take_over_one_another_unless_they_are_kept_apart() -> None:
    box = [10.0, 10.0, 50.0, 50.0]
    for per_class, ids in ((False, [1]), (True, [])):
        tracker = Tracker(settings=TrackSettings(per_class=per_class))
        tracker.update(found([box], [0.9], [0]))
        tracks = tracker.update(found([box], [0.9], [1]))
        assert tracks.track_ids.tolist() == ids
        assert tracks.class_ids.tolist() == [1] * len(ids)


def test_appearance_tells_objects_apart_that_overlap_alike() -> None:
    """Two objects change places; each looks like itself, as far as overlap lets appearance count."""
    left, right = [100.0, 100.0, 200.0, 300.0], [140.0, 100.0, 240.0, 300.0]

    def embed(frame: object, boxes_xyxy: np.ndarray) -> np.ndarray:
        return np.array([[1.0, 0.0] if (box[0] < 120) != swapped else [0.0, 1.0] for box in boxes_xyxy])

    for appearance, ids in ((embed, [2, 1]), (None, [1, 2])):
        swapped = False
        tracker = Tracker("botsort", TrackSettings(proximity_threshold=0.9), embed=appearance)
        tracker.update(found([left, right], [0.9, 0.9]), BLANK)
        swapped = True
        tracks = tracker.update(found([left, right], [0.9, 0.9]), BLANK)
        from_left = tracks.track_ids[np.argsort(tracks.boxes_xyxy[:, 0])]
        assert from_left.tolist() == ids


def test_what_cannot_be_used_is_told() -> None:
    with pytest.raises(UsageError, match="high_threshold is 2"):
        Tracker(settings=TrackSettings(high_threshold=2.0))
    with pytest.raises(UnknownNameError, match="botsort"):
        Tracker("botsor")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="bytetrack does not look"):
        Tracker("bytetrack", embed=lambda frame, boxes: boxes)
    with pytest.raises(UsageError, match="frame_rate is 0"):
        Tracker(frame_rate=0)
    box = found([[10, 10, 50, 50]], [0.9])
    with pytest.raises(UsageError, match="embed needs a frame"):
        Tracker("botsort", embed=lambda frame, boxes: boxes).update(box)
    with pytest.raises(BackendError, match=r"shape \(4,\)"):
        Tracker("botsort", embed=lambda frame, boxes: boxes[0]).update(box, BLANK)


def test_boxes_without_area_are_no_objects() -> None:
    boxes = [[10, 10, 10, 50], [50, 50, 10, 10], [np.nan, 0, 5, 5], [0, 0, np.inf, 5], [10, 10, 50, 50]]
    assert len(Tracker().update(found(boxes, [0.9] * 5))) == 1
