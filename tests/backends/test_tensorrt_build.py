"""What TensorRT's real parser and compiler say to our graphs, without a GPU; and that the graphs compute the same."""

from __future__ import annotations

import gc
import itertools
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest

from edgeyolo import models
from edgeyolo.backends import build
from edgeyolo.backends._qdq import insert_qdq, load_onnx
from edgeyolo.backends._qdq_check import check_qdq
from edgeyolo.backends._tensorrt_options import make_options
from edgeyolo.backends.tensorrt import compile_for
from edgeyolo.runtime.decode import decode
from edgeyolo.runtime.detector import Detector
from edgeyolo.runtime.preprocess import make_input
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.target import Target
from edgeyolo.verbs import deployed_spec

QUICK = ("yolov7-nano", "yolov7-tiny", "ppyoloe-s")
BCCD = Path(__file__).parents[2] / ".." / "shared/data/bccd"
SIZE = 128
Make = Any  # the fixture's factory, with functools' cache_clear
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def make_target(**changes: Any) -> Target:
    values = {"title": "test board", "engine": "tensorrt", "precisions": ("int8", "fp16", "fp32")}
    return Target(**{**values, "engine_options": {"package": "tensorrt_rtx"}, **changes})


def deploy(model: Any, out: Path, precision: str, **changes: Any) -> Artefact:
    qparams = load_qparams(model.folder / "qparams.json") if precision == "int8" else None
    return build(model.folder / "model.onnx", qparams, make_target(**changes), out, precision=precision)


