"""A foreign graph in the form of our own exports: one picture of a fixed size, opset 19, simplified, named."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeyolo.graph.foreign.focus import fold_focus
from edgeyolo.graph.foreign.reading import node_label, picture_input
from edgeyolo.spec.detections import Float32
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.packages import import_package
from edgeyolo.spec.tensor import INPUT_NAME

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 19  # the first whose QuantizeLinear takes fp16 scales, as our own exports have it
_OLDEST = 7  # from which opsets are converted
_SIDES = (32, 8192)
_MOST_ELEMENTS = 1 << 28  # of one tensor
_TOLERANCE = 1e-4  # of the range of each output, before and after


def plain_graph(model: ModelProto, image_hw: tuple[int, int] | None, *, where: Path) -> ModelProto:
    """A copy for one picture of that size, whose input is "images", of constants that are folded, with named nodes.

    Args:
        image_hw: None for the size that the graph has.

    Raises:
        MissingPackageError: onnxslim or ONNX Runtime is not installed.
        BackendError: no fixed size and none given, another size than the graph's own, an opset that cannot be
            converted, or a graph that gives other numbers afterwards.
    """
    result = _with_size(model, image_hw, where)
    _check_elements(result, where)
    before = _run(result, where)
    result = fold_focus(_simplified(_converted(result, where), where))
    for old, new in zip(before, _run(result, where), strict=True):
        span = float(np.ptp(old)) + 1e-6
        if old.shape != new.shape or not float(np.abs(old - new).max()) <= _TOLERANCE * span:
            raise BackendError(f"gives other numbers at opset {OPSET}", where=where, hint="Export with a later opset")
    _name_nodes(result)
    return result


def own_size(model: ModelProto) -> tuple[int, int] | None:
    """Height and width that the graph itself fixes; None where one is open."""
    name = picture_input(model.graph)
    entry = next(entry for entry in model.graph.input if entry.name == name)
    height, width = (axis.dim_value for axis in entry.type.tensor_type.shape.dim[2:])
    return (height, width) if height and width else None


def infer_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor whose shape is known whole."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for entry in (*graph.value_info, *graph.input, *graph.output):
        sizes = tuple(axis.dim_value for axis in entry.type.tensor_type.shape.dim)
        if all(sizes):
            shapes[entry.name] = sizes
    return shapes


def random_picture(image_hw: tuple[int, int]) -> Float32:
    """(1, 3, H, W) of values in [0, 1] with large and small structure, the same at each call."""
    height, width = image_hw
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [0.5 + 0.4 * np.sin(rows / (5 + 7 * c)) * np.cos(columns / (9 + 5 * c)) for c in range(3)]
    noise = rng.normal(0, 0.1, (3, height, width))
    return np.clip(np.stack(waves) + noise, 0, 1).astype(np.float32)[None]


def open_graph(model: ModelProto, where: object) -> Any:
    """An ONNX Runtime session of a graph, of one thread for each processor.

    Raises:
        MissingPackageError: not installed. BackendError: it does not take the graph.
    """
    engine = import_package("onnxruntime", needed_for="running a foreign graph", extra="onnxruntime")
    options = engine.SessionOptions()
    options.log_severity_level = 4
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    kinds = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented,
             state.RuntimeException)  # fmt: skip
    try:
        return engine.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except kinds as error:
        raise BackendError(f"ONNX Runtime refuses it ({error})", where=where) from None


def _with_size(model: ModelProto, image_hw: tuple[int, int] | None, where: Path) -> ModelProto:
    own = own_size(model)
    wanted = image_hw or own
    if wanted is None:
        raise BackendError(
            "height and width of its input are open", where=where, hint="Say which with --image-size, or export fixed"
        )
    if own is not None and wanted != own:
        raise BackendError(
            f"is for pictures of {own[0]} x {own[1]} and cannot be made for {wanted[0]} x {wanted[1]}",
            where=where,
            hint="Export it for that size, or with an open one",
        )
    if not all(_SIDES[0] <= side <= _SIDES[1] for side in wanted):
        raise BackendError(f"a size of {wanted} is out of range", where=where, hint="Give sides from 32 to 8192")
    result = type(model)()
    result.CopyFrom(model)
    graph, old = result.graph, picture_input(result.graph)
    weights = {tensor.name for tensor in graph.initializer}
    kept = [entry for entry in graph.input if entry.name not in weights]  # IR 3 lists weights too
    del graph.input[:]
    graph.input.extend(kept)
    if old != INPUT_NAME:
        if any(INPUT_NAME in node.output for node in graph.node) or INPUT_NAME in weights:
            raise BackendError(f"calls something else than the picture '{INPUT_NAME}'", where=where)
        graph.input[0].name = INPUT_NAME
        for node in graph.node:
            node.input[:] = [INPUT_NAME if name == old else name for name in node.input]
    for axis, size in zip(graph.input[0].type.tensor_type.shape.dim, (1, 3, *wanted), strict=True):
        axis.dim_value = size
    del graph.value_info[:]
    for entry in graph.output:
        entry.type.tensor_type.ClearField("shape")
    return result


def _check_elements(model: ModelProto, where: Path) -> None:
    """Raise BackendError for a tensor too large to be computed, before anything is."""
    shapes = infer_shapes(model)
    for node in model.graph.node:
        for name in node.output:
            if math.prod(shapes.get(name, ())) > _MOST_ELEMENTS:
                raise BackendError(f"{node_label(node)} would hold {list(shapes[name])} values", where=where)


def _converted(model: ModelProto, where: Path) -> ModelProto:
    import onnx

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset == OPSET:
        return model
    if opset < _OLDEST:
        raise BackendError(f"opset {opset} is too old", where=where, hint=f"Export with opset 11 to {OPSET}")
    try:
        return onnx.version_converter.convert_version(onnx.shape_inference.infer_shapes(model), OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        said = str(error).splitlines()[0][:200]
        hint = f"Export with opset {OPSET}"
        raise BackendError(f"opset {opset} cannot be made {OPSET} ({said})", where=where, hint=hint) from None


def _simplified(model: ModelProto, where: Path) -> ModelProto:
    onnxslim = import_package("onnxslim", needed_for="importing an ONNX file", extra="train")
    import onnx

    try:
        result = onnxslim.slim(model)
    except Exception as error:  # whatever a third party's simplifier meets in a graph of others
        raise BackendError(f"cannot be simplified ({error})", where=where) from None
    if not isinstance(result, onnx.ModelProto):
        raise BackendError("the simplifier did not return a graph", where=where)
    if [entry.name for entry in result.graph.input] != [INPUT_NAME]:
        raise BackendError("what it gives does not depend on the picture", where=where)
    return onnx.shape_inference.infer_shapes(result, data_prop=True)


def _run(model: ModelProto, where: Path) -> list[Float32]:
    session = open_graph(model, where)
    height, width = (axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[2:])
    return run_graph(session, random_picture((height, width)), where)


def run_graph(session: Any, images: Float32, where: object) -> list[Float32]:
    """All outputs for some pictures.

    Raises:
        BackendError: it cannot compute them.
    """
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    try:
        return list(session.run(None, {INPUT_NAME: images}))
    except (state.Fail, state.InvalidArgument, state.RuntimeException, state.NotImplemented) as error:
        raise BackendError(f"ONNX Runtime cannot compute it ({error})", where=where) from None


def _name_nodes(model: ModelProto) -> None:
    """A name of its own for each node, which messages and qparams.json use."""
    taken: set[str] = set()
    for position, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{position}"
        taken.add(node.name)
