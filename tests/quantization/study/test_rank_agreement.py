"""Rank agreement against the definitions written out, and against SciPy where it is installed."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeyolo.quantization.study.rank_agreement import kendall, spearman

PAIRS = st.integers(2, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(-4, 4).map(float), min_size=n, max_size=n)] * 2)
)


def tau_b(a: list[float], b: list[float]) -> float | None:
    same = opposite = tied_a = tied_b = 0
    pairs = list(combinations(range(len(a)), 2))
    for i, j in pairs:
        product = (a[i] - a[j]) * (b[i] - b[j])
        same, opposite = same + (product > 0), opposite + (product < 0)
        tied_a, tied_b = tied_a + (a[i] == a[j]), tied_b + (b[i] == b[j])
    below = (len(pairs) - tied_a) * (len(pairs) - tied_b)
    return (same - opposite) / math.sqrt(below) if below else None


def rho(a: list[float], b: list[float]) -> float | None:
    def ranks(values: list[float]) -> list[float]:
        return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]

    x, y = ranks(a), ranks(b)
    mean = (len(a) + 1) / 2
    top = sum((p - mean) * (q - mean) for p, q in zip(x, y, strict=True))
    below = math.sqrt(sum((p - mean) ** 2 for p in x) * sum((q - mean) ** 2 for q in y))
    return top / below if below else None


@given(PAIRS)
def test_against_the_definitions(values: tuple[list[float], list[float]]) -> None:
    a, b = values
    for found, expected in ((kendall(a, b), tau_b(a, b)), (spearman(a, b), rho(a, b))):
        assert found is None if expected is None else found == pytest.approx(expected, abs=1e-12)


def test_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    a, b = [1.0, 2.5, 2.5, 3.0, -1.0, 0.0, 7.0], [0.1, 0.1, 0.4, 0.3, -2.0, 0.2, 0.2]
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_ends_and_what_is_not_defined() -> None:
    assert kendall([1, 2, 3], [10, 20, 30]) == spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert kendall([1, 2, 3], [3, 2, 1]) == spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    for a, b in (([], []), ([1], [2]), ([1, 1], [1, 2]), ([1, 2], [3, 3])):
        assert kendall(a, b) is None
        assert spearman(a, b) is None
