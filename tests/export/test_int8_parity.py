"""model.onnx + qparams.json alone, as a Q/DQ graph in ONNX Runtime, against the fake-quantized model in torch."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch.nn import functional as F

from edgeyolo import models
from edgeyolo.export import export_model
from edgeyolo.export.integers import compare_integers, differing_part
from edgeyolo.quantization import Quantized, quantize
from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelSpec
from edgeyolo.spec.qparams import QParams, load_qparams
from edgeyolo.spec.recipe import load_recipe

HW = (64, 64)


def qdq_graph(model: onnx.ModelProto, qparams: QParams) -> onnx.ModelProto:
    """The int8 function written out: clip to +-127 steps, quantize, dequantize; int8 weights with channel scales."""
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    layer_of = {layer.weight: layer for layer in qparams.layers.values() if layer.precision == "int8"}
    nodes, added = [], []
    for node in graph.node:
        layer = layer_of.get(node.input[1]) if node.op_type == "Conv" else None
        if layer is not None:
            name, scale = layer.weight, np.float32(qparams.groups[layer.group].scale)
            scales = np.array(qparams.weights[name].scales, np.float32)
            integers = np.clip(np.rint(weights[name] / scales[:, None, None, None]), -127, 127).astype(np.int8)
            added += [
                numpy_helper.from_array(value, f"{name}/{key}")
                for key, value in {
                    "low": np.float32(-127 * scale),
                    "high": np.float32(127 * scale),
                    "scale": scale,
                    "zero": np.int8(0),
                    "integers": integers,
                    "scales": scales,
                    "zeros": np.zeros(len(scales), np.int8),
                }.items()
            ]
            quantize_args = [f"{name}/scale", f"{name}/zero"]
            nodes += [
                helper.make_node("Clip", [node.input[0], f"{name}/low", f"{name}/high"], [f"{name}/clipped"]),
                helper.make_node("QuantizeLinear", [f"{name}/clipped", *quantize_args], [f"{name}/q"]),
                helper.make_node("DequantizeLinear", [f"{name}/q", *quantize_args], [f"{name}/dq"]),
                helper.make_node(
                    "DequantizeLinear", [f"{name}/{k}" for k in ("integers", "scales", "zeros")], [f"{name}/w"], axis=0
                ),
            ]
            node.input[0], node.input[1] = f"{name}/dq", f"{name}/w"
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    graph.initializer.extend(added)
    onnx.checker.check_model(model, full_check=True)
    return model


def settle_batch_norms(model: torch.nn.Module, images: torch.Tensor) -> None:
    """Take the statistics of one batch, so that signals neither vanish nor explode."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(images)


class Shallow(torch.nn.Module):
    """Five int8 convolutions around a concat, a pool and a residual; the head of one anchor and one class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.stem = torch.nn.Conv2d(3, 16, 3, 4, 1)
        self.left, self.right = torch.nn.Conv2d(16, 16, 1), torch.nn.Conv2d(16, 16, 3, padding=1)
        self.join, self.down = torch.nn.Conv2d(48, 16, 1), torch.nn.Conv2d(16, 16, 3, 2, 1)
        self.head = torch.nn.Conv2d(16, 6, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = F.leaky_relu(self.stem(x), 0.1)
        right = F.leaky_relu(self.right(x), 0.1) + x
        joined = torch.cat([F.leaky_relu(self.left(x), 0.1), right, F.max_pool2d(right, 3, 1, 1)], 1)
        return [self.head(F.leaky_relu(self.down(F.leaky_relu(self.join(joined), 0.1)), 0.1))]


def calibration_inputs() -> list[torch.Tensor]:
    return [torch.rand(1, 3, *HW, generator=torch.Generator().manual_seed(i)) for i in range(4)]


def export_int8(model: torch.nn.Module, spec: ModelSpec, recipe: str, out: Path) -> tuple[Quantized, QParams]:
    quantized = quantize(model.eval(), calibration_inputs(), load_recipe(recipe), recipe_name=recipe, picture_hashes={})
    export_model(quantized, spec, out)
    return quantized, load_qparams(out / "qparams.json")


def disagreement(quantized: Quantized, qparams: QParams, out: Path) -> list[float]:
    """Per map: mean difference of ONNX Runtime from the fake-quantized torch model, over that one's from float."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    graph = qdq_graph(onnx.load(out / "model.onnx"), qparams)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    images = torch.rand(1, 3, *HW, generator=torch.Generator().manual_seed(99))
    engine = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        fake = [map_.numpy() for map_ in quantized.fake_quant(images)]
        floats = [map_.numpy() for map_ in quantized.float_deploy(images)]
    costs = [np.abs(plain - ours).mean() for plain, ours in zip(floats, fake, strict=True)]
    assert all(cost > 1e-4 * np.ptp(plain) for cost, plain in zip(costs, floats, strict=True))
    return [float(np.abs(a - b).mean() / cost) for a, b, cost in zip(engine, fake, costs, strict=True)]


@pytest.mark.parametrize("recipe", ["int8-max", "int8-mse"])
def test_a_shallow_network_is_the_same_function(recipe: str, tmp_path: Path) -> None:
    """Tolerance 2 %: a few values near a tie round to the other side. A scale wrong by 10 % is far outside."""
    decode = AnchorDecode(strides=(8,), anchors_wh=(((8.0, 8.0),),))
    spec = ModelSpec(name="", activation="", class_names=("a",), input=InputSpec(image_hw=HW), decode=decode)
    quantized, qparams = export_int8(Shallow(), spec, recipe, tmp_path / "out")
    assert max(disagreement(quantized, qparams, tmp_path / "out")) < 0.02
    group = msgspec.structs.replace(qparams.groups["g1"], scale=1.1 * qparams.groups["g1"].scale)
    wrong = msgspec.structs.replace(qparams, groups=qparams.groups | {"g1": group})
    assert min(disagreement(quantized, wrong, tmp_path / "out")) > 0.2
    graph, batches = onnx.load(tmp_path / "out/model.onnx"), [x.numpy() for x in calibration_inputs()]
    assert differing_part(compare_integers(quantized, graph, qparams, batches)) < 0.01
    assert differing_part(compare_integers(quantized, graph, wrong, batches)) > 0.1


@pytest.mark.parametrize(("name", "recipe"), [("yolov7-nano", "int8-mse"), ("ppyoloe-s", "int8-max")])
def test_a_deep_network_stays_close(name: str, recipe: str, tmp_path: Path) -> None:
    """Tolerance 50 %: random weights of 55 layers blow one tie up to a sizeable share of the quantization error."""
    torch.manual_seed(0)
    model = models.create(name, 3).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.1)  # some heads start at zero, which would compare nothing
    settle_batch_norms(model, torch.cat(calibration_inputs()))
    spec = ModelSpec(
        name=name,
        activation=model.config.activation,
        class_names=("a", "b", "c"),
        input=model.make_input_spec(HW),
        decode=model.decode,
    )
    quantized, qparams = export_int8(model, spec, recipe, tmp_path / "out")
    assert max(disagreement(quantized, qparams, tmp_path / "out")) < 0.5
