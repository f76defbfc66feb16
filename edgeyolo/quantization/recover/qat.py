"""Quantization-aware training: the fake-quantized model learns to give what its float copy gives.

It starts from calibrated scales, which stay as they are; weights and biases move. What it trains is the deploy form,
so what it gives is what ships. It is a job of the training engine: each epoch is measured by the runtime that ships,
and the best one, or the start, wins.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor, fx, nn

from edgeyolo.criteria.criterion import Criterion, Loss
from edgeyolo.data.dataset import Dataset
from edgeyolo.evaluation.tasks import task_of
from edgeyolo.quantization.quantize import Quantized
from edgeyolo.quantization.recover.sparsity import hold_zeros, pruned, sparse_layers
from edgeyolo.quantization.recover.stage_features import expose, feature_loss, float_teacher, stage_tensors
from edgeyolo.quantization.recover.trainable import make_trainable
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import ModelSpec, Score
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import QatRecord
from edgeyolo.spec.recipe import QatRecipe
from edgeyolo.spec.settings import check_settings
from edgeyolo.spec.sizes import image_size_of
from edgeyolo.spec.training import AugmentConfig, TrainConfig
from edgeyolo.training import TrainResult, train_job
from edgeyolo.training.checkpoint import CheckpointRecord, EpochRow, read_tensors, strip_prefix
from edgeyolo.training.device import autocast_dtype, use_channels_last
from edgeyolo.training.distributed import find_world
from edgeyolo.training.job import Job

_LOG = logging.getLogger(__name__)
_MOST_WORKERS = 8


@dataclass(frozen=True)
class QatStart:
    """What a training starts from; it is left as it is.

    Attributes:
        quantized: with calibrated scales.
        model: training form that `quantized` was made from; asked only for its detection loss.
        spec: of the model.
        train_data, val_data: splits to train and to measure on.
    """

    quantized: Quantized
    model: nn.Module
    spec: ModelSpec
    train_data: Dataset
    val_data: Dataset


@dataclass(frozen=True)
class QatResult:
    """What training gave.

    Attributes:
        quantized: with the weights of the best epoch; the one that was given if no epoch was better, and on all but
            the first process of several.
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
    start: QatStart,
    recipe: QatRecipe,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    progress: Progress = SILENT,
) -> QatResult:
    """Train the weights of a quantized model with its scales frozen.

    The same arguments give the same result, also when it is interrupted at any step and resumed.

    Args:
        out: folder for the checkpoints and the log, `log.csv`.
        resume: go on from the last checkpoint in `out`.
        device: as in `TrainConfig`.

    Raises:
        UsageError: a setting that cannot be used, a run in `out` and `resume` is False, or `val_data` has other
            classes than the model.
        CheckpointError: nothing to resume, or what is in `out` is broken or of another start.
        DataError, TrainingError, StoppedError, OutputError: as `training.train`.
    """
    config = msgspec.structs.replace(config_of(recipe, start.spec), device=device)
    task_of(start.spec.decode).check_data(start.spec, start.val_data)

    begun = start.quantized if recipe.sparsity == "none" else pruned(start.quantized)

    def make(_config: TrainConfig, device: torch.device, _record: CheckpointRecord | None) -> Job:
        return QatJob(start, recipe, device, begun)

    result = train_job(make, config, (start.train_data, start.val_data), out, resume=resume, progress=progress)
    return _finish(begun, recipe, result)


def config_of(recipe: QatRecipe, spec: ModelSpec) -> TrainConfig:
    """The recipe as a training's config.

    Pictures are mirrored, shifted and scaled; their colours stay, for others leave the ranges that were calibrated.

    Raises:
        UsageError: a value that cannot be used.
    """
    check_settings(recipe)
    if recipe.feature_weight == recipe.detection_weight == 0:
        what = "feature_weight and detection_weight are both 0"
        raise UsageError(what, where="recipe qat", hint="One must be positive")
    augment = AugmentConfig(
        hsv_h=0.0, hsv_s=0.0, hsv_v=0.0, translate=0.05, scale=0.25, mosaic=recipe.mosaic, mixup=0.0
    )
    return TrainConfig(
        model=spec.name,
        epochs=recipe.epochs,
        image_size=image_size_of(spec.input.image_hw),
        batch=recipe.batch,
        optimizer=recipe.optimizer,
        learning_rate=recipe.learning_rate,
        final_learning_rate_factor=recipe.final_learning_rate_factor,
        weight_decay=recipe.weight_decay,
        warmup_epochs=1.0,
        ema_decay=recipe.ema_decay,
        close_mosaic_epochs=0,
        precision=recipe.precision,
        seed=recipe.seed,
        workers=min(_MOST_WORKERS, (os.cpu_count() or 1) - 1) if torch.cuda.is_available() else 0,
        augment=augment,
    )


