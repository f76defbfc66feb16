"""The job that a model is trained by, chosen once, from what it is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from edgeyolo import models
from edgeyolo.data.dataset import Dataset
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.checkpoint import CheckpointRecord
from edgeyolo.training.detector import make_detector_job
from edgeyolo.training.job import Job
from edgeyolo.training.keypoints import make_keypoints_job

_MAKERS: dict[str, Callable[..., Job]] = {"detection": make_detector_job, "keypoints": make_keypoints_job}


def make_job(
    config: TrainConfig,
    data: Dataset,
    device: torch.device,
    *,
    weights: Path | None = None,
    record: CheckpointRecord | None = None,
) -> Job:
    """The job that a config describes; arguments and errors as of `make_detector_job`."""
    return _MAKERS[models.task_of(config.model)](config, data, device, weights=weights, record=record)
