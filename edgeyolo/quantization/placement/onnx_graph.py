"""An ONNX graph as the fx graph that `find_placement` reads: its structure and its weights; it is never run.

So one set of rules says which layers run in int8 and what shares a scale, whoever wrote the network. Other engines than
torch compute the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx, nn

from edgeyolo.quantization.placement.operators import operator_name

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Operator of ONNX -> the name under which `placement.operators` knows what it does to a scale.
_NAMES = {
    **dict.fromkeys(("Identity", "Dropout", "Cast"), "clone"),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), "reshape"),
    **dict.fromkeys(("Expand", "Tile"), "expand"),
    "Transpose": "permute",
    "Slice": "narrow",
    "Gather": "select",
    "Split": "split",
    "DepthToSpace": "pixel_shuffle",
    "SpaceToDepth": "pixel_unshuffle",
    "MaxPool": "max_pool2d",
    "Concat": "cat",
    "Add": "add",
    "Sum": "add",
    "Relu": "relu",
    "LeakyRelu": "leaky_relu",
    "Sigmoid": "sigmoid",
    "HardSwish": "hardswish",
    "Tanh": "tanh",
    "HardSigmoid": "hardsigmoid",
    "Mish": "mish",
    "Gelu": "gelu",
    "Elu": "elu",
    "Softplus": "softplus",
    "Softmax": "softmax",
    "PRelu": "prelu",
    "BatchNormalization": "batch_norm",
    "AveragePool": "avg_pool2d",
    "Mul": "mul",
    "Sub": "sub",
    "Div": "truediv",
    "Neg": "neg",
    "Pow": "pow",
    "Exp": "exp",
    "Sqrt": "sqrt",
    "Clip": "clamp",
    "Min": "minimum",
    "Max": "maximum",
    "MatMul": "matmul",
    "ReduceSum": "sum",
}


@dataclass(frozen=True)
class OnnxStructure:
    """The structure, and how its parts are called in the graph.

    Attributes:
        graph_module: a module for each layer with a weight, under the name of its node.
        tensors: name of each fx node -> of the tensor that it gives.
        weights: module path -> name of the weight initializer.
    """

    graph_module: fx.GraphModule
    tensors: dict[str, str]
    weights: dict[str, str]


def read_structure(model: ModelProto) -> OnnxStructure:
    """The structure of a plain graph, with its float32 weights."""
    return _Reader(model).read()


class _Reader:
    """Goes through the nodes of one graph."""

    def __init__(self, model: ModelProto) -> None:
        import onnx

        self._onnx = model.graph
        self._constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in self._onnx.initializer}
        self._graph = fx.Graph()
        self._modules: dict[str, nn.Module] = {}
        self._paths: dict[str, str] = {}  # weight initializer -> module path
        self._values: dict[str, fx.Node] = {}
        self._tensors: dict[str, str] = {}

    def read(self) -> OnnxStructure:
        for entry in self._onnx.input:
            self._keep(entry.name, self._graph.placeholder("images"))
        for node in self._onnx.node:
            made = self._read_node(node)
            if len(node.output) == 1:
                self._keep(node.output[0], made)
                continue
            for position, name in enumerate(node.output):
                self._keep(name, self._graph.call_method("getitem", (made, position)))
        self._graph.output(tuple(self._values[entry.name] for entry in self._onnx.output))
        root: dict[str, Any] = dict(self._modules)
        weights = {path: weight for weight, path in self._paths.items()}
        return OnnxStructure(fx.GraphModule(root, self._graph, "OnnxGraph"), self._tensors, weights)

    def _keep(self, tensor: str, node: fx.Node) -> None:
        self._values[tensor] = node
        self._tensors[node.name] = tensor

    def _read_node(self, node: NodeProto) -> fx.Node:
        import onnx

        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        layer = self._layer_of(node, attributes)
        if layer is not None:
            return self._graph.call_module(layer, (self._values[node.input[0]],))
        inputs = tuple(self._values[name] for name in node.input if name in self._values)
        name, more, named = self._operator(node, attributes)
        if name == "cat":
            return self._graph.call_method(name, (inputs,))
        return self._graph.call_method(name, (*inputs, *more), named)

    def _operator(self, node: NodeProto, attributes: Mapping[str, Any]) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """Name of an operator, what follows its tensors, and what is given by name; its own name if it is not known."""
        kind = node.op_type
        if kind == "Resize":
            return "interpolate", (), {"mode": attributes.get("mode", b"nearest").decode()}
        if kind == "Pad":
            value = self._constant(node, 2)
            filled = float(value.reshape(-1)[0]) if value is not None and value.size else 0.0
            return "pad", (), {"mode": attributes.get("mode", b"constant").decode(), "value": filled}
        if kind in ("GlobalAveragePool", "GlobalMaxPool"):
            return ("adaptive_avg_pool2d" if kind == "GlobalAveragePool" else "adaptive_max_pool2d"), (1,), {}
        if kind in ("ReduceMean", "ReduceMax"):
            axes = self._constant(node, 1)
            dims = attributes.get("axes", []) if axes is None else axes.reshape(-1).tolist()
            return ("mean" if kind == "ReduceMean" else "amax"), (tuple(dims),), {}
        return _NAMES.get(kind, kind), (), {}

    def _constant(self, node: NodeProto, position: int) -> Any:
        name = node.input[position] if len(node.input) > position else ""
        return self._constants.get(name)

    def _layer_of(self, node: NodeProto, attributes: Mapping[str, Any]) -> str | None:
        """Path of the module that stands for a node with a weight; None for any other node."""
        weight = self._constant(node, 1) if node.op_type in ("Conv", "ConvTranspose", "Gemm") else None
        if weight is None or node.input[0] not in self._values:
            return None
        if node.input[1] not in self._paths:
            module = _make_layer(node.op_type, weight, attributes)
            if module is None:
                return None
            self._paths[node.input[1]] = path = self._free_path(node.name)
            self._modules[path] = module
        return self._paths[node.input[1]]

    def _free_path(self, name: str) -> str:
        """A module path like the node's name."""
        path = ".".join(part for part in name.strip("/").replace("/", ".").split(".") if part) or "layer"
        while any(
            path == taken or taken.startswith(f"{path}.") or path.startswith(f"{taken}.") for taken in self._modules
        ):
            path += "_"
        return path


