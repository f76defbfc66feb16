"""What a tracker says about one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeyolo.spec.detections import Int64

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tracks:
    """Objects of one frame that are followed, in the order of the tracker's list: older tracks first.

    Attributes:
        track_ids: (M,) int64 from 1 on; never used again by the same tracker.
        boxes_xyxy: (M, 4) float64, the tracker's estimate, in pixels of the frame; may reach beyond its borders.
        scores: (M,) float64 in [0, 1], of the latest detection.
        class_ids: (M,) int64 in [0, K), of the latest detection.
    """

    track_ids: Int64
    boxes_xyxy: Float64
    scores: Float64
    class_ids: Int64

    def __len__(self) -> int:
        return len(self.track_ids)

    @classmethod
    def empty(cls) -> Tracks:
        """No objects."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))

    def as_dicts(self, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """One plain dictionary per object, for JSON."""
        rows = zip(self.track_ids.tolist(), self.boxes_xyxy, self.scores, self.class_ids.tolist(), strict=True)
        return [
            {
                "id": track_id,
                "box_xyxy": [round(float(v), 2) for v in box],
                "score": round(float(score), 4),
                "class": class_names[class_id],
            }
            for track_id, box, score, class_id in rows
        ]
