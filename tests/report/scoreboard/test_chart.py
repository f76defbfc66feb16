"""Accuracy against latency: what is on the front, and where points and their names stand."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeyolo.report.scoreboard.chart import Drawing, Label, draw_charts
from edgeyolo.spec.figure import Figure, Kind, ScoreboardRow

KINDS = st.sampled_from(["measured", "simulated", "estimated", "published"])
# Few different values, so that many are equal.
POINTS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(40, 45), st.sampled_from("xy"), KINDS), min_size=1, max_size=12
)


def make_row(ms: float, ap: float, device: str, kind: Kind) -> ScoreboardRow:
    return ScoreboardRow(
        model="m",
        data="d",
        ap=Figure(value=ap, unit="AP", kind="measured"),
        costs=(Figure(value=ms, unit="ms", kind=kind, source=device),),
    )


@settings(max_examples=40)
@given(points=POINTS)
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int, str, Kind]]) -> None:
    """Against the definition, point by point; devices and kinds of numbers are not compared with one another."""
    (chart,) = draw_charts([make_row(*point) for point in points])
    for number, (ms, ap, *group) in enumerate(points):
        rivals = [(a, b) for a, b, *other in points if other == group]
        is_beaten = any((a < ms and b >= ap) or (a <= ms and b > ap) for a, b in rivals)
        (found,) = [point for point in chart.points if point.row == number]
        assert found.is_front is not is_beaten


@settings(max_examples=40)
@given(points=POINTS)
def test_everything_stands_in_the_frame_and_no_name_on_another(points: list[tuple[int, int, str, Kind]]) -> None:
    (chart,) = draw_charts([make_row(*point) for point in points])
    for drawing in (chart.wide, chart.narrow):
        left, top, right, bottom = drawing.frame
        assert all(left < p.x < right and top < p.y < bottom for p in drawing.points)
        assert all(left <= x <= right for x, _ in drawing.x_ticks) and len(drawing.x_ticks) >= 2
        assert all(top - 0.1 <= y <= bottom + 0.1 for y, _ in drawing.y_ticks) and len(drawing.y_ticks) >= 3
        boxes = [box_of(label) for label in drawing.labels]
        assert not any(meet(a, b) for a, b in itertools.combinations(boxes, 2))
        assert check_scale(drawing)


def box_of(label: Label) -> tuple[float, float, float, float]:
    """Of text of 6 pixels a letter."""
    width = 6.0 * len(label.text)
    x = label.x - {"start": 0, "middle": width / 2, "end": width}[label.anchor]
    return (x, label.y - 9, x + width, label.y + 2)


def meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def check_scale(drawing: Drawing) -> bool:
    """Whether each point stands between ticks as its numbers do between theirs: times by logarithms, AP by steps."""
    (x1, ms1), (x2, ms2) = ((x, float(text)) for x, text in (drawing.x_ticks[0], drawing.x_ticks[-1]))
    (y1, ap1), (y2, ap2) = ((y, float(text)) for y, text in (drawing.y_ticks[0], drawing.y_ticks[-1]))
    for placed in drawing.points:
        x = x1 + (x2 - x1) * math.log(placed.point.ms.value / ms1) / math.log(ms2 / ms1)
        y = y1 + (y2 - y1) * (placed.point.ap.value - ap1) / (ap2 - ap1)
        assert placed.x == pytest.approx(x, abs=1.5) and placed.y == pytest.approx(y, abs=1.5)
    return True


def test_a_point_is_of_the_less_direct_kind() -> None:
    row = make_row(10.0, 50.0, "x", "measured")
    simulated = ScoreboardRow(model="m", data="d", ap=Figure(value=50.0, unit="AP", kind="simulated"), costs=row.costs)
    (chart,) = draw_charts([row, simulated])
    assert [point.kind for point in chart.points] == ["measured", "simulated"]


def test_without_accuracy_or_time_there_is_no_point() -> None:
    row = make_row(10.0, 50.0, "x", "measured")
    unscored = ScoreboardRow(model="m", data="d", costs=row.costs)
    never = ScoreboardRow(model="m", data="d", ap=row.ap, costs=(Figure(value=0.0, unit="ms", kind="measured"),))
    assert draw_charts([unscored, never, ScoreboardRow(model="m", ap=row.ap)]) == []
