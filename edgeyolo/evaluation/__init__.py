"""In: anything that turns pictures into `Detections`, and a data set. Out: its `Score` by the COCO definitions.

Also the drift between two detectors on the same pictures. Verb: `evaluate`, `measure_drift`.
"""

from edgeyolo.evaluation.coco_map import evaluate
from edgeyolo.evaluation.drift import Drift, PictureDrift, measure_drift

__all__ = ["Drift", "PictureDrift", "evaluate", "measure_drift"]
