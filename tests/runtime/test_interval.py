"""Intervals of medians and ratios hold the truth as often as they say, of times that drift, cling together and jump.

Every case has its seed, and a truth that is known: times are made of it.
"""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest

from edgeyolo.runtime.interval import LEAST_ROUNDS, median_interval, ratio_interval

CASES = 300


def clinging(rng: np.random.Generator, count: int, likeness: float) -> np.ndarray:
    """Normal noise of which neighbours are alike: an autoregression of order 1."""
    steps = math.sqrt(1 - likeness**2) * rng.standard_normal(count)
    noise = [rng.standard_normal()]
    for step in steps[1:]:
        noise.append(likeness * noise[-1] + step)
    return np.array(noise)


def as_if_independent(times: np.ndarray) -> tuple[float, float]:
    """The usual interval of a median, by order statistics: what happens where likeness is not thought of."""
    ordered, half = np.sort(times), 0.98 * math.sqrt(len(times))
    return ordered[int(len(times) / 2 - half)], ordered[math.ceil(len(times) / 2 + half)]


@pytest.mark.parametrize(("likeness", "least", "naive"), [(0.0, 0.92, 1.0), (0.5, 0.92, 0.9), (0.9, 0.88, 0.6)])
def test_the_median_is_in_its_interval(likeness: float, least: float, naive: float) -> None:
    rng = np.random.default_rng(1)
    held = held_naively = 0
    for _ in range(CASES):
        times = 8.0 * np.exp(0.1 * clinging(rng, 400, likeness))
        (low, high), (low_naive, high_naive) = median_interval(times), as_if_independent(times)
        held += low <= 8.0 <= high
        held_naively += low_naive <= 8.0 <= high_naive
    assert held >= least * CASES
    assert held_naively <= naive * CASES


def test_few_times_have_no_interval() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (0.0, math.inf)
    low, high = median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
    assert (low, high) == (1.0, 6.0)  # the chance that all six are on one side is 1/32, and 5 % is asked for


def rounds(rng: np.random.Generator, count: int, ratio: float, *, by_chance: bool = True) -> list[tuple[float, float]]:
    """Pairs of times from a machine whose speed wanders, with now and then a long pause, and whose second place is
    3 % slower; a coin says who has it."""
    wander = 0.15 * clinging(rng, 2 * count, 0.95)
    pauses = np.where(rng.random(2 * count) < 0.1, rng.exponential(0.7, 2 * count), 0.0)
    places = np.exp(wander + pauses).reshape(count, 2) * (1.0, 1.03)
    swapped = rng.random(count) < 0.5 if by_chance else np.zeros(count, bool)
    return [(b, a * ratio) if swap else (a, b * ratio) for (a, b), swap in zip(places, swapped, strict=True)]


@pytest.mark.parametrize("ratio", [1.0, 1.1, 0.7])
@pytest.mark.parametrize("count", [12, 40])
def test_the_ratio_is_in_its_interval(ratio: float, count: int) -> None:
    rng = np.random.default_rng(2)
    found = [ratio_interval(rounds(rng, count, ratio)) for _ in range(CASES)]
    assert sum(low <= ratio <= high for _, low, high in found) >= 0.98 * CASES
    assert all(low <= middle <= high for middle, low, high in found)


def test_a_slower_one_is_found() -> None:
    rng = np.random.default_rng(3)
    assert sum(ratio_interval(rounds(rng, 60, 1.1))[1] > 1 for _ in range(CASES)) >= 0.97 * CASES


def test_it_is_the_coin_that_makes_it_right() -> None:
    """With always the same one first, the place counts for a bundle, and the more rounds the surer it is wrong."""
    rng = np.random.default_rng(4)
    found = [ratio_interval(rounds(rng, 400, 1.0, by_chance=False)) for _ in range(30)]
    assert sum(low <= 1 <= high for _, low, high in found) < 20


def test_stopping_once_it_is_narrow_does_no_harm() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(CASES):
        pairs, looked = rounds(rng, 80, 1.0), LEAST_ROUNDS
        while looked < 80:
            ratio, low, high = ratio_interval(pairs[:looked])
            if (high - low) / ratio <= 0.2:
                break
            looked = round(1.25 * looked)
        _, low, high = ratio_interval(pairs[:looked])
        held += low <= 1 <= high
    assert held >= 0.98 * CASES


def test_the_ratio_against_every_choice_of_signs() -> None:
    """The interval is what the signed-rank test does not reject, by counting all ways that ten coins could fall."""
    rng = np.random.default_rng(6)
    pairs = [(1.0, math.exp(value)) for value in rng.normal(0.2, 0.3, 10)]
    _, low, high = ratio_interval(pairs)
    sums = [sum(ranks) for size in range(11) for ranks in itertools.combinations(range(1, 11), size)]

    def chance(ratio: float) -> float:
        """Of a sum of ranks as low as this one, or as high, were it the true ratio."""
        logs = [math.log(second / first / ratio) for first, second in pairs]
        ranks = np.argsort(np.argsort(np.abs(logs))) + 1
        above = sum(rank for rank, value in zip(ranks, logs, strict=True) if value > 0)
        extreme = min(above, 55 - above)
        return 2 * sum(total <= extreme for total in sums) / len(sums)

    step = 1e-9
    assert chance(low * (1 + step)) > 0.01 >= chance(low * (1 - step))
    assert chance(high * (1 - step)) > 0.01 >= chance(high * (1 + step))


def test_too_few_rounds_say_nothing() -> None:
    pairs = [(1.0, 1.0 + 0.01 * i) for i in range(LEAST_ROUNDS)]
    assert ratio_interval(pairs)[1] > 0
    ratio, low, high = ratio_interval(pairs[:-1])
    assert (low, high) == (0.0, math.inf) and ratio == pytest.approx(statistics.median(b for _, b in pairs[:-1]), 0.01)
