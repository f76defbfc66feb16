"""Tracks in columns: everything that is known of many, computed for all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeyolo.spec.detections import Int64
from edgeyolo.spec.tracks import Float64
from edgeyolo.tracking import kalman
from edgeyolo.tracking.association import normalised

Flags = npt.NDArray[np.bool_]

FEATURE_MEMORY = 0.9  # part of the old appearance that each new sight leaves


@dataclass(frozen=True)
class Sights:
    """Detections that may begin or continue a track.

    Attributes:
        boxes_xyxy: (M, 4). measured: (M, 4) as the filter's state has them. scores, class_ids: (M,).
        features: (M, D) of length 1; D is 0 where appearance is not looked at.
    """

    boxes_xyxy: Float64
    measured: Float64
    scores: Float64
    class_ids: Int64
    features: Float64

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: Any) -> Sights:
        """Some of them."""
        return Sights(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass
class TrackTable:
    """One row for each track.

    Attributes:
        ids: (N,). states: (N, 8). covariances: (N, 8, 8). scores, class_ids: (N,), of the latest sight.
        features: (N, D) averaged over sights.
        confirmed: (N,) seen twice, or in the first frame of all.
        tracked: (N,) seen in the frame before.
        given_up: (N,) was lost for too long once; such a track is not kept when it is lost again.
        started, seen: (N,) frames of the first and of the latest sight.
    """

    ids: Int64
    states: Float64
    covariances: Float64
    scores: Float64
    class_ids: Int64
    features: Float64
    confirmed: Flags
    tracked: Flags
    given_up: Flags
    started: Int64
    seen: Int64

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def begin(cls, state: kalman.BoxState, sights: Sights, first_id: int, frame: int) -> TrackTable:
        """A track of each sight; ids count on from `first_id`."""
        count = len(sights)
        states, covariances = kalman.begin(state, sights.measured)
        return cls(
            np.arange(first_id, first_id + count, dtype=np.int64),
            states,
            covariances,
            sights.scores,
            sights.class_ids,
            sights.features,
            confirmed=np.full(count, frame == 1),
            tracked=np.ones(count, bool),
            given_up=np.zeros(count, bool),
            started=np.full(count, frame, np.int64),
            seen=np.full(count, frame, np.int64),
        )

    def take(self, rows: Any) -> TrackTable:
        """Some of them, in the order given; a copy."""
        return TrackTable(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def join(cls, tables: Sequence[TrackTable]) -> TrackTable:
        """One after the other; a copy."""
        return cls(*(np.concatenate([getattr(table, field.name) for table in tables]) for field in fields(cls)))

    def predict(self, state: kalman.BoxState, rows: Int64) -> None:
        """One frame on, those of `rows`."""
        states = self.states[rows]
        for velocity in state.falling:
            states[~self.tracked[rows], velocity] = 0
        self.states[rows], self.covariances[rows] = kalman.predict(state, states, self.covariances[rows])

    def move(self, warp: Float64) -> None:
        """All of them, as the camera did."""
        self.states, self.covariances = kalman.move(self.states, self.covariances, warp)

    def see(self, state: kalman.BoxState, rows: Int64, sights: Sights, frame: int) -> None:
        """Each of `rows` again, in a sight of its own."""
        self.states[rows], self.covariances[rows] = kalman.update(
            state, self.states[rows], self.covariances[rows], sights.measured
        )
        self.scores[rows], self.class_ids[rows], self.seen[rows] = sights.scores, sights.class_ids, frame
        self.confirmed[rows] = self.tracked[rows] = True
        looked = sights.features.any(axis=1)
        mixed = FEATURE_MEMORY * self.features[rows[looked]] + (1 - FEATURE_MEMORY) * sights.features[looked]
        self.features[rows[looked]] = normalised(mixed)
