"""Accuracy against latency as coordinates: what the template draws, and which points nothing beats."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from edgeyolo.spec.figure import Figure, Kind, ScoreboardRow, Unit

DIRECT_FIRST: tuple[Kind, ...] = ("measured", "simulated", "counted", "estimated", "published")

_TIMES: tuple[Unit, ...] = ("ms", "network ms")
_SIZES = ((980.0, 430.0), (360.0, 380.0))  # for a screen and for a phone, pixels
_STEPS = (1, 2, 5)  # of ticks, times a power of ten
_LOG_STEPS: tuple[tuple[int, ...], ...] = (tuple(range(1, 10)), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))
_LETTER_PX, _LINE_PX = 6.1, 13.0  # of the labels, on average
_LONGEST_LABEL = 44  # letters
_MARK_PX = 9.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 18.0, 24.0, 42.0
_TIGHT = 3.0  # times the least: below, an axis of times has ticks at equal steps


@dataclass(frozen=True)
class Point:
    """One artefact on one device.

    Attributes:
        row: its place among the rows.
        ms: of one picture; ap: percent.
        kind: of the less direct of both numbers.
        is_front: whether no other of the same device and kind is as fast and more accurate, or faster and as accurate.
    """

    row: int
    name: str
    engine: str
    device: str
    ms: Figure
    ap: Figure
    kind: Kind
    is_front: bool = False


@dataclass(frozen=True)
class Label:
    """A text beside a point, pixels."""

    point: Point
    x: float
    y: float
    anchor: str
    text: str
    kind: str


@dataclass(frozen=True)
class Placed:
    """A point in the picture, pixels; `low` and `high` are the ends of its range, if it has one."""

    point: Point
    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Drawing:
    """A chart at one width; pixels.

    Attributes:
        x_ticks, y_ticks: places and texts.
        fronts: device, kind, and the corners of the line through its front.
    """

    width: float
    height: float
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    points: list[Placed]
    fronts: list[tuple[str, Kind, str]]
    labels: list[Label] = field(default_factory=list)

    @property
    def frame(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the area of the points."""
        return (_LEFT, _TOP, self.width - _RIGHT, self.height - _BOTTOM)


@dataclass(frozen=True)
class Chart:
    """All artefacts that were scored on one split.

    Attributes:
        unit: "ms" or "network ms".
        wide, narrow: for a screen and for a phone.
    """

    data: str
    split: str
    unit: Unit
    points: list[Point]
    wide: Drawing
    narrow: Drawing


def draw_charts(rows: Sequence[ScoreboardRow]) -> list[Chart]:
    """A chart for each split and each kind of time, the split with the most rows first."""
    splits = Counter((row.data, row.split) for row in rows if row.ap is not None)
    charts = []
    for (data, split), _ in splits.most_common():
        for unit in _TIMES:
            points = mark_front(_named_apart(list(_points(rows, data, split, unit))))
            if points:
                wide, narrow = (_draw(points, *size) for size in _SIZES)
                charts.append(Chart(data, split, unit, points, wide, narrow))
    return charts


def _points(rows: Sequence[ScoreboardRow], data: str, split: str, unit: Unit) -> Iterator[Point]:
    for number, row in enumerate(rows):
        if row.ap is None or (row.data, row.split) != (data, split):
            continue
        for cost in row.costs:
            if cost.unit == unit and cost.value > 0:
                name, kind = f"{row.model} {row.precision}".strip(), _kind(row.ap, cost)
                yield Point(number, name, row.engine.partition(" ")[0], cost.source, cost, row.ap, kind)


def _named_apart(points: Sequence[Point]) -> list[Point]:
    """With the engine in the names of those that are called the same on the same device."""
    times = Counter((point.name, point.device) for point in points)
    return [replace(p, name=f"{p.name}, {p.engine}") if p.engine and times[p.name, p.device] > 1 else p for p in points]


def mark_front(points: Sequence[Point]) -> list[Point]:
    """The points, with those marked that none of the same device and kind beats."""

    def beats(other: Point, one: Point) -> bool:
        ahead = (one.ms.value - other.ms.value, other.ap.value - one.ap.value)
        same = (one.device, one.kind) == (other.device, other.kind)
        return same and min(ahead) >= 0 and max(ahead) > 0

    return [replace(one, is_front=not any(beats(other, one) for other in points)) for one in points]


def _kind(*figures: Figure) -> Kind:
    """The least direct."""
    return max((figure.kind for figure in figures), key=DIRECT_FIRST.index)


