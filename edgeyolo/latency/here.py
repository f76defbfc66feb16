"""How long a network takes on this computer, as it would be on the known one: timed in turns with rulers."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeyolo.backends.engine import Ruler
from edgeyolo.latency.networks import load_known
from edgeyolo.runtime.race import Turns
from edgeyolo.spec.work import Convolution

MOST_ROUNDS, LEAST_ROUNDS, LIMIT_S = 24, 6, 20.0
BUSY = 1.3  # a median that is so many times the least says that other work was in the way

# How far off a conversion is, for each unit that the rulers differ by: so that benchmarks/estimate.py finds nine of ten
# in their ranges, timed on other computers.
_DOUBT = 1.0


@dataclass(frozen=True)
class HereTime:
    """What was measured on this computer.

    Attributes:
        here_ms: of the network, in one thread, undisturbed: the least of all rounds.
        known_ms: the same on the known computer, by the rulers.
        doubt: logarithm of the factor by which `known_ms` may be off, nine times of ten.
        is_busy: whether other work was in the way.
    """

    here_ms: float
    known_ms: float
    doubt: float
    is_busy: bool


@dataclass(frozen=True)
class Pace:
    """How long a ruler takes on both computers.

    Attributes:
        products: that it computes.
    """

    products: int
    known_ms: float
    here_ms: float


def time_here(run: Callable[[], object], convolutions: Sequence[Convolution], rulers: Mapping[str, Ruler]) -> HereTime:
    """Time a network and the rulers in turns, and convert.

    Args:
        run: runs the network once, in one thread.
        rulers: of its engine, with the names that the known computer has.
    """
    times_ms = play(run, [ruler.run for ruler in rulers.values()])
    least_ms = [min(column) for column in zip(*times_ms, strict=True)]
    median_ms = statistics.median(row[0] for row in times_ms)
    known = load_known().rulers
    paces = {
        name: Pace(sum(one.products for one in ruler.convolutions), known[name], here_ms)
        for (name, ruler), here_ms in zip(rulers.items(), least_ms[1:], strict=True)
    }
    known_ms, doubt = convert(least_ms[0], convolutions, paces)
    return HereTime(least_ms[0], known_ms, doubt, median_ms > BUSY * least_ms[0])


def play(run: Callable[[], object], others: Sequence[Callable[[], object]]) -> list[tuple[float, ...]]:
    """Milliseconds of `run` and of the others in each round, as many as the time limit allows."""
    turns = Turns(run, *others)
    started = time.perf_counter()
    for rounds in range(1, MOST_ROUNDS + 1):
        times_ms = turns.play(rounds)
        if rounds >= LEAST_ROUNDS and time.perf_counter() - started > LIMIT_S:
            break
    return times_ms


def convert(here_ms: float, convolutions: Sequence[Convolution], paces: Mapping[str, Pace]) -> tuple[float, float]:
    """A time here as one on the known computer, and its doubt.

    Each kind of layer counts by the part of the time that it would take at the pace of its ruler.

    Args:
        paces: of each ruler, by its name.
    """
    parts = dict.fromkeys(paces, 0.0)
    for one in convolutions:
        name = kind_of(one)
        parts[name] += one.products * paces[name].known_ms / paces[name].products
    faster = {name: math.log(pace.known_ms / pace.here_ms) for name, pace in paces.items()}
    mean = sum(part * faster[name] for name, part in parts.items()) / sum(parts.values())
    return here_ms * math.exp(mean), _DOUBT * statistics.pstdev(faster.values())


def kind_of(one: Convolution) -> str:
    """Name of the ruler that is like a layer."""
    if one.groups > 1:
        return "depthwise"
    return ("pointwise" if one.kernel_hw == (1, 1) else "spatial") + (" int8" if one.is_int8 else "")
