"""The Q/DQ check finds each planted fault, and only that one. Faults are planted in a clean graph of five layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeyolo.graph.qdq_check import QdqReport, check_qdq


class Net:
    """images -> stem -> {left, right} -> concat -> pool -> join -> head -> map_0, with Q/DQ on all but the head."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {"zero": np.int8(0), "scale": np.float32(0.02)}
        self.outputs = ["map_0"]
        self.conv("stem", "images", 3, 16)
        for side in ("left", "right"):
            self.conv(side, "stem/out", 16, 16)
        self.node("Concat", ["left/out", "right/out"], "joined", axis=1)
        self.node("MaxPool", ["joined"], "pooled", kernel_shape=[3, 3], pads=[1] * 4)
        self.conv("join", "pooled", 32, 16)
        self.weight("head", 16, 8)
        self.node("Conv", ["join/out", "head/weight/float", "head/bias"], "map_0", name="head")

    def node(self, operator: str, inputs: list[str], output: str, name: str = "", **attributes: object) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], name or output, **attributes))

    def weight(self, name: str, inputs: int, outputs: int) -> None:
        random = np.random.default_rng(0)
        self.constants[f"{name}/weight/float"] = random.normal(size=(outputs, inputs, 1, 1)).astype(np.float32)
        self.constants[f"{name}/weight/int8"] = random.integers(-127, 128, (outputs, inputs, 1, 1), np.int8)
        self.constants[f"{name}/weight/scale"] = np.full(outputs, 0.01, np.float32)
        self.constants[f"{name}/weight/zero"] = np.zeros(outputs, np.int8)
        self.constants[f"{name}/bias"] = np.zeros(outputs, np.float32)

    def conv(self, name: str, source: str, inputs: int, outputs: int) -> None:
        self.weight(name, inputs, outputs)
        stored = [f"{name}/weight/{part}" for part in ("int8", "scale", "zero")]
        self.node("QuantizeLinear", [source, "scale", "zero"], f"{name}/q")
        self.node("DequantizeLinear", [f"{name}/q", "scale", "zero"], f"{name}/dq")
        self.node("DequantizeLinear", stored, f"{name}/weight", axis=0)
        self.node("Conv", [f"{name}/dq", f"{name}/weight", f"{name}/bias"], f"{name}/conv", name=name)
        self.node("LeakyRelu", [f"{name}/conv"], f"{name}/out")

    def find(self, name: str) -> onnx.NodeProto:
        return next(node for node in self.nodes if node.name == name)

    def add_before(self, name: str, operator: str, inputs: list[str], output: str, **attributes: object) -> None:
        position = self.nodes.index(self.find(name))
        self.nodes.insert(position, helper.make_node(operator, inputs, [output], output, **attributes))

    def check(self) -> QdqReport:
        return check_qdq(self.model())

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in self.outputs],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
        onnx.checker.check_model(model)
        return model


def test_the_clean_graph_is_clean() -> None:
    report = Net().check()
    assert report.int8 == ("stem", "left", "right", "join")
    assert report.floats == {"head": "head output"}
    assert report.problems == ()
    assert report.crossings == ()


def two_scales_across_a_concat(net: Net) -> None:
    net.constants["other"] = np.float32(0.05)
    net.add_before("joined", "QuantizeLinear", ["left/out", "other", "zero"], "side/q")
    net.add_before("joined", "DequantizeLinear", ["side/q", "other", "zero"], "side/dq")
    net.find("joined").input[0] = "side/dq"


def two_scales_on_one_tensor(net: Net) -> None:
    net.constants["other"] = np.float32(0.05)
    for name in ("right/q", "right/dq"):
        net.find(name).input[1] = "other"


def unequal_pair(net: Net) -> None:
    net.constants["other"] = np.float32(0.05)
    net.find("right/dq").input[1] = "other"


def zero_point(net: Net) -> None:
    net.constants["three"] = np.int8(3)
    for name in ("stem/q", "stem/dq"):
        net.find(name).input[2] = "three"


