"""In: a detector, sources of frames, and options. Out: a page with the live picture, metrics, MQTT, recordings.

Verb: `Live(detector, sources).run()`. Nothing here slows the detector: each outlet takes the latest result, or none.
"""

from edgeyolo.live.live import Live

__all__ = ["Live"]
