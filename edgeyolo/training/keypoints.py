"""The job of a network that finds joints: its heat maps, by the loss of its criterion."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from edgeyolo import models
from edgeyolo.criteria.criterion import Loss
from edgeyolo.criteria.heatmap import HeatmapCriterion
from edgeyolo.data.dataset import Dataset
from edgeyolo.data.person_crops import PersonCrops
from edgeyolo.nn.fold import fold_model
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import HeatmapDecode, ModelSpec
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.checkpoint import CheckpointRecord
from edgeyolo.training.device import autocast_dtype, use_channels_last
from edgeyolo.training.job import Job
from edgeyolo.training.start import load_start

_OF_DETECTORS = ("teacher", "rep_scales", "box_loss", "box_loss_alpha", "class_loss")


class KeypointsJob(Job):
    """Train heat maps; they are measured folded."""

    def __init__(
        self, spec: ModelSpec, model: nn.Module, criterion: HeatmapCriterion, half: torch.dtype | None
    ) -> None:
        super().__init__(spec, model, half)
        self.criterion = criterion

    def loss(self, outputs: list[Tensor], targets: Tensor, images: Tensor) -> Loss:
        """Of the heat maps."""
        return self.criterion(outputs, targets, (images.shape[2], images.shape[3]))  # type: ignore[no-any-return]

    def deploy_form(self, average: nn.Module) -> nn.Module:
        """Folded, as it is exported."""
        folded = fold_model(average)
        use_channels_last(folded)
        return folded


def make_keypoints_job(
    config: TrainConfig,
    data: Dataset,
    device: torch.device,
    *,
    weights: Path | None = None,
    record: CheckpointRecord | None = None,
) -> KeypointsJob:
    """The job that a config describes; arguments and errors as of `make_detector_job`."""
    if not isinstance(data, PersonCrops):
        hint = "`edgeyolo models` lists the detectors"
        raise UsageError(f"{config.model} finds joints, and the data set has boxes", where=data.name, hint=hint)
    for name in _OF_DETECTORS:
        if getattr(config, name) is not None:
            raise UsageError(f"{name} is set, and {config.model} finds joints", hint="Leave it out")
    torch.manual_seed(config.seed)
    model = models.create(config.model, len(data.class_names), activation=config.activation)
    origin = record.model.origin if record is not None else None
    if weights is not None and record is None:
        origin = load_start(model, weights)
    assert isinstance(model.decode, HeatmapDecode)
    spec = ModelSpec(
        name=model.config.name,
        activation=model.config.activation,
        class_names=data.class_names,
        input=model.make_input_spec(config.image_hw),
        decode=msgspec.structs.replace(model.decode, margin=data.margin, skeleton=data.skeleton),
        origin=origin,
    )
    model.to(device)
    use_channels_last(model)
    keypoints = config.keypoints
    criterion = HeatmapCriterion(model.decode.strides[0], sigma=keypoints.sigma, hardest=keypoints.hardest)
    return KeypointsJob(spec, model, criterion.to(device), autocast_dtype(config.precision, device))
