"""Quantization-aware training: the fake-quantized model learns to give what its float copy gives.

It starts from calibrated scales, which stay as they are; weights and biases move. What it trains is the deploy form,
so what it gives is what ships. Each epoch is measured by the runtime that ships, and the best one, or the start, wins.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor, fx, nn

from edgeyolo.criteria.criterion import Criterion
from edgeyolo.data.dataset import Dataset
from edgeyolo.nn.channels_last import use_channels_last
from edgeyolo.quantization.quantize import Quantized
from edgeyolo.quantization.recover.qat_state import (
    FILE_NAME,
    QatState,
    load_parameters,
    load_state,
    parameter_tensors,
    save_state,
    start_digest,
)
from edgeyolo.quantization.recover.stage_features import expose, feature_loss, float_teacher, stage_tensors
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.errors import TrainingError, UsageError
from edgeyolo.spec.model import ModelSpec, Score
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import QatRecord
from edgeyolo.spec.recipe import QatRecipe
from edgeyolo.spec.training import AugmentConfig, TrainConfig
from edgeyolo.training.checkpoint import EpochRow, load_optimizer, optimizer_tensors, strip_prefix
from edgeyolo.training.config import check_config
from edgeyolo.training.device import autocast_dtype, choose_device
from edgeyolo.training.ema import EmaModel
from edgeyolo.training.loader import Batch, TrainLoader, make_loader
from edgeyolo.training.log import csv_text
from edgeyolo.training.optim import learning_rate_at, make_optimizer
from edgeyolo.training.step import normalise

_LOG = logging.getLogger(__name__)
_MOST_WORKERS = 8


@dataclass(frozen=True)
class QatResult:
    """What training gave.

    Attributes:
        quantized: with the weights of the best epoch; the one that was given if no epoch was better.
        start: fake-quant score before training.
        best: of `quantized`; never below `start` in AP.
        best_epoch: counted from 1; 0 means that the start was kept.
        history: one row per epoch; losses are means over it, already weighted.
    """

    quantized: Quantized
    start: Score
    best: Score
    best_epoch: int
    history: tuple[EpochRow, ...]


def train_quantized(
    quantized: Quantized,
    model: nn.Module,
    recipe: QatRecipe,
    *,
    train_data: Dataset,
    val_data: Dataset,
    spec: ModelSpec,
    out: Path,
    resume: bool = False,
    progress: Progress = SILENT,
) -> QatResult:
    """Train the weights of a quantized model with its scales frozen. `quantized` and `model` are left as they are.

    The same arguments give the same result, also when it is interrupted after any epoch and resumed.

    Args:
        model: training form that `quantized` was made from; asked only for its detection loss.
        out: folder for the state and the log, `log.csv`.
        resume: go on from the state in `out`.

    Raises:
        UsageError: a setting that cannot be used, a state in `out` and `resume` is False, or `val_data` has other
            classes than the model.
        CheckpointError: nothing to resume, or the state in `out` is broken or of another start.
        DataError: nothing to train on. TrainingError: the loss is not a number. OutputError: `out` cannot be written.
    """
    config = _check_recipe(recipe, spec)
    device = choose_device(config.device)
    run = _Run(quantized, model, recipe, config, spec, device)
    path = out / FILE_NAME
    digest = start_digest(
        {"fake_quant": quantized.fake_quant, "teacher": run.teacher}, recipe, spec, train_data, val_data
    )
    if resume:
        tensors, run.state = load_state(path, start_sha256=digest)
        run.restore(tensors, where=path)
    elif path.exists():
        raise UsageError("there is a training already", where=path, hint="Add --resume to go on, or choose another out")
    else:
        start = run.measure(val_data, progress)
        run.state = QatState(start_sha256=digest, start=start, best=start)
        run.save(path)
    loader = _make_loader(train_data, recipe, spec, device)
    with contextlib.closing(loader):
        while run.state.epoch < recipe.epochs:
            run.epoch(loader, val_data, progress)
            run.save(path)
            write_file(out / "log.csv", csv_text(run.state.history).encode())
    return run.result()


def _check_recipe(recipe: QatRecipe, spec: ModelSpec) -> TrainConfig:
    """The recipe as a training's config, so that optimizer and schedule are the same; checks every value."""
    if recipe.feature_weight < 0 or recipe.detection_weight < 0 or not recipe.feature_weight + recipe.detection_weight:
        weights = f"feature_weight is {recipe.feature_weight} and detection_weight {recipe.detection_weight}"
        raise UsageError(weights, where="recipe qat", hint="Neither may be negative, and one must be positive")
    if recipe.batch < 1:
        raise UsageError(f"batch is {recipe.batch}", where="recipe qat", hint="It must be at least 1")
    parts = {"final_lr_factor": recipe.final_lr_factor, "mosaic": recipe.mosaic}
    for name, value in parts.items():
        if not 0 <= value <= 1:
            raise UsageError(f"{name} is {value}", where="recipe qat", hint="It must be in [0, 1]")
    config = TrainConfig(
        model=spec.name,
        epochs=recipe.epochs,
        batch=recipe.batch,
        optimizer="adamw" if recipe.optimizer == "adam" else "sgd",
        learning_rate=recipe.learning_rate,
        final_learning_rate_factor=recipe.final_lr_factor,
        weight_decay=recipe.weight_decay,
        warmup_epochs=1.0,
        ema_decay=recipe.ema_decay,
        precision=recipe.precision,
        seed=recipe.seed,
    )
    check_config(config)
    return config


