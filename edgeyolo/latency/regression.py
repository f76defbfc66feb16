"""A line through few points that are not all to be trusted, and how far it is off for points that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

_RIDGE = 10.0  # penalty of a coefficient, in points; features have unit variance
_OUTLIER = 0.15  # residual from which a point counts less
_ITERATIONS = 5


@dataclass(frozen=True)
class Line:
    """A fitted line.

    Attributes:
        coefficients: (F + 1,), the constant first.
        covariance: (F + 1, F + 1), of the coefficients for noise of unit variance.
    """

    coefficients: Floats
    covariance: Floats

    def at(self, features: Floats) -> Floats:
        """(N, F) -> (N,)."""
        values: Floats = _with_one(features) @ self.coefficients
        return values

    def stretch(self, features: Floats) -> Floats:
        """(N, F) -> (N,): how much less sure the line is there than noise alone makes it; 1 amid many points."""
        rows = _with_one(features)
        spread: Floats = np.sqrt(1 + np.einsum("nf,fg,ng->n", rows, self.covariance, rows))
        return spread


def fit(features: Floats, values: Floats) -> Line:
    """Ridge regression with Huber's weights.

    Args:
        features: (N, F) of about unit variance. values: (N,).

    Source: Huber, Robust Estimation of a Location Parameter, 1964; Hoerl and Kennard, Ridge Regression, 1970.
    """
    rows = _with_one(features)
    penalty = _RIDGE * np.diag([0.0] + [1.0] * features.shape[1])
    weights = np.ones(len(rows))
    for _ in range(_ITERATIONS):
        weighted = rows * weights[:, None]
        coefficients: Floats = np.linalg.solve(weighted.T @ rows + penalty, weighted.T @ values)
        weights = 1 / np.maximum(1, np.abs(values - rows @ coefficients) / _OUTLIER)
    covariance: Floats = np.linalg.inv(rows.T @ rows + penalty)
    return Line(coefficients, covariance)


def residuals_left_out(features: Floats, values: Floats, groups: Sequence[str]) -> Floats:
    """(N,): how far the line is off at each point, fitted without the points of its group, in units of its stretch."""
    names = np.array(groups)
    residuals = np.empty(len(values))
    for name in sorted(set(groups)):
        own = names == name
        line = fit(features[~own], values[~own])
        residuals[own] = (values[own] - line.at(features[own])) / line.stretch(features[own])
    return residuals


def radius(residuals: Floats, coverage: float) -> tuple[float, float]:
    """What a share `coverage` of new residuals will not exceed, and the share that so few of them can promise.

    Source: Lei et al., Distribution-Free Predictive Inference for Regression, 2018, section 2 (split conformal).
    """
    ordered = np.sort(np.abs(residuals))
    rank = min(len(ordered), math.ceil((len(ordered) + 1) * coverage))
    return float(ordered[rank - 1]), min(coverage, rank / (len(ordered) + 1))


def _with_one(features: Floats) -> Floats:
    return np.column_stack([np.ones(len(features)), features])
