"""Run calibration pictures through the float deploy form and turn what is seen into scales."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sized
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from edgeyolo.nn.fold import fold_model
from edgeyolo.quantization.calibrate.observers import Observer, make_observer
from edgeyolo.quantization.calibrate.scales import Scales, all_weight_scales, choose_weight_bits, group_scales
from edgeyolo.quantization.placement.groups import Placement
from edgeyolo.spec.errors import QuantizationError
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.recipe import Recipe

logger = logging.getLogger(__name__)

Picture = Tensor | npt.NDArray[np.float32]


def trace_deploy_form(model: nn.Module) -> fx.GraphModule:
    """Fold a trained model and trace it; module paths stay.

    Raises:
        QuantizationError: the deploy form cannot be traced.
    """
    try:
        traced = fx.symbolic_trace(fold_model(model))
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        hint = "Its forward may not depend on the values of tensors"
        raise QuantizationError(f"cannot be traced ({error})", where=type(model).__name__, hint=hint) from error
    return traced.eval()


def calibrate(
    deploy: fx.GraphModule,
    placement: Placement,
    pictures: Iterable[Picture],
    recipe: Recipe,
    progress: Progress = SILENT,
) -> tuple[Scales, int]:
    """Scales of every group and weight, and the number of pictures seen.

    Args:
        pictures: network inputs (B, 3, H, W) float32.
        progress: told after each batch, in pictures; the total is the recipe's count if `pictures` has no length.

    Raises:
        QuantizationError: no pictures, a wrong shape, or a tensor that is not finite; names the layer.
        UsageError: settings of the recipe that cannot be used.
    """
    bits = choose_weight_bits(deploy, placement.int8_layers(), recipe)
    weights = all_weight_scales(deploy, bits, recipe.weight_observer)
    observers = {name: make_observer(recipe) for name in placement.groups}
    seen = _observe(_ObservingInterpreter(deploy, placement, observers), pictures, recipe.count, progress)
    groups = group_scales({name: observer.threshold() for name, observer in observers.items()})
    return Scales(groups, weights, recipe.observer, recipe.weight_observer, bits), seen


def _observe(interpreter: _ObservingInterpreter, pictures: Iterable[Picture], count: int, progress: Progress) -> int:
    total = len(pictures) if isinstance(pictures, Sized) else count
    seen = 0
    device = next(interpreter.module.parameters()).device
    with torch.no_grad():
        for picture in pictures:
            batch = check_batch(picture)
            interpreter.run(batch.to(device))
            seen += len(batch)
            progress.step("calibrate", seen, max(total, seen))
    if seen == 0:
        raise QuantizationError("no pictures to calibrate on", hint="Give the training split of the data set")
    if seen == 1:
        logger.warning("calibrated on one picture only: other pictures may go beyond its ranges")
    return seen


def check_batch(picture: Picture) -> Tensor:
    """A calibration picture as a tensor.

    Raises:
        QuantizationError: not (B, 3, H, W) float32.
    """
    batch = torch.as_tensor(picture)
    if batch.dim() != 4 or batch.shape[1] != 3 or batch.dtype != torch.float32:
        shape = tuple(batch.shape)
        raise QuantizationError(f"a calibration picture is {shape} {batch.dtype}, not (B, 3, H, W) float32")
    return batch


class _ObservingInterpreter(fx.Interpreter):
    """Runs a graph and shows each tensor that an int8 layer reads to the observer of its group, once."""

    def __init__(self, deploy: fx.GraphModule, placement: Placement, observers: Mapping[str, Observer]) -> None:
        super().__init__(deploy)
        self._observers = {tensor: observers[group] for tensor, group in placement.group_of_tensor().items()}
        readers = [(tensor, path) for path, plan in placement.layers.items() for tensor in plan.inputs]
        self._reader = dict(reversed(readers))

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and observe what it gives."""
        value = super().run_node(n)
        observer = self._observers.get(n.name)
        if observer is not None:
            low, high = (float(end) for end in value.aminmax())
            largest = max(-low, high)
            if not math.isfinite(largest):
                what = f"its input (tensor '{n.name}') has values that are not finite numbers"
                raise QuantizationError(what, where=self._reader[n.name], hint="Check the weights and the pictures")
            observer.collect(value, largest)
        return value
