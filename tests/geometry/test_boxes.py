"""Box formats and overlaps against scalar references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeyolo.geometry import boxes

COORDINATES = st.floats(0, 2000, width=32)


@st.composite
def boxes_xyxy(draw: st.DrawFn) -> np.ndarray:
    raw = draw(hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.just(4)), elements=COORDINATES))
    return np.concatenate([np.minimum(raw[:, :2], raw[:, 2:]), np.maximum(raw[:, :2], raw[:, 2:])], axis=1)


def scalar_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_centres_and_sizes(kind: type) -> None:
    found = boxes.cxcywh_from_xyxy(np.array([[10, 20, 40, 80]], kind))
    assert found.tolist() == [[25, 50, 30, 60]] and found.dtype == kind
    assert boxes.cxcywh_from_xyxy(np.zeros((0, 4), kind)).shape == (0, 4)


@given(boxes_xyxy(), boxes_xyxy())
def test_iou_against_scalars(a: np.ndarray, b: np.ndarray) -> None:
    found = boxes.box_iou(a, b)
    assert found.shape == (len(a), len(b)) and found.dtype == np.float32
    for i, one in enumerate(a.astype(float)):
        for j, other in enumerate(b.astype(float)):
            assert found[i, j] == pytest.approx(scalar_iou(one, other), abs=2e-3)


def test_clip_makes_an_outside_box_empty() -> None:
    clipped = boxes.clip_boxes(np.array([[-5, -5, 50, 70], [200, 10, 220, 20]], np.float32), (60, 100))
    assert clipped.tolist() == [[0, 0, 50, 60], [100, 10, 100, 20]]
    assert boxes.box_area(clipped).tolist() == [3000, 0]


def test_area_of_an_inverted_box_is_zero() -> None:
    assert boxes.box_area(np.array([[10, 10, 5, 5]], np.float32)).tolist() == [0]
