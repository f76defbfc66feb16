"""Which pictures a verb trains on, chooses by and reports on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.errors import DataError

if TYPE_CHECKING:
    from edgeyolo.data.dataset import Dataset

logger = logging.getLogger(__name__)


def validation_split(data: Path) -> str:
    """The split that scores are taken on where none is asked for: `val`, or `test` where there is none.

    Raises:
        DataError: the data set has neither.
    """
    from edgeyolo.data.dataset import list_splits

    splits = list_splits(data)
    for name in ("val", "test"):
        if name in splits:
            return name
    raise DataError(f"has no val split, only {', '.join(splits)}", where=data, hint="Set some pictures aside as val")


def open_training_data(data: Path) -> tuple[Dataset, Dataset]:
    """What is trained on, and what epochs and settings are chosen by: train and val, and never the test split.

    Where there is no val, a tenth of train is held out instead, always the same pictures, and a warning says so.

    Raises:
        DataError: as `open_dataset`, or too few pictures to hold some out.
    """
    from edgeyolo.data.dataset import list_splits, open_dataset
    from edgeyolo.data.hold_out import hold_out

    train_data = open_dataset(data, "train")
    if "val" in list_splits(data):
        return train_data, open_dataset(data, "val")
    stays, held = hold_out(train_data)
    logger.warning("%s has no val split: %d pictures of train are held out to choose by", data, len(held))
    return stays, held


def open_scored_data(data: Path, split: str | None, choice_data: Dataset) -> Dataset:
    """What is reported on: the split that is asked for, else val, else test, else what choices are made by."""
    from edgeyolo.data.dataset import list_splits, open_dataset

    wanted = split or next((name for name in ("val", "test") if name in list_splits(data)), choice_data.split)
    return choice_data if wanted == choice_data.split else open_dataset(data, wanted)
