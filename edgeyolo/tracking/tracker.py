"""ByteTrack and BoT-SORT: the same objects from frame to frame, by where they should be and how they look.

Source: ByteTrack arXiv 2110.06864, algorithm 1; BoT-SORT arXiv 2206.14651, algorithm 1. What the papers leave open is
as in their authors' programs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeyolo.spec.detections import Detections, Image, Int64
from edgeyolo.spec.errors import BackendError, UnknownNameError, UsageError
from edgeyolo.spec.settings import check_settings
from edgeyolo.spec.tracking import DEFAULT_FRAME_RATE, TrackMethod, TrackSettings
from edgeyolo.spec.tracks import Float64, Tracks
from edgeyolo.tracking.association import assign, cosine_distances, load_solver, normalised, overlaps
from edgeyolo.tracking.camera_motion import CameraMotion
from edgeyolo.tracking.kalman import AspectState, BoxState, SizeState
from edgeyolo.tracking.table import Flags, Sights, TrackTable

SECOND_LIMIT = 0.5  # cost at which a detection of low score does not continue a track
UNCONFIRMED_LIMIT = 0.7  # cost at which a detection does not confirm a track
DUPLICATE_COST = 0.15  # of a lost track and another, below which they are one object
NEVER = 2.0  # a cost above every limit

Embed = Callable[[Image, Float64], Float64]
DEFAULT_SETTINGS = TrackSettings()
_STATES: dict[TrackMethod, type[BoxState]] = {"bytetrack": AspectState, "botsort": SizeState}


class Tracker:
    """Follows the objects of one source; every source needs its own.

    Args:
        method: "bytetrack", or "botsort", which also follows the camera, and tells of a track from its first sight on.
        settings: see `TrackSettings`.
        frame_rate: frames per second that `update` is called for; a lost track is kept for a time, not a number.
        embed: botsort only: what boxes look like, (frame, boxes_xyxy (M, 4)) -> (M, D) vectors, close for one object
            and far for two; asked for detections of high score only.

    Raises:
        UsageError: a setting out of its range, another method, or appearance with bytetrack. MissingPackageError: scipy
        is not installed.
    """

    def __init__(
        self,
        method: TrackMethod = "bytetrack",
        settings: TrackSettings = DEFAULT_SETTINGS,
        *,
        frame_rate: float = DEFAULT_FRAME_RATE,
        embed: Embed | None = None,
    ) -> None:
        check_settings(settings)
        if method not in _STATES:
            raise UnknownNameError("tracker", method, list(_STATES))
        if embed is not None and method != "botsort":
            raise UsageError(f"{method} does not look at appearance", hint="Leave out embed, or take botsort")
        if not 0 < frame_rate < np.inf:
            raise UsageError(f"frame_rate is {frame_rate}", hint="It must be above 0")
        load_solver()  # now, and not when the first two objects meet
        self.method = method
        self.settings = settings
        self._state = _STATES[method]()
        self._embed = embed
        self._camera = CameraMotion() if method == "botsort" and settings.camera_motion else None
        self._buffer = int(frame_rate / 30.0 * settings.buffer)
        self._frame, self._next_id = 0, 1
        nothing = _empty_sights()
        self._tracked = TrackTable.begin(self._state, nothing, 1, 0)
        self._lost = TrackTable.begin(self._state, nothing, 1, 0)

    def update(self, detections: Detections, frame: Image | None = None) -> Tracks:
        """What is followed after one more frame; to be called for each, also where nothing was found.

        Args:
            detections: also of low scores, down to `low_threshold`: they keep tracks alive. Computed with in float64.
            frame: the picture, (H, W, 3) uint8 BGR; botsort without it takes the camera to stand still.

        Raises:
            UsageError: appearance without a frame. ImageError: not a picture. BackendError: `embed` gave other vectors
            than were asked for.
        """
        high, low = self._sort(detections, frame)
        warp = None if self._camera is None or frame is None else self._camera.follow(frame)
        self._frame += 1
        before = TrackTable.join([self._tracked, self._lost])
        is_new = np.zeros(len(before), bool)
        is_new[: len(self._tracked)] = ~self._tracked.confirmed
        pool, unconfirmed = np.flatnonzero(~is_new), np.flatnonzero(is_new)
        before.predict(self._state, pool)
        if warp is not None:
            before.move(warp)

        matched = np.zeros(len(before), bool)
        pool, high = self._continue(before, pool, high, self.settings.match_threshold, matched)
        left = pool[before.tracked[pool]]
        self._continue(before, left, low, SECOND_LIMIT, matched, by_overlap=True)
        _, high = self._continue(before, unconfirmed, high, UNCONFIRMED_LIMIT, matched)
        self._sort_out(before, matched, self._begin(high))
        self._remove_duplicates()
        return self._report()

    def _sort(self, detections: Detections, frame: Image | None) -> tuple[Sights, Sights]:
        """Detections of high score, and those between the two thresholds."""
        boxes_xyxy = np.asarray(detections.boxes_xyxy, np.float64)
        scores = np.asarray(detections.scores, np.float64)
        usable = np.isfinite(boxes_xyxy).all(axis=1) & (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(axis=1)
        is_high = usable & (scores > self.settings.high_threshold)
        is_low = usable & (scores > self.settings.low_threshold) & (scores < self.settings.high_threshold)
        features = np.zeros((len(scores), 0))
        if self._embed is not None:
            high_features = self._look(frame, boxes_xyxy[is_high])
            features = np.zeros((len(scores), high_features.shape[1]))
            features[is_high] = high_features
        measured = np.zeros_like(boxes_xyxy)
        measured[usable] = self._state.measure(boxes_xyxy[usable])
        sights = Sights(boxes_xyxy, measured, scores, np.asarray(detections.class_ids, np.int64), features)
        return sights.take(is_high), sights.take(is_low)

    def _look(self, frame: Image | None, boxes_xyxy: Float64) -> Float64:
        """(M, D) of length 1."""
        assert self._embed is not None
        known = max(self._tracked.features.shape[1], self._lost.features.shape[1])
        if not len(boxes_xyxy):
            return np.zeros((0, known))
        if frame is None:
            raise UsageError("embed needs a frame, and none is given", hint="Give it: update(found, frame)")
        vectors = np.asarray(self._embed(frame, boxes_xyxy), np.float64)
        if vectors.ndim != 2 or len(vectors) != len(boxes_xyxy) or known not in (0, vectors.shape[1]):
            wanted = f"({len(boxes_xyxy)}, {known or 'D'})"
            raise BackendError(f"embed gave an array of shape {vectors.shape}", hint=f"It must be {wanted}")
        for table in (self._tracked, self._lost):
            if table.features.shape[1] != vectors.shape[1]:
                table.features = np.zeros((len(table), vectors.shape[1]))
        return normalised(vectors)

    def _continue(
        self, table: TrackTable, rows: Int64, sights: Sights, limit: float, matched: Flags, *, by_overlap: bool = False
    ) -> tuple[Int64, Sights]:
        """One association: sees tracks again, notes them in `matched`, and gives the tracks and sights left over."""
        costs = self._costs(table, rows, sights, by_overlap=by_overlap)
        pairs = assign(costs, limit)
        table.see(self._state, rows[pairs[:, 0]], sights.take(pairs[:, 1]), self._frame)
        matched[rows[pairs[:, 0]]] = True
        return np.delete(rows, pairs[:, 0]), sights.take(np.delete(np.arange(len(sights)), pairs[:, 1]))

    def _costs(self, table: TrackTable, rows: Int64, sights: Sights, *, by_overlap: bool) -> Float64:
        """(N, M): by the overlap alone, or by score and appearance too."""
        settings = self.settings
        boxes_xyxy = self._state.boxes(table.states[rows])
        near = overlaps(boxes_xyxy, sights.boxes_xyxy, pixel_boxes=settings.pixel_boxes)
        costs = 1 - (near * sights.scores if settings.fuse_score and not by_overlap else near)
        if self._embed is not None and not by_overlap:
            unlike = cosine_distances(table.features[rows], sights.features) / 2
            counts = (unlike <= settings.appearance_threshold) & (1 - near <= settings.proximity_threshold)
            costs = np.minimum(costs, np.where(counts, unlike, 1.0))
        if settings.per_class:
            costs[table.class_ids[rows][:, None] != sights.class_ids] = NEVER
        return costs

    def _begin(self, sights: Sights) -> TrackTable:
        """Tracks of those that score well enough."""
        begun = sights.take(sights.scores >= self.settings.new_threshold)
        table = TrackTable.begin(self._state, begun, self._next_id, self._frame)
        self._next_id += len(table)
        return table

    def _sort_out(self, before: TrackTable, matched: Flags, begun: TrackTable) -> None:
        """What is tracked and what is lost from now on, each in the authors' order.

        A track that was lost for too long can still be found in the next frame, and is then followed; but when it is
        lost again it is gone.
        """
        rows, count = np.arange(len(before)), len(self._tracked)
        was_tracked, was_confirmed = rows < count, np.concatenate([self._tracked.confirmed, self._lost.confirmed])
        found_again = before.take(rows[matched & ~was_tracked])
        self._tracked = TrackTable.join([before.take(rows[matched & was_tracked]), begun, found_again])

        before.tracked[~matched] = False
        kept = ~matched & ~before.given_up
        before.given_up |= ~was_tracked & (self._frame - before.seen > self._buffer)
        still, newly = kept & ~was_tracked, kept & was_tracked & was_confirmed
        self._lost = before.take(np.concatenate([rows[still], rows[newly]]))

    def _remove_duplicates(self) -> None:
        """Of a tracked and a lost track at one place, the one followed for longer stays; if equal, the lost."""
        near = overlaps(
            self._state.boxes(self._tracked.states),
            self._state.boxes(self._lost.states),
            pixel_boxes=self.settings.pixel_boxes,
        )
        same = 1 - near < DUPLICATE_COST
        if self.settings.per_class:
            same &= self._tracked.class_ids[:, None] == self._lost.class_ids
        longer = (self._tracked.seen - self._tracked.started)[:, None] > self._lost.seen - self._lost.started
        self._tracked = self._tracked.take(~(same & ~longer).any(axis=1))
        self._lost = self._lost.take(~(same & longer).any(axis=0))

    def _report(self) -> Tracks:
        """Unconfirmed ones too by BoT-SORT, as its authors do."""
        told = self._tracked if self.method == "botsort" else self._tracked.take(self._tracked.confirmed)
        return Tracks(told.ids.copy(), self._state.boxes(told.states), told.scores.copy(), told.class_ids.copy())


def _empty_sights() -> Sights:
    return Sights(np.zeros((0, 4)), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), np.zeros((0, 0)))
