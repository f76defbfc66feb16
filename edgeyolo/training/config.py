"""Everything that decides how a run goes; saved beside its output and inside its checkpoints."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeyolo import models
from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.training.augment import AugmentConfig
from edgeyolo.training.distillation import DistillConfig, check_distill


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One training run.

    Attributes:
        model: name as in `edgeyolo models`.
        activation: of the hidden layers, None for the model's own.
        epochs: passes over the training split.
        image_size: side of the square network input, pixels, a multiple of the coarsest stride.
        batch: pictures per step, over all processes; small data sets need many steps more than they need large ones. 0
            finds the largest power of two that memory and the size of the data set allow, at most 64.
        accumulate: parts that each process walks its pictures of a step in, to need less memory; costs a second forward
            pass, and gives the gradients of the whole batch, but for batch normalisation, which sees a part.
        optimizer: AdamW suits small data sets and short runs; SGD with Nesterov momentum long ones.
        learning_rate: peak; None for what suits the model with AdamW, 0.05 with SGD. The run's record has the number.
        final_learning_rate_factor: learning rate at the end / peak.
        schedule: how the learning rate falls after warm-up.
        momentum: SGD momentum, or beta 1 of AdamW.
        weight_decay: of convolution weights; None for the optimizer's default (AdamW 0.02, SGD 0.0005).
        warmup_epochs: linear from 0 to the peak; at most a tenth of all steps.
        warmup_bias_learning_rate: where biases start instead of at 0, to come down to the peak; None as all others.
        warmup_momentum: where momentum starts, to reach `momentum` with the peak; None starts with it.
        ema_decay: of the moving average of weights, which is what is evaluated and saved.
        clip_norm: largest gradient norm.
        label_smoothing: of class labels, 0-1; only for losses that ask for whole classes (YOLOv7).
        class_balance: classes that fewer than this part of the pictures have come up more often, 0-1; 0 for never.
        multi_scale: each step's input side is drawn from [1 - this, 1 + this] of image_size, 0-0.9.
        freeze: modules of the model by name, such as backbone, whose weights and statistics stay as they are.
        close_mosaic_epochs: last epochs without mosaic and mixup, at most a sixth of all.
        patience: stop after this many epochs without a better AP, 0 for never.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        precision: of the forward pass; auto is bf16 where the processor or GPU has it, else fp32; fp16 needs a GPU.
        compile: let torch.compile build the forward pass; pays on long runs on a GPU.
        sync_batch_norm: statistics of batch normalisation over the pictures of all processes, not of each one.
        device: auto is CUDA where there is one.
        seed: of weights, order and augmentation.
        workers: loader processes.
        cache_mib: memory for decoded pictures.
        cache_on_disk: keep them in a file of that size, in the cache folder of edgeyolo, instead of in memory.
        tensorboard: write a TensorBoard log beside the others.
        auto_anchor: give the model other anchors where its own reach too few of the objects (YOLOv7).
        teacher: checkpoint that teaches the model, of any model; None for none.
        distill: how much the teacher counts.
        augment: ranges of the augmentations.
    """

    model: str
    activation: str | None = None
    epochs: int = 60
    image_size: int = 640
    batch: int = 8
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float | None = None
    final_learning_rate_factor: float = 0.02
    schedule: Literal["cosine", "linear"] = "cosine"
    momentum: float = 0.9
    weight_decay: float | None = None
    warmup_epochs: float = 3.0
    warmup_bias_learning_rate: float | None = None
    warmup_momentum: float | None = None
    ema_decay: float = 0.9998
    clip_norm: float = 10.0
    label_smoothing: float = 0.0
    class_balance: float = 0.0
    multi_scale: float = 0.0
    freeze: tuple[str, ...] = ()
    close_mosaic_epochs: int = 10
    patience: int = 0
    evaluate_every: int = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    sync_batch_norm: bool = True
    device: str = "auto"
    seed: int = 0
    workers: int = 1
    cache_mib: int = 2048
    cache_on_disk: bool = False
    tensorboard: bool = False
    auto_anchor: bool = True
    teacher: str | None = None
    distill: DistillConfig = DistillConfig()
    augment: AugmentConfig = AugmentConfig()

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after warm-up."""
        if self.learning_rate is not None:
            return self.learning_rate
        return models.learning_rate_of(self.model) if self.optimizer == "adamw" else 5e-2

    @property
    def decay(self) -> float:
        """The weight decay in force."""
        return self.weight_decay if self.weight_decay is not None else {"adamw": 2e-2, "sgd": 5e-4}[self.optimizer]

    @property
    def last_mosaic_epoch(self) -> int:
        """Epochs from this one on are trained without mosaic and mixup."""
        return self.epochs - min(self.close_mosaic_epochs, self.epochs // 6)


def resolve(config: TrainConfig) -> TrainConfig:
    """The config with numbers in the place of what None stands for, so that a record says what was done."""
    return msgspec.structs.replace(config, learning_rate=config.peak_learning_rate, weight_decay=config.decay)


def check_config(config: TrainConfig) -> None:
    """Raise UsageError for a value that no run can use; the message names the field."""
    smallest = {
        "epochs": 1,
        "image_size": 32,
        "batch": 0,
        "accumulate": 1,
        "workers": 0,
        "patience": 0,
        "cache_mib": 0,
        "evaluate_every": 1,
    }
    for field, least in smallest.items():
        if getattr(config, field) < least:
            raise UsageError(f"{field} is {getattr(config, field)}", hint=f"It must be at least {least}")
    positive = {"learning rate": config.peak_learning_rate, "clip_norm": config.clip_norm}
    for field, value in positive.items():
        if not value > 0:
            raise UsageError(f"{field} is {value}", hint="It must be positive")
    check_distill(config.distill)
    parts = {"ema_decay": 1.0, "label_smoothing": 1.0, "class_balance": 1.0, "multi_scale": 0.9}
    for field, limit in parts.items():
        if not 0 <= getattr(config, field) < limit:
            raise UsageError(f"{field} is {getattr(config, field)}", hint=f"It must be in [0, {limit:g})")
    if config.warmup_bias_learning_rate is not None and config.warmup_bias_learning_rate < 0:
        raise UsageError(f"warmup_bias_learning_rate is {config.warmup_bias_learning_rate}", hint="It must be positive")
    if not 0 <= (config.warmup_momentum or 0) < 1 or not 0 <= config.momentum < 1:
        raise UsageError(
            f"momentum is {config.momentum}, warmup_momentum {config.warmup_momentum}", hint="Both must be in [0, 1)"
        )


def override_config(config: TrainConfig, overrides: dict[str, str]) -> TrainConfig:
    """Set fields by name from text, such as {"ema_decay": "0.999", "augment.mosaic": "0"}.

    Raises:
        UsageError: no such field (suggests the nearest), or text that is not a value of its type.
    """
    values = msgspec.to_builtins(config)
    for key, text in overrides.items():
        section, _, field = key.rpartition(".")
        owner = values.get(section) if section else values
        if not isinstance(owner, dict) or field not in owner:
            known = [f"{part}.{name}" for part in ("augment", "distill") for name in values[part]]
            raise UnknownNameError("setting", key, [*values, *known])
        if isinstance(owner[field], list | tuple):
            owner[field] = [part for part in text.split(",") if part]
        else:
            owner[field] = None if text.lower() == "none" else text
    try:
        return msgspec.convert(values, TrainConfig, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"a setting has a value of another type: {error}", where=", ".join(overrides)) from None
