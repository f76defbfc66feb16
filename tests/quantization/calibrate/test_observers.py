"""Histograms and thresholds against brute force."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeyolo.quantization.calibrate.histogram import Histogram
from edgeyolo.quantization.calibrate.observers import (
    EntropyObserver,
    MaxObserver,
    MseObserver,
    Observer,
    PercentileObserver,
    make_observer,
)
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.recipe import Recipe


def collect_all(observer: Observer, parts: list[np.ndarray]) -> None:
    for part in parts:
        x = torch.from_numpy(part.astype(np.float32))
        observer.collect(x, float(x.abs().max()))


def add_all(histogram: Histogram, parts: list[np.ndarray]) -> None:
    for part in parts:
        x = torch.from_numpy(part.astype(np.float32))
        histogram.add(x, float(x.abs().max()))


def quantization_error(x: np.ndarray, threshold: float) -> float:
    """Mean squared error of symmetric 8-bit integers, computed on the values themselves."""
    step = threshold / 127
    return float(np.mean((np.clip(np.rint(x / step), -127, 127) * step - x) ** 2))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=6), st.sampled_from([256, 1000, 2048]), st.integers(0, 99))
def test_counts_do_not_depend_on_the_order_and_are_exact(sizes: list[float], bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [(rng.standard_normal(200) * size).astype(np.float32) for size in sizes]
    forward, backward = Histogram(bins), Histogram(bins)
    add_all(forward, parts)
    add_all(backward, parts[::-1])
    everything = np.abs(np.concatenate(parts))
    top = 2.0 ** (math.floor(math.log2(everything.max())) + 1)
    expected = np.bincount(np.floor(everything * np.float32(bins / top)).astype(int), minlength=bins)
    assert forward.range == top
    np.testing.assert_array_equal(forward.counts.numpy(), expected)
    np.testing.assert_array_equal(backward.counts.numpy(), expected)


def test_the_ends_of_the_range_fall_into_bins() -> None:
    histogram = Histogram(256)
    add_all(histogram, [np.array([0.0, 1.0, 2.0 - 2**-23])])
    assert histogram.range == 2.0
    assert histogram.counts[[0, 128, 255]].tolist() == [1, 1, 1]
    add_all(histogram, [np.array([-2.0])])
    assert histogram.range == 4.0
    assert histogram.counts[[0, 64, 127, 128]].tolist() == [1, 1, 1, 1]


def test_zeros_before_anything_else_are_counted_and_the_smallest_numbers_do_not_overflow() -> None:
    histogram = Histogram(256)
    add_all(histogram, [np.zeros(7)])
    assert (histogram.range, histogram.used, int(histogram.counts[0])) == (0.0, 1, 7)
    add_all(histogram, [np.full(3, 1e-42), np.array([3e38])])
    assert histogram.range == 2.0**128
    assert (int(histogram.counts[0]), int(histogram.counts.sum())) == (10, 11)


@pytest.mark.parametrize("weight", [1.0, 8.0])
def test_threshold_is_the_best_of_all_candidates(weight: float) -> None:
    """Against a loop over candidates and bins, in plain Python, from the same histogram."""
    rng = np.random.default_rng(3)
    observer = MseObserver(256, weight)
    x = rng.laplace(size=4000)
    collect_all(observer, [x])
    width, largest = observer.histogram.range / 256, float(np.float32(np.abs(x).max()))
    counts = observer.histogram.counts.tolist()
    errors = {}
    for k in range(1, 257):
        candidate = min(k * width, largest)
        step, error = candidate / 127, 0.0
        for i, count in enumerate(counts):
            centre = min((i + 0.5) * width, largest)
            counted = weight if centre > candidate else 1.0
            error += counted * count * (min(round(centre / step), 127) * step - centre) ** 2
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


def migacz_divergence(counts: list[int], taken: int) -> float:
    """Bin by bin in plain Python; what is beyond joins the last filled bin of P, and is missing from Q."""
    reference = [float(count) for count in counts[:taken]]
    if not any(reference):
        return math.inf
    reference[max(j for j in range(taken) if counts[j])] += sum(counts[taken:])
    candidate = [0.0] * taken
    for part in range(128):
        members = [j for j in range(taken) if j * 128 // taken == part]
        filled = [j for j in members if counts[j]]
        for j in filled:
            candidate[j] = sum(counts[k] for k in members) / len(filled)
    divergence = 0.0
    for p, q in zip(reference, candidate, strict=True):
        if p:
            divergence += p / sum(counts) * math.log((p / sum(counts)) / (q / sum(counts)))
    return divergence


@pytest.mark.parametrize("shape", ["laplace", "relu", "sparse", "outlier"])
def test_entropy_is_the_published_algorithm(shape: str) -> None:
    """Every candidate of a histogram of 300 bins, empty bins among them, against the loop above."""
    rng = np.random.default_rng(4)
    x = {
        "laplace": rng.laplace(size=3000),
        "relu": np.maximum(rng.standard_normal(3000), 0),
        "sparse": rng.choice([0.1, 0.7, 2.0, 2.01, 3.3], 500),
        "outlier": np.append(rng.standard_normal(3000), 7.9),
    }[shape]
    observer = EntropyObserver(300)
    collect_all(observer, [x])
    counts = observer.histogram.counts.tolist()
    counts[0] = 0
    used = max(i for i, count in enumerate(counts) if count) + 1
    divergences = {taken: migacz_divergence(counts, taken) for taken in range(128, used + 1)}
    least = min(divergences.values())
    best = {
        min(taken * observer.histogram.range / 300, np.abs(np.float32(x)).max())
        for taken, d in divergences.items()
        if d <= least + 1e-12
    }
    assert math.isfinite(least)
    assert any(observer.threshold() == pytest.approx(threshold, rel=1e-6) for threshold in best)


def test_entropy_does_not_fall_for_a_range_that_holds_next_to_nothing() -> None:
    """Grey levels of pictures: few bins filled, and a handful of dark pixels apart from the rest."""
    rng = np.random.default_rng(0)
    x = np.append(rng.integers(90, 256, 50_000), [49, 51]) / 255
    observer = EntropyObserver(2048)
    collect_all(observer, [x])
    assert observer.threshold() > 0.9


def test_entropy_clips_a_lonely_outlier_and_not_the_body() -> None:
    x = np.append(np.random.default_rng(0).standard_normal(500_000), [100.0])
    observer = EntropyObserver(2048)
    collect_all(observer, [x])
    assert 3.0 < observer.threshold() < 13.0


@settings(max_examples=30, deadline=None)
@given(st.floats(1.0, 100.0), st.integers(0, 1000))
def test_percentile_is_within_a_bin_of_sorting(percentile: float, seed: int) -> None:
    """`percentile` percent or more of the values are inside the range, and not without its last bin."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.laplace(size=3000), -0.5).astype(np.float32)
    observer = PercentileObserver(percentile, 1024)
    collect_all(observer, np.array_split(x, 3))
    exact = np.sort(np.abs(x))[math.ceil(percentile / 100 * len(x)) - 1]
    width = observer.histogram.range / 1024
    assert exact <= observer.threshold() <= exact + width


