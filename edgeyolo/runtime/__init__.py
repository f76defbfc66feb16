"""In: a bundle (or any session with its ModelSpec) and pictures. Out: `Detections`, or `Poses`, in pixels of each one.

Verb: `Detector.load(path).detect(image)`, `PoseEstimator.load(path).estimate(image, boxes_xyxy)`. Importing it costs
little more than numpy and OpenCV; engines load when used.
"""

from edgeyolo.runtime.detector import Detector
from edgeyolo.runtime.pose import PoseEstimator
from edgeyolo.spec.detections import Detections
from edgeyolo.spec.poses import Poses

__all__ = ["Detections", "Detector", "PoseEstimator", "Poses"]
