"""From a network to a range of milliseconds on a board.

On a processor, two ways: its time here is carried over by what known networks took here and there, and its instructions
are; both are corrected by what kinds of layers it has. On a GPU or NPU, a line goes through the networks that others
published.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeyolo.backends import load_engine
from edgeyolo.latency.boards import Board, load_board
from edgeyolo.latency.features import features_of
from edgeyolo.latency.networks import load_known, twins
from edgeyolo.latency.regression import Floats, Line, fit, radius, residuals_left_out
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.latency import Estimate
from edgeyolo.spec.target import Precision, needs_scales
from edgeyolo.spec.work import Convolution, count_gflops

COVERAGE = 0.9
_LEAST_POINTS = 3  # that a line goes through


@dataclass(frozen=True)
class Network:
    """What is to be estimated.

    Attributes:
        convolutions: as it is deployed, in int8 or not.
        precision: as it is deployed.
        known_ms: on the known computer, in one thread; None where it was not timed.
        doubt: of that (see `HereTime`).
    """

    convolutions: Sequence[Convolution]
    precision: Precision
    known_ms: float | None = None
    doubt: float = 0.0


@dataclass(frozen=True)
class _Fitted:
    """A line through the known networks of a board, and what it takes to use it."""

    line: Line
    mean: Floats
    deviation: Floats
    residuals: Floats

    def predict(self, features: Floats) -> tuple[float, float]:
        """(F,) -> the value there, and how much less sure it is than amid many points."""
        scaled = ((features - self.mean) / self.deviation)[None]
        return float(self.line.at(scaled)[0]), float(self.line.stretch(scaled)[0])


def estimate(network: Network, board: str, *, threads: int = 0, without: str = "") -> Estimate:
    """How long a network will take on a board.

    Args:
        board: as `list_boards` names them.
        threads: of the engine there; the nearest number that the board was measured with is taken, 0 for the most.
        without: a known network that is left out, and its twin, to see how good an estimate of it is.

    Raises:
        UnknownNameError: no such board. UsageError: too little is published of the board in this precision.
    """
    known = load_board(board)
    if known.runs:
        return _on_processor(network, board, known.nearest_threads(threads), without)
    return _between_points(network, board, without)


def _on_processor(network: Network, name: str, threads: int, without: str) -> Estimate:
    """Both ways where there are both: each counts the more, the surer it is, and their errors may be the same."""
    board, is_timed = load_board(name), network.known_ms is not None
    usual = _instructions(network.convolutions, board, board.floats)
    middle, reach = _by(usual, network, name, _fit_board(name, threads, False, without))
    if network.known_ms is not None:
        carried, doubt = _by(network.known_ms, network, name, _fit_board(name, threads, True, without))
        doubt = math.hypot(doubt, network.doubt)
        weight = reach**2 / (reach**2 + doubt**2)
        middle, reach = (weight * a + (1 - weight) * b for a, b in ((carried, middle), (doubt, reach)))
    middle += _shift(network, board, usual)
    return Estimate(
        board=name,
        title=board.title,
        engine=board.engine,
        precision=network.precision,
        threads=threads,
        low_ms=math.exp(middle - reach),
        middle_ms=math.exp(middle),
        high_ms=math.exp(middle + reach),
        coverage=COVERAGE,
        method="timed here" if is_timed else "by layers",
        rests_on=("measured", "counted", "published") if is_timed else ("counted", "published"),
        sources=(board.source, *([f"one thread of {load_known().measured_on}"] if is_timed else [])),
    )


def _by(size: float, network: Network, name: str, fitted: _Fitted) -> tuple[float, float]:
    """Logarithms of the milliseconds that follow from a size, and of the factor that they may be off by."""
    board = load_board(name)
    instructions = _instructions(network.convolutions, board, board.floats)
    value, stretch = fitted.predict(features_of(network.convolutions, instructions, size))
    error, _ = radius(fitted.residuals, COVERAGE)
    return math.log(size) + value, error * stretch


def _shift(network: Network, board: Board, usual: float) -> float:
    """Logarithm of what floats cost that are not those of the published times, by instructions; 0 where they are."""
    is_usual = needs_scales(network.precision) or network.precision in (board.floats, "fp16")
    if is_usual:
        return 0.0  # without half-precision arithmetic fp16 is how weights are stored
    return math.log(_instructions(network.convolutions, board, network.precision) / usual)


@functools.cache
def _fit_board(name: str, threads: int, is_timed: bool, without: str) -> _Fitted:
    board = load_board(name)
    every = _known_features(board.engine, board.core, board.floats, is_timed)
    table = {key: row for key, row in every.items() if twins(key) != twins(without)}
    stacked = np.stack([features for _, features in table.values()])
    mean, deviation = stacked.mean(axis=0), stacked.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    times = [(key, ms) for run in board.runs if run.threads == threads for key, ms in run.ms.items() if key in table]
    rows = np.stack([(table[key][1] - mean) / deviation for key, _ in times])
    values = np.array([math.log(ms / table[key][0]) for key, ms in times])
    residuals = residuals_left_out(rows, values, [twins(key) for key, _ in times])
    return _Fitted(fit(rows, values), mean, deviation, residuals)


@functools.cache
def _known_features(engine: str, core: str, floats: Precision, is_timed: bool) -> dict[str, tuple[float, Floats]]:
    """Known network -> its size, in milliseconds on the known computer or in instructions, and its features."""
    found = {}
    for key, network in load_known().networks.items():
        convolutions = network.list_convolutions()
        instructions = load_engine(engine).count_instructions(convolutions, core, floats)
        size = network.ms if is_timed else instructions
        found[key] = (size, features_of(convolutions, instructions, size))
    return found


def _instructions(convolutions: Sequence[Convolution], board: Board, floats: Precision) -> float:
    return load_engine(board.engine).count_instructions(convolutions, board.core, floats)


def _between_points(network: Network, name: str, without: str) -> Estimate:
    board = load_board(name)
    precision = "int8" if needs_scales(network.precision) else network.precision
    points = [point for point in board.points if point.precision == precision and point.model != without]
    if len(points) < _LEAST_POINTS:
        found = sorted({point.precision for point in board.points})
        raise UsageError(
            f"too little is published of {board.title} in {precision}", hint=f"There is something in {', '.join(found)}"
        )
    sizes, values = (np.log([getattr(point, field) for point in points]) for field in ("gflops", "ms"))
    off = [_line_at(np.delete(sizes, i), np.delete(values, i), sizes[i]) - values[i] for i in range(len(points))]
    reach, coverage = radius(np.array(off), COVERAGE)
    middle = _line_at(sizes, values, math.log(count_gflops(network.convolutions)))
    return Estimate(
        board=name,
        title=board.title,
        engine=board.engine,
        precision=network.precision,
        threads=0,
        low_ms=math.exp(middle - reach),
        middle_ms=math.exp(middle),
        high_ms=math.exp(middle + reach),
        coverage=coverage,
        method="interpolated",
        rests_on=("published",),
        sources=tuple(sorted({point.source for point in points})),
    )


def _line_at(sizes: Floats, values: Floats, size: float) -> float:
    slope, constant = np.polyfit(sizes, values, 1)
    return float(slope * size + constant)
