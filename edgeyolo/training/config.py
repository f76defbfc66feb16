"""A training's settings put in force: defaults that depend on the model, limits, and changes by name."""

from __future__ import annotations

import msgspec

from edgeyolo import models
from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.distillation import check_distill


def peak_learning_rate(config: TrainConfig) -> float:
    """The learning rate after warm-up: the one that is set, or what suits the model and the optimizer."""
    if config.learning_rate is not None:
        return config.learning_rate
    return models.learning_rate_of(config.model) if config.optimizer == "adamw" else 5e-2


def resolve(config: TrainConfig) -> TrainConfig:
    """The config with numbers in the place of what None stands for, so that a record says what was done."""
    return msgspec.structs.replace(config, learning_rate=peak_learning_rate(config), weight_decay=config.decay)


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
    positive = {"learning rate": peak_learning_rate(config), "clip_norm": config.clip_norm}
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
