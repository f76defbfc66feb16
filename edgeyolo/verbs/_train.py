"""`train`: pictures -> checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.errors import MissingPackageError
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.verbs._splits import open_training_data, opener_for

if TYPE_CHECKING:
    from edgeyolo.spec.training import TrainConfig
    from edgeyolo.training import TrainResult
    from edgeyolo.training.checkpoint import EpochRow

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
    """Train a model on `train`, the best epoch chosen on `val`; see `edgeyolo.training.train`.

    Args:
        data: a folder or file in a known format; without a `val` split a tenth of `train` is held out instead.
        out: folder for checkpoints, log and curves.
        report: of a detector, write `train.html` there as well, with what was learnt and what was not; a package that
            it lacks is said in the log, and the run stands.

    Where there is little to learn from, the log says so before, and afterwards what would help.
    """
    from edgeyolo.report.training_plots import write_curves
    from edgeyolo.training import train as train_model
    from edgeyolo.training.distributed import find_world
    from edgeyolo.training.outlook import outlook_of, what_would_help
    from edgeyolo.verbs._train_report import report_training

    is_first = find_world().is_first
    opener = opener_for(config)
    splits = open_training_data(data, opener)
    outlook = outlook_of(config, splits[0])
    if outlook.is_little and is_first and not resume:
        _LOG.warning("there is little to learn from: %s", outlook.expectation())

    def draw(history: Sequence[EpochRow]) -> None:
        if is_first:
            write_curves(out / "curves.png", history)

    result = train_model(config, splits, out, weights=weights, resume=resume, progress=progress, on_epoch=draw)
    if report and is_first and opener.task.finds_boxes:
        try:
            report_training(result, *splits, progress=progress)
        except MissingPackageError as error:
            _LOG.warning("no report: %s", error)
    if outlook.is_little and is_first:
        advice = what_would_help(result, has_weights=resume or weights is not None)
        _LOG.warning("what would help: %s", "; ".join(advice))
    return result
