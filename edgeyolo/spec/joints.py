"""Joints by their names: those of COCO, which of them mirror each other, and how exactly people label them."""

from __future__ import annotations

from collections.abc import Sequence

COCO_JOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
COCO_SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)

# Standard deviation of people's labels, of the person's size. Source: https://cocodataset.org/#keypoints-eval
_FACE = {"nose": 0.026, "eye": 0.025, "ear": 0.035}
_BODY = {"shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107, "knee": 0.087, "ankle": 0.089}
_SIGMAS = _FACE | _BODY
_OTHER_SIGMA = 0.05
_LOWER_BODY = ("hip", "knee", "ankle", "foot", "heel", "toe")


def mirrored_joints(names: Sequence[str]) -> list[int]:
    """Of each joint the one that it is in a mirror image; itself, where none is of its name with the other side."""
    places = {name: place for place, name in enumerate(names)}
    return [places.get(_other_side(name), place) for place, name in enumerate(names)]


def joint_sigmas(names: Sequence[str]) -> list[float]:
    """Of each joint, as COCO measured it; of joints that COCO does not have, 0.05."""
    return [_SIGMAS.get(name.removeprefix("left_").removeprefix("right_"), _OTHER_SIGMA) for name in names]


def is_lower(name: str) -> bool:
    """Whether a joint is of the lower half of a body."""
    return any(part in name for part in _LOWER_BODY)


def _other_side(name: str) -> str:
    if "left" in name:
        return name.replace("left", "right", 1)
    return name.replace("right", "left", 1)
