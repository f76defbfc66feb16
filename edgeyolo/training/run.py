"""The state of a training run: made fresh, or put back from its last checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from edgeyolo import models
from edgeyolo.criteria.criterion import Criterion
from edgeyolo.data.dataset import Dataset
from edgeyolo.nn.channels_last import use_channels_last
from edgeyolo.spec.errors import CheckpointError, UsageError
from edgeyolo.spec.model import ModelSpec, Score
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.auto_anchor import fit_to_dataset
from edgeyolo.training.batch_size import find_batch
from edgeyolo.training.checkpoint import (
    CheckpointRecord,
    EpochRow,
    checkpoint_path,
    load_matching_weights,
    load_optimizer,
    load_weights,
    optimizer_tensors,
    read_tensors,
    save_checkpoint,
    strip_prefix,
)
from edgeyolo.training.config import resolve
from edgeyolo.training.device import autocast_dtype, choose_device
from edgeyolo.training.distillation import Distiller
from edgeyolo.training.distributed import World, own_device, shared, synchronised
from edgeyolo.training.ema import EmaModel
from edgeyolo.training.optim import freeze_parts, make_optimizer
from edgeyolo.training.teacher import anchors_of_checkpoint, make_distiller

_LOG = logging.getLogger(__name__)
_OFFICIAL_SUFFIXES = (".pt", ".pth", ".pdparams")
_SCALER = "scaler."
_DISTILLER = "distiller."


@dataclass
class Run:
    """Everything that changes while training, and the few things that it changes with.

    Attributes:
        model: whose weights are trained.
        forward: the same, as it is called in training: shared between processes, compiled.
        still: frozen batch normalisations.
        scaler: of the loss in half precision; does nothing in others.
        distiller: what a teacher adds to the loss, and `teach`, the same as it is called in training.
        step: steps done of the epoch that was interrupted, and `sums` of their losses.
    """

    config: TrainConfig
    spec: ModelSpec
    data: str
    out: Path
    model: nn.Module
    forward: nn.Module
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    ema: EmaModel
    scaler: torch.amp.GradScaler
    device: torch.device
    autocast: torch.dtype | None
    still: Sequence[nn.Module] = ()
    distiller: Distiller | None = None
    teach: nn.Module | None = None
    world: World = field(default_factory=World)
    history: list[EpochRow] = field(default_factory=list)
    best_ap: float = -1.0
    best_epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return len(self.history)

    @property
    def last(self) -> Path:
        """The checkpoint that serves to resume."""
        return self.out / "last.safetensors"

    def start_training(self) -> None:
        """Put the model in train mode, but for what is frozen."""
        self.model.train()
        for module in self.still:
            module.eval()

    def record(self, score: Score | None) -> CheckpointRecord:
        """The record that goes into a checkpoint now."""
        return CheckpointRecord(
            model=self.spec,
            config=self.config,
            data=self.data,
            epoch=self.epoch,
            score=score,
            best_ap=self.best_ap,
            best_epoch=self.best_epoch,
            history=tuple(self.history),
            ema_steps=self.ema.steps,
            step=self.step,
            sums=self.sums,
        )

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights as a checkpoint names them."""
        return {f"model.{name}": tensor for name, tensor in self.ema.average.state_dict().items()}

    def save_best(self, score: Score) -> None:
        """Write the averaged weights as the best so far."""
        if self.world.is_first:
            save_checkpoint(self.out / "best.safetensors", self.averaged(), self.record(score))

    def save_last(self, score: Score | None) -> None:
        """Write everything that `resume` needs."""
        if not self.world.is_first:
            return
        trained = {f"trained.{name}": tensor for name, tensor in self.model.state_dict().items()}
        scale = {f"{_SCALER}{name}": torch.as_tensor(value) for name, value in self.scaler.state_dict().items()}
        adapters = self.distiller.state_dict() if self.distiller is not None else {}
        learned = {f"{_DISTILLER}{name}": tensor for name, tensor in adapters.items()}
        tensors = self.averaged() | trained | optimizer_tensors(self.optimizer) | scale | learned
        save_checkpoint(self.last, tensors, self.record(score))


