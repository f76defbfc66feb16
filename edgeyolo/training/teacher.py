"""The teacher of a run: a checkpoint of any model, read, folded and frozen."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from edgeyolo import models
from edgeyolo.models import Anchors, DetectorNetwork
from edgeyolo.nn.fold import fold_model
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.training import DistillConfig
from edgeyolo.training.checkpoint import checkpoint_path, load_checkpoint, read_record
from edgeyolo.training.device import use_channels_last
from edgeyolo.training.distillation import Distiller

_LOG = logging.getLogger(__name__)


def make_distiller(
    teacher: Path,
    student: DetectorNetwork,
    spec: ModelSpec,
    settings: DistillConfig,
    device: torch.device,
    *,
    epochs: int,
) -> Distiller:
    """The loss that a checkpoint adds to the training of `student`, on `device`.

    Args:
        teacher: a checkpoint, or the folder of a run.
        spec: of the student.
        epochs: that it teaches.

    Raises:
        CheckpointError: the teacher cannot be read. UsageError: it cannot teach this student.
    """
    checkpoint = load_checkpoint(teacher)
    network = fold_model(checkpoint.model).requires_grad_(False).to(device)
    assert isinstance(network, DetectorNetwork)
    use_channels_last(network)
    distiller = Distiller(
        student,
        network,
        settings=settings,
        epochs=epochs,
        image_hw=spec.input.image_hw,
        same_classes=checkpoint.record.model.class_names == spec.class_names,
    )
    _LOG.info("%s", distiller.describe())
    return distiller.to(device)


def anchors_of_checkpoint(path: Path, name: str) -> Anchors | None:
    """The anchors of a checkpoint, if model `name` has as many; None if not, or if it has none.

    A student with its teacher's anchors can be taught by the heads too; weights to start from belong to their anchors.

    Raises:
        CheckpointError: unreadable. UnknownNameError: no such model.
    """
    own = models.anchors_of(name)
    found = models.anchors_in(read_record(checkpoint_path(path)).model)
    if own is None or found is None:
        return None
    is_alike = [len(level) for level in found] == [len(level) for level in own]
    return found if is_alike else None
