"""Costs and assignment against every assignment there is."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeyolo.spec.errors import MissingPackageError
from edgeyolo.tracking import Tracker
from edgeyolo.tracking.association import assign, overlaps
from tests.cases.plain_tracker import every_assignment, plain_iou


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 6),
    columns=st.integers(0, 6),
    limit=st.sampled_from([0.3, 0.5, 0.7, 0.8, 1.0]),
    far=st.floats(0, 1),
)
def test_the_assignment_is_the_best_of_all(seed: int, rows: int, columns: int, limit: float, far: float) -> None:
    rng = np.random.default_rng(seed)
    costs = np.where(rng.random((rows, columns)) < far, 1.0, rng.random((rows, columns)))
    pairs = assign(costs, limit)
    left_alone = rows + columns - 2 * len(pairs)
    total = costs[pairs[:, 0], pairs[:, 1]].sum() + limit / 2 * left_alone
    assert total == pytest.approx(every_assignment(costs, limit)[0], abs=1e-12)
    assert (costs[pairs[:, 0], pairs[:, 1]] < limit).all()
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)
    assert (np.diff(pairs[:, 0]) > 0).all()


def test_a_pair_below_the_limit_is_given_up_for_two_that_are_better() -> None:
    assert assign(np.array([[0.1, 0.45], [0.4, 2.0]]), 0.8).tolist() == [[0, 1], [1, 0]]
    assert assign(np.array([[0.1, 0.7], [0.79, 2.0]]), 0.8).tolist() == [[0, 0]]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), pixel_boxes=st.booleans())
def test_overlaps_are_those_of_one_pair_after_the_other(seed: int, pixel_boxes: bool) -> None:
    rng = np.random.default_rng(seed)
    first, second = (np.sort(rng.integers(0, 12, (4, 2, 2)), axis=1).reshape(4, 4).astype(float) for _ in range(2))
    second[:, 2:] += 1
    found = overlaps(first, second, pixel_boxes=pixel_boxes)
    expected = [[plain_iou(a, b, float(pixel_boxes)) for b in second] for a in first]
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_a_missing_scipy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    assert assign(np.array([[0.1]]), 0.8).tolist() == [[0, 0]]
    with pytest.raises(MissingPackageError, match=r"scipy.*tracking"):
        assign(np.full((2, 2), 0.1), 0.8)
    with pytest.raises(MissingPackageError, match=r"edgeyolo\[track\]"):
        Tracker()
