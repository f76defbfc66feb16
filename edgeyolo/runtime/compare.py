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
    progress: Progress = SILENT,
) -> Comparison:
    """The second one's time over the first one's.

    In each round both are opened anew, since where a network lies in memory makes a difference of its own, and called
    in turns; a coin says who is first. The least time of each counts, which other work on the computer hardly touches.

    Args:
        openers: of the two.
        other: name of the second, for the record.
        threads: of both.
    """
    total: list[tuple[float, float]] = []
    network: list[tuple[float, float]] = []
    coin = random.Random()
    end_s, next_look = time.perf_counter() + effort.seconds, LEAST_ROUNDS
    while True:
        times = _round(openers, picture, threads, sides=coin.choice([(0, 1), (1, 0)]))
        total.append((min(t.total_ms for t in times[0]), min(t.total_ms for t in times[1])))
        network.append((min(t.network_ms for t in times[0]), min(t.network_ms for t in times[1])))
        done = len(total)
        progress.step("compare", done, effort.rounds or done)
        if done < LEAST_ROUNDS and not effort.rounds:
            continue
        if done == effort.rounds or (not effort.rounds and time.perf_counter() >= end_s):
            break
        if not effort.rounds and done >= next_look:
            next_look = round(done * _LOOKED_AFTER)
            if max(_width(total), _width(network)) <= effort.width:
                break
    return Comparison(
        other=other,
        rounds=len(total),
        threads=threads,
        confidence=RATIO_CONFIDENCE,
        total=ratio_interval(total),
        network=ratio_interval(network),
    )


def _width(pairs: Sequence[tuple[float, float]]) -> float:
    ratio, low, high = ratio_interval(pairs)
    return (high - low) / ratio


def _round(
    openers: Sequence[Open], picture: Image, threads: int, *, sides: tuple[int, int]
) -> tuple[list[Timing], list[Timing]]:
    """Timings of both, opened and called in the order of `sides`, which turns around with every call."""
    taken: tuple[list[Timing], list[Timing]] = ([], [])
    with contextlib.ExitStack() as opened:
        detectors = {side: opened.enter_context(openers[side](threads)) for side in sides}
        for call in range(1 + _CALLS):
            for side in sides if call % 2 else reversed(sides):
                detectors[side].detect(picture)
                if call:
                    taken[side].append(detectors[side].timing)
    return taken
