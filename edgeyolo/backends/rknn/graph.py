"""The graph as Rockchip's toolkit is to read it: with Q/DQ, and with scales that it makes ours of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeyolo.graph.qdq import insert_qdq, int8_layers, load_onnx, weighted_nodes
from edgeyolo.spec.qparams import QParams

if TYPE_CHECKING:
    from onnx import ModelProto

# The toolkit (2.5.0) reads a scale s of an activation as the range [-128 s, 127 s] and makes a symmetric scale of it,
# 128 s / 127: 0.8 % too large, which rounds every value a second time. It leaves scales of weights alone.
_SHRINK = 127 / 128


def make_graph(onnx_path: Path, qparams: QParams | None) -> tuple[ModelProto, dict[str, int]]:
    """The graph of a `model.onnx`, with Q/DQ where there are scales, and how many layers run in each precision.

    Raises:
        BackendError: not a usable ONNX file, or scales that do not fit it.
    """
    model = load_onnx(onnx_path)
    nodes = weighted_nodes(model.graph)
    total = sum(len(readers) for readers in nodes.values())
    if qparams is None:
        return model, {"float": total}
    int8 = sum(len(nodes[weight]) for weight in int8_layers(model.graph, qparams))
    groups = {
        name: msgspec.structs.replace(group, scale=group.scale * _SHRINK) for name, group in qparams.groups.items()
    }
    return insert_qdq(model, msgspec.structs.replace(qparams, groups=groups)), {"int8": int8, "float": total - int8}