class OnnxSession:
    """The artefact's own graph in ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        return self._session.run(None, {"images": images})

    def close(self) -> None:
        pass


def compile_or_skip(folder: Path, artefact: Artefact, precision: str, capability: str) -> bytes:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    return compile_for(folder / "model.onnx", make_options(artefact.options), precision, capability=capability)


@pytest.mark.parametrize("postprocess", ["host", "graph"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", QUICK)
def test_compiles(quantized_model: Make, name: str, precision: str, postprocess: str, tmp_path: Path) -> None:
    artefact = deploy(quantized_model(name, SIZE), tmp_path, precision, postprocess=postprocess)
    assert set(artefact.files.values()) == {path.name for path in tmp_path.iterdir()}
    for capability in ("8.6", "8.9"):
        assert len(compile_or_skip(tmp_path, artefact, precision, capability)) > 100_000


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({info.name for info in models.list_models()} - set(QUICK)))
def test_every_model_compiles_and_is_clean(quantized_model: Make, name: str, tmp_path: Path) -> None:
    model = quantized_model(name, SIZE, settled=False)
    for postprocess, precision in itertools.product(("host", "graph"), ("fp16", "int8")):
        out = tmp_path / f"{postprocess}-{precision}"
        artefact = deploy(model, out, precision, postprocess=postprocess)
        for capability in ("8.6", "8.9"):
            assert compile_or_skip(out, artefact, precision, capability)
        if precision == "int8":
            assert_clean(model.folder, out)
        shutil.rmtree(out)
    quantized_model.cache_clear()  # the largest weigh gigabytes
    gc.collect()


@pytest.mark.parametrize("strongly_typed", [True, False])
@pytest.mark.parametrize("name", QUICK)
def test_the_qdq_is_clean(quantized_model: Make, name: str, strongly_typed: bool, tmp_path: Path) -> None:
    model = quantized_model(name, SIZE)
    deploy(model, tmp_path, "int8", engine_options={"strongly_typed": strongly_typed})
    assert_clean(model.folder, tmp_path)


def assert_clean(source: Path, artefact: Path) -> None:
    """Exactly the layers that the scales say are int8, and no problem. A crossing feeds a float sum, gate or pool."""
    report = check_qdq(load_onnx(artefact / "model.onnx"))
    layers = load_qparams(source / "qparams.json").layers.values()
    assert not report.problems
    assert len(report.int8) == sum(layer.precision == "int8" for layer in layers)
    assert set(report.floats.values()) <= {"head output", "attention: reads a globally pooled tensor"}
    assert not [crossing for crossing in report.crossings if "Conv" in crossing]


@pytest.mark.parametrize("activation", ["", "Relu", "LeakyRelu"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_int8_layer_equals_integers(one_layer: Any, kernel: int, activation: str, tmp_path: Path) -> None:
    """Whole networks of random weights amplify every rounding; one layer must be the integer sum to float16 rounding.

    Scales are rounded to float16 (2^-11 relative), so an input on a rounding edge may be one step off.
    """
    layer = one_layer(kernel=kernel, activation=activation, opset=19)
    path, qparams = layer.write(tmp_path)
    build(path, qparams, make_target(), tmp_path / "out", precision="int8")
    session = OnnxSession(tmp_path / "out" / "model.onnx")
    images = layer.images(1)
    found, wanted = session.run(images)[0], layer.expected(images)
    errors = np.abs(found - wanted)
    assert found.dtype == np.float32
    one_step = layer.step * np.abs(layer.weight).max()
    assert errors.max() < 2 * one_step + 2e-3 * np.abs(wanted).max()
    assert np.median(errors) < 1e-3 * np.abs(wanted).max()


def test_old_tensorrt_form_computes_the_same(quantized_model: Make, tmp_path: Path) -> None:
    """Float weights on the int8 grid, quantized again, are the stored integers: the same graph to the last bits."""
    model = quantized_model("yolov7-tiny", SIZE)
    deploy(model, tmp_path, "int8", engine_options={"strongly_typed": False})
    graph = load_onnx(tmp_path / "model.onnx")
    assert [entry.version for entry in graph.opset_import] == [13]
    assert {tensor.data_type for tensor in graph.graph.initializer} <= {1, 3, 7}  # float32, int8 zeros, int64 shapes
    stored = insert_qdq(load_onnx(model.folder / "model.onnx"), load_qparams(model.folder / "qparams.json"))
    (tmp_path / "stored.onnx").write_bytes(stored.SerializeToString())
    images = np.random.default_rng(3).random((1, 3, SIZE, SIZE), dtype=np.float32)
    ours, wanted = (OnnxSession(tmp_path / name).run(images) for name in ("model.onnx", "stored.onnx"))
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize("name", QUICK)
def test_decoding_in_the_graph_gives_the_same_boxes(quantized_model: Make, name: str, tmp_path: Path) -> None:
    """On real photographs, before NMS, which is the same code for both; then through the whole runtime."""
    if not BCCD.is_dir():
        pytest.skip("the bccd data set is not here")
    import cv2

    model = quantized_model(name, SIZE)
    options = {"candidates": 3840}
    artefact = deploy(model, tmp_path / "graph", "int8", postprocess="graph", engine_options=options)
    deploy(model, tmp_path / "host", "int8")
    spec = deployed_spec(model.spec, artefact)
    host, graph = (OnnxSession(tmp_path / place / "model.onnx") for place in ("host", "graph"))
    count = 0
    for path in sorted((BCCD / "JPEGImages").glob("*.jpg"))[:3]:
        picture = cv2.imread(str(path))
        images, _ = make_input(picture, spec.input)
        one, two = (
            decode([map_[0] for map_ in session.run(images)], kind, num_classes=3, score_threshold=0.01)
            for session, kind in ((host, model.spec.decode), (graph, spec.decode))
        )
        assert_same_rows(one, two)
        count += len(one[1])
        best = [
            Detector(session, kind, score_threshold=0.0).detect(picture).scores[:1]
            for session, kind in ((host, model.spec), (graph, spec))
        ]
        np.testing.assert_allclose(*best, atol=1e-5)
    assert count > 20


def assert_same_rows(one: Rows, two: Rows) -> None:
    """Each (box, score, class) of either is in the other; the order among equal scores is free."""
    assert len(one[1]) == len(two[1])
    for (boxes, scores, ids), (other_boxes, other_scores, other_ids) in ((one, two), (two, one)):
        for box, score, class_id in zip(boxes, scores, ids, strict=True):
            near = (np.abs(other_boxes - box).max(axis=1) < 0.01) & (np.abs(other_scores - score) < 1e-5)
            assert class_id in other_ids[near]


def test_candidates_are_the_best(quantized_model: Make, tmp_path: Path) -> None:
    model = quantized_model("yolov7-nano", SIZE)
    artefact = deploy(model, tmp_path / "graph", "fp32", postprocess="graph", engine_options={"candidates": 50})
    deploy(model, tmp_path / "host", "fp32")
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    images, _ = make_input(picture, model.spec.input)
    maps = [map_[0] for map_ in OnnxSession(tmp_path / "host/model.onnx").run(images)]
    boxes, scores, _ = decode(maps, model.spec.decode, num_classes=3, score_threshold=0.0)
    found_boxes, found_scores, found_ids = OnnxSession(tmp_path / "graph/model.onnx").run(images)
    assert artefact.graph_candidates == 50
    assert found_ids.dtype == np.int32
    np.testing.assert_allclose(found_scores[0], np.sort(scores)[::-1][:50], atol=1e-6)
    best = np.argmax(scores)
    np.testing.assert_allclose(found_boxes[0, 0], boxes[best], atol=1e-3)


def test_deployed_spec_only_changes_the_decode(quantized_model: Make) -> None:
    spec: ModelSpec = quantized_model("yolov7-nano", SIZE).spec
    raw = Artefact(engine="tensorrt", engine_version="", precision="int8", files={})
    assert deployed_spec(spec, raw) is spec
    changed = deployed_spec(spec, msgspec.structs.replace(raw, graph_candidates=7))
    assert changed.output_count == 3
    assert msgspec.structs.replace(changed, decode=spec.decode) == spec
