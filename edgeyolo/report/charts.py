"""Bars and a curve as inline SVG: sharp at any size, and no plotting package is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _BAR, _PITCH, _LETTER = 900.0, 15.0, 21.0, 6.6
_INK, _FAINT = "#3a424b", "#d5dae0"


@dataclass(frozen=True)
class Bar:
    """One line of a bar chart; `text` stands at the end of the bar."""

    label: str
    value: float
    text: str
    colour: str = "#3b7dd8"


def bar_chart(bars: Sequence[Bar], *, title: str) -> str:
    """Horizontal bars from zero, to either side where there are negative values; "" for no bars.

    Args:
        title: read out in place of the picture.
    """
    if not bars:
        return ""
    left = 24.0 + _LETTER * max(len(bar.label) for bar in bars)
    room = max(len(bar.text) for bar in bars) * _LETTER + 12.0
    low, high = min(0.0, *(bar.value for bar in bars)), max(0.0, *(bar.value for bar in bars))
    left += room if low < 0 else 0.0
    span = high - low or 1.0
    unit = (max(_WIDTH, left + room + 200.0) - left - room) / span
    zero = left - low * unit
    height = len(bars) * _PITCH + 8.0
    parts = [_opening(left + room + span * unit, height, title)]
    for i, bar in enumerate(bars):
        parts += _bar(bar, 4.0 + i * _PITCH, zero, unit)
    parts.append(f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="{height:.1f}" stroke="{_INK}"/></svg>')
    return "".join(parts)


def _bar(bar: Bar, y: float, zero: float, unit: float) -> list[str]:
    length = abs(bar.value) * unit
    start = zero if bar.value >= 0 else zero - length
    at, anchor = (zero + length + 5, "start") if bar.value >= 0 else (start - 5, "end")
    return [
        f'<text x="8" y="{y + 12:.1f}">{escape(bar.label)}</text>',
        f'<rect x="{start:.1f}" y="{y:.1f}" width="{length:.1f}" height="{_BAR}" fill="{escape(bar.colour)}"/>',
        f'<text x="{at:.1f}" y="{y + 12:.1f}" text-anchor="{anchor}">{escape(bar.text)}</text>',
    ]


def line_chart(
    points: Sequence[tuple[float, float]], *, reference: float, reference_text: str, marked: float, title: str
) -> str:
    """A curve with a dashed line to compare with; "" for no points.

    Args:
        points: (x, y), x ascending and whole.
        reference: y of the dashed line.
        marked: x of the point that gets a ring; none has it where it is not there.
    """
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [*(y for _, y in points), reference]
    ticks = _ticks(min(ys), max(ys))
    left, top, right, bottom = 60.0, 14.0, _WIDTH - 20.0, 250.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / (xs[-1] - xs[0]) if xs[-1] > xs[0] else 0.5
        return left + across * (right - left), bottom - (y - ticks[0]) / (ticks[-1] - ticks[0]) * (bottom - top)

    parts = [_opening(_WIDTH, 285.0, title)]
    for tick in ticks:
        y = place(xs[0], tick)[1]
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_FAINT}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for x in xs[:: math.ceil(len(xs) / 12)]:
        parts.append(f'<text x="{place(x, ticks[0])[0]:.1f}" y="{bottom + 20}" text-anchor="middle">{x:g}</text>')
    y = place(xs[0], reference)[1]
    parts.append(
        f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_INK}" stroke-dasharray="6 4"/>'
        f'<text x="{right}" y="{y - 5:.1f}" text-anchor="end">{escape(reference_text)}</text>'
    )
    placed = [place(x, y) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    parts.append(f'<polyline points="{path}" fill="none" stroke="#3b7dd8" stroke-width="2"/>')
    for (x, _), (px, py) in zip(points, placed, strict=True):
        radius = 6 if x == marked else 3
        fill = "#fff" if x == marked else "#3b7dd8"
        parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{radius}" fill="{fill}" stroke="#3b7dd8"/>')
    return "".join(parts) + "</svg>"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`, three to seven of them.

    Source: P. Heckbert, "Nice Numbers for Graph Labels", Graphics Gems, 1990.
    """
    span = max(high - low, 1e-3)
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _opening(width: float, height: float, title: str) -> str:
    text = escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width:{width:.0f}px" role="img" aria-label="{text}">'
    )
