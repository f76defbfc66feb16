"""Filters of many tracks at once against plain matrices of one track, float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeyolo.tracking import kalman
from tests.cases.plain_tracker import PlainFilter

STATES = {"bytetrack": kalman.AspectState(), "botsort": kalman.SizeState()}


@pytest.mark.parametrize("method", STATES)
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_track_of_many_frames_is_the_equations(method: str, seed: int) -> None:
    rng, state, plain = np.random.default_rng(seed), STATES[method], PlainFilter(method)
    corners = rng.uniform(0, 500, (3, 2))
    boxes_xyxy = np.concatenate([corners, corners + rng.uniform(5, 200, (3, 2))], axis=1)
    states, covariances = kalman.begin(state, state.measure(boxes_xyxy))
    expected = [plain.begin(plain.measured(box)) for box in boxes_xyxy]
    for _ in range(6):
        states, covariances = kalman.predict(state, states, covariances)
        expected = [plain.predict(*pair) for pair in expected]
        if rng.random() < 0.7:
            boxes_xyxy = boxes_xyxy + rng.normal(0, 2, 4)
            states, covariances = kalman.update(state, states, covariances, state.measure(boxes_xyxy))
            expected = [
                plain.update(*pair, plain.measured(box)) for pair, box in zip(expected, boxes_xyxy, strict=True)
            ]
    np.testing.assert_allclose(states, [x for x, _ in expected], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(covariances, [p for _, p in expected], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(state.boxes(states), [plain.box(x) for x, _ in expected], rtol=1e-9, atol=1e-9)


def test_a_camera_that_moves_turns_every_pair_of_the_state() -> None:
    rng = np.random.default_rng(0)
    states, spread = rng.normal(size=(2, 8)), rng.normal(size=(2, 8, 8))
    covariances = spread @ spread.transpose(0, 2, 1)
    turn, shift = np.array([[0.9, -0.2], [0.2, 0.9]]), np.array([5.0, -3.0])
    moved, turned = kalman.move(states, covariances, np.column_stack([turn, shift]))
    whole = np.zeros((8, 8))
    for pair in range(4):
        whole[2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2] = turn
    for i in range(2):
        np.testing.assert_allclose(moved[i], whole @ states[i] + [*shift, 0, 0, 0, 0, 0, 0], atol=1e-12)
        np.testing.assert_allclose(turned[i], whole @ covariances[i] @ whole.T, atol=1e-12)
