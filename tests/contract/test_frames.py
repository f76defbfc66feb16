"""Bundles whose graph letterboxes the camera's pictures itself: what OpenCV makes of them, on every engine that can."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from whole_way import WholeWay

from edgeyolo import backends, verbs
from edgeyolo.backends.tensorrt.adapter import load_tensorrt
from edgeyolo.backends.tensorrt.options import Options
from edgeyolo.bundle import open_bundle
from edgeyolo.data.dataset import open_dataset
from edgeyolo.geometry.network_input import make_input
from edgeyolo.graph.entry import take_bytes
from edgeyolo.runtime import Detector
from edgeyolo.spec.errors import ImageError, UsageError
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.target import load_target
from edgeyolo.spec.tensor import INPUT_NAME

HERE = [name for name in backends.list_engines() if backends.load_engine(name).takes_bytes and name != "tensorrt"]
CANVAS_HW = (96, 160)
FRAMES_HW = [(72, 128), (144, 256), (95, 301), (200, 90), (96, 160), (96, 100), (192, 320), (31, 1000)]
STEP = 1 / 255


def write_target(folder: Path, engine: str, *, like: str, frame_hw: tuple[int, int], pixels: str = "uint8") -> str:
    known = load_target(like)
    options = "".join(
        f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n"
        for name, value in known.engine_options.items()
    )
    path = folder / f"{engine}-frames.toml"
    path.write_text(
        f'title = "frames"\nengine = "{engine}"\nprecisions = ["int8", "fp32"]\ninput = "{pixels}"\n'
        f'frame_hw = {list(frame_hw)}\npostprocess = "{known.postprocess}"\n[engine_options]\n{options}'
    )
    return str(path)


def make_identity() -> onnx.ModelProto:
    """A network that gives its input."""
    shape = ["pictures", 3, *CANVAS_HW]
    graph = helper.make_graph(
        [helper.make_node("Identity", [INPUT_NAME], ["map_0"])],
        "none",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("map_0", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize("alignment", ["center", "top-left"])
@pytest.mark.parametrize("frame_hw", FRAMES_HW)
def test_the_graph_letterboxes_as_opencv_does(frame_hw: tuple[int, int], alignment: str) -> None:
    """At most one step of a pixel apart, in some places: OpenCV computes in whole numbers, and drops what is left."""
    options = {"image_hw": CANVAS_HW, "letterbox_alignment": alignment, "letterbox_value": 7, "colour_order": "rgb"}
    graph = take_bytes(make_identity(), InputSpec(**options, pixels="uint8", frame_hw=frame_hw))
    onnx.checker.check_model(graph, full_check=True)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, *frame_hw, 3), np.uint8)
    smooth = np.stack([cv2.GaussianBlur(picture, (0, 0), 3) for picture in noise])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for pictures in (noise, smooth):
        (found,) = session.run(None, {INPUT_NAME: pictures})
        wanted = np.concatenate([make_input(picture, InputSpec(**options))[0] for picture in pictures])
        apart = np.abs(found - wanted)
        assert apart.max() < 1.01 * STEP
        assert (apart > 0.01 * STEP).mean() < 0.15
        if frame_hw in ((96, 160), (192, 320), (96, 100)):  # nothing to resize, or to the half: no rounding differs
            assert apart.max() < 1e-6


@pytest.mark.parametrize("engine", HERE)
def test_a_bundle_of_frames_finds_the_same_boxes(engine: str, whole_way: WholeWay, tmp_path: Path) -> None:
    host = backends.load_engine(engine).host_target()
    images = [sample.image for _, sample in zip(range(4), open_dataset(whole_way.data, "test"), strict=False)]
    images = [cv2.resize(image, (150, 120)) for image in images]
    target = write_target(tmp_path, engine, like=host, frame_hw=(120, 150))
    verbs.deploy(whole_way.quantized, target, tmp_path / "frames.eyb")
    count = 0
    with Detector.load(tmp_path / "frames.eyb") as detector, Detector.load(whole_way.bundles[host]) as floats:
        for image in images:
            found, wanted = detector.detect(image), floats.detect(image)
            assert len(found) == len(wanted)
            apart = np.abs(found.boxes_xyxy[:, None] - wanted.boxes_xyxy).max(axis=2)
            pairs = apart.argmin(axis=1)  # scores that are nearly alike change places
            assert sorted(pairs) == list(range(len(wanted))) and apart.min(axis=1).max(initial=0) < 1.5
            np.testing.assert_allclose(found.scores, wanted.scores[pairs], atol=0.05)
            np.testing.assert_array_equal(found.class_ids, wanted.class_ids[pairs])
            count += len(found)
        assert count > 0
        with pytest.raises(ImageError, match=r"90 x 100 pixels, and the model was deployed for 150 x 120"):
            detector.detect(np.zeros((100, 90, 3), np.uint8))


def test_tensorrt_takes_frames(whole_way: WholeWay, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the compiler that needs no GPU is tensorrt_rtx")
    target = write_target(tmp_path, "tensorrt", like="rtx", frame_hw=(720, 1280))
    verbs.deploy(whole_way.quantized, target, tmp_path / "rtx.eyb")
    with open_bundle(tmp_path / "rtx.eyb") as bundle:
        raw = (bundle.folder / "model.onnx").read_bytes()
    (entry,) = onnx.load_model_from_string(raw).graph.input
    assert [axis.dim_value for axis in entry.type.tensor_type.shape.dim][1:] == [720, 1280, 3]
    options = Options(package="tensorrt_rtx")
    plan, _ = load_tensorrt("tensorrt_rtx").parse(raw, options).compile(options, "int8", capability="8.6")
    assert len(plan) > 100_000


def test_frames_are_bytes(whole_way: WholeWay, tmp_path: Path) -> None:
    target = write_target(tmp_path, "onnxruntime", like="host-onnx", frame_hw=(96, 96), pixels="float32")
    with pytest.raises(UsageError, match="frame_hw without bytes"):
        verbs.deploy(whole_way.quantized, target, tmp_path / "out.eyb")
