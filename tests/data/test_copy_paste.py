"""Copy-paste: what is pasted lies where its box says, hides little, and leaves the rest alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeyolo.data.copy_paste import MOST_COVERED, copy_paste
from edgeyolo.data.sample import Sample


def ground(boxes: list[list[float]], hw: tuple[int, int] = (100, 140), grey: int = 50) -> Sample:
    return Sample(
        np.full((*hw, 3), grey, np.uint8),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.zeros(len(boxes), np.int64),
        "ground",
    )


def bright_donor(count: int = 6) -> Sample:
    """Bright squares with their boxes, classes 1 to `count`."""
    image = np.zeros((120, 120, 3), np.uint8)
    boxes = [[20 * i, 20 * i, 20 * i + 18, 20 * i + 14] for i in range(count)]
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] = 200 + i
    return Sample(image, np.array(boxes, np.float32), np.arange(1, count + 1), "donor")


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_pasted_objects_lie_in_their_boxes_and_hide_little(seed: int) -> None:
    sample = ground([[10, 10, 60, 60], [70, 30, 130, 90]])
    pasted = copy_paste(sample, bright_donor(), np.random.default_rng(seed))
    boxes, classes = pasted.boxes_xyxy, pasted.class_ids
    assert pasted.image_id == "ground" and len(boxes) == len(classes)
    np.testing.assert_array_equal(boxes[:2], sample.boxes_xyxy)
    allowed = np.zeros(pasted.image.shape[:2], bool)
    for (x1, y1, x2, y2), class_id in zip(boxes[2:].astype(int), classes[2:], strict=True):
        assert 0 <= x1 < x2 <= 140 and 0 <= y1 < y2 <= 100
        allowed[y1:y2, x1:x2] = True
        assert 1 <= class_id <= 6
    assert (pasted.image[~allowed] == 50).all()
    for a, b in ((boxes[i], boxes[j]) for i in range(2, len(boxes)) for j in range(i)):
        shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
        for box in (a, b):
            assert shared <= MOST_COVERED * np.prod(box[2:] - box[:2]) + 1e-3


def test_the_middle_of_a_pasted_object_is_the_object() -> None:
    rng = np.random.default_rng(3)
    pasted = copy_paste(ground([]), bright_donor(), rng)
    assert len(pasted.class_ids) >= 1
    last = pasted.boxes_xyxy[-1].astype(int)
    middle = pasted.image[(last[1] + last[3]) // 2, (last[0] + last[2]) // 2]
    assert middle[0] == 199 + pasted.class_ids[-1]
    corner = pasted.image[last[1], last[0], 0]
    assert 50 < corner < 199  # faded


def test_sizes_are_the_donors_times_zoom() -> None:
    rng = np.random.default_rng(0)
    sides = []
    for _ in range(100):
        pasted = copy_paste(ground([], (400, 400)), bright_donor(1), rng, zoom=2.0)
        sides += (pasted.boxes_xyxy[:, 2] - pasted.boxes_xyxy[:, 0]).tolist()
    assert len(sides) > 30
    assert 2 * 18 * 0.7 - 1 <= min(sides) < 2 * 18 * 0.8 and 2 * 18 * 1.3 < max(sides) <= 2 * 18 * 1.4 + 1


def test_neither_picture_is_changed() -> None:
    sample, donor = ground([[0, 0, 9, 9]]), bright_donor()
    before = donor.image.copy()
    copy_paste(sample, donor, np.random.default_rng(0))
    assert (sample.image == 50).all() and (donor.image == before).all()


@pytest.mark.parametrize("crowd", [[[0, 0, 140, 100]], []])
def test_no_room_and_no_objects(crowd: list[list[float]]) -> None:
    """A picture that one object fills takes small guests only; a donor without objects gives none."""
    nobody = Sample(np.zeros((9, 9, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), "n")
    assert len(copy_paste(ground(crowd), nobody, np.random.default_rng(0)).boxes_xyxy) == len(crowd)
    giant = Sample(np.zeros((900, 900, 3), np.uint8), np.array([[0, 0, 900, 900]], np.float32), np.zeros(1, int), "g")
    for seed in range(8):
        assert len(copy_paste(ground(crowd), giant, np.random.default_rng(seed)).boxes_xyxy) == len(crowd)


def test_slivers_and_boxes_at_the_edge_are_no_trouble() -> None:
    image = np.full((50, 50, 3), 255, np.uint8)
    boxes = np.array([[0, 0, 0.4, 50], [49.6, 0, 50, 50], [-3, -3, 12, 12], [40, 40, 50, 50]], np.float32)
    donor = Sample(image, boxes, np.arange(4), "edge")
    for seed in range(30):
        pasted = copy_paste(ground([]), donor, np.random.default_rng(seed))
        assert set(pasted.class_ids.tolist()) <= {2, 3}
