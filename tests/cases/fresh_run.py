"""A run of a detector before its next step, without the loop around it."""

from __future__ import annotations

from pathlib import Path

import torch

from edgeyolo.data.dataset import Dataset
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.config import resolve
from edgeyolo.training.detector import make_detector_job
from edgeyolo.training.distributed import World
from edgeyolo.training.loader import TrainLoader, make_loader
from edgeyolo.training.order import EpochOrder
from edgeyolo.training.run import Run, read_saved, start_run


def start_detector(
    config: TrainConfig, data: Dataset, out: Path, *, resume: bool = False, world: World | None = None
) -> Run:
    """On the CPU."""
    saved = read_saved(out, data, resume=resume)
    record = saved.record if saved else None
    config = record.config if record else resolve(config)
    job = make_detector_job(config, data, torch.device("cpu"), record=record)
    return start_run(job, config, data, out, saved=saved, world=world)


def plain_loader(data: Dataset, batch: int) -> TrainLoader:
    """Shuffled and letterboxed to 64 x 64."""
    return make_loader(data, EpochOrder(len(data), batch), input_spec=InputSpec(image_hw=(64, 64)), augment=None)
