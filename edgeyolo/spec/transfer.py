"""How a score threshold of the float model becomes one of an int8 artefact, class by class."""

from __future__ import annotations

import bisect
from typing import Literal

import msgspec

Match = Literal["precision", "recall", "f1"]
DEFAULT_MATCH: Match = "precision"


class OperatingPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is found with one threshold, at an IoU of 0.5.

    Attributes:
        threshold: of this model's own scores; -1 where classes have different ones.
        detections, right: how many there are, and how many of them are objects of their class.
        precision, recall, f1: percent; -1 where undefined.
    """

    threshold: float
    detections: int
    right: int
    precision: float
    recall: float
    f1: float


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One class, or all together, at one threshold of the float model.

    Attributes:
        objects: to be found.
        float_model: at this threshold.
        untransferred: the artefact at the same number.
        transferred: the artefact at what stands for it.
    """

    objects: int
    float_model: OperatingPoint
    untransferred: OperatingPoint
    transferred: OperatingPoint


class ThresholdMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Thresholds of one class.

    Attributes:
        float_scores: of the float model, ascending.
        artefact_scores: what stands for each of them, never descending.
        is_pooled: whether these are those of all classes together, as this one has too few detections of its own.
    """

    float_scores: tuple[float, ...] = ()
    artefact_scores: tuple[float, ...] = ()
    is_pooled: bool = False

    def of(self, threshold: float) -> float:
        """What stands for a threshold of the float model; between those that are known, by a straight line."""
        known, stands = (0.0, *self.float_scores, 1.0), (0.0, *self.artefact_scores, 1.0)
        i = min(max(bisect.bisect(known, threshold), 1), len(known) - 1)
        share = (threshold - known[i - 1]) / (known[i] - known[i - 1])
        return stands[i - 1] + share * (stands[i] - stands[i - 1])


class ScoreTransfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Thresholds for an artefact whose scores are not quite those of its float model.

    Attributes:
        artefact: what was measured, as scores call it.
        data, split, images: where, and on how many pictures.
        match: what is to stay as it is.
        score_threshold: of the float model, that the user asked for.
        maps: class -> its thresholds.
        overall: all classes together at `score_threshold`.
        per_class: class -> the same.
    """

    artefact: str
    data: str
    split: str
    images: int
    match: Match
    score_threshold: float
    maps: dict[str, ThresholdMap]
    overall: Comparison
    per_class: dict[str, Comparison] = {}
