"""In: what is detected in one frame after the other. Out: `Tracks`, the same objects with the same ids.

Verb: `Tracker(...).update(detections, frame)`. Ground floor; association needs scipy.
"""

from edgeyolo.spec.tracking import TrackSettings
from edgeyolo.spec.tracks import Tracks
from edgeyolo.tracking.tracker import Tracker

__all__ = ["TrackSettings", "Tracker", "Tracks"]
