"""The training loop, told as a story: make or resume a run, train an epoch, evaluate, save, repeat."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeyolo import models
from edgeyolo.data.dataset import Dataset
from edgeyolo.losses.criterion import Criterion
from edgeyolo.nn.fold import fold_model
from edgeyolo.nn.layout import use_channels_last
from edgeyolo.spec.errors import CheckpointError, TrainingError, UsageError
from edgeyolo.spec.model import ModelSpec, Score
from edgeyolo.spec.progress import SILENT, Progress
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
from edgeyolo.training.config import TrainConfig, check_config
from edgeyolo.training.device import autocast_dtype, choose_device
from edgeyolo.training.ema import EmaModel
from edgeyolo.training.loader import Batch, TrainLoader, make_loader
from edgeyolo.training.log import write_log
from edgeyolo.training.optim import learning_rate_at, make_optimizer

_LOG = logging.getLogger(__name__)
_OFFICIAL_SUFFIXES = (".pt", ".pth", ".pdparams")


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        best: checkpoint of the epoch with the highest AP on the validation split.
        last: checkpoint of the last epoch, which also serves `resume`.
        epochs: epochs trained, of this run and the ones it resumed.
        score: of the best epoch.
    """

    best: Path
    last: Path
    epochs: int
    score: Score | None


@dataclass
class Run:
    """Everything that changes while training, and the few things that it changes with."""

    config: TrainConfig
    spec: ModelSpec
    data: str
    out: Path
    model: nn.Module
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    ema: EmaModel
    device: torch.device
    autocast: torch.dtype | None
    history: list[EpochRow] = field(default_factory=list)
    best_ap: float = -1.0
    best_epoch: int = 0

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return len(self.history)

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
        )


def train(
    config: TrainConfig,
    train_data: Dataset,
    val_data: Dataset,
    out: Path,
    *,
    weights: Path | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> TrainResult:
    """Train a detector and write `best` and `last` checkpoints, a log and a picture of its curves to `out`.

    Args:
        weights: checkpoint to start from, of our own or as a model's authors publish it; what does not fit, such as
            the head of other classes, is made anew.
        resume: go on from `out`'s last checkpoint, with its config, as if never interrupted.

    Raises:
        UsageError: a config value that cannot be used, or `out` holds a run already and `resume` is False.
        DataError: nothing to train on. CheckpointError: nothing to resume, or weights of another model.
        TrainingError: the loss is not a number. OutputError: `out` cannot be written.
    """
    check_config(config)
    run = start_run(config, train_data, out, weights=weights, resume=resume)
    loader = make_loader(
        train_data,
        image_size=run.config.image_size,
        batch=run.config.batch,
        augment=run.config.augment,
        seed=run.config.seed,
        workers=run.config.workers,
        cache_mib=run.config.cache_mib,
    )
    while run.epoch < run.config.epochs and not has_stalled(run):
        started = time.perf_counter()
        losses = train_epoch(run, loader, progress)
        score = evaluate_epoch(run, val_data, progress)
        finish_epoch(run, losses, score, time.perf_counter() - started, steps_per_epoch=len(loader))
    best = out / "best.safetensors"
    _, record = read_tensors(best)
    return TrainResult(best, out / "last.safetensors", run.epoch, record.score)


def start_run(config: TrainConfig, data: Dataset, out: Path, *, weights: Path | None, resume: bool) -> Run:
    """A fresh run, or the one that `out`'s last checkpoint describes; errors as in `train`."""
    last = out / "last.safetensors"
    tensors: dict[str, Tensor] = {}
    record = None
    if resume:
        if not last.is_file():
            raise CheckpointError("nothing to resume", where=last, hint="Start without --resume")
        tensors, record = read_tensors(last)
        config = record.config
        if record.model.class_names != data.class_names:
            raise CheckpointError("the run was started on other classes", where=last, hint="Give the same --data")
    elif last.exists():
        raise UsageError("there is a run already", where=out, hint="Add --resume to go on, or choose another --out")

    torch.manual_seed(config.seed)
    device = choose_device(config.device)
    model = models.create(config.model, len(data.class_names), activation=config.activation)
    if weights is not None and not resume:
        load_start(model, weights)
    model = model.to(device)
    use_channels_last(model)
    spec = ModelSpec(
        name=model.config.name,
        activation=model.config.activation,
        class_names=data.class_names,
        input=model.make_input_spec((config.image_size, config.image_size)),
        decode=model.decode,
    )
    run = Run(
        config=config,
        spec=spec,
        data=data.name,
        out=out,
        model=model,
        criterion=model.make_criterion(epochs=config.epochs).to(device),
        optimizer=make_optimizer(model, config),
        ema=EmaModel(model, config.ema_decay),
        device=device,
        autocast=autocast_dtype(config.precision, device),
    )
    if record is not None:
        restore(run, tensors, record, where=last)
    return run


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
    load_optimizer(run.optimizer, tensors)
    run.ema.steps = record.ema_steps
    run.history = list(record.history)
    run.best_ap, run.best_epoch = record.best_ap, record.best_epoch


def has_stalled(run: Run) -> bool:
    """Whether `patience` epochs have passed without a better AP."""
    return 0 < run.config.patience <= run.epoch - run.best_epoch


def train_epoch(run: Run, loader: TrainLoader, progress: Progress) -> dict[str, float]:
    """One pass over the training split; returns the mean of each loss part."""
    config = run.config
    run.model.train()
    loader.start_epoch(run.epoch, mosaic=run.epoch < config.last_mosaic_epoch)
    run.criterion.start_epoch(run.epoch)
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=run.device))
    for index, batch in enumerate(loader):
        step = run.epoch * len(loader) + index
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, config, steps_per_epoch=len(loader))
        for name, value in train_step(run, batch).items():
            sums[name] += value
        text = f"loss {float(sums['total']) / (index + 1):.3f}  best AP {max(run.best_ap, 0):.1f}"
        progress.step(f"epoch {run.epoch + 1}/{config.epochs}", index + 1, len(loader), text)
    return {name: float(value) / len(loader) for name, value in sums.items()}


