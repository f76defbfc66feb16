"""The state of a training run: made fresh around a job, or put back from its last checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from edgeyolo.data.dataset import Dataset
from edgeyolo.spec.errors import CheckpointError, UsageError
from edgeyolo.spec.model import Score
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.batch_size import find_batch
from edgeyolo.training.checkpoint import (
    CheckpointRecord,
    EpochRow,
    load_optimizer,
    load_weights,
    optimizer_tensors,
    read_record,
    read_tensors,
    save_checkpoint,
    strip_prefix,
)
from edgeyolo.training.cross_batch_norm import use_cross_batch_norm
from edgeyolo.training.distributed import World, shared, synchronise
from edgeyolo.training.ema import EmaModel
from edgeyolo.training.heap import keep_freed_memory
from edgeyolo.training.job import Job
from edgeyolo.training.optim import freeze_parts, make_optimizer
from edgeyolo.training.watch import Watch

BEST, LAST = "best.safetensors", "last.safetensors"
_SCALER = "scaler."


@dataclass
class Run:
    """Everything that changes while a job is trained, and the few things that it changes with.

    Attributes:
        network: the job's trained network.
        forward: the same as it is called in a step: shared between processes, compiled.
        frozen: batch normalisations that are never in train mode.
        scaler: of the loss in half precision; does nothing in others.
        watch: sees that the numbers of each step are finite.
        start: score before training, where the job counts it.
        best_epoch: of the highest score, counted from 1; 0 for the start.
        step: steps done of the epoch that was interrupted, and `sums` of their losses.
    """

    job: Job
    config: TrainConfig
    data: str
    out: Path
    network: nn.Module
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EmaModel
    scaler: torch.amp.GradScaler
    watch: Watch
    frozen: Sequence[nn.Module] = ()
    world: World = field(default_factory=World)
    history: list[EpochRow] = field(default_factory=list)
    start: Score | None = None
    best: Score | None = None
    best_ap: float = -1.0
    best_epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        """Whose weights are trained."""
        return self.job.model

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.job.device

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return len(self.history)

    @property
    def last(self) -> Path:
        """The checkpoint that serves to resume."""
        return self.out / LAST

    def start_training(self) -> None:
        """Put the model in the mode that it is trained in, but for what is frozen."""
        self.model.train(self.job.trains_statistics)
        for module in self.frozen:
            module.eval()

    def note_score(self, score: Score) -> bool:
        """Keep in mind a score that is the best so far; returns whether it is. The first one always is."""
        if (self.best is not None or self.best_epoch) and score.ap <= self.best_ap:
            return False
        self.best, self.best_ap, self.best_epoch = score, score.ap, self.epoch
        return True

    def record(self, score: Score | None) -> CheckpointRecord:
        """The record that goes into a checkpoint now."""
        return CheckpointRecord(
            model=self.job.spec,
            config=self.config,
            data=self.data,
            epoch=self.epoch,
            score=score,
            start=self.start,
            best=self.best,
            best_ap=self.best_ap,
            best_epoch=self.best_epoch,
            history=tuple(self.history),
            ema_steps=self.ema.steps,
            step=self.step,
            sums=self.sums,
            identity=self.job.identity,
        )

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights as a checkpoint names them."""
        return {f"model.{name}": tensor for name, tensor in self.ema.average.state_dict().items()}

    def save_best(self) -> None:
        """Write the averaged weights as the best so far."""
        if self.world.is_first:
            save_checkpoint(self.out / BEST, self.averaged(), self.record(self.best))

    def save_last(self, score: Score | None) -> None:
        """Write everything that `resume` needs."""
        if not self.world.is_first:
            return
        trained = {f"trained.{name}": tensor for name, tensor in self.model.state_dict().items()}
        scale = {f"{_SCALER}{name}": torch.as_tensor(value) for name, value in self.scaler.state_dict().items()}
        learned = self.job.adapters.state_dict() if self.job.adapters is not None else {}
        tensors = self.averaged() | trained | optimizer_tensors(self.optimizer) | scale | learned
        save_checkpoint(self.last, tensors, self.record(score))


