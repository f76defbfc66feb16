"""Counts against ways that are written by hand, and polygons against OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeyolo.spec.errors import FormatError, UnknownNameError
from edgeyolo.spec.tracks import Tracks
from edgeyolo.spec.zones import Zones, load_zones
from edgeyolo.tracking.zones import FORGET_FRAMES, ZoneCounter, is_inside

NAMES = ("person", "dog")
WRITTEN = """
unit = "share"

[lines.door]
start_xy = [0.2, 0.5]
end_xy = [0.8, 0.5]

[areas.yard]
corners_xy = [[0.0, 0.5], [1.0, 0.5], [1.0, 1.0], [0.0, 1.0]]
classes = ["person"]
"""


@pytest.fixture
def zones(tmp_path: Path) -> Zones:
    (tmp_path / "zones.toml").write_text(WRITTEN)
    return load_zones(tmp_path / "zones.toml")


def standing_at(points: dict[int, tuple[float, float]], class_id: int = 0) -> Tracks:
    """Tracks by id whose boxes stand on these points."""
    boxes = [[x - 5, y - 30, x + 5, y] for x, y in points.values()]
    ids = np.array(list(points), np.int64)
    return Tracks(ids, np.array(boxes).reshape(-1, 4), np.full(len(ids), 0.9), np.full(len(ids), class_id, np.int64))


def walk(counter: ZoneCounter, *points: tuple[float, float], track_id: int = 1, class_id: int = 0) -> None:
    for point in points:
        counter.count(standing_at({track_id: point}, class_id), (100, 200))


@pytest.mark.parametrize(
    ("points", "crossed"),
    [
        ([(100, 40), (100, 60)], (1, 0)),
        ([(100, 60), (100, 40)], (0, 1)),
        ([(100, 40), (100, 60), (100, 40), (100, 60)], (2, 1)),
        ([(100, 40), (100, 50), (100, 60)], (1, 0)),  # stands on the line for a frame
        ([(100, 40), (100, 50), (100, 40)], (0, 0)),  # and turns back
        ([(20, 40), (20, 60)], (0, 0)),  # beside its end
        ([(20, 40), (100, 60)], (1, 0)),  # slantwise, over the line at x = 60
        ([(20, 49), (100, 90)], (0, 0)),  # slantwise, past its end
        ([(100, 40), (110, 45)], (0, 0)),
    ],
)
def test_a_line_counts_ways_that_cross_it(zones: Zones, points: list, crossed: tuple[int, int]) -> None:
    counter = ZoneCounter(zones, NAMES)
    walk(counter, *points)
    assert counter.as_dict()["lines"]["door"] == {"in": crossed[0], "out": crossed[1]}


def test_a_track_that_was_hidden_crosses_on_its_straight_way(zones: Zones) -> None:
    counter = ZoneCounter(zones, NAMES)
    walk(counter, (100, 40))
    for _ in range(5):
        counter.count(standing_at({}), (100, 200))
    walk(counter, (100, 60))
    assert counter.crossed["door"] == {"in": 1, "out": 0}


def test_an_area_counts_who_is_and_who_has_been_inside(zones: Zones) -> None:
    counter = ZoneCounter(zones, NAMES)
    counter.count(standing_at({1: (50, 60), 2: (150, 70), 3: (50, 20)}), (100, 200))
    assert counter.areas["yard"] == {"inside": 2, "entered": 2}
    counter.count(standing_at({1: (50, 40), 2: (150, 70), 3: (50, 60)}), (100, 200))
    assert counter.areas["yard"] == {"inside": 2, "entered": 3}
    walk(counter, (50, 60))  # again, which is not another one
    assert counter.areas["yard"] == {"inside": 1, "entered": 3}
    walk(counter, (50, 60), track_id=9, class_id=1)  # a dog
    assert counter.areas["yard"] == {"inside": 0, "entered": 3}


def test_tracks_that_are_long_gone_are_forgotten(zones: Zones) -> None:
    counter = ZoneCounter(zones, NAMES)
    walk(counter, (100, 40))
    for i in range(2 * FORGET_FRAMES):
        walk(counter, (100, 40), track_id=2 + i)
    assert len(counter._known) <= FORGET_FRAMES + 1


def test_insides_are_those_of_opencv() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        corners = rng.uniform(0, 100, (rng.integers(3, 8), 2)).astype(np.float32)
        points = rng.uniform(-10, 110, (200, 2))
        expected = [cv2.pointPolygonTest(corners[:, None], tuple(map(float, p)), False) > 0 for p in points]
        assert is_inside(points, corners.astype(np.float64)).tolist() == expected


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "neither lines nor areas"),
        ("[lines.a]\nstart_xy = [1, 1]\nend_xy = [1, 1]", "'a' starts where it ends"),
        ("[areas.a]\ncorners_xy = [[1, 1], [2, 2], [1, 1]]", "fewer than three corners"),
        ('unit = "share"\n[lines.a]\nstart_xy = [0, 0]\nend_xy = [1, 5]', "a share of 5"),
        ("[lines.a]\nstart = [0, 0]\nend_xy = [1, 5]", "start"),
        ("[lines.a]\nstart_xy = [0]\nend_xy = [1, 5]", "length 2"),
    ],
)
def test_what_cannot_be_counted_in_is_told(tmp_path: Path, written: str, said: str) -> None:
    path = tmp_path / "zones.toml"
    path.write_text(written)
    with pytest.raises(FormatError, match=said):
        load_zones(path)


def test_a_class_that_nobody_knows_is_told(zones: Zones) -> None:
    with pytest.raises(UnknownNameError, match="person"):
        ZoneCounter(zones, ("persons",))
