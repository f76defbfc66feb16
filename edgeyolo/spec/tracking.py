"""Options of a tracker."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeyolo.spec.settings import PartBelowOne, Share, WholeNumber

TrackMethod = Literal["bytetrack", "botsort"]
DEFAULT_FRAME_RATE = 30.0


class TrackSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a tracker follows objects; the defaults are those that its authors publish.

    Attributes:
        high_threshold: detections above this score are looked at first, and only they start a track.
        low_threshold: detections above this score, and below the high one, may continue a track.
        new_threshold: score from which on a detection starts a track.
        match_threshold: in the first association, cost at and above which a detection and a track do not belong
            together; the cost is 1 - IoU x score.
        buffer: frames that a lost track is kept for, at 30 frames per second; more or fewer at other rates.
        fuse_score: multiply the overlap by the detection's score before the cost is made of it.
        pixel_boxes: count pixels as the authors' programs do, a box from x1 to x2 being x2 - x1 + 1 wide.
        per_class: never let a detection of one class continue a track of another.
        camera_motion: botsort only: follow the movement of the camera, where frames are given.
        proximity_threshold: with appearance, cost of overlap above which it does not count.
        appearance_threshold: with appearance, half a cosine distance above which it does not count.
    """

    high_threshold: Share = 0.6
    low_threshold: Share = 0.1
    new_threshold: Share = 0.7
    match_threshold: Share = 0.8
    buffer: WholeNumber = 30
    fuse_score: bool = True
    pixel_boxes: bool = False
    per_class: bool = False
    camera_motion: bool = True
    proximity_threshold: Share = 0.5
    appearance_threshold: PartBelowOne = 0.25


class FollowOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whether `evaluate` follows objects, and which.

    Attributes:
        track: follow the objects of sequences in the layout of the MOT challenges, and give MOTA, IDF1 and HOTA in the
            place of AP. Where the source is a folder of tracks that are written already, <sequence>.txt, neither is
            needed.
        classes: with track, a class to follow, may be given again; all if not given.
    """

    track: TrackMethod | None = None
    classes: tuple[str, ...] = ()