@dataclass(frozen=True)
class Saved:
    """What a last checkpoint holds."""

    tensors: dict[str, Tensor]
    record: CheckpointRecord


def read_saved(out: Path, data: Dataset, *, resume: bool) -> Saved | None:
    """What there is to go on from; None for a fresh run.

    Raises:
        UsageError: there is a run, and it is not to be resumed.
        CheckpointError: there is none to resume, or it is of other classes.
    """
    last = out / LAST
    if not resume:
        if last.exists():
            raise UsageError("there is a run already", where=out, hint="Add --resume to go on, or choose another --out")
        return None
    if not last.is_file():
        raise CheckpointError("nothing to resume", where=last, hint="Start without --resume")
    tensors, record = read_tensors(last)
    if record.model.class_names != data.class_names:
        raise CheckpointError("the run was started on other classes", where=last, hint="Give the same --data")
    if record.best is None and (out / BEST).is_file():  # as 0.1 wrote it
        record = msgspec.structs.replace(record, best=read_record(out / BEST).score)
    return Saved(tensors, record)


def start_run(
    job: Job, config: TrainConfig, data: Dataset, out: Path, *, saved: Saved | None = None, world: World | None = None
) -> Run:
    """A fresh run of a job, or the one that was saved; errors as in `loop.train`."""
    world = world or World()
    keep_freed_memory(job.device)
    if config.batch == 0:
        config = msgspec.structs.replace(config, batch=find_batch(job, len(data), world))
    ema = EmaModel(job.model, config.ema_decay)
    if config.cross_batch_norm:
        use_cross_batch_norm(job.model)
    else:
        synchronise(job.model, world, job.device, batch_norm=config.sync_batch_norm)
    frozen = freeze_parts(job.model, config.freeze)
    optimizer = make_optimizer(job.model, config)
    job.prepare(optimizer)
    if job.adapters is not None and any(True for _ in job.adapters.parameters()):
        optimizer.add_param_group({"params": list(job.adapters.parameters()), "weight_decay": 0.0})
    network = job.trained_network(job.model)
    run = Run(
        job=job,
        config=config,
        data=data.name,
        out=out,
        network=network,
        forward=shared(network, world, job.device),
        optimizer=optimizer,
        ema=ema,
        scaler=torch.amp.GradScaler(job.device.type, enabled=job.half is torch.float16),
        watch=Watch(job.device),
        frozen=frozen,
        world=world,
    )
    if config.compile:
        run.forward.compile()
    if saved is not None:
        restore(run, saved)
    return run


def restore(run: Run, saved: Saved) -> None:
    """Put a run into the state that its last checkpoint holds.

    Raises:
        CheckpointError: it is of another job, or does not fit the model.
    """
    tensors, record, where = saved.tensors, saved.record, run.last
    if record.identity != run.job.identity:
        what = "belongs to another start: other weights, scales, recipe or data"
        raise CheckpointError(what, where=where, hint="Remove the file and start without --resume")
    load_weights(run.model, strip_prefix(tensors, "trained."), where=where)
    load_weights(run.ema.average, strip_prefix(tensors, "model."), where=where)
    if run.job.adapters is not None:
        learned = {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in run.job.adapters}
        load_weights(run.job.adapters, learned, where=where)
    load_optimizer(run.optimizer, tensors)
    scale = {name: tensor.item() for name, tensor in strip_prefix(tensors, _SCALER).items()}
    if scale:
        run.scaler.load_state_dict(scale)
    run.ema.steps = record.ema_steps
    run.history = list(record.history)
    run.start, run.best, run.best_ap, run.best_epoch = record.start, record.best, record.best_ap, record.best_epoch
    run.step, run.sums = record.step, dict(record.sums)
