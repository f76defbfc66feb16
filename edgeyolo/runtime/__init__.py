"""In: a bundle (or any session with its ModelSpec) and pictures. Out: `Detections` in pixels of each picture.

Verb: `Detector.load(path).detect(image)`. Importing it costs little more than numpy and OpenCV; engines load when used.
"""

from edgeyolo.runtime.detector import Detector
from edgeyolo.spec.detections import Detections

__all__ = ["Detections", "Detector"]
