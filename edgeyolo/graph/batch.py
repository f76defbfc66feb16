"""Any number of pictures at a time, for a graph that was exported for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeyolo.spec.errors import BackendError

if TYPE_CHECKING:
    from onnx import ModelProto

_BATCH = "batch"


def open_batch(model: ModelProto) -> ModelProto:
    """A copy of `model` whose inputs and outputs have an open first axis.

    Raises:
        BackendError: something inside takes exactly one picture, such as a Reshape to a fixed first axis.
    """
    import onnx

    result = type(model)()
    result.CopyFrom(model)
    del result.graph.value_info[:]  # shapes of before
    for entry in (*result.graph.input, *result.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_param = _BATCH
    outputs = [onnx.helper.make_empty_tensor_value_info(entry.name) for entry in result.graph.output]
    probe = type(model)()
    probe.CopyFrom(result)
    del probe.graph.output[:]
    probe.graph.output.extend(outputs)
    inferred = onnx.shape_inference.infer_shapes(probe, data_prop=True)
    fixed = [entry.name for entry in inferred.graph.output if entry.type.tensor_type.shape.dim[0].dim_value]
    if fixed:
        raise BackendError(
            f"the network takes one picture at a time: {', '.join(fixed)} cannot have more",
            hint="Train and quantize it again with this version, or deploy it for one picture",
        )
    return result