def test_the_hundredth_percentile_is_the_largest_magnitude() -> None:
    x = np.append(np.random.default_rng(0).standard_normal(1000), [-31.7])
    observer = PercentileObserver(100.0)
    collect_all(observer, [x])
    assert observer.threshold() == float(np.float32(31.7))


def every_observer() -> list[Observer]:
    return [MaxObserver(), MseObserver(), PercentileObserver(), EntropyObserver()]


def test_constants_and_zeros() -> None:
    for observer in every_observer():
        assert observer.threshold() == 0.0
        collect_all(observer, [np.zeros(10)])
        assert observer.threshold() == 0.0
        collect_all(observer, [np.full(10, -0.75)])
        assert observer.threshold() == 0.75


@pytest.mark.parametrize("largest", [1e-30, 1e-12, 5e-9, 7.2e-9, 7.6e-9, 1e-7])
def test_a_tensor_that_is_nearly_dead_has_its_own_tiny_range(largest: float) -> None:
    """SiLU leaves such values in channels that training has switched off."""
    for observer in every_observer():
        collect_all(observer, [np.linspace(-largest, largest, 99)])
        assert 0.0 < observer.threshold() <= np.float32(largest)


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-6, 1e6), st.integers(0, 99))
def test_no_threshold_is_above_the_largest_magnitude(size: float, seed: int) -> None:
    x = (np.random.default_rng(seed).standard_t(2, 500) * size).astype(np.float32)
    for observer in every_observer():
        collect_all(observer, [x[:100], x[100:]])
        assert 0.0 < observer.threshold() <= float(np.abs(x).max())


def test_choosing_is_quick_enough_for_many_groups() -> None:
    """60 groups of 2048 bins on one core; the limit is loose, for a busy machine."""
    x = np.random.default_rng(0).standard_normal(20_000)
    for kind in (MseObserver, EntropyObserver, PercentileObserver):
        observer = kind()
        collect_all(observer, [x])
        start = time.process_time()
        for _ in range(6):
            observer.threshold()
        assert time.process_time() - start < 2.0, kind


def test_a_recipe_weighs_clipping() -> None:
    """The more it counts, the wider the range; by default it counts more than once."""
    x = np.random.default_rng(0).laplace(size=20_000)
    ranges = []
    for observer in (
        make_observer(Recipe(title="", clipping_weight=1.0)),
        make_observer(Recipe(title="")),
        make_observer(Recipe(title="", clipping_weight=1e3)),
    ):
        collect_all(observer, [x])
        ranges.append(observer.threshold())
    assert ranges[0] < ranges[1] < ranges[2]


def test_recipes_choose_the_observer() -> None:
    kinds = {"max": MaxObserver, "percentile": PercentileObserver, "entropy": EntropyObserver, "mse": MseObserver}
    for name, kind in kinds.items():
        observer = make_observer(Recipe(title="", observer=name, bins=512))
        assert type(observer) is kind
        if not isinstance(observer, MaxObserver):
            assert len(observer.histogram.counts) == 512


@pytest.mark.parametrize("observer", ["percentile", "entropy", "mse"])
@pytest.mark.parametrize("bins", [2047, 0, 100, 1 << 20])
def test_bins_that_cannot_be_used_are_refused(observer: str, bins: int) -> None:
    with pytest.raises(UsageError, match=f"recipe: bins is {bins}"):
        make_observer(Recipe(title="", observer=observer, bins=bins))


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.1, math.nan, math.inf])
def test_percentiles_that_cannot_be_used_are_refused(percentile: float) -> None:
    with pytest.raises(UsageError, match="recipe: percentile is"):
        make_observer(Recipe(title="", observer="percentile", percentile=percentile))
