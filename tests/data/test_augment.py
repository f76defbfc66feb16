"""Augmentations: boxes follow painted pixels, colours stay where they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeyolo.data.geometric import (
    AffineRange,
    crop_boxes,
    flip_left_right,
    flip_up_down,
    random_affine,
    translation,
    warp_boxes,
    warp_onto,
)
from edgeyolo.data.mosaic import affine, mixup, mosaic
from edgeyolo.data.photometric import jitter_hsv
from edgeyolo.data.sample import Sample

SEEDS = st.integers(0, 2**32 - 1)


def painted_sample(rng: np.random.Generator, *, colour: int = 255, hw: tuple[int, int] = (120, 160)) -> Sample:
    """One bright rectangle on black."""
    height, width = hw
    x1, y1 = int(rng.integers(5, width // 2)), int(rng.integers(5, height // 2))
    x2, y2 = int(rng.integers(x1 + 20, width - 5)), int(rng.integers(y1 + 20, height - 5))
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = colour
    return Sample(image, np.array([[x1, y1, x2, y2]], np.float32), np.array([1], np.int64), "painted")


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@settings(deadline=None)
@given(SEEDS)
def test_flips(seed: int) -> None:
    sample = painted_sample(np.random.default_rng(seed))
    for flip in (flip_left_right, flip_up_down):
        flipped = flip(sample)
        assert flipped.boxes_xyxy[0].tolist() == box_of(flipped.image[..., 0] == 255)
        again = flip(flipped)
        assert (again.image == sample.image).all() and (again.boxes_xyxy == sample.boxes_xyxy).all()


@settings(deadline=None)
@given(SEEDS, st.sampled_from([(160, 160), (96, 200)]))
def test_a_warped_rectangle_lies_where_its_box_says(seed: int, output_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    sample = painted_sample(rng)
    limits = AffineRange(degrees=30, translate=0.2, scale=0.5, shear=10)
    matrix = random_affine(rng, output_hw, limits) @ translation(-80, -60)
    canvas = np.zeros((*output_hw, 3), np.uint8)
    warp_onto(canvas, sample.image, matrix)
    corners = [(x, y, 1) for x in sample.boxes_xyxy[0, ::2] for y in sample.boxes_xyxy[0, 1::2]]
    moved = np.array([matrix @ corner for corner in corners])[:, :2]
    expected = np.concatenate([moved.min(0), moved.max(0)])
    np.testing.assert_allclose(warp_boxes(sample.boxes_xyxy, matrix)[0], expected, atol=1e-3)
    # every pixel is bright where its centre, led back, lies in the rectangle: two independent ways to the same picture
    inverse = np.linalg.inv(matrix)
    y, x = np.mgrid[: output_hw[0], : output_hw[1]] + 0.5
    back = np.stack([inverse[i, 0] * x + inverse[i, 1] * y + inverse[i, 2] for i in (0, 1)], -1)
    x1, y1, x2, y2 = sample.boxes_xyxy[0]
    depth = np.minimum.reduce([back[..., 0] - x1, x2 - back[..., 0], back[..., 1] - y1, y2 - back[..., 1]])
    bright = canvas[..., 0] > 127
    margin = 0.3  # picture pixels: bilinear corners are round, and OpenCV's coordinates are in fixed point
    assert bright[depth > margin].all() and not bright[depth < -margin].any()


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_affine_keeps_boxes_on_their_objects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    moved = affine(painted_sample(rng), rng, output_hw=(160, 160), limits=AffineRange(0, 0.1, 0.5, 0), fill=0)
    assert moved.image.shape == (160, 160, 3)
    for box in moved.boxes_xyxy:
        np.testing.assert_allclose(box, box_of(moved.image[..., 0] > 127), atol=1.0)


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_mosaic_keeps_boxes_on_their_objects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    colours = (120, 160, 200, 240)
    tiles = [painted_sample(rng, colour=c, hw=(100 + i, 160 - i)) for i, c in enumerate(colours)]
    tiles = [Sample(tile.image, tile.boxes_xyxy, np.array([i]), str(i)) for i, tile in enumerate(tiles)]
    whole = mosaic(tiles, rng, output_hw=(160, 200), limits=AffineRange(0, 0.1, 0.5, 0), fill=0)
    assert whole.image.shape == (160, 200, 3) and whole.image_id == "0"
    assert len(set(whole.class_ids.tolist())) == len(whole.class_ids)
    for box, class_id in zip(whole.boxes_xyxy, whole.class_ids, strict=True):
        x1, y1, x2, y2 = box
        inner = whole.image[int(np.ceil(y1)) + 1 : int(y2) - 1, int(np.ceil(x1)) + 1 : int(x2) - 1, 0]
        assert (inner == colours[class_id]).all()
        mask = np.abs(whole.image[..., 0].astype(int) - colours[class_id]) <= 1
        # shades of another tile's edge may pass for this colour, so only the box's surroundings are looked at
        around = np.zeros_like(mask)
        around[max(0, int(y1) - 3) : int(y2) + 4, max(0, int(x1) - 3) : int(x2) + 4] = True
        if inner.size:
            found = box_of(mask & around)
            assert found[0] <= x1 + 1.6 and found[2] >= x2 - 1.6


def test_mosaic_without_randomness_is_four_quarters() -> None:
    class Still:
        """A generator that draws the middle of every range."""

        def uniform(self, low: float, high: float, size: int | None = None) -> object:
            middle = (low + high) / 2
            return middle if size is None else np.full(size, middle)

    tiles = [
        Sample(np.full((40, 60, 3), 50 * i, np.uint8), np.array([[0, 0, 60, 40]], np.float32), np.array([i]), str(i))
        for i in range(4)
    ]
    whole = mosaic(tiles, Still(), output_hw=(80, 120), limits=AffineRange(45, 0.1, 0.5, 10))
    expected = np.kron(np.array([[0, 50], [100, 150]], np.uint8), np.ones((40, 60), np.uint8))
    assert (whole.image == expected[..., None]).all()
    assert whole.boxes_xyxy.tolist() == [[0, 0, 60, 40], [60, 0, 120, 40], [0, 40, 60, 80], [60, 40, 120, 80]]


def test_no_objects_go_through_everything() -> None:
    empty = Sample(np.zeros((20, 30, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), "e")
    rng = np.random.default_rng(0)
    limits = AffineRange(10, 0.1, 0.5, 5)
    for made in (
        mosaic([empty] * 4, rng, output_hw=(32, 32), limits=limits),
        affine(empty, rng, output_hw=(32, 32), limits=limits),
        flip_left_right(empty),
        flip_up_down(empty),
        mixup(empty, empty, rng),
    ):
        assert made.boxes_xyxy.shape == (0, 4) and made.class_ids.shape == (0,)


@pytest.mark.parametrize(
    ("box", "is_kept"),
    [
        ((10, 10, 20, 20), True),
        ((-85, 10, 15, 20), True),  # 15 of 100 px visible
        ((-95, 10, 5, 20), False),  # 5 of 100
        ((10, 10, 11.9, 20), False),  # thinner than 2 px
        ((10, 10, 12, 50), True),  # 20 times longer than wide
        ((10, 10, 12, 51), False),
        ((200, 10, 220, 20), False),  # outside
    ],
)
def test_which_boxes_stay(box: tuple[float, ...], is_kept: bool) -> None:
    cut, kept = crop_boxes(np.array([box], np.float32), (100, 100))
    assert kept.tolist() == [is_kept]
    assert cut.min() >= 0 and cut.max() <= 100


def test_mixup_is_a_weighted_sum_with_the_boxes_of_both() -> None:
    rng = np.random.default_rng(3)
    a, b = painted_sample(rng), painted_sample(rng)
    mixed = mixup(a, b, np.random.default_rng(5))
    share = np.random.default_rng(5).beta(8, 8)
    expected = share * a.image.astype(float) + (1 - share) * b.image
    assert np.abs(mixed.image - expected).max() <= 1
    assert (mixed.boxes_xyxy == np.concatenate([a.boxes_xyxy, b.boxes_xyxy])).all()


def test_hsv_against_one_pixel_at_a_time() -> None:
    import colorsys

    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    sample = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), "x")
    made = jitter_hsv(sample, np.random.default_rng(7), hue=0.1, saturation=0.5, value=0.4)
    turn, gain_s, gain_v = np.random.default_rng(7).uniform(-1, 1, 3) * (0.1, 0.5, 0.4)
    for row, column in np.ndindex(8, 8):
        blue, green, red = image[row, column] / 255
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        expected = colorsys.hsv_to_rgb((h + turn) % 1, min(1, s * (1 + gain_s)), min(1, v * (1 + gain_v)))
        # hue is kept in steps of 2 degrees, a thirtieth of the way from one primary to the next
        assert np.abs(made.image[row, column, ::-1] / 255 - expected).max() < 0.05


def test_hsv_of_nothing_changes_next_to_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    sample = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), "x")
    made = jitter_hsv(sample, np.random.default_rng(7), hue=0, saturation=0, value=0)
    assert np.abs(made.image.astype(int) - image).max() <= 5  # the 8-bit hue circle has 180 steps
