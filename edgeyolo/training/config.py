"""A training's settings put in force: defaults that depend on the model, and limits."""

from __future__ import annotations

import msgspec

from edgeyolo import models
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.settings import check_settings
from edgeyolo.spec.sizes import image_size_of
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.distillation import check_distill


def peak_learning_rate(config: TrainConfig) -> float:
    """The learning rate after warm-up: the one that is set, or what suits the model and the optimizer."""
    if config.learning_rate is not None:
        return config.learning_rate
    return models.learning_rate_of(config.model) if config.optimizer == "adamw" else 5e-2


def resolve(config: TrainConfig) -> TrainConfig:
    """The config with numbers in the place of what None stands for, so that a record says what was done."""
    return msgspec.structs.replace(
        config,
        learning_rate=peak_learning_rate(config),
        weight_decay=config.decay,
        image_size=image_size_of(input_hw_of(config)),
    )


def input_hw_of(config: TrainConfig) -> tuple[int, int]:
    """Height and width of the input: what is set, or what suits the model's task."""
    if config.image_size is None and models.task_of(config.model) == "keypoints":
        return models.image_hw_of_model(config.model)
    return config.image_hw


def check_config(config: TrainConfig) -> None:
    """Raise UsageError for a value that no run can use; the message names the field."""
    check_settings(config)
    check_distill(config.distill)
    if config.cross_batch_norm and config.accumulate == 1:
        hint = "Set accumulate to the number of parts, or leave cross_batch_norm out"
        raise UsageError("cross_batch_norm needs a batch of several parts, and accumulate is 1", hint=hint)
