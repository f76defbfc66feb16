"""How far maps of two sessions are apart: against numpy written out, and where a figure is not defined."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from edgeyolo.evaluation.parity import MapDifference, compare_maps
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.strict import decode_json, encode_json

IMAGE = np.zeros((8, 8, 3), np.uint8)


class Fixed:
    """A session that gives the same maps for every picture."""

    def __init__(self, maps: Sequence[np.ndarray]) -> None:
        self.maps = list(maps)

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        return self.maps


def differences(reference: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> list[MapDifference]:
    return compare_maps(Fixed(reference), Fixed(other), [IMAGE, IMAGE], InputSpec(image_hw=(8, 8)))


def test_figures_are_those_of_their_definition() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(3.0, 2.0, (1, 4, 5, 5)).astype(np.float32)
    b = a + rng.normal(0, 0.1, a.shape).astype(np.float32)
    (row,) = differences([a], [b])
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    mean = sum(x) / len(x)
    deviation = (sum((v - mean) ** 2 for v in x) / len(x)) ** 0.5
    assert row.relative_rms == pytest.approx((sum((x - y) ** 2) / len(x)) ** 0.5 / deviation)
    assert row.relative_max == pytest.approx(max(abs(x - y)) / (max(x) - min(x)))
    assert row.correlation == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_what_is_not_defined_is_none_and_comes_back_from_json() -> None:
    """A head that never fires gives one value everywhere; inf and nan are no JSON."""
    ramp = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    flat, broken = np.full_like(ramp, -4.0), np.where(ramp == 3, np.nan, ramp)
    rows = differences([flat, flat, ramp, ramp], [flat, ramp, flat, broken])
    undefined = (None, None, None)
    figures = [(row.relative_rms, row.relative_max, row.correlation) for row in rows]
    assert figures[0] == figures[1] == figures[3] == undefined
    assert figures[2][0] is not None and figures[2][1] is not None and figures[2][2] is None
    back = decode_json(encode_json(rows), list[MapDifference], where="x")
    assert back == rows and "null" in msgspec.json.encode(rows).decode()
