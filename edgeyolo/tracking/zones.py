"""Counting what crosses lines and enters areas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeyolo.spec.errors import UnknownNameError
from edgeyolo.spec.tracks import Float64, Tracks
from edgeyolo.spec.zones import Area, Line, Point, Zones

FORGET_FRAMES = 1000  # a track that is not seen for so long is taken for gone


@dataclass
class _Known:
    """Where a track was: frame of its latest sight, its latest point off each line, the areas it has been in."""

    frame: int = 0
    off_line: dict[str, Point] = field(default_factory=dict)
    entered: set[str] = field(default_factory=set)


class ZoneCounter:
    """Counts the objects of one source.

    Args:
        zones: see `Zones`.
        class_names: K names, for zones that count some classes only.

    Attributes:
        crossed: line -> how often it was crossed, {"in": ..., "out": ...}.
        areas: area -> {"inside": objects in the latest frame, "entered": tracks that have been inside so far}.

    Raises:
        UnknownNameError: a zone counts a class that the model does not know.
    """

    def __init__(self, zones: Zones, class_names: Sequence[str]) -> None:
        self.zones = zones
        self.crossed = {name: {"in": 0, "out": 0} for name in zones.lines}
        self.areas = {name: {"inside": 0, "entered": 0} for name in zones.areas}
        everything: tuple[Line | Area, ...] = (*zones.lines.values(), *zones.areas.values())
        self._classes = {zone: _class_ids(zone.classes, class_names) for zone in everything}
        self._known: dict[int, _Known] = {}
        self._frame = 0

    def count(self, tracks: Tracks, image_hw: tuple[int, int]) -> None:
        """Take in one more frame."""
        self._frame += 1
        points = self._points(tracks)
        known = [self._known.setdefault(track_id, _Known()) for track_id in tracks.track_ids.tolist()]
        for one in known:
            one.frame = self._frame
        scale = np.array([image_hw[1], image_hw[0]], np.float64) if self.zones.unit == "share" else np.ones(2)
        for name, line in self.zones.lines.items():
            counts = self._counting(line, tracks)
            self._count_crossings(name, points[counts], [known[i] for i in counts], scale)
        for name, area in self.zones.areas.items():
            counts = self._counting(area, tracks)
            inside = counts[is_inside(points[counts], np.array(area.corners_xy) * scale)]
            self.areas[name]["inside"] = len(inside)
            for i in inside:
                self.areas[name]["entered"] += name not in known[i].entered
                known[i].entered.add(name)
        if self._frame % FORGET_FRAMES == 0:
            oldest = self._frame - FORGET_FRAMES
            self._known = {key: one for key, one in self._known.items() if one.frame > oldest}

    def as_dict(self) -> dict[str, Any]:
        """All counts, for JSON."""
        return {
            "lines": {name: dict(counts) for name, counts in self.crossed.items()},
            "areas": {name: dict(counts) for name, counts in self.areas.items()},
        }

    def _points(self, tracks: Tracks) -> Float64:
        """(M, 2): the point of each box that counts."""
        left, top, right, bottom = tracks.boxes_xyxy.T
        return np.stack([(left + right) / 2, bottom if self.zones.point == "bottom" else (top + bottom) / 2], axis=1)

    def _counting(self, zone: Line | Area, tracks: Tracks) -> Any:
        """Positions of the tracks whose class counts."""
        ids = self._classes[zone]
        return np.flatnonzero(np.isin(tracks.class_ids, ids)) if ids else np.arange(len(tracks))

    def _count_crossings(self, name: str, points: Float64, known: list[_Known], scale: Float64) -> None:
        """A point on the line has not crossed it yet: the way from the latest point beside it is what counts."""
        line = self.zones.lines[name]
        start, end = np.array(line.start_xy) * scale, np.array(line.end_xy) * scale
        sides = _side(start, end, points)
        for point, side, one in zip(points, sides.tolist(), known, strict=True):
            if side == 0:
                continue
            before = one.off_line.get(name)
            one.off_line[name] = (float(point[0]), float(point[1]))
            if before is None:
                continue
            beginning = np.array(before)
            ends = _side(beginning, point, np.stack([start, end]))
            if float(_side(start, end, beginning[None])[0]) * side < 0 and ends[0] * ends[1] <= 0:
                self.crossed[name]["in" if side > 0 else "out"] += 1


def is_inside(points: Float64, corners: Float64) -> Any:
    """Which of (M, 2) lie in a polygon (N, 2), by how often a ray to the right leaves it; (M,) bool."""
    x, y = points[:, :1], points[:, 1:]
    (x1, y1), (x2, y2) = corners.T, np.roll(corners, -1, axis=0).T
    spans = (y1 > y) != (y2 > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        meets = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
    return (spans & (x < meets)).sum(axis=1) % 2 == 1


def _side(start: Float64, end: Float64, points: Float64) -> Float64:
    """(M,): above 0 right of the way from start to end, as a picture shows it; 0 on it."""
    way, offsets = end - start, points - start
    sides: Float64 = way[0] * offsets[:, 1] - way[1] * offsets[:, 0]
    return sides


def _class_ids(wanted: Sequence[str], class_names: Sequence[str]) -> list[int]:
    for name in wanted:
        if name not in class_names:
            raise UnknownNameError("class", name, class_names)
    return [list(class_names).index(name) for name in wanted]
