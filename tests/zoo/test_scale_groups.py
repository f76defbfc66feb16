"""Every model of the registry, exported: no Concat, Add, MaxPool, Resize or Split of its Q/DQ graph joins two scales.

The graph that engines get is walked here, with rules of its own; the calibration is as cheap as it can be, because what
is shown does not depend on the numbers.
"""

from __future__ import annotations

import gc

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from thin import list_networks, make_network

from edgeyolo.export.onnx import trace_onnx
from edgeyolo.export.qparams import make_qparams
from edgeyolo.graph.qdq import insert_qdq
from edgeyolo.graph.qdq_check import check_qdq
from edgeyolo.quantization import quantize
from edgeyolo.spec.recipe import load_recipe

# What leaves these operators is what entered them, arranged or picked: quantizing before or after is the same.
HANDS_ON = {"Concat", "MaxPool", "Resize", "Split", "Slice", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"}
ONE_LEVEL = ("yolov1", "yolov2")  # with nothing to enlarge or to put beside each other
FEWER = {"yolov3-tiny": (10, 8), "yolov4-tiny": (18, 10)}  # int8 convolutions and scales of short networks


def export_qdq(name: str) -> onnx.ModelProto:
    """The int8 graph of a model with random weights, at the smallest picture it takes."""
    torch.manual_seed(0)
    model = make_network(name, 3).eval()
    side = max(64, model.side_multiple)
    generator = torch.Generator().manual_seed(1)
    pictures = [torch.rand(1, 3, side, side, generator=generator)]
    quantized = quantize(model, pictures, load_recipe("int8-max"), recipe_name="int8-max", picture_hashes={})
    outputs = model.decode.output_count
    del model
    graph = trace_onnx(quantized.float_deploy, (side, side), outputs)
    return insert_qdq(graph, make_qparams(quantized, graph, "0" * 64))


class Walk:
    """The scales that each tensor of a Q/DQ graph is quantized with, directly or behind operators that hand it on."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        values = {tensor.name: tensor for tensor in model.graph.initializer}
        self.produced = {name for node in self.nodes for name in node.output} | {"images"}
        self.own: dict[str, set[str]] = {}
        for node in self.nodes:
            if node.op_type == "QuantizeLinear":
                assert numpy_helper.to_array(values[node.input[1]]).shape == ()
                self.own.setdefault(node.input[0], set()).add(node.input[1])
        self.scale = {node.input[1]: float(numpy_helper.to_array(values[node.input[1]])) for node in self.quantizers()}

    def quantizers(self) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if node.op_type == "QuantizeLinear"]

    def data_inputs(self, node: onnx.NodeProto) -> list[str]:
        """The inputs that carry values, not sizes or indices."""
        names = node.input if node.op_type in ("Concat", "Add") else node.input[:1]
        return [name for name in names if name in self.produced]

    def spread(self) -> dict[str, set[str]]:
        """Scale names of each tensor once they have moved through every operator that hands values on, both ways."""
        scales = {name: set(self.own.get(name, ())) for name in self.produced}
        changed = True
        while changed:
            changed = False
            for node in self.nodes:
                if node.op_type not in (*HANDS_ON, "Add"):
                    continue
                bound = [*self.data_inputs(node), *(node.output if node.op_type in HANDS_ON else ())]
                union = set().union(*(scales[name] for name in bound))
                for name in bound:
                    changed |= scales[name] != union
                    scales[name] = union
        return scales


@pytest.mark.parametrize("name", list_networks())
def test_no_operator_of_the_int8_graph_joins_two_scales(name: str) -> None:
    graph = export_qdq(name)
    walk = Walk(graph)
    kinds = {node.op_type for node in walk.nodes}
    has_levels = not name.startswith(ONE_LEVEL)
    joins = {"Add"} if name.startswith("hrnet") else {"Concat", "MaxPool"} if has_levels else {"MaxPool"}
    assert {"QuantizeLinear"} | joins <= kinds
    assert (("ConvTranspose" if name.startswith("yolov6") else "Resize") in kinds) == has_levels
    assert "Add" in kinds or not name.startswith("ppyoloe")
    for tensor, scales in walk.spread().items():
        assert len(scales) <= 1, f"{tensor} meets the scales {sorted(scales)}"
    int8 = [node for node in walk.nodes if node.op_type == "Conv" and node.input[0].startswith("qdq/")]
    convolutions, scales = FEWER.get(name, (25, 10) if has_levels else (5, 5))
    assert len(int8) > convolutions and len(walk.scale) > scales
    assert check_qdq(graph).problems == ()
    del graph, walk
    gc.collect()


def test_the_walk_sees_two_scales_at_every_kind_of_join() -> None:
    """The same graph with one quantizer given a scale of its own is caught, at whichever join it reads."""
    graph = export_qdq("ppyoloe-s")
    clean = Walk(graph)
    reached = clean.spread()
    shared = [
        node for node in clean.quantizers() if sum(node.input[1] in reached[q.input[0]] for q in clean.quantizers()) > 1
    ]
    assert len(shared) > 5
    for node in shared:
        kept = node.input[1]
        graph.graph.initializer.append(numpy_helper.from_array(np.float32(1.0), "another"))
        node.input[1] = "another"
        assert max(len(scales) for scales in Walk(graph).spread().values()) == 2
        node.input[1] = kept
        del graph.graph.initializer[-1]