def train_step(run: Run, batch: Batch) -> dict[str, Tensor]:
    """Forward, loss, backward, optimizer, average; returns the loss parts and their `total`.

    Raises:
        TrainingError: the loss is not a finite number; nothing has been changed by this batch then.
    """
    images = batch.images.to(run.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    targets = batch.targets.to(run.device, non_blocking=True)
    images = normalise(images, run.spec)
    with torch.autocast(run.device.type, dtype=run.autocast, enabled=run.autocast is not None):
        maps = run.model(images)
    image_hw = (images.shape[2], images.shape[3])
    loss = run.criterion([map_.float() for map_ in maps], targets, image_hw)
    if not torch.isfinite(loss.total):
        raise TrainingError(
            f"the loss is {float(loss.total.detach())} in epoch {run.epoch + 1}",
            where=", ".join(batch.image_ids),
            hint="Lower the learning rate or look at these pictures' labels; the last checkpoint is good",
        )
    run.optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    nn.utils.clip_grad_norm_(run.model.parameters(), run.config.clip_norm)
    run.optimizer.step()
    run.ema.step(run.model)
    return {**loss.parts, "total": loss.total.detach()}


def normalise(images: Tensor, spec: ModelSpec) -> Tensor:
    """(B, 3, H, W) uint8 RGB -> float32, (pixel / 255 - mean) / std as `InputSpec` states."""
    mean, std = (images.new_tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (spec.input.mean, spec.input.std))
    return (images.float() / 255.0 - mean) / std


def evaluate_epoch(run: Run, data: Dataset, progress: Progress) -> Score | None:
    """COCO mAP of the averaged weights in deploy form, by the runtime that ships; None when it is not due."""
    done = run.epoch + 1
    if done % run.config.evaluate_every and done < run.config.epochs:
        return None
    from edgeyolo.evaluation.measure import measure_session
    from edgeyolo.nn.session import TorchSession

    folded = fold_model(run.ema.average)
    use_channels_last(folded)
    session = TorchSession(folded, device=run.device)
    return measure_session(session, run.spec, data, artefact="float torch", progress=progress)


def finish_epoch(
    run: Run, losses: dict[str, float], score: Score | None, seconds: float, *, steps_per_epoch: int
) -> None:
    """Add the epoch to the history and save what it made."""
    row = EpochRow(
        epoch=run.epoch + 1,
        losses=losses,
        learning_rate=learning_rate_at(
            (run.epoch + 1) * steps_per_epoch - 1, run.config, steps_per_epoch=steps_per_epoch
        ),
        seconds=round(seconds, 2),
        ap=score.ap if score else None,
        ap50=score.ap50 if score else None,
    )
    run.history.append(row)
    averaged = {f"model.{name}": tensor for name, tensor in run.ema.average.state_dict().items()}
    if score is not None and (score.ap > run.best_ap or run.best_epoch == 0):
        run.best_ap, run.best_epoch = score.ap, run.epoch
        save_checkpoint(run.out / "best.safetensors", averaged, run.record(score))
    trained = {f"trained.{name}": tensor for name, tensor in run.model.state_dict().items()}
    save_checkpoint(
        run.out / "last.safetensors", averaged | trained | optimizer_tensors(run.optimizer), run.record(score)
    )
    write_log(run.out, run.history)
