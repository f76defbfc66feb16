"""A network of one convolution that finds coloured blocks, and pictures of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelSpec

SIDE = 128
SPEC = ModelSpec(
    name="one layer",
    activation="relu",
    class_names=("a", "b"),
    input=InputSpec(image_hw=(SIDE, SIDE)),
    decode=AnchorDecode(strides=(8,), anchors_wh=(((16.0, 16.0),),)),
)


def save_model(path: Path) -> None:
    weight = np.random.default_rng(0).normal(0, 0.4, (7, 3, 8, 8)).astype(np.float32)
    weight -= weight.mean((1, 2, 3), keepdims=True)  # grey gives nothing
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "w"], ["map_0"], kernel_shape=[8, 8], strides=[8, 8])],
        "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("map_0", TensorProto.FLOAT, [1, 7, SIDE // 8, SIDE // 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)


def draw_blocks(rng: np.random.Generator, image_hw: tuple[int, int]) -> np.ndarray:
    blocks = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return cv2.resize(blocks, image_hw[::-1], interpolation=cv2.INTER_NEAREST)
