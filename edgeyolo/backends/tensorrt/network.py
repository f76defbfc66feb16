"""model.onnx + qparams -> the ONNX that TensorRT builds from, and the trtexec command that does the same.

TensorRT 10 and later (JetPack 6 and 7): strongly typed. float16 around Q/DQ, weights stored as int8 with
DequantizeLinear: half the file of float16 weights with Q/DQ, and a plan of the same size; all of these versions read
it.

TensorRT 8 (JetPack 4 and 5) is older than strong typing and reads no int8 weights: float32 weights, which lie on the
int8 grid, with QuantizeLinear and DequantizeLinear, at opset 13, for the builder's own fp16 and int8 flags.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeyolo.backends.tensorrt.options import Options
from edgeyolo.graph.entry import take_bytes
from edgeyolo.graph.fp8 import insert_fp8
from edgeyolo.graph.half import cast_to_half, half_scales
from edgeyolo.graph.opset import float_weights, lower_opset
from edgeyolo.graph.postprocess import append_postprocess
from edgeyolo.graph.qdq import insert_qdq, int8_layers, weighted_nodes
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.model import InputSpec, ModelSpec
from edgeyolo.spec.qparams import QParams
from edgeyolo.spec.target import Precision
from edgeyolo.spec.tensor import INPUT_NAME

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


CALIBRATION = "calibration.cache"


@dataclass(frozen=True)
class Network:
    """A graph ready for TensorRT.

    Attributes:
        layers: how many Conv and Gemm nodes run in int8 or FP8 and how many do not.
        graph_candidates: rows that leave the graph, 0 where raw maps do.
    """

    model: ModelProto
    layers: dict[str, int]
    graph_candidates: int


def make_network(
    model: ModelProto,
    qparams: QParams | None,
    options: Options,
    *,
    precision: Precision,
    postprocess: ModelSpec | None,
    byte_input: InputSpec | None = None,
) -> Network:
    """Turn the float model into what TensorRT builds.

    Args:
        qparams: given for int8 and fp8.
        postprocess: the model's decode and classes, to decode inside the graph; None to leave the raw maps.
        byte_input: the model's input, to take the bytes of pictures; None to take floats.

    Raises:
        BackendError: a graph that has no such form. UsageError: options that contradict each other.
    """
    _check_input(model.graph)
    if precision not in ("int8", "fp8", "fp16", "fp32"):
        raise UsageError(f"tensorrt artefacts are int8, fp8, fp16 or fp32, not {precision}")
    if precision == "fp8" and not options.strongly_typed:
        raise UsageError("FP8 needs strong typing (TensorRT 10 or later)")
    nodes = weighted_nodes(model.graph)
    total = sum(len(readers) for readers in nodes.values())
    quantized = sum(len(nodes[weight]) for weight in int8_layers(model.graph, qparams)) if qparams else 0
    layers = {precision: quantized, "float": total - quantized} if qparams else {"float": total}
    if options.strongly_typed:
        result = _strongly_typed(model, qparams, precision)
    else:
        result = lower_opset(float_weights(insert_qdq(model, qparams)) if qparams else model)
    count = 0
    if postprocess is not None:
        if not options.strongly_typed:
            raise UsageError("in-graph post-processing needs strong typing (TensorRT 10 or later)")
        result, count = append_postprocess(
            result, postprocess.decode, num_classes=len(postprocess.class_names), candidates=options.candidates
        )
    return Network(take_bytes(result, byte_input) if byte_input else result, layers, count)


def trtexec_command(
    options: Options, precision: Precision, shape: list[int], layer_precisions: dict[str, str] | None = None
) -> str:
    """The command that builds the same plan from `model.onnx` with NVIDIA's own tool: `trtexec`, or `tensorrt_rtx`.

    Args:
        shape: of the graph's input, as `input_shape` gives it.
        layer_precisions: of a graph without Q/DQ, whose ranges are in `calibration.cache`.
    """
    is_rtx = options.package == "tensorrt_rtx"  # always strongly typed, and has no such flag
    words = ["tensorrt_rtx" if is_rtx else "trtexec", "--onnx=model.onnx", "--saveEngine=model.plan"]
    if options.strongly_typed:
        words += [] if is_rtx else ["--stronglyTyped"]
    else:
        words += {"int8": ["--fp16", "--int8"], "fp16": ["--fp16"]}.get(precision, [])
    words += ["--sparsity=enable"] if options.sparse_weights else []
    words += ["--noTF32"] if precision == "fp32" else []
    words += [f"--memPoolSize=workspace:{options.workspace_mib}"] if options.workspace_mib else []
    words += [f"--builderOptimizationLevel={options.builder_level}"] if options.builder_level >= 0 else []
    words += [f"--useDLACore={options.dla_core}"] if options.dla_core >= 0 else []
    words += ["--allowGPUFallback"] if options.dla_core >= 0 and options.gpu_fallback else []
    if layer_precisions is not None:
        named = ",".join(f"{name}:{precision}" for name, precision in layer_precisions.items())
        words += [f"--calib={CALIBRATION}", "--precisionConstraints=prefer", shlex.quote(f"--layerPrecisions={named}")]
    if shape[0] == 0:
        sizes = "x".join(map(str, shape[1:]))
        words += [f"--minShapes={INPUT_NAME}:1x{sizes}"]
        words += [f"--{kind}Shapes={INPUT_NAME}:{options.max_batch}x{sizes}" for kind in ("opt", "max")]
    return " ".join(words)


def input_shape(graph: GraphProto) -> list[int]:
    """(B, 3, H, W) of the graph's input, 0 where it is not fixed."""
    entry = next((entry for entry in graph.input if entry.name == INPUT_NAME), None)
    return [axis.dim_value for axis in entry.type.tensor_type.shape.dim] if entry else []


def _check_input(graph: GraphProto) -> None:
    shape = input_shape(graph)
    if len(shape) != 4 or not all(shape[1:]):
        raise BackendError(
            f"input '{INPUT_NAME}' has shape {shape or 'none'}, and only its batch may be open",
            hint="Export with a fixed image size",
        )


def _strongly_typed(model: ModelProto, qparams: QParams | None, precision: Precision) -> ModelProto:
    if precision == "fp32":
        return model
    try:
        if precision == "fp8" and qparams:
            return cast_to_half(insert_fp8(model, qparams))
        return cast_to_half(insert_qdq(model, half_scales(qparams)) if qparams else model)
    except BackendError as error:
        hint = error.hint or "Deploy with precision fp32"
        raise BackendError(error.what, where=error.where, hint=hint) from None
