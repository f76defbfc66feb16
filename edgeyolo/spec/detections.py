"""What a detector says about one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Image = npt.NDArray[np.uint8]
Pixels = npt.NDArray[Any]  # inputs of a network, float32 or uint8 as `spec.model.InputSpec.pixels` says


@dataclass(frozen=True)
class Detections:
    """Objects found in one picture, best first.

    Attributes:
        boxes_xyxy: (M, 4) float32, left top right bottom in pixels of the picture that was given.
        scores: (M,) float32 in [0, 1], descending.
        class_ids: (M,) int64 in [0, K).
    """

    boxes_xyxy: Float32
    scores: Float32
    class_ids: Int64

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes_xyxy.shape != (count, 4) or self.class_ids.shape != (count,):
            raise ValueError(
                f"boxes_xyxy {self.boxes_xyxy.shape}, scores {self.scores.shape} and class_ids "
                f"{self.class_ids.shape} do not belong together"
            )

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls) -> Detections:
        """No objects."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def as_dicts(self, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """One plain dictionary per object, for JSON."""
        return [
            {"box_xyxy": [round(float(v), 2) for v in box], "score": round(float(score), 4), "class": class_names[i]}
            for box, score, i in zip(self.boxes_xyxy, self.scores, self.class_ids.tolist(), strict=True)
        ]
