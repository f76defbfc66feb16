"""Cutout and cutmix: pixels are where they should be, boxes are around what is left of their objects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeyolo.data.occlusion import LEAST_LEFT, cutmix, cutout, uncovered_boxes
from edgeyolo.data.sample import Sample

SEEDS = st.integers(0, 2**32 - 1)
HW = (60, 90)


def painted(rng: np.random.Generator, first: int, count: int = 5) -> Sample:
    """Bright rectangles that do not meet, object i of colour `first` + i, on black."""
    image = np.zeros((*HW, 3), np.uint8)
    boxes = []
    for i in range(count):
        x1, y1 = 18 * i + int(rng.integers(0, 6)), int(rng.integers(0, 30))
        x2, y2 = x1 + int(rng.integers(4, 12)), y1 + int(rng.integers(4, 30))
        image[y1:y2, x1:x2] = first + i
        boxes.append([x1, y1, x2, y2])
    return Sample(image, np.array(boxes, np.float32), np.arange(first, first + count), f"from {first}")


def assert_boxes_are_around_what_is_seen(found: Sample, *before: Sample) -> None:
    """Every object is there, with the box of its pixels, if and only if enough of it is."""
    told = dict(zip(found.class_ids.tolist(), found.boxes_xyxy.tolist(), strict=True))
    for sample in before:
        for colour in sample.class_ids.tolist():
            whole, seen = (picture.image[..., 0] == colour for picture in (sample, found))
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            if colour in told:
                around = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                assert told[colour] == around
                assert seen.sum() >= LEAST_LEFT * whole.sum()
            else:
                is_thin = min(np.ptp(rows), np.ptp(columns)) < 1 if len(rows) else True
                assert seen.sum() < LEAST_LEFT * whole.sum() or is_thin


@settings(deadline=None)
@given(SEEDS, st.sampled_from([0.1, 0.5, 1.0]))
def test_cutout_hides_one_square(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    sample = painted(rng, 200)
    before = sample.image.copy()
    hidden = cutout(sample, np.random.default_rng(seed), size=size)
    assert (sample.image == before).all() and hidden.image_id == sample.image_id
    is_grey = (hidden.image == 114).all(-1)
    rows, columns = np.flatnonzero(is_grey.any(1)), np.flatnonzero(is_grey.any(0))
    assert is_grey.sum() == len(rows) * len(columns) <= (round(size * 60) + 1) ** 2
    assert (hidden.image[~is_grey] == before[~is_grey]).all()
    assert_boxes_are_around_what_is_seen(hidden, sample)
    again = cutout(sample, np.random.default_rng(seed), size=size)
    assert (again.image == hidden.image).all()


@settings(deadline=None)
@given(SEEDS)
@example(500)  # leaves 15 of an object's 50 pixels, which is 0.3 to the last bit
def test_cutmix_takes_one_rectangle_of_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sample, other = painted(rng, 100), painted(rng, 200)
    other.image[other.image == 0] = 50
    mixed = cutmix(sample, other, np.random.default_rng(seed))
    is_other = (mixed.image == other.image).all(-1)
    assert is_other.any() or len(mixed.class_ids) == len(sample.class_ids)
    assert (is_other | (mixed.image == sample.image).all(-1)).all()
    rows, columns = np.flatnonzero(is_other.any(1)), np.flatnonzero(is_other.any(0))
    assert is_other.sum() == len(rows) * len(columns)
    assert_boxes_are_around_what_is_seen(mixed, sample, other)


def test_cutmix_covers_from_nothing_to_all() -> None:
    sample, other = (painted(np.random.default_rng(0), first) for first in (100, 200))
    sample.image[:], other.image[:] = 0, 255
    shares = [(cutmix(sample, other, np.random.default_rng(seed)).image == 255).mean() for seed in range(400)]
    assert min(shares) < 0.02 and max(shares) > 0.8
    assert 0.2 < np.mean(shares) < 0.45  # half, less what lies outside


@pytest.mark.parametrize(
    ("cover", "left", "is_kept"),
    [
        ([0, 0, 20, 100], [20, 10, 50, 50], True),
        ([30, 0, 100, 50], [10, 10, 30, 50], True),
        ([30, 10, 100, 49], [10, 10, 50, 50], True),
        ([0, 0, 60, 40], [10, 40, 50, 50], False),
        ([0, 20, 60, 30], [10, 10, 50, 50], True),
        ([20, 20, 40, 40], [10, 10, 50, 50], True),
        ([0, 0, 99, 99], None, False),
        ([60, 60, 80, 80], [10, 10, 50, 50], True),
    ],
)
def test_a_box_is_that_of_what_is_left(cover: list[float], left: list[float] | None, is_kept: bool) -> None:
    boxes, kept = uncovered_boxes(np.array([[10, 10, 50, 50]], np.float32), np.array(cover, np.float32))
    assert kept.tolist() == [is_kept]
    if left is not None:
        assert boxes.tolist() == [left]
