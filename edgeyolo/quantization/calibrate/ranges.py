"""Run calibration pictures through the float deploy form and turn what is seen into scales."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from edgeyolo.nn.fold import fold_model
from edgeyolo.quantization.calibrate.observers import MseObserver, Observer, make_observer
from edgeyolo.quantization.calibrate.output_error import PICTURES, choose_ranges, ranges_to_try
from edgeyolo.quantization.calibrate.pictures import CalibrationPictures
from edgeyolo.quantization.calibrate.scales import Scales, all_weight_scales, choose_weight_bits, group_scales
from edgeyolo.quantization.placement.groups import Placement
from edgeyolo.spec.errors import QuantizationError
from edgeyolo.spec.model import RawDecode
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.recipe import Recipe
from edgeyolo.training.device import batch_of, exact_convolutions
from edgeyolo.training.distributed import World, current_world

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
    *,
    decode: RawDecode | None = None,
    progress: Progress = SILENT,
) -> tuple[Scales, int]:
    """Scales of every group and weight, and the number of pictures seen.

    Processes that have joined take a share of the pictures each, and all get the same scales: those of one process.

    Args:
        pictures: network inputs (B, 3, H, W) float32, all of one size; the same on every process. The first are
            read again by an observer that looks at the output.
        decode: of the model, for that observer.
        progress: told after each batch, in pictures; the total is the recipe's count if `pictures` has no length.

    Raises:
        QuantizationError: no pictures, a wrong shape, or a tensor that is not finite; names the layer.
        UsageError: settings of the recipe that cannot be used. TrainingError: another process has failed.
    """
    world = current_world()
    bits = choose_weight_bits(deploy, placement.int8_layers(), recipe)
    weights = all_weight_scales(deploy, bits, recipe.weight_observer)

    def observe() -> tuple[dict[str, Observer], int]:
        observers = {name: make_observer(recipe) for name in placement.groups}
        interpreter = _ObservingInterpreter(deploy, placement, observers)
        return observers, _observe(interpreter, share_of(pictures, world), recipe.count, progress)

    def choose() -> tuple[dict[str, float], int]:
        observers, seen = _merge(parts)
        if recipe.observer != "output":
            return {name: observer.threshold() for name, observer in observers.items()}, seen
        by_error = {name: found for name, found in observers.items() if isinstance(found, MseObserver)}
        tried = {name: ranges_to_try(observer) for name, observer in by_error.items()}
        first = [check_batch(picture) for picture in islice(pictures, PICTURES)]
        return choose_ranges(deploy, placement, tried, first, decode=decode, progress=progress), seen

    parts = world.collect(observe)
    thresholds, seen = world.by_first(choose)
    return Scales(group_scales(thresholds), weights, recipe.observer, recipe.weight_observer, bits), seen


def _merge(parts: Sequence[tuple[dict[str, Observer], int]]) -> tuple[dict[str, Observer], int]:
    """Observers of all groups, and the number of pictures, from what each process has seen; the first part is used."""
    observers, seen = parts[0][0], sum(count for _, count in parts)
    for others, _ in parts[1:]:
        for name, observer in observers.items():
            observer.merge(others[name])
    if seen == 0:
        raise QuantizationError("no pictures to calibrate on", hint="Give the training split of the data set")
    if seen == 1:
        logger.warning("calibrated on one picture only: other pictures may go beyond its ranges")
    return observers, seen


def share_of(pictures: Iterable[Picture], world: World) -> Iterable[Picture]:
    """The pictures of this process."""
    if not world.is_shared:
        return pictures
    if isinstance(pictures, CalibrationPictures):  # which reads them only when they are wanted
        return pictures.share(world.rank, world.size)
    return list(islice(pictures, world.rank, None, world.size))


def in_batches(pictures: Iterable[Picture], device: torch.device) -> Iterator[Tensor]:
    """Pictures joined to batches (B, 3, H, W) on a device, as large as is fastest there.

    Raises:
        QuantizationError: a picture that is none.
    """
    waiting: list[Tensor] = []
    for picture in pictures:
        batch = check_batch(picture)
        if waiting and waiting[0].shape[2:] != batch.shape[2:]:
            yield torch.cat(waiting).to(device)
            waiting = []
        waiting.append(batch)
        if sum(map(len, waiting)) >= batch_of(device):
            yield torch.cat(waiting).to(device)
            waiting = []
    if waiting:
        yield torch.cat(waiting).to(device)


def _observe(interpreter: _ObservingInterpreter, pictures: Iterable[Picture], count: int, progress: Progress) -> int:
    """Pictures that were seen."""
    total = len(pictures) if isinstance(pictures, Sized) else count
    seen = 0
    device = next(interpreter.module.parameters()).device
    with torch.no_grad(), exact_convolutions():
        for batch in in_batches(pictures, device):
            interpreter.run(batch)
            seen += len(batch)
            progress.step("calibrate", seen, max(total, seen))
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
