"""What is put before a network, and the opening of its batch, beside numpy and one picture at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from one_layer import OneLayer

from edgeyolo.graph.batch import with_batch
from edgeyolo.graph.entry import normalise_inside
from edgeyolo.graph.qdq import insert_qdq, load_onnx
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.tensor import INPUT_NAME

IMAGE_HW = (12, 20)


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {INPUT_NAME: images})[0])


@pytest.mark.parametrize("mean", [(0.0, 0.0, 0.0), (0.4, 0.5, 0.3)])
@pytest.mark.parametrize("std", [(1.0, 1.0, 1.0), (0.2, 0.25, 1.0)])
def test_mean_and_std_inside_give_what_they_give_outside(
    mean: tuple[float, float, float], std: tuple[float, float, float], tmp_path: Path
) -> None:
    path, qparams = OneLayer().write(tmp_path)
    model = insert_qdq(load_onnx(path), qparams)
    inside, entry = normalise_inside(model, InputSpec(image_hw=IMAGE_HW, mean=mean, std=std))
    assert entry == InputSpec(image_hw=IMAGE_HW)
    images = np.random.default_rng(0).uniform(0, 1, (1, 3, *IMAGE_HW)).astype(np.float32)
    shape = (1, 3, 1, 1)
    outside = ((images - np.reshape(mean, shape)) / np.reshape(std, shape)).astype(np.float32)
    found, wanted = run(inside, images), run(model, outside)
    step = np.abs(found - wanted)
    assert np.mean(step > 1e-5) < 0.02  # a value that lay halfway between two int8 steps
    assert len(inside.graph.node) - len(model.graph.node) == (mean != (0, 0, 0)) + (std != (1, 1, 1))


def test_an_open_batch_gives_what_single_pictures_give(tmp_path: Path) -> None:
    model = load_onnx(OneLayer().write(tmp_path)[0])
    for entry in (*model.graph.input, *model.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_value = 1
    images = np.random.default_rng(0).uniform(0, 1, (3, 3, *IMAGE_HW)).astype(np.float32)
    wanted = np.concatenate([run(model, image[None]) for image in images])
    np.testing.assert_allclose(run(with_batch(model, (1, 4)), images), wanted, atol=1e-6)
    fixed = with_batch(model, (3, 3))
    np.testing.assert_allclose(run(fixed, images), wanted, atol=1e-6)
    assert [e.type.tensor_type.shape.dim[0].dim_value for e in (*fixed.graph.input, *fixed.graph.output)] == [3, 3]
    assert with_batch(model, (1, 1)) is model


def reshaping(*shape: int) -> onnx.ModelProto:
    """A network that gives its picture of 3 x 240 pixels another shape."""
    nodes = [
        onnx.helper.make_node("Constant", [], ["shape"], value=onnx.numpy_helper.from_array(np.array(shape))),
        onnx.helper.make_node("Reshape", [INPUT_NAME, "shape"], ["map_0"], name="turn"),
    ]
    kind = onnx.TensorProto.FLOAT
    entry = onnx.helper.make_tensor_value_info(INPUT_NAME, kind, [1, 3, 12, 20])
    output = onnx.helper.make_tensor_value_info("map_0", kind, shape)
    graph = onnx.helper.make_graph(nodes, "fixed", [entry], [output])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)


def test_a_reshape_to_one_picture_takes_several() -> None:
    images = np.random.default_rng(0).random((3, 3, 12, 20), dtype=np.float32)
    for batch in ((1, 4), (3, 3)):
        np.testing.assert_array_equal(run(with_batch(reshaping(1, 3, 240), batch), images), images.reshape(3, 3, 240))


def test_a_network_that_takes_one_picture_says_so() -> None:
    with pytest.raises(BackendError, match=r"one picture at a time only \(Reshape 'turn' keeps no batch\)"):
        with_batch(reshaping(3, 1, 240), (1, 4))