def _draw(points: Sequence[Point], width: float, height: float) -> Drawing:
    times = [t for p in points for t in (p.ms.value, p.ms.low, p.ms.high) if t]
    least, most = min(times) / 1.25, max(times) * 1.25
    low, high, step = _span([p.ap.value for p in points])

    def x_of(ms: float) -> float:
        share = math.log(max(ms, least) / least) / math.log(most / least)
        return round(_LEFT + share * (width - _LEFT - _RIGHT), 1)

    def y_of(ap: float) -> float:
        return round(height - _BOTTOM - (ap - low) / (high - low) * (height - _BOTTOM - _TOP), 1)

    placed = [
        Placed(p, x_of(p.ms.value), y_of(p.ap.value), p.ms.low and x_of(p.ms.low), p.ms.high and x_of(p.ms.high))
        for p in points
    ]
    ticks = [low + step * i for i in range(round((high - low) / step) + 1)]
    drawing = Drawing(
        width=width,
        height=height,
        x_ticks=[(x_of(ms), f"{ms:g}") for ms in _time_ticks(least, most, round(width / 60))],
        y_ticks=[(y_of(ap), f"{ap:.{0 if step >= 1 else 1}f}") for ap in ticks],
        points=placed,
        fronts=_fronts(placed),
    )
    drawing.labels.extend(_place_labels(drawing))
    return drawing


def _span(values: Sequence[float]) -> tuple[float, float, float]:
    """Limits and step of an axis with four to eight ticks around the values."""
    spread = max(max(values) - min(values), 0.5)
    power = 10.0 ** math.floor(math.log10(spread / 4))
    step = next(power * s for s in (*_STEPS, 10) if spread / (power * s) <= 5)
    low = math.floor((min(values) - 0.08 * spread) / step) * step
    high = math.ceil((max(values) + 0.08 * spread) / step) * step
    return low, high, step


def _time_ticks(least: float, most: float, count: int) -> list[float]:
    """At most so many: round numbers between the two."""
    if most < _TIGHT * least:
        low, high, step = _span([least, most])
        return [ms for i in range(round((high - low) / step) + 1) if least <= (ms := low + step * i) <= most]
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    for steps in _LOG_STEPS:
        ticks = [s * 10.0**p for p in powers for s in steps if least <= s * 10.0**p <= most]
        if len(ticks) <= count:
            break
    return ticks


def _fronts(placed: Sequence[Placed]) -> list[tuple[str, Kind, str]]:
    """A staircase for each device and kind: what can be had in so many milliseconds."""
    found = []
    for device, kind in dict.fromkeys((p.point.device, p.point.kind) for p in placed):
        on = [p for p in placed if (p.point.device, p.point.kind) == (device, kind) and p.point.is_front]
        on.sort(key=lambda p: p.x)
        steps = [f"M{on[0].x},{on[0].y}", *(f"H{p.x}V{p.y}" for p in on[1:])]
        if len(on) > 1:
            found.append((device, kind, "".join(steps)))
    return found


def _place_labels(drawing: Drawing) -> list[Label]:
    """Names of the points, those of the front first, and of the devices, where there is room for them."""
    taken = [(p.x - _MARK_PX, p.y - _MARK_PX, p.x + _MARK_PX, p.y + _MARK_PX) for p in drawing.points]
    taken += [(p.low, p.y - 2, p.high, p.y + 2) for p in drawing.points if p.low and p.high]
    ordered = sorted(drawing.points, key=lambda p: (not p.point.is_front, -p.point.ap.value))
    best: dict[tuple[str, str], Placed] = {}
    for place in ordered:
        best.setdefault((place.point.device, place.point.kind), place)
    wanted = [(p, p.point.device, "device") for p in best.values()] if len(best) > 1 else []
    names = [(p, p.point.name, "name") for p in ordered]
    labels = []
    for place, text, kind in itertools.chain(wanted, names):
        short = text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"
        found = _find_room(place, short, drawing.frame, taken)
        if found is not None:
            x, y, anchor, box = found
            taken.append(box)
            labels.append(Label(place.point, round(x, 1), round(y, 1), anchor, short, kind))
    return labels


_Box = tuple[float, float, float, float]


def _find_room(place: Placed, text: str, frame: _Box, taken: Sequence[_Box]) -> tuple[float, float, str, _Box] | None:
    """Where a text fits beside, above or below a point: its place, its anchor, and what it covers."""
    wide, left, top, right, bottom = len(text) * _LETTER_PX, *frame
    away = _MARK_PX + 4
    options = (
        (place.x + away, place.y + 4, "start", place.x + away),
        (place.x - away, place.y + 4, "end", place.x - away - wide),
        (place.x, place.y - away, "middle", place.x - wide / 2),
        (place.x, place.y + away + 8, "middle", place.x - wide / 2),
        (place.x, place.y - away - _LINE_PX, "middle", place.x - wide / 2),
        (place.x, place.y + away + 8 + _LINE_PX, "middle", place.x - wide / 2),
    )
    for x, y, anchor, start in options:
        box = (start, y - 10, start + wide, y + 3)
        is_inside = box[0] >= left and box[2] <= right + _RIGHT and box[1] >= top - 8 and box[3] <= bottom
        if is_inside and not any(_overlap(box, other) for other in taken):
            return x, y, anchor, box
    return None


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
