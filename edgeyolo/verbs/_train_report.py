"""The page that `train` leaves beside its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.progress import SILENT, Progress

if TYPE_CHECKING:
    from edgeyolo.data.dataset import Dataset
    from edgeyolo.training import TrainResult


def report_training(
    result: TrainResult, train_data: Dataset, val_data: Dataset, *, progress: Progress = SILENT
) -> Path:
    """Write `train.html` and its plots beside the checkpoints of a run; returns the page.

    Raises:
        MissingPackageError: jinja2, matplotlib or pycocotools is not installed. DataError: no validation pictures.
        OutputError: the folder cannot be written.
    """
    from edgeyolo.nn.fold import fold_model
    from edgeyolo.report.training import first_batches, write_training_report
    from edgeyolo.training.checkpoint import load_checkpoint, read_record
    from edgeyolo.training.device import choose_device, use_channels_last
    from edgeyolo.training.torch_session import TorchSession

    record = read_record(result.last)
    device = choose_device(record.config.device)
    model = fold_model(load_checkpoint(result.best).model).to(device)
    use_channels_last(model)
    return write_training_report(
        result.last.parent,
        record=record,
        session=TorchSession(model, device=device),
        train_data=train_data,
        val_data=val_data,
        batches=first_batches(record, train_data),
        progress=progress,
    )
