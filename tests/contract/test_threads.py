"""Eight threads on one detector, on every engine that runs here: each gets its own picture's boxes, to the bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from threads import quickly_switching

from edgeyolo import backends
from edgeyolo.runtime import Detector
from edgeyolo.spec.detecting import Thresholds
from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelSpec
from edgeyolo.spec.target import load_target

SIDE, THREADS, ROUNDS = 128, 8, 15
SPEC = ModelSpec(
    name="one layer",
    activation="relu",
    class_names=("a", "b"),
    input=InputSpec(image_hw=(SIDE, SIDE)),
    decode=AnchorDecode(strides=(8,), anchors_wh=(((16.0, 16.0),),)),
)
HOSTS = [host.target for host in backends.list_runnable() if host.is_host and not host.problems]


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


@pytest.mark.parametrize("host", HOSTS)
def test_eight_threads_on_one_detector(host: str, tmp_path: Path) -> None:
    save_model(tmp_path / "model.onnx")
    artefact = backends.build(
        tmp_path / "model.onnx", SPEC, None, load_target(host), tmp_path / "out", precision="fp32"
    )
    session = backends.open_artefact(tmp_path / "out", artefact, SPEC, threads=1)
    rng = np.random.default_rng(1)
    pictures = [draw_blocks(rng, (90 + 20 * i, 240 - 20 * i)) for i in range(THREADS)]
    with Detector(session, SPEC, Thresholds(score_threshold=0.3)) as detector:
        alone = [detector.detect(picture) for picture in pictures]
        assert min(len(found) for found in alone) > 5

        def detect(index: int) -> None:
            for turn in range(ROUNDS):
                found = detector.detect_batch([pictures[index], pictures[turn % THREADS]][: 1 + turn % 2])[0]
                np.testing.assert_array_equal(found.boxes_xyxy, alone[index].boxes_xyxy)
                np.testing.assert_array_equal(found.scores, alone[index].scores)
                np.testing.assert_array_equal(found.class_ids, alone[index].class_ids)

        with quickly_switching(), ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(detect, range(THREADS)))