def unsigned(net: Net) -> None:
    net.constants["unsigned"] = np.uint8(0)
    for name in ("stem/q", "stem/dq"):
        net.find(name).input[2] = "unsigned"


def no_zero_point(net: Net) -> None:
    for name in ("stem/q", "stem/dq"):
        net.find(name).input.pop()


def int32_bias(net: Net) -> None:
    net.constants["join/bias"] = np.zeros(16, np.int32)
    net.add_before("join", "DequantizeLinear", ["join/bias", "scale"], "join/bias/float")
    net.find("join").input[2] = "join/bias/float"


def float_weight(net: Net) -> None:
    net.find("join").input[1] = "join/weight/float"


def float_input(net: Net) -> None:
    net.find("join").input[0] = "pooled"


def wrong_axis(net: Net) -> None:
    net.find("left/weight").attribute[0].i = 1


def scales_per_channel_of_an_activation(net: Net) -> None:
    net.constants["many"] = np.full(16, 0.02, np.float32)
    net.constants["zeros"] = np.zeros(16, np.int8)
    for name in ("left/q", "left/dq"):
        net.find(name).input[1:] = ["many", "zeros"]
        net.find(name).attribute.append(helper.make_attribute("axis", 1))


def pair_before_an_activation(net: Net) -> None:
    net.add_before("stem/out", "QuantizeLinear", ["stem/conv", "scale", "zero"], "between/q")
    net.add_before("stem/out", "DequantizeLinear", ["between/q", "scale", "zero"], "between/dq")
    net.find("stem/out").input[0] = "between/dq"


def pair_at_an_output(net: Net) -> None:
    net.find("head").output[0] = "raw"
    net.node("QuantizeLinear", ["raw", "scale", "zero"], "raw/q")
    net.node("DequantizeLinear", ["raw/q", "scale", "zero"], "map_0")


def pair_before_an_activation_behind_a_pool(net: Net) -> None:
    net.add_before("join", "Sigmoid", ["join/dq"], "gate")


def pair_at_an_output_behind_a_reshape(net: Net) -> None:
    net.find("head").output[0] = "raw"
    net.node("QuantizeLinear", ["raw", "scale", "zero"], "raw/q")
    net.node("DequantizeLinear", ["raw/q", "scale", "zero"], "raw/dq")
    net.node("Transpose", ["raw/dq"], "map_0")


def half_quantized_concat(net: Net) -> None:
    """Only the first branch is quantized before the concat, and nothing after it."""
    net.add_before("joined", "QuantizeLinear", ["left/out", "scale", "zero"], "side/q")
    net.add_before("joined", "DequantizeLinear", ["side/q", "scale", "zero"], "side/dq")
    net.find("joined").input[0] = "side/dq"
    net.find("join").input[0] = "pooled"


def unsigned_weight(net: Net) -> None:
    net.constants["left/weight/int8"] = np.zeros((16, 16, 1, 1), np.uint8)
    net.find("left/weight").input.pop()


def computed_zero_point(net: Net) -> None:
    net.add_before("stem/q", "Identity", ["zero"], "stem/zero")
    for name in ("stem/q", "stem/dq"):
        net.find(name).input[2] = "stem/zero"


def computed_scale(net: Net) -> None:
    net.add_before("stem/q", "Identity", ["scale"], "stem/scale")
    for name in ("stem/q", "stem/dq"):
        net.find(name).input[1] = "stem/scale"


def no_pairs(net: Net) -> None:
    for name in ("stem", "left", "right", "join"):
        net.find(name).input[:2] = [net.find(f"{name}/q").input[0], f"{name}/weight/float"]
    net.nodes = [node for node in net.nodes if "quantize" not in node.op_type.lower()]


def foreign_operator(net: Net) -> None:
    net.node("DynamicQuantizeLinear", ["stem/out"], "odd")
    net.nodes[-1].output.extend(["odd/scale", "odd/zero"])


