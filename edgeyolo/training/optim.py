"""Optimizer, its parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from edgeyolo.training.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or Nesterov SGD; weight decay only on weights of convolutions and linear layers."""
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.ConvTranspose2d)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": config.decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
    rate = config.peak_learning_rate
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, nesterov=True)
    return torch.optim.AdamW(groups, lr=rate, betas=(config.momentum, 0.999), fused=True)


def learning_rate_at(step: int, config: TrainConfig, *, steps_per_epoch: int) -> float:
    """Linear warm-up, then half a cosine from the peak to `final_learning_rate_factor` of it.

    Source: Loshchilov and Hutter, SGDR, arXiv 1608.03983, eq. 5, without restarts.
    """
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 10)
    if step < warmup:
        return config.peak_learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    final = config.final_learning_rate_factor
    return config.peak_learning_rate * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
