"""Bundles whose graph takes the bytes of a picture: the same boxes as from floats, on every engine that can."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from one_layer import OneLayer
from whole_way import WholeWay

from edgeyolo import backends, verbs
from edgeyolo.backends.tensorrt.adapter import load_tensorrt
from edgeyolo.backends.tensorrt.options import Options
from edgeyolo.bundle import open_bundle
from edgeyolo.data.dataset import open_dataset
from edgeyolo.geometry.network_input import make_batch, make_input
from edgeyolo.graph.entry import take_bytes
from edgeyolo.graph.qdq import insert_qdq, load_onnx
from edgeyolo.runtime import Detector
from edgeyolo.runtime.processor import open_session
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.target import load_target
from edgeyolo.spec.tensor import INPUT_NAME

ENGINES = [name for name in backends.list_engines() if backends.load_engine(name).takes_bytes]
HERE = [name for name in ENGINES if name != "tensorrt"]
PICTURES_HW = [(50, 90), (90, 50), (24, 40), (48, 80)]  # padded above, at the sides; as large as the canvas, and half


def target_of_bytes(folder: Path, engine: str, *, like: str) -> str:
    options = "".join(
        f"{name} = {str(value).lower() if value is True else repr(value)}\n"
        for name, value in load_target(like).engine_options.items()
    )
    path = folder / f"{engine}-bytes.toml"
    path.write_text(
        f'title = "bytes"\nengine = "{engine}"\nprecisions = ["int8", "fp32"]\ninput = "uint8"\n'
        f'postprocess = "{load_target(like).postprocess}"\n[engine_options]\n{options}'
    )
    return str(path)


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {INPUT_NAME: images})[0])


@pytest.mark.parametrize("image_hw", PICTURES_HW)
def test_the_canvas_is_what_opencv_makes(image_hw: tuple[int, int]) -> None:
    spec = InputSpec(image_hw=(48, 80), pixels="uint8", letterbox_value=7)
    image = np.random.default_rng(0).integers(0, 256, (*image_hw, 3), np.uint8)
    found, letterbox = make_input(image, spec)
    height, width = letterbox.resized_hw
    wanted = cv2.copyMakeBorder(
        cv2.resize(image, (width, height)),
        letterbox.pad_top,
        48 - height - letterbox.pad_top,
        letterbox.pad_left,
        80 - width - letterbox.pad_left,
        cv2.BORDER_CONSTANT,
        value=(7, 7, 7),
    )
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], wanted)


@pytest.mark.parametrize("colour_order", ["rgb", "bgr"])
@pytest.mark.parametrize("mean", [(0.0, 0.0, 0.0), (0.4, 0.5, 0.3)])
def test_the_graph_computes_what_the_processor_does(
    colour_order: str, mean: tuple[float, float, float], tmp_path: Path
) -> None:
    path, qparams = OneLayer(image_hw=(48, 80)).write(tmp_path)
    model = insert_qdq(load_onnx(path), qparams)
    floats = InputSpec(image_hw=(48, 80), colour_order=colour_order, mean=mean, std=(0.2, 0.25, 1.0))
    bytes_ = InputSpec(image_hw=(48, 80), colour_order=colour_order, mean=mean, std=(0.2, 0.25, 1.0), pixels="uint8")
    images = [np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8) for hw in PICTURES_HW]
    inside = take_bytes(model, bytes_)
    onnx.checker.check_model(inside, full_check=True)
    (ours, _), (theirs, _) = make_batch(images, floats), make_batch(images, bytes_)
    for one, other in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(run(inside, one[None]), run(model, other[None]))


@pytest.mark.parametrize("engine", HERE)
def test_a_bundle_of_bytes_gives_the_same_boxes(engine: str, whole_way: WholeWay, tmp_path: Path) -> None:
    host = backends.load_engine(engine).host_target()
    verbs.deploy(whole_way.quantized, target_of_bytes(tmp_path, engine, like=host), tmp_path / "bytes.eyb")
    images = [sample.image for _, sample in zip(range(4), open_dataset(whole_way.data, "test"), strict=False)]
    images.append(cv2.resize(images[0], (90, 200)))
    with Detector.load(tmp_path / "bytes.eyb") as detector, Detector.load(whole_way.bundles[host]) as floats:
        assert detector.spec.input.pixels == "uint8"
        for image in images:
            found, wanted = detector.detect(image), floats.detect(image)
            np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=1e-5)
            np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
        assert len(detector.detect(images[0])) > 0
    with open_bundle(tmp_path / "bytes.eyb") as bundle:
        session = open_session(bundle.folder, bundle.manifest)
        with pytest.raises(BackendError, match=r"takes \(B, 128, 128, 3\) uint8"):
            session.run(np.zeros((1, 3, 128, 128), np.float32))
        session.close()


def test_tensorrt_takes_bytes(whole_way: WholeWay, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the compiler that needs no GPU is tensorrt_rtx")
    verbs.deploy(whole_way.quantized, target_of_bytes(tmp_path, "tensorrt", like="rtx"), tmp_path / "rtx.eyb")
    with open_bundle(tmp_path / "rtx.eyb") as bundle:
        raw = (bundle.folder / "model.onnx").read_bytes()
    (entry,) = onnx.load_model_from_string(raw).graph.input
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    options = Options(package="tensorrt_rtx")
    plan, _ = load_tensorrt("tensorrt_rtx").parse(raw, options).compile(options, "int8", capability="8.6")
    assert len(plan) > 100_000


def test_an_engine_that_takes_floats_only_says_so(whole_way: WholeWay, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ncnn takes floats"):
        verbs.deploy(whole_way.quantized, target_of_bytes(tmp_path, "ncnn", like="host-ncnn"), tmp_path / "out.eyb")