def start_run(
    config: TrainConfig, data: Dataset, out: Path, *, weights: Path | None, resume: bool, world: World | None = None
) -> Run:
    """A fresh run, or the one that `out`'s last checkpoint describes; errors as in `loop.train`."""
    world = world or World()
    last = out / "last.safetensors"
    tensors: dict[str, Tensor] = {}
    record = None
    if resume:
        tensors, record = read_last(last, data)
        config = record.config
    elif last.exists():
        raise UsageError("there is a run already", where=out, hint="Add --resume to go on, or choose another --out")
    else:
        config = resolve(config)

    anchors_wh = choose_anchors(config, data, weights) if record is None else models.anchors_in(record.model)
    torch.manual_seed(config.seed)
    device = choose_device(own_device(config.device, world))
    model = models.create(config.model, len(data.class_names), activation=config.activation, anchors_wh=anchors_wh)
    if weights is not None and not resume:
        load_start(model, weights)
    spec = ModelSpec(
        name=model.config.name,
        activation=model.config.activation,
        class_names=data.class_names,
        input=model.make_input_spec((config.image_size, config.image_size)),
        decode=model.decode,
    )
    criterion = model.make_criterion(epochs=config.epochs).to(device)
    criterion.smooth_labels(config.label_smoothing)
    network: nn.Module = model.to(device)
    use_channels_last(network)
    autocast = autocast_dtype(config.precision, device)
    if config.batch == 0:
        config = msgspec.structs.replace(config, batch=find_batch(network, criterion, spec, autocast, len(data), world))
    ema = EmaModel(network, config.ema_decay)
    network = synchronised(network, world, device, batch_norm=config.sync_batch_norm)
    still = freeze_parts(network, config.freeze)
    forward = shared(network, world, device)
    run = Run(
        config=config,
        spec=spec,
        data=data.name,
        out=out,
        model=network,
        forward=forward,
        criterion=criterion,
        optimizer=make_optimizer(network, config),
        ema=ema,
        scaler=torch.amp.GradScaler(device.type, enabled=autocast is torch.float16),
        device=device,
        autocast=autocast,
        still=still,
        world=world,
    )
    if config.teacher is not None:
        add_teacher(run, model, Path(config.teacher))
    if config.compile:
        forward.compile()
    if record is not None:
        restore(run, tensors, record, where=last)
    return run


def choose_anchors(config: TrainConfig, data: Dataset, weights: Path | None) -> models.Anchors | None:
    """Anchors for a fresh run; None for the model's own.

    They begin as the teacher's, so that it can teach the heads too, or as those of the weights to start from.
    """
    own = [Path(config.teacher)] if config.teacher is not None else []
    if weights is not None and weights.suffix not in _OFFICIAL_SUFFIXES:
        own.append(weights)
    found = (anchors_of_checkpoint(path, config.model) for path in own)
    start = next((anchors_wh for anchors_wh in found if anchors_wh is not None), None)
    if not config.auto_anchor:
        return start
    return fit_to_dataset(config.model, data, config.image_size, start=start, seed=config.seed)


def add_teacher(run: Run, student: models.DetectorNetwork, teacher: Path) -> None:
    """Let a checkpoint take part in the loss; errors as `make_distiller`."""
    distiller = make_distiller(teacher, student, run.spec, run.config.distill, run.device)
    run.distiller, run.teach = distiller, distiller
    adapters = list(distiller.parameters())
    if adapters:
        run.teach = shared(distiller, run.world, run.device)
        run.optimizer.add_param_group({"params": adapters, "weight_decay": 0.0})


def read_last(last: Path, data: Dataset) -> tuple[dict[str, Tensor], CheckpointRecord]:
    """The checkpoint to go on from.

    Raises:
        CheckpointError: there is none, or it is of other classes.
    """
    if not last.is_file():
        raise CheckpointError("nothing to resume", where=last, hint="Start without --resume")
    tensors, record = read_tensors(last)
    if record.model.class_names != data.class_names:
        raise CheckpointError("the run was started on other classes", where=last, hint="Give the same --data")
    return tensors, record


def load_start(model: nn.Module, weights: Path) -> None:
    """Load weights to fine-tune from; a `.pt`, `.pth` or `.pdparams` is read as an official file.

    Raises:
        CheckpointError: unreadable, or of another model. UsageError: nothing is published for the model.
    """
    if weights.suffix in _OFFICIAL_SUFFIXES:
        fresh = models.load_official_weights(model, weights)
    else:
        tensors, _ = read_tensors(checkpoint_path(weights))
        fresh = load_matching_weights(model, strip_prefix(tensors, "model."), where=weights)
    _LOG.info("%d tensors do not fit %s and start fresh: %s", len(fresh), weights, ", ".join(fresh[:6]))


def restore(run: Run, tensors: dict[str, Tensor], record: CheckpointRecord, *, where: Path) -> None:
    """Put a run into the state that its last checkpoint holds."""
    load_weights(run.model, strip_prefix(tensors, "trained."), where=where)
    load_weights(run.ema.average, strip_prefix(tensors, "model."), where=where)
    if run.distiller is not None:
        load_weights(run.distiller, strip_prefix(tensors, _DISTILLER), where=where)
    load_optimizer(run.optimizer, tensors)
    scale = {name: tensor.item() for name, tensor in strip_prefix(tensors, _SCALER).items()}
    if scale:
        run.scaler.load_state_dict(scale)
    run.ema.steps = record.ema_steps
    run.history = list(record.history)
    run.best_ap, run.best_epoch = record.best_ap, record.best_epoch
    run.step, run.sums = record.step, dict(record.sums)
