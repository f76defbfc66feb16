"""MOTA, IDF1 and HOTA of tracks on ground truth.

Our own, for TrackEval brings an OpenCV that replaces the headless one; tests compare with its figures.

Source: MOTA, Bernardin and Stiefelhagen 2008; IDF1, arXiv 1609.01775; HOTA, arXiv 2009.07736.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from edgeyolo.evaluation.mot_files import MotRows
from edgeyolo.spec.detections import Int64
from edgeyolo.spec.track_score import SequenceScore
from edgeyolo.spec.tracks import Float64
from edgeyolo.tracking.association import most_worth, overlaps

ALPHAS = np.arange(1, 20) * 0.05  # overlaps that HOTA is a mean over
MATCH_OVERLAP = 0.5
DISTRACTORS = (2, 7, 8, 12)  # person on a vehicle, static person, distractor, reflection: finding them is no error
EPSILON = np.finfo(np.float64).eps
_STAYS = 1000.0  # worth of a pair of the frame before, more than any overlap


@dataclass(frozen=True)
class TrackCounts:
    """What scores are made of; those of several sequences are added.

    Attributes:
        frames, boxes, objects, found: ground truth that counts, and boxes of tracks.
        matched, switches: of MOTA. matched_ids: of IDF1, boxes of the best one-to-one pairs of objects and tracks.
        matched_at: (19,) pairs at each overlap of HOTA. associated_at: (19,) sum of A(c) over these pairs.
    """

    frames: int
    boxes: int
    objects: int
    found: int
    matched: int
    switches: int
    matched_ids: int
    matched_at: Float64
    associated_at: Float64

    def __add__(self, other: TrackCounts) -> TrackCounts:
        return TrackCounts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def score(self) -> SequenceScore:
        """In percent."""
        det_a = self.matched_at / np.maximum(1, self.boxes + self.found - self.matched_at)
        ass_a = self.associated_at / np.maximum(1, self.matched_at)
        misses, false_positives = self.boxes - self.matched, self.found - self.matched
        return SequenceScore(
            frames=self.frames,
            boxes=self.boxes,
            objects=self.objects,
            hota=100 * float(np.sqrt(det_a * ass_a).mean()),
            det_a=100 * float(det_a.mean()),
            ass_a=100 * float(ass_a.mean()),
            mota=100 * (self.matched - false_positives - self.switches) / max(1, self.boxes),
            idf1=200 * self.matched_ids / max(1, self.boxes + self.found),
            id_switches=self.switches,
            misses=misses,
            false_positives=false_positives,
        )


@dataclass(frozen=True)
class _Frame:
    """Positions of objects and tracks among all of the sequence, (N,) and (M,), and their overlaps, (N, M)."""

    objects: Int64
    tracks: Int64
    near: Float64


def count_tracks(truth: MotRows, tracks: MotRows) -> TrackCounts:
    """Compare the tracks of a sequence with its ground truth.

    Ground truth whose mark is 0 does not count; tracks that sit on one of `DISTRACTORS` among it do not either.

    Raises:
        MissingPackageError: scipy is not installed.
    """
    tracks = _without_distracted(truth, tracks)
    truth = truth.take(truth.marks != 0)
    object_ids, objects = np.unique(truth.ids, return_inverse=True)
    track_ids, followed = np.unique(tracks.ids, return_inverse=True)
    shape = (len(object_ids), len(track_ids))
    frames = [
        _Frame(objects[i], followed[j], overlaps(truth.boxes_xyxy[i], tracks.boxes_xyxy[j]))
        for i, j in _by_frame(truth, tracks)
    ]
    matched, switches = _count_clear(frames, len(object_ids))
    matched_at, associated_at = _count_hota(frames, shape)
    return TrackCounts(
        frames=int(max(truth.frames.max(initial=0), tracks.frames.max(initial=0))),
        boxes=len(truth.ids),
        objects=len(object_ids),
        found=len(tracks.ids),
        matched=matched,
        switches=switches,
        matched_ids=_count_identities(frames, shape),
        matched_at=matched_at,
        associated_at=associated_at,
    )


def _by_frame(truth: MotRows, tracks: MotRows) -> Iterator[tuple[Int64, Int64]]:
    """Rows of both in each frame that has any, in the order of time."""
    for frame in np.union1d(truth.frames, tracks.frames):
        yield np.flatnonzero(truth.frames == frame), np.flatnonzero(tracks.frames == frame)


def _without_distracted(truth: MotRows, tracks: MotRows) -> MotRows:
    """Tracks without the boxes that match a distractor better than anything else."""
    distracts = (truth.marks == 0) & np.isin(truth.class_ids, DISTRACTORS)
    kept = np.ones(len(tracks.ids), bool)
    for i, j in _by_frame(truth, tracks):
        near = overlaps(truth.boxes_xyxy[i], tracks.boxes_xyxy[j])
        near[near < MATCH_OVERLAP - EPSILON] = 0
        rows, columns = most_worth(near)
        real = near[rows, columns] > 0
        kept[j[columns[real & distracts[i[rows]]]]] = False
    return tracks.take(kept)


def _count_clear(frames: list[_Frame], objects: int) -> tuple[int, int]:
    """Matches at half an overlap, and how often an object went over to another track; pairs stay while they can."""
    latest, before = np.full(objects, -1), np.full(objects, -1)  # track at the last sight, and in the last frame
    matched = switches = 0
    for frame in frames:
        if not (len(frame.objects) and len(frame.tracks)):
            continue
        worth = _STAYS * (before[frame.objects][:, None] == frame.tracks) + frame.near
        worth[frame.near < MATCH_OVERLAP - EPSILON] = 0
        rows, columns = most_worth(worth)
        real = worth[rows, columns] > 0
        seen, by = frame.objects[rows[real]], frame.tracks[columns[real]]
        switches += int(((latest[seen] >= 0) & (latest[seen] != by)).sum())
        matched += len(seen)
        before[:] = -1
        latest[seen] = before[seen] = by
    return matched, switches


def _count_identities(frames: list[_Frame], shape: tuple[int, int]) -> int:
    """Boxes in which each object and the one track that is given to it for good meet."""
    meetings = np.zeros(shape)
    for frame in frames:
        rows, columns = np.nonzero(frame.near >= MATCH_OVERLAP)
        meetings[frame.objects[rows], frame.tracks[columns]] += 1
    rows, columns = most_worth(meetings)
    return int(meetings[rows, columns].sum())


def _count_hota(frames: list[_Frame], shape: tuple[int, int]) -> tuple[Float64, Float64]:
    """Matches at every overlap, chosen so that pairs that go well together over time are preferred."""
    likely, lengths = np.zeros(shape), (np.zeros((shape[0], 1)), np.zeros((1, shape[1])))
    for frame in frames:
        around = frame.near.sum(axis=0) + frame.near.sum(axis=1)[:, None] - frame.near
        share = np.where(around > EPSILON, frame.near / np.where(around > EPSILON, around, 1), 0)
        likely[np.ix_(frame.objects, frame.tracks)] += share
        lengths[0][frame.objects] += 1
        lengths[1][:, frame.tracks] += 1
    alike = likely / np.maximum(lengths[0] + lengths[1] - likely, EPSILON)
    meetings = np.zeros((len(ALPHAS), *shape))
    for frame in frames:
        rows, columns = most_worth(alike[np.ix_(frame.objects, frame.tracks)] * frame.near)
        real = frame.near[rows, columns] >= ALPHAS[:, None] - EPSILON  # (19, P)
        meetings[:, frame.objects[rows], frame.tracks[columns]] += real
    matched = meetings.sum(axis=(1, 2))
    together = meetings * meetings / np.maximum(1, lengths[0] + lengths[1] - meetings)
    return matched, together.sum(axis=(1, 2))
