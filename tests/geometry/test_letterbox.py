"""Letterbox: its inverse, and boxes against painted pixels."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgeyolo.geometry.letterbox import letterbox_image, make_letterbox

SIDES = st.integers(1, 3000)
INPUTS = st.sampled_from([(320, 320), (640, 640), (256, 512), (384, 640), (640, 384), (33, 31)])
ALIGNMENTS = st.sampled_from(["center", "top-left"])


@given(SIDES, SIDES, INPUTS, ALIGNMENTS, st.integers(0, 2**32 - 1))
def test_inverse_undoes_apply(height: int, width: int, input_hw, alignment, seed: int) -> None:
    letterbox = make_letterbox((height, width), input_hw, alignment=alignment)
    raw = np.random.default_rng(seed).uniform(0, 1, (8, 4)) * [width, height, width, height]
    boxes = np.concatenate([np.minimum(raw[:, :2], raw[:, 2:]), np.maximum(raw[:, :2], raw[:, 2:])], 1)
    there = letterbox.apply(boxes.astype(np.float32))
    # float32 in input pixels, divided by the scale: a thousandth of an input pixel
    np.testing.assert_allclose(letterbox.invert(there), boxes, atol=1e-3 * max(1.0, 1 / letterbox.scale))
    assert (there >= -1e-3).all()
    assert (there[:, [0, 2]] <= input_hw[1] + 1e-3).all() and (there[:, [1, 3]] <= input_hw[0] + 1e-3).all()


def place_by_fractions(image_hw, input_hw, alignment: str) -> tuple[list[int], list[int]]:
    """Size and first pixel on the canvas, per axis, in whole numbers and fractions alone."""
    scale = min(Fraction(canvas, side) for canvas, side in zip(input_hw, image_hw, strict=True))
    sizes = [max(1, math.floor(side * scale + Fraction(1, 2))) for side in image_hw]
    free = [canvas - size for canvas, size in zip(input_hw, sizes, strict=True)]
    return sizes, [left // 2 if alignment == "center" else 0 for left in free]


@given(SIDES, SIDES, INPUTS, ALIGNMENTS, st.lists(st.integers(0, 10_000), min_size=4, max_size=4))
def test_both_ways_are_exact_by_fractions(height: int, width: int, input_hw, alignment, ends: list[int]) -> None:
    letterbox = make_letterbox((height, width), input_hw, alignment=alignment)
    (high, wide), (top, left) = place_by_fractions((height, width), input_hw, alignment)
    assert letterbox.resized_hw == (high, wide) and (letterbox.pad_top, letterbox.pad_left) == (top, left)
    sides, sizes, firsts = (width, height, width, height), (wide, high, wide, high), (left, top, left, top)
    inside = [Fraction(end, 10_000) * side for end, side in zip(ends, sides, strict=True)]
    there = [x * size / side + first for x, side, size, first in zip(inside, sides, sizes, firsts, strict=True)]
    found = letterbox.apply(np.array([inside], np.float64))[0]
    np.testing.assert_allclose(found, np.array(there, np.float64), rtol=1e-6, atol=1e-4)
    # an input pixel off the picture comes back to its edge
    outside = [x + Fraction(end % 7 - 3) for x, end in zip(there, ends, strict=True)]
    back = [
        min(max((x - first) * side / size, Fraction(0)), Fraction(side))
        for x, side, size, first in zip(outside, sides, sizes, firsts, strict=True)
    ]
    found = letterbox.invert(np.array([outside], np.float64))[0]
    # float32 in input pixels, as many picture pixels as each of them stands for
    np.testing.assert_allclose(found, np.array(back, np.float64), atol=2e-4 * max(1, *map(Fraction, sides, sizes)))


@given(SIDES, SIDES, INPUTS, ALIGNMENTS)
def test_picture_fits_and_touches_the_canvas(height: int, width: int, input_hw, alignment) -> None:
    letterbox = make_letterbox((height, width), input_hw, alignment=alignment)
    resized = letterbox.resized_hw
    assert resized[0] <= input_hw[0] and resized[1] <= input_hw[1] and min(resized) >= 1
    assert resized[0] == input_hw[0] or resized[1] == input_hw[1]
    if alignment == "top-left":
        assert (letterbox.pad_left, letterbox.pad_top) == (0, 0)
    else:
        assert 0 <= input_hw[1] - resized[1] - 2 * letterbox.pad_left <= 1
        assert 0 <= input_hw[0] - resized[0] - 2 * letterbox.pad_top <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 400), st.integers(20, 400), INPUTS, ALIGNMENTS, st.integers(0, 2**32 - 1))
def test_boxes_follow_painted_pixels(height: int, width: int, input_hw, alignment, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x1, y1 = int(rng.integers(0, width // 2)), int(rng.integers(0, height // 2))
    x2, y2 = int(rng.integers(x1 + width // 3, width + 1)), int(rng.integers(y1 + height // 3, height + 1))
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    letterbox = make_letterbox((height, width), input_hw, alignment=alignment)
    canvas = letterbox_image(image, letterbox, value=0)
    rows, columns = np.nonzero(canvas[..., 0].max(1) > 127)[0], np.nonzero(canvas[..., 0].max(0) > 127)[0]
    assume(letterbox.scale >= 0.2)  # below, a thin object falls between the pixels of the canvas
    painted = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    found = letterbox.apply(np.array([[x1, y1, x2, y2]], np.float32))[0]
    # half a pixel of the coarser grid on each side
    np.testing.assert_allclose(found, painted, atol=0.51 * max(1.0, letterbox.scale) + 0.5)


def test_padding_has_its_value_and_the_picture_is_whole() -> None:
    image = np.full((30, 60, 3), 200, np.uint8)
    canvas = letterbox_image(image, make_letterbox((30, 60), (64, 64)), value=7)
    assert canvas.shape == (64, 64, 3) and canvas.dtype == np.uint8
    assert (canvas[16:48] == 200).all() and (canvas[:16] == 7).all() and (canvas[48:] == 7).all()


def test_a_one_pixel_picture() -> None:
    letterbox = make_letterbox((1, 1), (320, 320))
    assert (letterbox_image(np.full((1, 1, 3), 9, np.uint8), letterbox) == 9).all()
    assert make_letterbox((1, 4000), (320, 320)).resized_hw == (1, 320)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_letterbox((0, 10), (320, 320))
    with pytest.raises(ValueError, match="was made for"):
        letterbox_image(np.zeros((5, 5, 3), np.uint8), make_letterbox((5, 6), (32, 32)))
