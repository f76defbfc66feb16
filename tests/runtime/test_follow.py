"""One source after the other, followed: ids, counts, and what is drawn."""

from __future__ import annotations

import numpy as np

from edgeyolo.runtime.follow import Follower, Followers
from edgeyolo.spec.detections import Detections
from edgeyolo.spec.tracking import TrackSettings
from edgeyolo.spec.zones import Line, Zones

BLANK = np.zeros((100, 200, 3), np.uint8)
ZONES = Zones(lines={"door": Line(start_xy=(0, 60), end_xy=(200, 60))})


def person_at(x: float, y: float) -> Detections:
    """A box that stands at (x, y)."""
    return Detections(np.array([[x - 10, y - 40, x + 10, y]]), np.array([0.9]), np.array([0]))


def test_what_walks_over_a_line_is_counted_and_leaves_a_trail() -> None:
    follower = Follower("bytetrack", TrackSettings(), ("person",), zones=ZONES)
    for step in range(12):
        tracks = follower.update(person_at(60 + 4 * step, 45 + 3 * step), BLANK)
        assert tracks.track_ids.tolist() == [1]
    assert follower.counts == {"lines": {"door": {"in": 1, "out": 0}}, "areas": {}}
    drawn = follower.draw(BLANK)
    assert not BLANK.any()
    without = Follower("bytetrack", TrackSettings(), ("person",))
    without.update(person_at(104, 78), BLANK)
    assert without.counts is None
    trail = drawn[46:60, 62:76]  # where the box has long been gone
    assert trail.any() and not without.draw(BLANK)[46:60, 62:76].any()
    assert drawn[60, 195].any() and not without.draw(BLANK)[60, 195].any()  # the line


def test_every_source_has_ids_of_its_own() -> None:
    followers = Followers("botsort", TrackSettings(), ("person",))
    assert followers.of("a").update(person_at(50, 60), BLANK).track_ids.tolist() == [1]
    assert followers.of("b", 10.0).update(person_at(150, 60), BLANK).track_ids.tolist() == [1]
    assert followers.of("a").update(person_at(52, 60), BLANK).track_ids.tolist() == [1]
