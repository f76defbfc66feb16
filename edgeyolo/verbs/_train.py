"""`train`: pictures -> checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.verbs._splits import validation_split

if TYPE_CHECKING:
    from edgeyolo.training.config import TrainConfig
    from edgeyolo.training.loop import TrainResult


def train(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    weights: Path | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> TrainResult:
    """Train a detector on a data set's `train` split; see `edgeyolo.training.loop.train`.

    Args:
        data: a folder or file in a known format.
        out: folder for checkpoints, log and curves.
    """
    from edgeyolo.data.dataset import open_dataset
    from edgeyolo.training.loop import train as train_model

    return train_model(
        config,
        open_dataset(data, "train"),
        open_dataset(data, validation_split(data)),
        out,
        weights=weights,
        resume=resume,
        progress=progress,
    )