FAULTS: list[tuple[Callable[[Net], None], str]] = [
    (two_scales_across_a_concat, "one tensor with 2 scales"),
    (two_scales_on_one_tensor, "one tensor with 2 scales: 'stem/out' 0.02, 'stem/out' 0.05"),
    (unequal_pair, "right/dq: dequantizes with another scale than right/q"),
    (zero_point, "stem/q: zero point is not 0"),
    (unsigned, "stem/q: uint8"),
    (no_zero_point, "stem/q: no zero point"),
    (int32_bias, "join: its bias is quantized"),
    (float_weight, "join: only its input is quantized"),
    (float_input, "join: only its weight is quantized"),
    (wrong_axis, "left: weight scales are on axis 1, output channels on axis 0"),
    (scales_per_channel_of_an_activation, "left/q: an activation has 16 scales"),
    (pair_before_an_activation, "between/dq: is read by LeakyRelu 'stem/out', which runs in float"),
    (pair_at_an_output, "map_0: the pair stands at an output"),
    (pair_before_an_activation_behind_a_pool, "join/dq: is read by Sigmoid 'gate', which runs in float"),
    (pair_at_an_output_behind_a_reshape, "raw/dq: the pair stands at an output"),
    (half_quantized_concat, "join: only its weight is quantized"),
    (unsigned_weight, "left/weight: uint8"),
    (computed_zero_point, "stem/q: its zero point is not a constant"),
    (computed_scale, "stem/q: its scale is not a constant"),
    (no_pairs, "the graph has no QuantizeLinear"),
    (foreign_operator, "odd: TensorRT has no DynamicQuantizeLinear"),
]


@pytest.mark.parametrize(("plant", "message"), FAULTS, ids=[plant.__name__ for plant, _ in FAULTS])
def test_a_planted_fault_is_found(plant: Callable[[Net], None], message: str) -> None:
    net = Net()
    plant(net)
    problems = net.check().problems
    assert [problem for problem in problems if message in problem], problems
    assert len(problems) <= 2, problems  # a fault of a pair may show at its Q and at its DQ


def test_a_hidden_float_layer_is_reported_with_the_reason() -> None:
    net = Net()
    float_input(net)
    float_weight(net)
    report = net.check()
    assert report.floats["join"] == "neither its input nor its weight is quantized"
    assert report.problems == ()


def test_a_crossing_is_reported() -> None:
    net = Net()
    net.node("Sigmoid", ["stem/out"], "gate")
    assert net.check().crossings == ("'stem/out' is read in int8 and in float by Sigmoid",)


def test_a_crossing_behind_a_concat_is_reported_once_where_it_is() -> None:
    net = Net()
    net.node("Mul", ["pooled", "scale"], "scaled")
    assert net.check().crossings == ("'pooled' is read in int8 and in float by Mul",)
    net = Net()
    net.node("Transpose", ["left/out"], "turned")
    net.node("Sigmoid", ["turned"], "gate")
    assert net.check().crossings == ("'left/out' is read in int8 and in float by Sigmoid",)
    net = Net()
    net.node("Transpose", ["join/out"], "map_1")
    assert net.check().crossings == ()  # two float readers


def test_an_output_of_the_graph_is_a_float_reader() -> None:
    net = Net()
    net.outputs.append("left/out")
    assert net.check().crossings == ("'left/out' is read in int8 and in float by an output",)


def test_the_command_reports_and_has_an_exit_code(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from edgeyolo.cli.app import make_app

    def run(net: Net | None) -> tuple[int, dict[str, Any]]:
        path = tmp_path / "model.onnx"
        path.write_bytes(net.model().SerializeToString() if net else b"not onnx")
        done = CliRunner().invoke(make_app(), ["inspect", "--qdq", str(path), "--json"])
        return done.exit_code, json.loads(done.stdout) if net else {}

    assert run(None)[0] == 1
    assert run(Net()) == (
        0,
        {
            "int8": ["stem", "left", "right", "join"],
            "floats": {"head": "head output"},
            "problems": [],
            "crossings": [],
        },
    )
    faulty = Net()
    zero_point(faulty)
    code, told = run(faulty)
    assert code == 4
    assert told["problems"] == ["stem/q: zero point is not 0", "stem/dq: zero point is not 0"]
