"""Boxes and labels on pictures of every size."""

from __future__ import annotations

import numpy as np
import pytest

from edgeyolo.runtime.draw import class_colour, draw_detections
from edgeyolo.spec.detections import Detections

NAMES = ("cat", "a rather long class name")


def detections(boxes: list[list[float]], ids: list[int]) -> Detections:
    count = len(boxes)
    scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
    return Detections(np.array(boxes, np.float32).reshape(count, 4), scores, np.array(ids, np.int64))


@pytest.mark.parametrize("hw", [(1, 1), (12, 9), (64, 64), (480, 640), (2160, 3840), (40, 3000), (3000, 40)])
def test_any_size_draws_and_leaves_the_original(hw: tuple[int, int]) -> None:
    image = np.full((*hw, 3), 128, np.uint8)
    height, width = hw
    boxes = [[0, 0, width, height], [width * 0.9, height * 0.9, width, height], [0, height * 0.4, width * 0.5, height]]
    drawn = draw_detections(image, detections(boxes, [0, 1, 0]), NAMES)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (image == 128).all() and (drawn != 128).any()


def test_the_label_stands_inside_the_picture_at_every_edge() -> None:
    for box in ([600, 0, 640, 20], [0, 0, 20, 10], [620, 470, 640, 480], [0, 470, 10, 480]):
        drawn = draw_detections(np.zeros((480, 640, 3), np.uint8), detections([box], [1]), NAMES)
        ground = (drawn == class_colour(1)).all(axis=2)
        ys, xs = np.nonzero(ground)
        # the whole label: wide enough for its text, not cut off by the edge
        assert xs.max() - xs.min() > 120 and ys.max() - ys.min() >= 8


def test_lines_and_letters_grow_with_the_picture() -> None:
    def thickness(scale: int) -> int:
        image = np.zeros((480 * scale, 640 * scale, 3), np.uint8)
        box = [[100 * scale, 100 * scale, 500 * scale, 400 * scale]]
        drawn = draw_detections(image, detections(box, [0]), NAMES)
        return int((drawn[250 * scale, : 300 * scale] == class_colour(0)).all(axis=1).sum())

    assert 1 <= thickness(1) < thickness(4)


def test_colours_are_distinct_and_always_the_same() -> None:
    colours = [class_colour(i) for i in range(80)]
    assert len(set(colours)) == 80 and colours[0] == class_colour(0)
    near = np.array(colours[:10], float)
    gaps = np.linalg.norm(near[:, None] - near[None], axis=2) + 1e3 * np.eye(10)
    assert gaps.min() > 40  # of 441


def test_no_detections_draw_nothing_and_grey_becomes_colour() -> None:
    assert (draw_detections(np.full((9, 9), 7, np.uint8), Detections.empty(), NAMES) == np.full((9, 9, 3), 7)).all()
