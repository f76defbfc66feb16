"""Which pictures a verb trains on, chooses by and reports on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.errors import DataError

if TYPE_CHECKING:
    from edgeyolo.data.dataset import Dataset
    from edgeyolo.evaluation.tasks import Task
    from edgeyolo.spec.model import ModelSpec
    from edgeyolo.spec.training import TrainConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opener:
    """Opens the splits of a data set as a network wants them.

    Attributes:
        task: what the network is for.
        input_hw: of its input.
    """

    task: Task
    input_hw: tuple[int, int]

    def list_splits(self, data: Path) -> list[str]:
        """See `Task.list_splits`."""
        return self.task.list_splits(data)

    def open_split(self, data: Path, split: str) -> Dataset:
        """See `Task.open_split`."""
        return self.task.open_split(data, split, self.input_hw)


def opener_of(spec: ModelSpec) -> Opener:
    """For a network as a record, a folder or a bundle describes it."""
    from edgeyolo.evaluation.tasks import task_of

    return Opener(task_of(spec.decode), spec.input.image_hw)


def opener_for(config: TrainConfig) -> Opener:
    """For a network that is to be trained; raises UnknownNameError where there is no such model."""
    from edgeyolo import models
    from edgeyolo.evaluation.tasks import task_named
    from edgeyolo.training.config import input_hw_of

    return Opener(task_named(models.task_of(config.model)), input_hw_of(config))


def validation_split(data: Path, opener: Opener) -> str:
    """The split that scores are taken on where none is asked for: `val`, or `test` where there is none.

    Raises:
        DataError: the data set has neither.
    """
    splits = opener.list_splits(data)
    for name in ("val", "test"):
        if name in splits:
            return name
    raise DataError(f"has no val split, only {', '.join(splits)}", where=data, hint="Set some pictures aside as val")


def open_measured(data: Path, split: str | None, spec: ModelSpec) -> Dataset:
    """What a network is measured on: the split that is asked for, else the validation split; errors as both."""
    opener = opener_of(spec)
    return opener.open_split(data, split or validation_split(data, opener))


def open_training_data(data: Path, opener: Opener) -> tuple[Dataset, Dataset]:
    """What is trained on, and what epochs and settings are chosen by: train and val, and never the test split.

    Where there is no val, a tenth of train is held out instead, always the same pictures, and a warning says so.

    Raises:
        DataError: as `Task.open_split`, or too few pictures to hold some out.
    """
    from edgeyolo.data.hold_out import hold_out

    train_data = opener.open_split(data, "train")
    if "val" in opener.list_splits(data):
        return train_data, opener.open_split(data, "val")
    stays, held = hold_out(train_data)
    logger.warning("%s has no val split: %d pictures of train are held out to choose by", data, len(held))
    return stays, held


def open_scored_data(data: Path, split: str | None, choice_data: Dataset, opener: Opener) -> Dataset:
    """What is reported on: the split that is asked for, else val, else test, else what choices are made by."""
    wanted = split or next((name for name in ("val", "test") if name in opener.list_splits(data)), choice_data.split)
    return choice_data if wanted == choice_data.split else opener.open_split(data, wanted)


def open_held_out(data: Path, choice_data: Dataset, opener: Opener) -> tuple[Dataset, ...]:
    """What scores are, or may be, taken on: what choices are made by first."""
    others = [name for name in ("val", "test") if name in opener.list_splits(data) and name != choice_data.split]
    return (choice_data, *(opener.open_split(data, name) for name in others))
