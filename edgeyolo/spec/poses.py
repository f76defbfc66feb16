"""What a network of joints says about the persons of one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeyolo.spec.detections import Float32

SURE_SCORE = 0.2  # of a joint, from which on it counts for its person's score, and is drawn


@dataclass(frozen=True)
class Poses:
    """Joints of N persons, in the order in which their boxes were given.

    Attributes:
        keypoints: (N, K, 3) float32: x and y in pixels of the picture that was given, and the score of each joint.
    """

    keypoints: Float32

    def __len__(self) -> int:
        return len(self.keypoints)

    @property
    def scores(self) -> Float32:
        """(N,) of each person, the mean of its joints that are sure; 0 where none is."""
        scores = self.keypoints[:, :, 2]
        is_sure = scores > SURE_SCORE
        total = np.where(is_sure, scores, 0).sum(axis=1)
        return np.asarray(total / np.maximum(1, is_sure.sum(axis=1)), np.float32)

    def as_dicts(self, joint_names: Sequence[str]) -> list[dict[str, Any]]:
        """One plain dictionary per person, for JSON: the score, and x, y and score of every joint by its name."""
        return [
            {
                "score": round(score, 4),
                "keypoints": {
                    name: [round(x, 2), round(y, 2), round(sure, 4)]
                    for name, (x, y, sure) in zip(joint_names, joints, strict=True)
                },
            }
            for score, joints in zip(self.scores.tolist(), self.keypoints.tolist(), strict=True)
        ]
