"""What engines that read ONNX have in common: the graph with Q/DQ, and its signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeyolo.graph.batch import with_batch
from edgeyolo.graph.entry import take_bytes
from edgeyolo.graph.qdq import insert_qdq, int8_layers, load_onnx, weighted_nodes
from edgeyolo.heads import head_of
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.qparams import QParams
from edgeyolo.spec.tensor import INPUT_NAME


def make_graph(
    onnx_path: Path, spec: ModelSpec, qparams: QParams | None, *, unsigned: bool = False
) -> tuple[bytes, dict[str, int]]:
    """The bytes of the graph, with Q/DQ where there are scales, and how many of its layers run in which precision.

    Args:
        spec: says how many pictures it is to take, and how.
        unsigned: see `insert_qdq`.

    Raises:
        MissingPackageError: no onnx package. BackendError: not a usable ONNX file, scales that do not fit it, or a node
            that works for one picture only.
    """
    model = with_batch(load_onnx(onnx_path), spec.input.batch)
    nodes = weighted_nodes(model.graph)
    total = sum(len(readers) for readers in nodes.values())
    int8 = sum(len(nodes[weight]) for weight in int8_layers(model.graph, qparams)) if qparams else 0
    result = insert_qdq(model, qparams, unsigned=unsigned) if qparams else model
    result = take_bytes(result, spec.input) if spec.input.pixels == "uint8" else result
    return result.SerializeToString(), {"int8": int8, "float": total - int8} if qparams else {"float": total}


def check_signature(
    inputs: Mapping[str, Sequence[object]], outputs: Sequence[str], spec: ModelSpec, *, where: Path
) -> None:
    """Raise BackendError where a graph takes or gives something else than its spec says.

    Args:
        inputs: name -> shape; only whole numbers in it are fixed.
    """
    wanted = head_of(spec.decode).output_names()
    if set(inputs) != {INPUT_NAME} or set(outputs) != set(wanted):
        raise BackendError(
            f"takes {sorted(inputs)} and gives {list(outputs)}, and ['{INPUT_NAME}'] and {wanted} were expected",
            where=where,
        )
    shape = inputs[INPUT_NAME]
    sizes = zip(shape[1:], spec.input.shape, strict=False)
    if len(shape) != 4 or any(isinstance(given, int) and given != size for given, size in sizes):
        raise BackendError(
            f"takes images of shape {list(shape)}, and the model takes (B, {', '.join(map(str, spec.input.shape))})",
            where=where,
        )
