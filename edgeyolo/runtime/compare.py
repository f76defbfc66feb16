"""Two bundles in turns, until it is known how much longer one of them takes."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeyolo.bundle import read_manifest
from edgeyolo.runtime.clock import Timing
from edgeyolo.runtime.detector import Detector
from edgeyolo.runtime.interval import LEAST_ROUNDS, RATIO_CONFIDENCE, ratio_interval
from edgeyolo.spec.benchmark import Comparison
from edgeyolo.spec.detections import Image
from edgeyolo.spec.progress import SILENT, Progress

Open = Callable[[int], Detector]  # with so many threads, 0 for as many as the machine leaves

SETTLING_S = 2.0  # after which the number of threads has followed the machine

_CALLS = 4  # of each in a round, beside one that warms up
_LOOKED_AFTER = 1.25  # times as many rounds as at the look before
_WIDE = 3.0  # times as wide as the interval was to be


@dataclass(frozen=True)
class _Pair:
    """Least times of the first and the second in one round."""

    total_ms: tuple[float, float]
    network_ms: tuple[float, float]


@dataclass(frozen=True)
class Effort:
    """How long to go on.

    Attributes:
        rounds: so many, 0 for as many as it takes.
        width: stop when the interval of both ratios is no wider than that.
        seconds: stop at the latest after so many, with at least as many rounds as an interval needs.
    """

    rounds: int = 0
    width: float = 0.02
    seconds: float = 20.0


def openers_of(bundles: Sequence[Path], threads: int, picture: Image) -> tuple[list[Open], int]:
    """How to open bundles for a comparison, and the number of threads, 0 where they differ.

    Bundles that ask for the same number run with the same, found once: chance must not give them different ones.
    """

    def opener(bundle: Path) -> Open:
        return lambda count: Detector.load(bundle, threads=count)

    openers = [opener(bundle) for bundle in bundles]
    asked = {read_manifest(bundle).threads for bundle in bundles}
    if threads or len(asked) > 1:
        return openers, threads
    return openers, settled_threads(openers[0], picture)


def settled_threads(open_: Open, picture: Image) -> int:
    """Threads that a detector takes on this machine as busy as it is; 0 for an engine that has none to choose."""
    with open_(0) as detector:
        end_s = time.monotonic() + SETTLING_S
        while time.monotonic() < end_s:
            detector.detect(picture)
        return detector.threads


def compare(
    openers: Sequence[Open],
    picture: Image,
    effort: Effort,
    *,
    other: str,
    threads: int = 0,
    may_change: bool = True,
    progress: Progress = SILENT,
) -> Comparison:
    """The second one's time over the first one's.

    In each round both are opened anew, since where a network lies in memory makes a difference of its own, and called
    in turns; a coin says who is first. The least time of each counts, which other work on the computer hardly touches.
    Where the time is up and the interval is still wide, the machine may have become busy since the number of threads
    was found: then it is found again, and if it is smaller, both are compared anew.

    Args:
        openers: of the two.
        other: name of the second, for the record.
        threads: of both.
        may_change: whether fewer threads may be taken; not where somebody asked for that number.
    """
    found = _compare(openers, picture, effort, threads, progress)
    if may_change and threads > 1 and not effort.rounds and _width(found) > _WIDE * effort.width:
        fewer = settled_threads(openers[0], picture)
        if fewer < threads:
            threads, found = fewer, _compare(openers, picture, effort, fewer, progress)
    return Comparison(
        other=other,
        rounds=len(found),
        threads=threads,
        confidence=RATIO_CONFIDENCE,
        total=ratio_interval([pair.total_ms for pair in found]),
        network=ratio_interval([pair.network_ms for pair in found]),
    )


def _compare(openers: Sequence[Open], picture: Image, effort: Effort, threads: int, progress: Progress) -> list[_Pair]:
    """Rounds, until it is enough of them."""
    found: list[_Pair] = []
    coin = random.Random()
    end_s, next_look = time.perf_counter() + effort.seconds, LEAST_ROUNDS
    while True:
        found.append(_round(openers, picture, threads, sides=coin.choice([(0, 1), (1, 0)])))
        done = len(found)
        progress.step("compare", done, effort.rounds or done)
        if effort.rounds:
            if done == effort.rounds:
                return found
        elif done >= next_look:
            next_look = round(done * _LOOKED_AFTER)
            if _width(found) <= effort.width:
                return found
        if not effort.rounds and done >= LEAST_ROUNDS and time.perf_counter() >= end_s:
            return found


def _width(found: Sequence[_Pair]) -> float:
    """Of the wider interval, as a share of the ratio."""
    intervals = (ratio_interval([getattr(pair, part) for pair in found]) for part in ("total_ms", "network_ms"))
    return max((high - low) / ratio for ratio, low, high in intervals)


def _round(openers: Sequence[Open], picture: Image, threads: int, *, sides: tuple[int, int]) -> _Pair:
    """Both, opened and called in the order of `sides`, which turns around with every call."""
    taken: tuple[list[Timing], list[Timing]] = ([], [])
    with contextlib.ExitStack() as opened:
        detectors = {side: opened.enter_context(openers[side](threads)) for side in sides}
        for call in range(1 + _CALLS):
            for side in sides if call % 2 else reversed(sides):
                detectors[side].detect(picture)
                if call:
                    taken[side].append(detectors[side].timing)
    first, second = taken
    return _Pair(
        total_ms=(min(t.total_ms for t in first), min(t.total_ms for t in second)),
        network_ms=(min(t.network_ms for t in first), min(t.network_ms for t in second)),
    )
