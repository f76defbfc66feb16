"""Optimizer, its parameter groups and the schedules of learning rate and momentum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.config import peak_learning_rate

_BIASES = "biases"


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or Nesterov SGD; weight decay only on weights of convolutions and linear layers.

    Raises:
        UsageError: every parameter is frozen.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.ConvTranspose2d)]
    decayed = {id(m.weight) for m in layers}
    biases = {id(m.bias) for m in layers} if config.warmup_bias_learning_rate is not None else set()
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UsageError("nothing is left to train", where=f"freeze = {', '.join(config.freeze)}", hint="Freeze less")
    groups = [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": config.decay},
        {"params": [p for p in parameters if id(p) not in decayed | biases], "weight_decay": 0.0},
    ]
    if biases:
        groups.append({"params": [p for p in parameters if id(p) in biases], "weight_decay": 0.0, _BIASES: True})
    rate = peak_learning_rate(config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    return torch.optim.AdamW(groups, lr=rate, betas=(config.momentum, 0.999), fused=True)


def set_schedule(optimizer: torch.optim.Optimizer, step: int, config: TrainConfig, *, steps_per_epoch: int) -> None:
    """Give every group the learning rate and momentum of a step."""
    momentum = momentum_at(step, config, steps_per_epoch=steps_per_epoch)
    for group in optimizer.param_groups:
        is_bias = _BIASES in group
        group["lr"] = learning_rate_at(step, config, steps_per_epoch=steps_per_epoch, biases=is_bias)
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def learning_rate_at(step: int, config: TrainConfig, *, steps_per_epoch: int, biases: bool = False) -> float:
    """Linear warm-up, then from the peak to `final_learning_rate_factor` of it on half a cosine or a line.

    Args:
        biases: of the biases, which may come down to the peak instead of rising to it.

    Source: Loshchilov and Hutter, SGDR, arXiv 1608.03983, eq. 5, without restarts.
    """
    peak = peak_learning_rate(config)
    total, warmup = _steps(config, steps_per_epoch)
    if step < warmup:
        start = (config.warmup_bias_learning_rate or 0.0) if biases else 0.0
        return peak * (step + 1) / warmup + start * (warmup - step - 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    final = config.final_learning_rate_factor
    if config.schedule == "linear":
        return peak * (final + (1 - final) * (1 - progress))
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def momentum_at(step: int, config: TrainConfig, *, steps_per_epoch: int) -> float:
    """From `warmup_momentum`, where there is one, to `momentum` at the end of the warm-up."""
    _, warmup = _steps(config, steps_per_epoch)
    if config.warmup_momentum is None or step >= warmup:
        return config.momentum
    return config.warmup_momentum + (config.momentum - config.warmup_momentum) * (step + 1) / warmup


def _steps(config: TrainConfig, steps_per_epoch: int) -> tuple[int, int]:
    """Of the whole run and of its warm-up."""
    total = config.epochs * steps_per_epoch
    return total, min(round(config.warmup_epochs * steps_per_epoch), total // 10)


def freeze_parts(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Take the gradient from the parameters of these parts.

    Args:
        names: of modules, such as `backbone` or `neck.up`, or the starts of such names.

    Returns:
        Their batch normalisations, which are to be kept in eval mode.

    Raises:
        UnknownNameError: the model has no part of a name; suggests the nearest.
    """
    still: list[nn.Module] = []
    for start in names:
        found = [part for name, part in model.named_modules() if name and _begins(name, start)]
        if not found:
            raise UnknownNameError(
                "part of the model", start, [name for name, _ in model.named_modules() if name.count(".") < 2 and name]
            )
        for part in found:
            part.requires_grad_(False)
            still += [m for m in part.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return still


def _begins(name: str, start: str) -> bool:
    return name == start or name.startswith((start if start.endswith(".") else f"{start}.",))