def _make_loader(data: Dataset, recipe: QatRecipe, spec: ModelSpec, device: torch.device) -> TrainLoader:
    """Mirrored, shifted and scaled pictures; their colours stay, for others leave the ranges that were calibrated."""
    augment = AugmentConfig(
        hsv_h=0.0, hsv_s=0.0, hsv_v=0.0, translate=0.05, scale=0.25, mosaic=recipe.mosaic, mixup=0.0
    )
    cores = os.cpu_count() or 1
    return make_loader(
        data,
        input_spec=spec.input,
        batch=recipe.batch,
        augment=augment,
        seed=recipe.seed,
        workers=0 if device.type == "cpu" else min(_MOST_WORKERS, cores - 1),  # on a CPU the network needs the cores
    )


class _Run:
    """Everything that changes while training, and what it changes with."""

    state: QatState

    def __init__(
        self,
        quantized: Quantized,
        model: nn.Module,
        recipe: QatRecipe,
        config: TrainConfig,
        spec: ModelSpec,
        device: torch.device,
    ) -> None:
        self.origin = quantized
        self.recipe = recipe
        self.config = config
        self.spec = spec
        self.device = device
        self.autocast = autocast_dtype(config.precision, device)
        self.student = _copy_to(quantized.fake_quant, device).requires_grad_(True)
        self.teacher = _copy_to(float_teacher(quantized), device).requires_grad_(False)
        names = stage_tensors(self.teacher, spec.input.image_hw)
        self.student_features = expose(self.student, names)
        self.teacher_features = expose(self.teacher, names)
        self.criterion = _make_criterion(model, recipe, device)
        self.optimizer = make_optimizer(self.student, config)
        self.ema = EmaModel(self.student, recipe.ema_decay)
        self.best: dict[str, Tensor] = {}

    def epoch(self, loader: TrainLoader, val_data: Dataset, progress: Progress) -> None:
        """Train one epoch, measure it, and keep it if it is the best so far."""
        started = time.perf_counter()
        number = self.state.epoch
        loader.start_epoch(number)
        rate = 0.0
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        for index, batch in enumerate(loader):
            rate = learning_rate_at(number * len(loader) + index, self.config, steps_per_epoch=len(loader))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            for name, value in self.step(batch).items():
                sums[name] += value
            text = f"loss {float(sums['total']) / (index + 1):.4f}  best AP {max(self.state.best.ap, 0):.1f}"
            progress.step(f"qat {number + 1}/{self.recipe.epochs}", index + 1, len(loader), text)
        score = self.measure(val_data, progress)
        row = EpochRow(
            epoch=number + 1,
            losses={name: float(value) / len(loader) for name, value in sums.items()},
            learning_rate=rate,
            seconds=round(time.perf_counter() - started, 2),
            ap=score.ap,
            ap50=score.ap50,
        )
        self._finish(row, score)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Forward, loss, backward, optimizer, average; returns the loss parts and their `total`.

        Raises:
            TrainingError: the loss is not a finite number; nothing has been changed by this batch then.
        """
        images = normalise(batch.images.to(self.device, non_blocking=True), self.spec.input)
        images = images.contiguous(memory_format=torch.channels_last)
        parts = self.losses(images, batch.targets.to(self.device, non_blocking=True))
        total = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(total):
            raise TrainingError(
                f"the loss is {float(total.detach())} in epoch {self.state.epoch + 1} of quantization-aware training",
                where=", ".join(batch.image_ids),
                hint="Lower the learning rate or look at these pictures; the state of the last epoch is good",
            )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.student.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.ema.step(self.student)
        return {**{name: part.detach() for name, part in parts.items()}, "total": total.detach()}

    def losses(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The weighted losses of one batch: `features`, `detection`, or both."""
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            with torch.no_grad():
                _, wanted = self.teacher_features(images)
            maps, found = self.student_features(images)
        parts = {}
        if self.recipe.feature_weight:
            parts["features"] = self.recipe.feature_weight * feature_loss(found, wanted)
        if self.criterion is not None:
            image_hw = (images.shape[2], images.shape[3])
            loss = self.criterion([map_.float() for map_ in maps], targets, image_hw)
            parts["detection"] = self.recipe.detection_weight * loss.total
        return parts

    def measure(self, data: Dataset, progress: Progress) -> Score:
        """COCO mAP of the averaged weights with fake quantizers, in float32, by the runtime that ships."""
        from edgeyolo.evaluation.measure import measure_session
        from edgeyolo.training.torch_session import TorchSession

        session = TorchSession(self.ema.average, device=self.device)
        return measure_session(session, self.spec, data, artefact="fake-quant torch", progress=progress)

    def _finish(self, row: EpochRow, score: Score) -> None:
        changes: dict[str, object] = {"history": (*self.state.history, row), "ema_steps": self.ema.steps}
        if score.ap > self.state.best.ap:
            changes |= {"best": score, "best_epoch": row.epoch}
            self.best = {name: p.detach().clone() for name, p in self.ema.average.named_parameters()}
        self.state = msgspec.structs.replace(self.state, **changes)
        _LOG.info("epoch %d: loss %.4f, AP %.2f (start %.2f)", row.epoch, row.losses["total"], score.ap, self.start_ap)

    @property
    def start_ap(self) -> float:
        """AP before training, percent."""
        return self.state.start.ap

    def save(self, path: Path) -> None:
        """Write the state, from which `restore` goes on."""
        tensors = parameter_tensors("trained", self.student) | parameter_tensors("average", self.ema.average)
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()} | optimizer_tensors(self.optimizer)
        save_state(path, tensors, self.state)

    def restore(self, tensors: dict[str, Tensor], *, where: Path) -> None:
        """Take over what `save` wrote."""
        load_parameters(self.student, strip_prefix(tensors, "trained."), where=where)
        load_parameters(self.ema.average, strip_prefix(tensors, "average."), where=where)
        load_optimizer(self.optimizer, tensors)
        self.ema.steps = self.state.ema_steps
        self.best = strip_prefix(tensors, "best.")

    def result(self) -> QatResult:
        """The best epoch's weights in a copy of what was given; that itself if no epoch was better."""
        state, quantized = self.state, self.origin
        if state.best_epoch == 0:
            _LOG.warning("no epoch was better than the start (AP %.2f), which is kept", state.start.ap)
        else:
            _LOG.info(
                "epoch %d is the best: AP %.2f, %.2f at the start", state.best_epoch, state.best.ap, self.start_ap
            )
            record = QatRecord(
                recipe=self.recipe, best_epoch=state.best_epoch, ap_start=state.start.ap, ap_best=state.best.ap
            )
            quantized = replace(
                quantized,
                fake_quant=_with_parameters(quantized.fake_quant, self.best),
                float_deploy=_with_parameters(quantized.float_deploy, self.best),
                calibration=msgspec.structs.replace(quantized.calibration, method="qat", qat=record),
            )
        return QatResult(quantized, state.start, state.best, state.best_epoch, state.history)


def _make_criterion(model: nn.Module, recipe: QatRecipe, device: torch.device) -> Criterion | None:
    """The model's own loss, as it is at the end of a training; None if the recipe leaves it out."""
    if not recipe.detection_weight:
        return None
    make = getattr(model, "make_criterion", None)
    if make is None:
        hint = "Set detection_weight = 0"
        raise UsageError(f"{type(model).__name__} has no detection loss of its own", where="recipe qat", hint=hint)
    criterion: Criterion = make(epochs=recipe.epochs).to(device)
    criterion.start_epoch(recipe.epochs)
    return criterion


def _copy_to(module: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    copied = copy.deepcopy(module).to(device).eval()
    use_channels_last(copied)
    return copied


def _with_parameters(module: fx.GraphModule, values: dict[str, Tensor]) -> fx.GraphModule:
    """A copy of `module` with other values of its parameters, laid out as they were."""
    copied = copy.deepcopy(module)
    load_parameters(copied, values, where="quantization-aware training")
    return copied
