"""What a set and the steps taken on it let hope for, said before a training; what would help, said after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeyolo import models
from edgeyolo.data.dataset import Dataset
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.checkpoint import EpochRow, read_record
from edgeyolo.training.loop import TrainResult

_FEW_PICTURES = 500
_FEW_STEPS = 1000  # in which a small model has found its objects, and not yet their borders
_STILL_RISING_AP = 1.0


@dataclass(frozen=True)
class Outlook:
    """What a training has to learn from.

    Attributes:
        pictures, objects: of the training split.
        steps: of the whole run.
    """

    pictures: int
    objects: int
    epochs: int
    steps: int

    @property
    def is_little(self) -> bool:
        """Whether a model that starts from nothing learns less from it than it could."""
        return self.pictures < _FEW_PICTURES or self.steps < _FEW_STEPS

    def expectation(self) -> str:
        """The set and the steps in words, and how many epochs would make enough of them."""
        density = self.objects / max(1, self.pictures)
        what = f"{self.pictures} pictures with {density:.1f} objects each, {self.steps} steps in {self.epochs} epochs"
        if self.steps >= _FEW_STEPS:
            return what
        wanted = -(-_FEW_STEPS * self.epochs // self.steps)
        return f"{what}; fewer than {_FEW_STEPS} steps seldom place boxes well: --epochs {wanted}, or a smaller --batch"


def outlook_of(config: TrainConfig, data: Dataset) -> Outlook:
    """The outlook of a training on a split; where the batch is to be found, of the smallest one."""
    steps = max(1, len(data) // max(1, config.batch))
    return Outlook(len(data), len(data.records.objects.class_ids), config.epochs, config.epochs * steps)


def what_would_help(result: TrainResult, *, has_weights: bool) -> list[str]:
    """What a training from little did without, and more epochs where it ended too early.

    Args:
        has_weights: whether it started from some.
    """
    config = read_record(result.last).config
    advice = ["more labelled pictures"]
    if not has_weights:
        published = "its authors' file or " if models.is_published(config.model) else ""
        advice.append(f"weights to start from (--weights: {published}a checkpoint of another set)")
    if config.teacher is None and models.task_of(config.model) == "detection":
        advice.append("a larger model as teacher (--teacher)")
    if _is_rising(result.history):
        advice.append(f"more epochs, for AP was still rising (--epochs {2 * config.epochs})")
    return advice


def _is_rising(history: Sequence[EpochRow]) -> bool:
    """Whether the last epoch is better than all before the last sixth, in which little is left of the learning rate."""
    ends = len(history) * 5 / 6
    before = [row.ap for row in history if row.ap is not None and row.epoch <= ends]
    last = history[-1].ap if history else None
    return bool(before) and last is not None and last > max(before) + _STILL_RISING_AP
