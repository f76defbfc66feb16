"""Which weights of a graph are 2:4 sparse, as NVIDIA's tensor cores want them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeyolo.graph.qdq import weighted_nodes

if TYPE_CHECKING:
    from onnx import GraphProto

_GROUP, _KEPT = 4, 2


def sparse_weights(graph: GraphProto) -> list[str]:
    """Names of the convolutions' weights, (O, C, kh, kw), with at most two that are not zero of every four channels."""
    from onnx import numpy_helper

    readers = weighted_nodes(graph)
    found = []
    for tensor in graph.initializer:
        if tensor.name in readers and len(tensor.dims) == 4 and tensor.dims[1] % _GROUP == 0:
            weight = numpy_helper.to_array(tensor)
            groups = np.moveaxis(weight, 1, -1).reshape(-1, _GROUP)
            if (np.count_nonzero(groups, axis=1) <= _KEPT).all():
                found.append(tensor.name)
    return found
