"""`train`: pictures -> checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.errors import MissingPackageError
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.verbs._splits import validation_split

if TYPE_CHECKING:
    from edgeyolo.spec.training import TrainConfig
    from edgeyolo.training.loop import TrainResult

_LOG = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    weights: Path | None = None,
    resume: bool = False,
    report: bool = True,
    progress: Progress = SILENT,
) -> TrainResult:
    """Train a detector on a data set's `train` split; see `edgeyolo.training.loop.train`.

    Args:
        data: a folder or file in a known format.
        out: folder for checkpoints, log and curves.
        report: write `train.html` there as well, with what was learnt and what was not; a package that it lacks is
            said in the log, and the run stands.
    """
    from edgeyolo.data.dataset import open_dataset
    from edgeyolo.training.distributed import find_world
    from edgeyolo.training.loop import train as train_model
    from edgeyolo.verbs._train_report import report_training

    train_data, val_data = open_dataset(data, "train"), open_dataset(data, validation_split(data))
    result = train_model(config, train_data, val_data, out, weights=weights, resume=resume, progress=progress)
    if report and find_world().is_first:
        try:
            report_training(result, train_data, val_data, progress=progress)
        except MissingPackageError as error:
            _LOG.warning("no report: %s", error)
    return result
