"""The line is that of ridge regression where no point lies far off, and the radius covers what it promises."""

from __future__ import annotations

import numpy as np
import pytest

from edgeyolo.latency.regression import fit, radius, residuals_left_out


@pytest.fixture
def points() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((40, 3))
    return features, 2.0 + features @ np.array([0.5, -0.2, 0.0]) + 0.01 * rng.standard_normal(40)


def test_it_is_ridge_regression_with_a_free_constant(points: tuple[np.ndarray, np.ndarray]) -> None:
    """Against the closed form for centred data, which needs no constant."""
    features, values = points
    centred = features - features.mean(axis=0)
    slopes = np.linalg.solve(centred.T @ centred + 10 * np.eye(3), centred.T @ (values - values.mean()))
    # Ridge pulls the slopes down so far that a few points would count as outliers: judge the line where it does not.
    small = 0.1 * values
    line = fit(features, small)
    np.testing.assert_allclose(line.coefficients[1:], 0.1 * slopes, atol=1e-6)
    assert line.coefficients[0] == pytest.approx(0.1 * (values.mean() - features.mean(axis=0) @ slopes))


def test_one_wild_point_hardly_moves_the_line(points: tuple[np.ndarray, np.ndarray]) -> None:
    features, values = points
    wild = values.copy()
    wild[3] += 10
    moved = fit(features, wild).at(features) - fit(features, values).at(features)
    assert np.abs(moved).max() < 0.1  # least squares: more than 0.25


def test_the_line_is_less_sure_far_from_all_points(points: tuple[np.ndarray, np.ndarray]) -> None:
    line = fit(*points)
    assert line.stretch(np.array([[0.0, 0, 0]]))[0] < 1.05 < 1.5 < line.stretch(np.array([[20.0, 0, 0]]))[0]


def test_a_point_is_judged_without_its_group(points: tuple[np.ndarray, np.ndarray]) -> None:
    features, values = points
    groups = [f"g{index // 2}" for index in range(len(values))]
    residuals = residuals_left_out(features, values, groups)
    line = fit(features[2:], values[2:])
    np.testing.assert_allclose(
        residuals[:2] * line.stretch(features[:2]), values[:2] - line.at(features[:2]), atol=1e-12
    )


def test_the_radius_covers_nine_of_ten_whatever_the_noise() -> None:
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(2000):
        residuals = rng.standard_t(2, 25)
        reach, coverage = radius(residuals[:-1], 0.9)
        assert coverage == 0.9
        inside.append(abs(residuals[-1]) <= reach)
    assert 0.89 < np.mean(inside) < 0.95


def test_few_points_promise_less() -> None:
    assert radius(np.array([0.1, -0.4, 0.2]), 0.9) == (0.4, 0.75)