class QatJob(Job):
    """Train the deploy form with fake quantizers, by its float copy's tensors and by its model's own loss."""

    stage = "qat"
    artefact = "fake-quant torch"
    trains_statistics = False
    counts_start = True

    def __init__(self, start: QatStart, recipe: QatRecipe, device: torch.device, begun: Quantized) -> None:
        """The student begins as `begun`, which is `start.quantized` or has fewer weights; the teacher has all."""
        student = _copy_to(make_trainable(begun.fake_quant), device)
        if recipe.sparsity != "none":
            hold_zeros(student, sparse_layers(begun))
        super().__init__(start.spec, student, autocast_dtype(recipe.precision, device))
        self.recipe = recipe
        teacher = _copy_to(float_teacher(start.quantized), device).requires_grad_(False)
        self.names = stage_tensors(teacher, start.spec.input.image_hw)
        self.teacher = expose(teacher, self.names)
        self.criterion = _make_criterion(start.model, recipe, device)
        self.identity = start_digest(start, teacher, recipe)

    def trained_network(self, model: nn.Module) -> nn.Module:
        """Gives the tensors of each stage after the maps."""
        assert isinstance(model, fx.GraphModule)
        return expose(model, self.names)

    def loss(self, outputs: list[Tensor], targets: Tensor, images: Tensor) -> Loss:
        """The weighted losses of one batch: `features`, `detection`, or both."""
        count = len(outputs) - len(self.names)
        terms: dict[str, Tensor] = {}
        if self.recipe.feature_weight:
            with torch.no_grad(), self.autocast():
                wanted = self.teacher(images)[count:]
            terms["features"] = self.recipe.feature_weight * feature_loss(outputs[count:], wanted)
        if self.criterion is not None:
            loss = self.criterion(outputs[:count], targets, (images.shape[2], images.shape[3]))
            terms["detection"] = self.recipe.detection_weight * loss.total
        total = torch.stack(list(terms.values())).sum()
        return Loss(total, {name: term.detach() for name, term in terms.items()})


def start_digest(start: QatStart, teacher: nn.Module, recipe: QatRecipe) -> str:
    """Hex sha256 of weights, scales, recipe, model and data: two trainings with the same digest go the same way.

    Pictures count by their ids and boxes, not by their files.
    """
    digest = hashlib.sha256(msgspec.json.encode((recipe, start.spec)))
    for part, module in {"fake_quant": start.quantized.fake_quant, "teacher": teacher}.items():
        for name, tensor in module.state_dict().items():
            digest.update(f"{part}.{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for data in (start.train_data, start.val_data):
        for record in data.records:
            digest.update(f"{data.split} {record.image_id} {record.image_hw}".encode())
            digest.update(record.boxes_xyxy.tobytes() + record.class_ids.tobytes())
    return digest.hexdigest()


def _finish(quantized: Quantized, recipe: QatRecipe, result: TrainResult) -> QatResult:
    """The best epoch's weights in a copy of what was given; that itself if no epoch was better."""
    start, best, epoch = result.start, result.score, result.best_epoch
    assert start is not None and best is not None
    if epoch == 0:
        _LOG.warning("no epoch was better than the start (AP %.2f), which is kept", start.ap)
    elif find_world().is_first:  # which has written the checkpoint
        _LOG.info("epoch %d is the best: AP %.2f, %.2f at the start", epoch, best.ap, start.ap)
        record = QatRecord(recipe=recipe, best_epoch=epoch, ap_start=start.ap, ap_best=best.ap)
        weights = strip_prefix(read_tensors(result.best)[0], "model.")
        quantized = replace(
            quantized,
            fake_quant=_with_parameters(quantized.fake_quant, weights),
            float_deploy=_with_parameters(quantized.float_deploy, weights),
            calibration=msgspec.structs.replace(quantized.calibration, method="qat", qat=record),
        )
    return QatResult(quantized, start, best, epoch, result.history)


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


@torch.no_grad()
def _with_parameters(module: fx.GraphModule, values: dict[str, Tensor]) -> fx.GraphModule:
    """A copy of `module` with other values of its parameters, laid out as they were; buffers stay."""
    copied = copy.deepcopy(module)
    for name, parameter in copied.named_parameters():
        parameter.copy_(values[name])
    return copied
