"""The optimizer re-parameterised in the place of the network: a plain kernel learns as its branches would together.

Source: RepOptimizers, arXiv 2205.15242, equation 6, for SGD. Differs: for AdamW, whose steps do not grow with the
gradient, the step is multiplied and not the gradient, by sums of scales and not of their squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgeyolo.nn.rep_forms import RepScales, learning_factors, make_plain, scale_branches, scales_in
from edgeyolo.spec.errors import UsageError

RepForm = Literal["branches", "scaled", "plain"]


def take_rep_form(network: nn.Module, form: RepForm, *, where: object) -> None:
    """Give a network's RepVGG convolutions another form.

    Raises:
        UsageError: it has none.
    """
    if form != "branches" and not (scale_branches if form == "scaled" else make_plain)(network):
        raise UsageError("has no RepVGG convolutions", where=where, hint="Leave rep at branches")


def scales_of(network: nn.Module, *, where: Path) -> dict[str, RepScales]:
    """What a network of scaled branches has found, by path.

    Raises:
        UsageError: it has none.
    """
    scales = scales_in(network)
    if not scales:
        raise UsageError("was not trained with rep = scaled", where=where, hint="Train the same model so first")
    return scales


def multiply_learning(optimizer: torch.optim.Optimizer, network: nn.Module, scales: Mapping[str, RepScales]) -> None:
    """Let an optimizer's plain kernels learn as the scales say; decay of weights stays as it is."""
    if not scales:
        return
    is_sgd = isinstance(optimizer, torch.optim.SGD)
    factors: dict[Tensor, Tensor] = {}
    for path, found in scales.items():
        weight = network.get_parameter(f"{path}.conv.weight")
        factors[weight] = learning_factors(found, weight.shape[1], power=2 if is_sgd else 1).to(weight)
    if is_sgd:
        optimizer.register_step_pre_hook(partial(_multiply_gradients, factors))
    else:
        before: dict[Tensor, Tensor] = {}
        optimizer.register_step_pre_hook(partial(_keep, factors, before))
        optimizer.register_step_post_hook(partial(_multiply_steps, factors, before))


@torch.no_grad()
def _multiply_gradients(factors: Mapping[Tensor, Tensor], *_: Any) -> None:
    for weight, factor in factors.items():
        if weight.grad is not None:
            weight.grad.mul_(factor)


@torch.no_grad()
def _keep(factors: Mapping[Tensor, Tensor], before: dict[Tensor, Tensor], *_: Any) -> None:
    before.update({weight: weight.clone() for weight in factors})


@torch.no_grad()
def _multiply_steps(
    factors: Mapping[Tensor, Tensor], before: Mapping[Tensor, Tensor], optimizer: torch.optim.Optimizer, *_: Any
) -> None:
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight in factors:
                decayed = before[weight] * (1 - group["lr"] * group["weight_decay"])
                weight.copy_(decayed + (weight - decayed) * factors[weight])
