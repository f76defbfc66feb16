"""One source followed: ids, counts, and both drawn."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import Any

from edgeyolo.runtime.draw_tracks import Trails, draw_tracks, draw_zones
from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.tracking import DEFAULT_FRAME_RATE, TrackMethod, TrackSettings
from edgeyolo.spec.tracks import Tracks
from edgeyolo.spec.zones import Zones
from edgeyolo.tracking.tracker import Embed, Tracker
from edgeyolo.tracking.zones import ZoneCounter


class Follower:
    """A tracker, its trails and its counts; every source needs its own.

    Args:
        method, settings: as `Tracker` takes them.
        class_names: K names, of the detector.
        zones: what is counted in, if anything.
        embed: what objects look like, as `Tracker` takes it.
        frame_rate: frames per second; 0 where the source does not say.

    Attributes:
        tracks: of the latest frame.

    Raises:
        UsageError: a setting out of its range. UnknownNameError: a zone counts a class that the detector does not know.
    """

    def __init__(
        self,
        method: TrackMethod,
        settings: TrackSettings,
        class_names: Sequence[str],
        *,
        zones: Zones | None = None,
        embed: Embed | None = None,
        frame_rate: float = DEFAULT_FRAME_RATE,
    ) -> None:
        self.tracks = Tracks.empty()
        self._tracker = Tracker(method, settings, frame_rate=frame_rate or DEFAULT_FRAME_RATE, embed=embed)
        self._class_names = class_names
        self._trails = Trails()
        self._counter = ZoneCounter(zones, class_names) if zones is not None else None

    def update(self, detections: Detections, image: Image) -> Tracks:
        """One more frame; errors as `Tracker.update`."""
        self.tracks = self._tracker.update(detections, image)
        self._trails.keep(self.tracks)
        if self._counter is not None:
            self._counter.count(self.tracks, (image.shape[0], image.shape[1]))
        return self.tracks

    @property
    def counts(self) -> dict[str, Any] | None:
        """As `ZoneCounter.as_dict`; None where nothing is counted."""
        return None if self._counter is None else self._counter.as_dict()

    def draw(self, image: Image, tracks: Tracks | None = None) -> Image:
        """A copy of the frame with boxes, ids, trails, zones and counts on it.

        Args:
            tracks: of that frame, where it is not the latest.
        """
        canvas = draw_tracks(image, self.tracks if tracks is None else tracks, self._class_names, self._trails)
        return canvas if self._counter is None else draw_zones(canvas, self._counter)


class Followers:
    """One for each source, made when its first frame comes; arguments and errors as in `Follower`."""

    def __init__(
        self,
        method: TrackMethod,
        settings: TrackSettings,
        class_names: Sequence[str],
        zones: Zones | None = None,
        *,
        embed: Embed | None = None,
    ) -> None:
        self._make = functools.partial(Follower, method, settings, class_names, zones=zones, embed=embed)
        self._known: dict[Hashable, Follower] = {}
        self._make()  # what is wrong with settings and zones is told before the first frame

    def of(self, source: Hashable, frame_rate: float = 0.0) -> Follower:
        """That of a source, by any name for it."""
        if source not in self._known:
            self._known[source] = self._make(frame_rate=frame_rate)
        return self._known[source]
