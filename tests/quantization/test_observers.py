"""Histograms and thresholds against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeyolo.quantization.observers import MaxObserver, MseObserver, make_observer
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.recipe import Recipe


def collect_all(observer: MaxObserver | MseObserver, parts: list[np.ndarray]) -> None:
    for part in parts:
        x = torch.from_numpy(part.astype(np.float32))
        observer.collect(x, float(x.abs().max()))


def quantization_error(x: np.ndarray, threshold: float) -> float:
    """Mean squared error of symmetric 8-bit integers, computed on the values themselves."""
    step = threshold / 127
    return float(np.mean((np.clip(np.rint(x / step), -127, 127) * step - x) ** 2))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=6), st.sampled_from([256, 1000, 2048]), st.integers(0, 99))
def test_counts_do_not_depend_on_the_order_and_are_exact(sizes: list[float], bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [(rng.standard_normal(200) * size).astype(np.float32) for size in sizes]
    forward, backward = MseObserver(bins), MseObserver(bins)
    collect_all(forward, parts)
    collect_all(backward, parts[::-1])
    everything = np.abs(np.concatenate(parts))
    top = 2.0 ** (math.floor(math.log2(everything.max())) + 1)
    expected = np.bincount(np.floor(everything * np.float32(bins / top)).astype(int), minlength=bins)
    assert forward.range == top
    np.testing.assert_array_equal(forward.counts.numpy(), expected)
    np.testing.assert_array_equal(backward.counts.numpy(), expected)


def test_the_ends_of_the_range_fall_into_bins() -> None:
    observer = MseObserver(256)
    collect_all(observer, [np.array([0.0, 1.0, 2.0 - 2**-23])])
    assert observer.range == 2.0
    assert observer.counts[[0, 128, 255]].tolist() == [1, 1, 1]
    collect_all(observer, [np.array([-2.0])])
    assert observer.range == 4.0
    assert observer.counts[[0, 64, 127, 128]].tolist() == [1, 1, 1, 1]


def test_threshold_is_the_best_of_all_candidates() -> None:
    """Against a loop over candidates and bins, in plain Python, from the same histogram."""
    rng = np.random.default_rng(3)
    observer = MseObserver(256)
    x = rng.laplace(size=4000)
    collect_all(observer, [x])
    width, largest = observer.range / 256, float(np.float32(np.abs(x).max()))
    counts = observer.counts.tolist()
    errors = {}
    for k in range(1, 257):
        candidate = min(k * width, largest)
        step, error = candidate / 127, 0.0
        for i, count in enumerate(counts):
            centre = min((i + 0.5) * width, largest)
            error += count * (min(round(centre / step), 127) * step - centre) ** 2
        errors.setdefault(candidate, error)
    best = min(errors, key=errors.__getitem__)
    assert observer.threshold() == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("shape", ["normal", "laplace", "outlier", "leaky"])
def test_threshold_is_nearly_the_best_for_the_values_themselves(shape: str) -> None:
    """Within 1 % of the least error over a fine grid of thresholds."""
    rng = np.random.default_rng(7)
    x = {
        "normal": rng.standard_normal(40000),
        "laplace": rng.laplace(size=40000),
        "outlier": np.append(rng.standard_normal(40000), [60.0, -45.0]),
        "leaky": np.where((z := rng.standard_normal(40000)) > 0, z, 0.1 * z),
    }[shape].astype(np.float32)
    observer = MseObserver(2048)
    collect_all(observer, np.array_split(x, 5))
    grid = np.linspace(0.02, 1.0, 800) * np.abs(x).max()
    least = min(quantization_error(x, threshold) for threshold in grid)
    assert quantization_error(x, observer.threshold()) <= 1.01 * least
    assert observer.threshold() <= np.abs(x).max()


def test_clipping_pays_on_a_long_tail() -> None:
    """A case the stock calibrators get wrong: for N(0, 1) the best 8-bit threshold is near 4."""
    x = np.random.default_rng(0).standard_normal(1_000_000)
    observer = MseObserver(2048)
    collect_all(observer, [x])
    assert 3.8 < observer.threshold() < 4.4
    largest = MaxObserver()
    collect_all(largest, [x])
    assert largest.threshold() == pytest.approx(np.abs(x).max(), rel=1e-6)


def test_constants_and_zeros() -> None:
    for observer in (MaxObserver(), MseObserver(2048)):
        collect_all(observer, [np.zeros(10)])
        assert observer.threshold() == 0.0
        collect_all(observer, [np.full(10, -0.75)])
        assert observer.threshold() == 0.75


def test_recipes_choose_the_observer() -> None:
    assert isinstance(make_observer(Recipe(title="", observer="max")), MaxObserver)
    observer = make_observer(Recipe(title="", observer="mse", bins=512))
    assert isinstance(observer, MseObserver)
    assert len(observer.counts) == 512
    for bins in (2047, 0, 100, 1 << 20):
        with pytest.raises(UsageError, match="bins"):
            make_observer(Recipe(title="", observer="mse", bins=bins))
