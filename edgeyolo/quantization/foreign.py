"""The door for a graph that torch does not compute: an ONNX file and pictures -> scales, by the rules of placement.

ONNX Runtime computes the values, the observers and the rules are those of our own models. What needs gradients, other
weights or a simulation in torch cannot be done with it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.graph.foreign.head_layers import float_convolutions
from edgeyolo.graph.foreign.plain import infer_shapes
from edgeyolo.quantization.calibrate.onnx_ranges import observe_tensors
from edgeyolo.quantization.calibrate.ranges import Picture
from edgeyolo.quantization.calibrate.scales import Scales, all_weight_scales, choose_weight_bits, group_scales
from edgeyolo.quantization.placement.groups import Placement, find_placement
from edgeyolo.quantization.placement.onnx_graph import OnnxStructure, read_structure, unsupported_operators
from edgeyolo.spec.errors import QuantizationError, UsageError
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import (
    CalibrationRecord,
    LayerPrecision,
    QParams,
    TensorGroup,
    WeightScales,
    check_qparams,
)
from edgeyolo.spec.recipe import Recipe

if TYPE_CHECKING:
    from onnx import ModelProto

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantizedGraph:
    """What quantization of an ONNX graph gives.

    Attributes:
        structure: of the graph, with its weights.
        placement: of `structure`; the names of its layers and groups are those of `qparams`.
    """

    structure: OnnxStructure
    placement: Placement
    scales: Scales
    qparams: QParams


def quantize_graph(
    model: ModelProto,
    source: ModelRecord,
    pictures: Iterable[Picture],
    recipe: Recipe,
    calibration: CalibrationRecord,
    *,
    where: Path,
    progress: Progress = SILENT,
) -> QuantizedGraph:
    """Find scales for a plain ONNX graph.

    Args:
        source: what is known of `model`.
        calibration: its record; the count is put right.

    Raises:
        QuantizationError: nothing can be quantized, named by operator; no pictures; values that are not finite.
        UsageError: the recipe asks for what needs a model of torch. UnknownNameError: `recipe.float_layers` names a
            layer that does not exist.
    """
    import msgspec

    check_recipe(recipe, where=where)
    structure = read_structure(model)
    placement = find_placement(structure.graph_module, recipe.float_layers, depthwise=recipe.depthwise)
    placement = placement.with_float(_head_layers(model, source.model.input.image_hw, structure, placement))
    _report(structure, placement, where)
    bits = choose_weight_bits(structure.graph_module, placement.int8_layers(), recipe)
    weights = all_weight_scales(structure.graph_module, bits, recipe.weight_observer)
    groups = {name: [structure.tensors[node] for node in group.tensors] for name, group in placement.groups.items()}
    thresholds, count = observe_tensors(model, groups, pictures, recipe, where=where, progress=progress)
    scales = Scales(group_scales(thresholds), weights, recipe.observer, recipe.weight_observer, bits)
    record = msgspec.structs.replace(calibration, count=count)
    qparams = _make_qparams(structure, placement, scales, record, source.onnx_sha256)
    check_qparams(qparams, where=where)
    return QuantizedGraph(structure, placement, scales, qparams)


def _make_qparams(
    structure: OnnxStructure, placement: Placement, scales: Scales, record: CalibrationRecord, onnx_sha256: str
) -> QParams:
    """By the names of the graph; its layers are called like their nodes."""
    names = structure.weights
    groups = {
        name: TensorGroup(
            tensors=tuple(structure.tensors[node] for node in group.tensors), scale=scales.groups[name], how=scales.how
        )
        for name, group in placement.groups.items()
    }
    weights = {
        names[path]: WeightScales(scales=scales.weights[path], bits=bits, how=scales.weight_how)
        for path, bits in scales.weight_bits.items()
    }
    layers = {
        path: LayerPrecision(precision=plan.precision, weight=names[path], group=plan.group, why=plan.why)
        for path, plan in placement.layers.items()
    }
    return QParams(onnx_sha256=onnx_sha256, groups=groups, weights=weights, layers=layers, calibration=record)


def check_recipe(recipe: Recipe, *, where: Path) -> None:
    """Raise UsageError for what a recipe asks of a model that torch does not compute."""
    asked = {
        "equalize": recipe.equalize,
        "bias_correction": recipe.bias_correction,
        "float_error": recipe.float_error > 0,
        "observer 'output'": recipe.observer == "output",
    }
    names = [name for name, is_asked in asked.items() if is_asked]
    if names:
        raise UsageError(
            f"the recipe asks for {' and '.join(names)}: that needs a network of torch, and this is an ONNX graph",
            where=where,
            hint="Take a copy of it without that, or int8-mse, int8-entropy, int8-percentile or int8-max",
        )


def _head_layers(
    model: ModelProto, image_hw: tuple[int, int], structure: OnnxStructure, placement: Placement
) -> dict[str, str]:
    """Module path -> reason, of the layers of the outputs and of what decodes them inside the graph."""
    ends = {node.input[1] for node in float_convolutions(model, infer_shapes(model), image_hw)}
    return {
        path: "head output"
        for path, weight in structure.weights.items()
        if weight in ends and placement.layers[path].precision == "int8"
    }


def _report(structure: OnnxStructure, placement: Placement, where: Path) -> None:
    unknown = unsupported_operators(structure, placement.unsupported)
    for operator in unknown:
        logger.warning("%s is not known: the layers that read it stay float", operator)
    whys = Counter(plan.why for plan in placement.layers.values() if plan.precision == "float")
    kept = "; ".join(f"{count} float ({why})" for why, count in whys.items())
    if not placement.int8_layers():
        reason = f" ({kept})" if kept else ", and has no layer with a weight of its own"
        named = f"; operators that are not known: {', '.join(unknown)}" if unknown else ""
        raise QuantizationError(
            f"no layer of it can be quantized{reason}{named}",
            where=where,
            hint="Deploy it with --precision fp32 or fp16",
        )
    int8, groups = len(placement.int8_layers()), len(placement.groups)
    logger.info("%d layers int8 in %d scale groups%s", int8, groups, f"; {kept}" if kept else "")
