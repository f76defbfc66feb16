"""Comparisons of detectors whose times are made up: a machine that wanders, and a second one that is slower or not."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from edgeyolo.runtime import compare as compare_module
from edgeyolo.runtime.clock import Timing
from edgeyolo.runtime.compare import Effort, compare
from edgeyolo.spec.benchmark import Comparison

PICTURE = np.zeros((4, 4, 3), np.uint8)


class Machine:
    """Its speed changes slowly, a load of it by luck, and a call is held up now and then."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.speed = 0.0
        self.opened: list[str] = []

    def opener(self, name: str, ratio: float) -> Any:
        def open_(threads: int) -> MadeUp:
            self.opened.append(name)
            return MadeUp(self, ratio * math.exp(0.05 * self.rng.standard_normal()))

        return open_

    def time_ms(self) -> float:
        self.speed = 0.97 * self.speed + 0.03 * self.rng.standard_normal()
        held_up = self.rng.exponential(2.0) if self.rng.random() < 0.2 else 0.0
        return float(math.exp(self.speed + 0.02 * abs(self.rng.standard_normal()) + held_up))


class MadeUp:
    """A detector of a machine."""

    def __init__(self, machine: Machine, ratio: float) -> None:
        self._machine, self._ratio = machine, ratio

    def __enter__(self) -> MadeUp:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def detect(self, _: Any) -> None:
        self.timing = Timing(0.1, self._ratio * self._machine.time_ms(), 0.1)


@pytest.fixture(autouse=True)
def coin(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded = random.Random(7)
    monkeypatch.setattr(compare_module.random, "Random", lambda: seeded)


def run(seed: int, ratio: float, effort: Effort) -> tuple[Comparison, Machine]:
    machine = Machine(seed)
    openers = [machine.opener("first", 1.0), machine.opener("second", ratio)]
    return compare(openers, PICTURE, effort, other="second", threads=1), machine


@pytest.mark.parametrize(("ratio", "least"), [(1.0, 39), (1.1, 38)])
def test_the_interval_holds_what_is_so_and_a_slowdown_is_found(ratio: float, least: int) -> None:
    found = [run(seed, ratio, Effort(width=0.03, rounds=60))[0].network for seed in range(40)]
    assert sum(low <= ratio <= high for _, low, high in found) >= least
    assert ratio == 1.0 or sum(low > 1 for _, low, _ in found) >= least


def test_rounds_end_when_the_interval_is_narrow_or_the_time_is_up() -> None:
    narrow, _ = run(0, 1.0, Effort(width=0.1, seconds=1000))
    for ratio, low, high in (narrow.network, narrow.total):
        assert (high - low) / ratio <= 0.1
    assert narrow.rounds >= 8
    hurried, _ = run(0, 1.0, Effort(width=1e-6, seconds=1e-6))
    assert hurried.rounds == 8 and 0 < hurried.network[1] <= hurried.network[2] < math.inf
    asked, _ = run(0, 1.0, Effort(rounds=3))
    assert asked.rounds == 3 and asked.network[1:] == (0.0, math.inf)


def test_both_are_opened_in_every_round_and_chance_says_who_first() -> None:
    found, machine = run(0, 1.0, Effort(rounds=40))
    pairs = list(zip(machine.opened[::2], machine.opened[1::2], strict=True))
    assert len(pairs) == 40 and all(set(pair) == {"first", "second"} for pair in pairs)
    assert 8 < sum(pair[0] == "first" for pair in pairs) < 32
    assert (found.other, found.threads, found.confidence) == ("second", 1, 0.99)


def test_a_machine_that_became_busy_has_fewer_threads_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads are held up all the time, and one is not."""
    calm, held_up = Machine(0), Machine(1)
    monkeypatch.setattr(held_up, "time_ms", lambda: float(held_up.rng.exponential(9.0)))

    def opener(ratio: float) -> Any:
        alone, disturbed = calm.opener("", ratio), held_up.opener("", ratio)
        return lambda threads: (alone if threads == 1 else disturbed)(threads)

    monkeypatch.setattr(compare_module, "settled_threads", lambda open_, picture: 1)
    openers = [opener(1.0), opener(1.1)]
    found = compare(openers, PICTURE, Effort(width=0.05, seconds=0.5), other="", threads=2)
    assert found.threads == 1 and found.network[1] > 1
    asked = compare(openers, PICTURE, Effort(width=0.05, seconds=0.1), other="", threads=2, may_change=False)
    assert asked.threads == 2
