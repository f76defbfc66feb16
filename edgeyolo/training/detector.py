"""The job of a detector: a model of the zoo, its own loss, and what is trained beside it, a teacher's adapters, say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeyolo import models
from edgeyolo.criteria.criterion import Criterion, Loss
from edgeyolo.data.dataset import Dataset
from edgeyolo.models import Accompanied, Companion
from edgeyolo.nn.fold import fold_model
from edgeyolo.nn.rep_forms import RepScales, start_plain
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.auto_anchor import fit_to_dataset
from edgeyolo.training.checkpoint import (
    CheckpointRecord,
    load_checkpoint,
)
from edgeyolo.training.device import autocast_dtype, use_channels_last
from edgeyolo.training.drop_block import DropBlock, attach_drop_block
from edgeyolo.training.job import Job
from edgeyolo.training.rep_optimizer import multiply_learning, scales_of, take_rep_form
from edgeyolo.training.start import OFFICIAL_SUFFIXES, load_start
from edgeyolo.training.teacher import anchors_of_checkpoint, make_distiller


class DetectorJob(Job):
    """Train a detector by its criterion, and by what its companions add; it is measured folded.

    Args:
        drop_block: what hangs on the model and drops blocks of its features; None where nothing does.
    """

    def __init__(
        self,
        spec: ModelSpec,
        model: nn.Module,
        criterion: Criterion,
        half: torch.dtype | None,
        companions: Mapping[str, Companion],
        drop_block: DropBlock | None = None,
    ) -> None:
        super().__init__(spec, model, half)
        self.criterion = criterion
        self.drop_block = drop_block
        self.rep_scales: Mapping[str, RepScales] = {}
        self.companions = companions
        if companions:
            self.adapters = nn.ModuleDict(companions)

    def prepare(self, optimizer: torch.optim.Optimizer) -> None:
        """Plain convolutions learn as the scales say."""
        multiply_learning(optimizer, self.model, self.rep_scales)

    def start_epoch(self, epoch: int) -> None:
        """Pass it on to the criterion, the companions and what drops blocks."""
        self.criterion.start_epoch(epoch)
        if self.drop_block is not None:
            self.drop_block.start_epoch(epoch)
        for companion in self.companions.values():
            companion.start_epoch(epoch)

    def trained_network(self, model: nn.Module) -> nn.Module:
        """Gives the companions' maps after the network's own."""
        return Accompanied(model, list(self.companions.values())) if self.companions else model

    def loss(self, outputs: list[Tensor], targets: Tensor, images: Tensor) -> Loss:
        """Of raw maps, and of each companion's."""
        end = len(outputs) - sum(companion.count for companion in self.companions.values())
        maps = outputs[:end]
        losses: list[Loss] = [self.criterion(maps, targets, (images.shape[2], images.shape[3]))]
        for companion in self.companions.values():
            seen = outputs[end : end + companion.count]
            end += companion.count
            with self.autocast():
                losses.append(companion.loss(seen, maps, targets, images))
        total = torch.stack([loss.total for loss in losses]).sum()
        return Loss(total, {name: part for loss in losses for name, part in loss.parts.items()})

    def loss_of_nothing(self, outputs: list[Tensor], images: Tensor) -> Tensor:
        """As `Job.loss_of_nothing`."""
        end = len(outputs) - sum(companion.count for companion in self.companions.values())
        loss: Loss = self.criterion(outputs[:end], images.new_zeros(0, 6), (images.shape[2], images.shape[3]))
        return loss.total

    def deploy_form(self, average: nn.Module) -> nn.Module:
        """Folded, as it is exported."""
        folded = fold_model(average)
        use_channels_last(folded)
        return folded


def make_detector_job(
    config: TrainConfig,
    data: Dataset,
    device: torch.device,
    *,
    weights: Path | None = None,
    record: CheckpointRecord | None = None,
) -> DetectorJob:
    """The job that a config describes.

    Args:
        data: the training split, for its classes and anchors.
        weights: checkpoint or official file to start from.
        record: of the run that is to be resumed, whose anchors are kept; its weights are put in place later.

    Raises:
        CheckpointError, UsageError: as `loop.train`.
    """
    anchors_wh = choose_anchors(config, data, weights) if record is None else models.anchors_in(record.model)
    torch.manual_seed(config.seed)
    model = models.create(config.model, len(data.class_names), activation=config.activation, anchors_wh=anchors_wh)
    take_rep_form(model, config.rep, where=config.model)
    scales = read_scales(config, model) if config.rep_scales is not None else {}
    origin = record.model.origin if record is not None else None
    if weights is not None and record is None:
        origin = load_start(model, weights)
    spec = ModelSpec(
        name=model.config.name,
        activation=model.config.activation,
        class_names=data.class_names,
        input=model.make_input_spec(config.image_hw),
        decode=model.decode,
        origin=origin,
    )
    criterion = model.make_criterion(epochs=config.epochs).to(device)
    choose_losses(criterion, config)
    criterion.smooth_labels(config.label_smoothing)
    criterion.expect(len(data.records.objects.class_ids) / max(1, len(data)))
    model.to(device)
    use_channels_last(model)
    companions: dict[str, Companion] = {}
    if config.auxiliary and (companion := model.make_companion()) is not None:
        companions["auxiliary"] = companion.to(device)
        choose_losses(companion, config)
    if config.teacher is not None:
        companions["distiller"] = make_distiller(
            Path(config.teacher), model, spec, config.distill, device, epochs=config.taught_epochs
        )
    half, drop_block = autocast_dtype(config.precision, device), attach_drop_block(model, config)
    job = DetectorJob(spec, model, criterion, half, companions, drop_block)
    job.rep_scales = scales
    return job


def choose_losses(trained: nn.Module, config: TrainConfig) -> None:
    """Let each criterion that is a part of a module, or the module itself, be of the losses that the config names.

    Raises:
        UsageError: one cannot be.
    """
    for part in trained.modules():
        if isinstance(part, Criterion):
            part.choose_box_loss(config.box_loss, config.box_loss_alpha)
            if config.class_loss is not None:
                part.choose_class_loss(config.class_loss)


def read_scales(config: TrainConfig, model: nn.Module) -> dict[str, RepScales]:
    """The scales that plain convolutions learn by, which begin as these say.

    Raises:
        CheckpointError: unreadable. UsageError: of another model, or without scales; or `rep` is not plain.
    """
    path = Path(config.rep_scales or "")
    if config.rep != "plain":
        raise UsageError(f"rep_scales is given, and rep is {config.rep}", hint="Set rep = plain")
    found = load_checkpoint(path)
    if found.record.model.name != config.model:
        raise UsageError(
            f"is of {found.record.model.name}, not of {config.model}", where=path, hint="Train it so first"
        )
    scales = scales_of(found.model, where=path)
    start_plain(model, scales)
    return scales


def choose_anchors(config: TrainConfig, data: Dataset, weights: Path | None) -> models.Anchors | None:
    """Anchors for a fresh run; None for the model's own.

    They begin as the teacher's, so that it can teach the heads too, or as those of the weights to start from.
    """
    own = [Path(config.teacher)] if config.teacher is not None else []
    if weights is not None and weights.suffix not in OFFICIAL_SUFFIXES:
        own.append(weights)
    found = (anchors_of_checkpoint(path, config.model) for path in own)
    start = next((anchors_wh for anchors_wh in found if anchors_wh is not None), None)
    if not config.auto_anchor:
        return start
    return fit_to_dataset(config.model, data, config.image_hw, start=start, seed=config.seed)
