"""A network whose layers run in int8 or in float as is cheaper on a core, and what to say of it in the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from edgeyolo.backends.ncnn.choice import choose
from edgeyolo.backends.ncnn.costs import load_costs
from edgeyolo.backends.ncnn.files import Layer
from edgeyolo.backends.ncnn.int8 import quantize_network
from edgeyolo.backends.ncnn.shapes import infer_shapes
from edgeyolo.backends.ncnn.winograd import is_exact, is_winograd, shrink, without_winograd
from edgeyolo.spec.manifest import LayerChoice, LayerCost
from edgeyolo.spec.qparams import QParams

if TYPE_CHECKING:
    from onnx import ModelProto

_MILLION = 1e6
_NOISE = 0.02  # of a cost: tables are not finer


def mix(
    layers: Sequence[Layer],
    model: ModelProto,
    qparams: QParams,
    image_hw: tuple[int, int],
    core: str,
    floats: Literal["fp32", "fp16"],
) -> tuple[list[Layer], LayerChoice]:
    """`layers` with those int8 that are cheaper so, and why.

    Args:
        layers: float, as converted.
        model: they come from, which qparams belong to.
        core: name of a table of costs.
        floats: in which the core computes what is not int8.

    Raises:
        UnknownNameError: no such core. BackendError: as `quantize_network`.
    """
    table = load_costs(core)
    quantized = quantize_network(layers, model, qparams)
    plan = choose(quantized, infer_shapes(quantized, image_hw, where=model.graph.name), table, floats)
    mixed = []
    for original, layer in zip(layers, quantized, strict=True):
        if layer.name in plan.float_layers:
            layer = original
        elif is_winograd(layer):
            layer = _with_exact_sums(layer, original, plan.direct.get(layer.name, 1.0))
        mixed.append(layer)
    costs = {
        name: LayerCost(
            runs=floats if name in plan.float_layers else "int8",
            int8=round(cost.integer / _MILLION, 3),
            floating=round(cost.floating / _MILLION, 3),
        )
        for name, cost in plan.costs.items()
    }
    totals = [round(total / _MILLION, 1) for total in plan.instructions]
    return mixed, LayerChoice(
        core=core, instructions={"mixed": totals[0], "int8": totals[1], floats: totals[2]}, layers=costs
    )


def _with_exact_sums(layer: Layer, original: Layer, direct: float) -> Layer:
    """An int8 layer that may run by winograd, without it where that is cheaper, and with sums that fit in any case.

    Args:
        direct: how many times as much it costs without winograd.
    """
    if direct < 1 - _NOISE or (direct < 1 + _NOISE and not is_exact(layer)):
        return without_winograd(layer)
    return layer if is_exact(layer) else shrink(layer, original.weights[0].values)
