"""Run calibration pictures through an ONNX graph in ONNX Runtime and turn what is seen into ranges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from edgeyolo.graph.foreign.plain import open_graph
from edgeyolo.quantization.calibrate.observers import make_observer
from edgeyolo.quantization.calibrate.ranges import Picture, check_batch
from edgeyolo.spec.errors import QuantizationError
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.recipe import Recipe
from edgeyolo.spec.tensor import INPUT_NAME

if TYPE_CHECKING:
    from onnx import ModelProto


def observe_tensors(
    model: ModelProto,
    groups: Mapping[str, Iterable[str]],
    pictures: Iterable[Picture],
    recipe: Recipe,
    *,
    where: Path,
    progress: Progress = SILENT,
) -> tuple[dict[str, float], int]:
    """The range of each group of tensors, and the number of pictures seen.

    Args:
        groups: name -> tensors of the graph.
        pictures: network inputs (1, 3, H, W) float32.

    Raises:
        QuantizationError: no pictures, or a tensor that is not finite; names it.
    """
    import onnx

    group_of = {tensor: name for name, tensors in groups.items() for tensor in tensors}
    observers = {name: make_observer(recipe) for name in groups}
    inner = [tensor for tensor in group_of if tensor != INPUT_NAME]
    probe = type(model)()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner)
    session = open_graph(probe, where)
    seen, total = 0, len(pictures) if isinstance(pictures, Sized) else recipe.count
    for picture in pictures:
        batch = check_batch(picture).numpy()
        found = {INPUT_NAME: batch} if INPUT_NAME in group_of else {}
        found |= dict(zip(inner, session.run(inner, {INPUT_NAME: batch}), strict=True))
        for tensor, values in found.items():
            low, high = float(values.min()), float(values.max())
            largest = max(-low, high)
            if not math.isfinite(largest):
                hint = "Check the weights and the pictures"
                raise QuantizationError(
                    f"tensor '{tensor}' has values that are not finite numbers", where=where, hint=hint
                )
            observers[group_of[tensor]].collect(torch.from_numpy(values), largest)
        seen += len(batch)
        progress.step("calibrate", seen, max(total, seen))
    if seen == 0:
        raise QuantizationError("no pictures to calibrate on", hint="Give the training split of the data set")
    return {name: observer.threshold() for name, observer in observers.items()}, seen
