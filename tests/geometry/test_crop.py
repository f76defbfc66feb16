"""Crops of persons: what fills the input, and the way there and back."""

from __future__ import annotations

import numpy as np
import pytest

from edgeyolo.geometry.crop import Crop, crop_around


@pytest.mark.parametrize(
    ("box_xyxy", "size_wh"),
    [((10, 20, 70, 180), (120, 160)), ((10, 20, 130, 40), (120, 160)), ((0, 0, 30, 40), (30, 40))],
)
def test_the_crop_has_the_shape_of_the_input_and_its_margin(box_xyxy, size_wh) -> None:
    crop = crop_around(np.array(box_xyxy, np.float32), (256, 192))
    assert crop.size_wh == pytest.approx((1.25 * size_wh[0], 1.25 * size_wh[1]))
    middle = ((box_xyxy[0] + box_xyxy[2]) / 2, (box_xyxy[1] + box_xyxy[3]) / 2)
    assert crop.apply(np.array([middle]))[0] == pytest.approx((96, 128))


def test_three_corners_go_where_three_equations_say() -> None:
    """Six unknowns from the middle, the middle of the upper side and a point at a right angle to both."""
    crop = Crop((50.0, 70.0), (90.0, 120.0), (256, 192), degrees=30.0)
    up = np.array([np.sin(np.deg2rad(30)), -np.cos(np.deg2rad(30))]) * 45
    points = np.array([(50, 70), np.array((50, 70)) + up, np.array((50, 70)) + up[::-1] * (1, -1)])
    targets = np.array([(96, 128), (96, 128 - 96), (96 - 96, 128)])
    solved = np.linalg.solve(np.column_stack([points, np.ones(3)]), targets).T
    np.testing.assert_allclose(crop.matrix, solved, atol=1e-9)


def test_back_from_the_input_is_the_way_there_reversed() -> None:
    crop = Crop((33.0, 41.5), (60.0, 80.0), (128, 96), degrees=-17.0)
    points = np.random.default_rng(0).uniform(-20, 120, (5, 7, 2))
    np.testing.assert_allclose(crop.invert(crop.apply(points)), points, atol=1e-3)


def test_a_dot_is_cut_out_where_its_place_says() -> None:
    image = np.zeros((200, 160, 3), np.uint8)
    image[98:103, 58:63] = 255
    crop = crop_around(np.array([20, 20, 110, 180], np.float32), (256, 192))
    cut = crop.cut(image)[..., 0].astype(np.float64)
    ys, xs = np.mgrid[0:256, 0:192]
    middle = (xs * cut).sum() / cut.sum(), (ys * cut).sum() / cut.sum()
    assert middle == pytest.approx(crop.apply(np.array([[60.0, 100.0]]))[0], abs=0.05)
    outside = crop_around(np.array([-200, -200, -100, -100], np.float32), (256, 192)).cut(image)
    assert not outside.any()
