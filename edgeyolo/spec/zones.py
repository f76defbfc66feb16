"""Lines that are crossed and areas that are entered, from a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edgeyolo.spec.errors import FormatError
from edgeyolo.spec.strict import load_toml

Point = tuple[float, float]


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A line to be crossed.

    Attributes:
        start_xy, end_xy: its ends. Who looks from the start to the end sees `in` go from the left to the right: over a
            line drawn from left to right, that is down.
        classes: names of those that count; all if empty.
    """

    start_xy: Point
    end_xy: Point
    classes: tuple[str, ...] = ()


class Area(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A polygon to be entered.

    Attributes:
        corners_xy: three or more, in order; the last is joined to the first.
        classes: names of those that count; all if empty.
    """

    corners_xy: tuple[Point, ...]
    classes: tuple[str, ...] = ()


class Zones(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is counted in.

    Attributes:
        unit: of all points: pixels, or share, of the picture's width and height, in [0, 1].
        point: of a box, the one that crosses and enters: the middle of its lower side, or its centre.
        lines, areas: by name.
    """

    unit: Literal["pixels", "share"] = "pixels"
    point: Literal["bottom", "centre"] = "bottom"
    lines: dict[str, Line] = {}
    areas: dict[str, Area] = {}


def load_zones(path: Path | str) -> Zones:
    """Read a TOML file.

    Raises:
        FormatError: cannot be read, an unknown or missing key, a line without length, an area of fewer than three
            corners, a share that is none, or nothing to count in.
    """
    path = Path(path)
    zones = load_toml(path, Zones, defaults={})
    if not (zones.lines or zones.areas):
        raise FormatError("has neither lines nor areas", where=path, hint="Write a [lines.NAME] or an [areas.NAME]")
    for name, line in zones.lines.items():
        if line.start_xy == line.end_xy:
            raise FormatError(f"line '{name}' starts where it ends", where=path, hint="Move end_xy")
        _check_points(zones, name, (line.start_xy, line.end_xy), path)
    for name, area in zones.areas.items():
        if len(set(area.corners_xy)) < 3:
            raise FormatError(f"area '{name}' has fewer than three corners", where=path, hint="Add to corners_xy")
        _check_points(zones, name, area.corners_xy, path)
    return zones


def _check_points(zones: Zones, name: str, points: tuple[Point, ...], path: Path) -> None:
    outside = [value for point in points for value in point if not 0 <= value <= 1]
    if zones.unit == "share" and outside:
        hint = 'Shares are in [0, 1]; for pixels write unit = "pixels"'
        raise FormatError(f"'{name}' has a share of {outside[0]:g}", where=path, hint=hint)
