"""The range of half precision is checked on pictures: where values overflow there and nowhere else."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from any_spec import any_spec
from every_format import write_yolo
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeyolo import backends, verbs
from edgeyolo.evaluation.half_range import check_half_range, find_largest
from edgeyolo.geometry.network_input import make_input
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.strict import encode_json
from edgeyolo.spec.target import load_target

SPEC = msgspec.structs.replace(any_spec((16, 16)), class_names=("ant", "bee", "cat"))


def save_model(folder: Path, gain: float) -> Path:
    """The picture times `gain`, and back: nothing is large but what lies between."""
    rng = np.random.default_rng(0)
    constants = {
        "up": np.full((3, 3, 1, 1), gain, np.float32),
        "down": (rng.normal(size=(8, 3, 8, 8)) / gain / 100).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["images", "up"], ["large"], "first"),
        helper.make_node("Relu", ["large"], ["kept"], "second"),
        helper.make_node("Conv", ["kept", "down"], ["map_0"], "third", kernel_shape=[8, 8], strides=[8, 8]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("map_0", TensorProto.FLOAT, [1, 8, 2, 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
    (folder / "model.json").write_bytes(encode_json(ModelRecord(model=SPEC, onnx_sha256=sha256_of(path))))
    return path


def pictures(count: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8) for i in range(count)]


def test_largest_values_are_those_of_the_reference(tmp_path: Path) -> None:
    """Each tensor by onnx's own evaluator."""
    path = save_model(tmp_path, 10.0)
    model = onnx.load(path)
    outputs = [name for node in model.graph.node for name in node.output]
    wanted = dict.fromkeys(outputs, 0.0)
    for image in pictures():
        values = ReferenceEvaluator(model).run(outputs, {"images": make_input(image, SPEC.input)[0]}, intermediate=True)
        wanted = {name: max(wanted[name], float(np.abs(values[name]).max())) for name in outputs}
    found = find_largest(path, pictures(), SPEC.input)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-5)


def test_what_leaves_half_precision_is_named(tmp_path: Path) -> None:
    path = save_model(tmp_path, 1e5)
    with pytest.raises(
        BackendError, match=r"2 of 3 tensors leave half precision.*'(large|kept)' reaches .*65504.*fp32"
    ):
        check_half_range(path, pictures(), SPEC.input)
    check_half_range(save_model(tmp_path, 1e4), pictures(), SPEC.input)


@pytest.mark.parametrize(
    ("target", "precision", "is_half"),
    [
        ("jetson", "fp16", True),
        ("jetson", "fp32", False),
        ("jetson", "int8", True),
        ("raspberry-pi-5", "int8", True),
        ("raspberry-pi-5", "bf16", False),
        ("host-ncnn", "int8", False),
        ("host-onnx", "fp32", False),
    ],
)
def test_engines_say_where_they_compute_in_half(target: str, precision: str, is_half: bool) -> None:
    board = load_target(target)
    assert backends.load_engine(board.engine).is_half(board, precision) == is_half


@pytest.mark.parametrize("gain", [1e5, 1e3])
def test_deploy_checks_it_where_it_has_pictures(gain: float, tmp_path: Path) -> None:
    data = write_yolo(tmp_path / "data")
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", gain)
    options = {"precision": "fp16", "data": data}
    if gain == 1e5:
        with pytest.raises(BackendError, match="leave half precision"):
            verbs.deploy(tmp_path / "model", "raspberry-pi-5", tmp_path / "x.eyb", **options)
        assert not (tmp_path / "x.eyb").exists()
        verbs.deploy(tmp_path / "model", "raspberry-pi-5", tmp_path / "x.eyb", precision="fp32", data=data)
    else:
        verbs.deploy(tmp_path / "model", "raspberry-pi-5", tmp_path / "x.eyb", **options)
