"""Draw what is followed: boxes with ids, the way that each came, and zones with their counts."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edgeyolo.geometry.network_input import bgr_from_any
from edgeyolo.runtime.draw import class_colour, draw_label, line_width
from edgeyolo.spec.detections import Image
from edgeyolo.spec.tracks import Tracks
from edgeyolo.tracking.zones import ZoneCounter

TRAIL_FRAMES = 30
_ZONE_COLOUR = (0, 220, 255)


class Trails:
    """The latest points of every track that is still seen: the middles of the lower sides of its boxes."""

    def __init__(self) -> None:
        self._points: dict[int, tuple[tuple[int, int], ...]] = {}  # replaced as a whole: another thread may draw

    def keep(self, tracks: Tracks) -> None:
        """Add the points of one more frame; a track that is not in it has no trail any more."""
        points = {}
        for track_id, (left, _, right, bottom) in zip(tracks.track_ids.tolist(), tracks.boxes_xyxy, strict=True):
            point = (round(float(left + right) / 2), round(float(bottom)))
            points[track_id] = (*self._points.get(track_id, ())[1 - TRAIL_FRAMES :], point)
        self._points = points

    def of(self, track_id: int) -> list[tuple[int, int]]:
        """Points (x, y) in pixels, oldest first."""
        return list(self._points.get(track_id, ()))


def draw_tracks(image: Image, tracks: Tracks, class_names: Sequence[str], trails: Trails) -> Image:
    """A copy of the picture with every track in a colour of its own.

    Returns:
        (H, W, 3) uint8 BGR.

    Raises:
        ImageError: not a picture.
    """
    canvas = bgr_from_any(image).copy()
    width_px = line_width(canvas)
    rows = zip(tracks.track_ids.tolist(), tracks.boxes_xyxy, tracks.class_ids.tolist(), strict=True)
    for track_id, box_xyxy, class_id in rows:
        left, top, right, bottom = (round(float(v)) for v in box_xyxy)
        colour = class_colour(track_id)
        trail = np.array(trails.of(track_id), np.int32).reshape(-1, 1, 2)
        cv2.polylines(canvas, [trail], False, colour, width_px, cv2.LINE_AA)
        cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), colour, width_px)
        draw_label(canvas, f"{track_id} {class_names[class_id]}", (left, top), colour)
    return canvas


def draw_zones(canvas: Image, counter: ZoneCounter) -> Image:
    """The lines and areas of a counter, with their counts, on `canvas` itself."""
    zones = counter.zones
    scale = np.array([canvas.shape[1], canvas.shape[0]]) if zones.unit == "share" else np.ones(2)
    shapes = [
        (np.array([line.start_xy, line.end_xy]), False, f"{name}: in {counts['in']}, out {counts['out']}")
        for (name, line), counts in zip(zones.lines.items(), counter.crossed.values(), strict=True)
    ]
    shapes += [
        (np.array(area.corners_xy), True, f"{name}: {counts['inside']} inside, {counts['entered']} entered")
        for (name, area), counts in zip(zones.areas.items(), counter.areas.values(), strict=True)
    ]
    for points, is_closed, text in shapes:
        points_px = np.rint(points * scale).astype(np.int32)
        cv2.polylines(canvas, [points_px[:, None]], is_closed, _ZONE_COLOUR, line_width(canvas), cv2.LINE_AA)
        draw_label(canvas, text, (int(points_px[0, 0]), int(points_px[0, 1])), _ZONE_COLOUR)
    return canvas
