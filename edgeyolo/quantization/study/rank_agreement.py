"""Whether two measures put things in the same order: Spearman's rho and Kendall's tau, ties counted as ties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's correlation of the ranks, in [-1, 1]; equal values share the mean of their ranks.

    None where it is not defined: fewer than two values, or all of one side equal.

    Source: Spearman, The Proof and Measurement of Association between Two Things, 1904.
    """
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(np.corrcoef(_mean_ranks(a), _mean_ranks(b))[0, 1])


def kendall(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Tau-b: pairs in the same order less pairs in the opposite one, over the pairs that are no tie, in [-1, 1].

    None as for `spearman`.

    Source: Kendall, The Treatment of Ties in Ranking Problems, 1945.
    """
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    x, y = _signs(a), _signs(b)
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def _signs(values: Sequence[float]) -> np.ndarray:
    """(N,) -> (N, N): +1, 0 or -1 for each ordered pair."""
    array = np.asarray(values, np.float64)
    return np.sign(array[:, None] - array[None])


def _mean_ranks(values: Sequence[float]) -> np.ndarray:
    _, positions, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[positions]