def _make_layer(kind: str, weight: Any, attributes: Mapping[str, Any]) -> nn.Module | None:
    """A layer of that weight whose sizes say whether it can be quantized; None for one that is none of ours."""
    values = torch.from_numpy(np.array(weight, np.float32))
    layer: nn.Module
    with torch.device("meta"):
        if kind == "Gemm":
            if not attributes.get("transB") or attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0:
                return None
            layer = nn.Linear(values.shape[1], values.shape[0], bias=False)
        elif values.dim() != 4:
            return None
        else:
            groups = attributes.get("group", 1)
            strides, dilations = (tuple(attributes.get(name, (1, 1))) for name in ("strides", "dilations"))
            sizes = {"kernel_size": tuple(values.shape[2:]), "stride": strides, "dilation": dilations, "groups": groups}
            if kind == "Conv":
                layer = nn.Conv2d(values.shape[1] * groups, values.shape[0], bias=False, **sizes)
            else:
                layer = nn.ConvTranspose2d(values.shape[0], values.shape[1] * groups, bias=False, **sizes)
    layer.weight = nn.Parameter(values, requires_grad=False)
    return layer


def unsupported_operators(structure: OnnxStructure, unsupported: tuple[str, ...]) -> tuple[str, ...]:
    """The operators that a placement does not know, by operator and tensor of the ONNX graph."""
    modules = dict(structure.graph_module.named_modules())
    nodes = {node.name: node for node in structure.graph_module.graph.nodes}
    names = [text.split(" ")[0] for text in unsupported]
    return tuple(f"{operator_name(nodes[name], modules)} '{structure.tensors.get(name, name)}'" for name in names)
