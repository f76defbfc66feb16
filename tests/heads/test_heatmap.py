"""Joints from heat maps, against loops over cells."""

from __future__ import annotations

import numpy as np
import pytest

from edgeyolo.heads import box_head_of, joint_head_of, maps_head_of, raw_head_of
from edgeyolo.heads.heatmap import HeatmapHead
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.model import DflDecode, HeatmapDecode

SPEC = HeatmapDecode(strides=(4,))


def joint_by_hand(heat: np.ndarray) -> list[float]:
    """One map (h, w) -> x, y in input pixels, score."""
    height, width = heat.shape
    row, column = max(((r, c) for r in range(height) for c in range(width)), key=lambda cell: heat[cell])
    score = float(heat[row, column])
    x, y = float(column), float(row)
    if 1 < column < width - 1 and 1 < row < height - 1:
        if heat[row, column + 1] != heat[row, column - 1]:
            x += 0.25 if heat[row, column + 1] > heat[row, column - 1] else -0.25
        if heat[row + 1, column] != heat[row - 1, column]:
            y += 0.25 if heat[row + 1, column] > heat[row - 1, column] else -0.25
    return [4 * x, 4 * y, score] if score > 0 else [0.0, 0.0, score]


def test_joints_are_where_loops_find_them() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(0, 1, (3, 60, 7, 6)).astype(np.float32)  # small, so that borders are met often
    maps[0, :20] = np.round(maps[0, :20])  # ties
    maps[1, :5] = -np.abs(maps[1, :5])  # nothing above zero
    found = joint_head_of(SPEC).decode_joints(maps)
    assert found.dtype == np.float32
    expected = [[joint_by_hand(heat) for heat in person] for person in maps]
    np.testing.assert_array_equal(found, np.asarray(expected, np.float32))


def test_a_smooth_peak_is_found_to_a_quarter_of_a_cell() -> None:
    ys, xs = np.mgrid[0:64, 0:48]
    for x, y in ((20.3, 30.3), (20.7, 31.8), (11.2, 40.9)):
        heat = np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 8).astype(np.float32)[None, None]
        found = joint_head_of(SPEC).decode_joints(heat)[0, 0]
        assert np.abs(found[:2] / 4 - (x, y)).max() <= 0.25


def test_maps_that_are_no_numbers_are_refused() -> None:
    maps = np.zeros((1, 2, 8, 8), np.float32)
    maps[0, 1, 3, 3] = np.nan
    with pytest.raises(BackendError, match="NaN"):
        joint_head_of(SPEC).decode_joints(maps)


def test_boxes_and_joints_are_not_taken_for_each_other() -> None:
    for head_for in (box_head_of, maps_head_of, raw_head_of):
        with pytest.raises(UsageError, match="joints, not boxes"):
            head_for(SPEC)
    with pytest.raises(UsageError, match="boxes, not joints"):
        joint_head_of(DflDecode(strides=(8,), bins=7))


def test_shapes_and_ranges() -> None:
    assert joint_head_of(SPEC).map_shapes(17, (256, 192)) == [(17, 64, 48)]
    assert all(fits for _, fits in HeatmapHead(SPEC).list_checks())
    for broken in (HeatmapDecode(strides=(4,), margin=0.0), HeatmapDecode(strides=(4,), skeleton=((0, -1),))):
        assert not all(fits for _, fits in HeatmapHead(broken).list_checks())
