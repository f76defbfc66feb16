"""The graphs that TensorRT builds from compute what they should: run by ONNX Runtime, compared with other ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from any_spec import any_spec
from bccd import BCCD, needs_bccd

from edgeyolo.backends import build
from edgeyolo.geometry.network_input import make_input
from edgeyolo.graph.qdq import insert_qdq, load_onnx
from edgeyolo.heads import head_of
from edgeyolo.runtime.detector import Detector
from edgeyolo.spec.detecting import Thresholds
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import GraphDecode, ModelSpec
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.target import Target

SIZE = 128
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def deploy(
    source: Path, spec: ModelSpec, out: Path, precision: str, *, postprocess: str = "host", **options: Any
) -> Artefact:
    target = Target(
        title="test board",
        engine="tensorrt",
        precisions=("int8", "fp16", "fp32"),
        postprocess=postprocess,
        engine_options=options,
    )
    qparams = load_qparams(source / "qparams.json") if precision == "int8" else None
    return build(source / "model.onnx", spec, qparams, target, out, precision=precision)


def decoded_in_graph(spec: ModelSpec, artefact: Artefact) -> ModelSpec:
    rows = GraphDecode(strides=spec.decode.strides, candidates=artefact.graph_candidates)
    return msgspec.structs.replace(spec, decode=rows)


class OnnxSession:
    """The artefact's own graph in ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        return self._session.run(None, {"images": images})

    def close(self) -> None:
        pass


@pytest.mark.parametrize("activation", ["", "Relu", "LeakyRelu"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_int8_layer_equals_integers(one_layer: Any, kernel: int, activation: str, tmp_path: Path) -> None:
    """Whole networks of random weights amplify every rounding; one layer must be the integer sum to float16 rounding.

    Scales are rounded to float16 (2^-11 relative), so an input on a rounding edge may be one step off.
    """
    layer = one_layer(kernel=kernel, activation=activation, opset=19)
    path, _ = layer.write(tmp_path)
    (tmp_path / "qparams.json").write_bytes(msgspec.json.encode(layer.qparams(path)))
    deploy(tmp_path, any_spec(layer.image_hw), tmp_path / "out", "int8")
    session = OnnxSession(tmp_path / "out" / "model.onnx")
    images = layer.images(1)
    found, wanted = session.run(images)[0], layer.expected(images)
    errors = np.abs(found - wanted)
    assert found.dtype == np.float32
    one_step = layer.step * np.abs(layer.weight).max()
    assert errors.max() < 2 * one_step + 2e-3 * np.abs(wanted).max()
    assert np.median(errors) < 1e-3 * np.abs(wanted).max()


def test_old_tensorrt_form_computes_the_same(quantized_model: Any, tmp_path: Path) -> None:
    """Float weights on the int8 grid, quantized again, are the stored integers: the same graph to the last bits."""
    model = quantized_model("yolov7-nano", SIZE)
    folder = model.folder
    deploy(folder, model.spec, tmp_path, "int8", strongly_typed=False)
    graph = load_onnx(tmp_path / "model.onnx")
    assert [entry.version for entry in graph.opset_import] == [13]
    assert {tensor.data_type for tensor in graph.graph.initializer} <= {1, 3, 7}  # float32, int8 zeros, int64 shapes
    stored = insert_qdq(load_onnx(folder / "model.onnx"), load_qparams(folder / "qparams.json"))
    (tmp_path / "stored.onnx").write_bytes(stored.SerializeToString())
    images = np.random.default_rng(3).random((1, 3, SIZE, SIZE), dtype=np.float32)
    ours, wanted = (OnnxSession(tmp_path / name).run(images) for name in ("model.onnx", "stored.onnx"))
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


@needs_bccd
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["yolov7-nano", "ppyoloe-s"])
def test_decoding_in_the_graph_gives_the_same_boxes(
    quantized_model: Any, name: str, precision: str, tmp_path: Path
) -> None:
    """On real photographs, anchor and distribution heads: each candidate before NMS, then what `detect` reports."""
    import cv2

    model = quantized_model(name, SIZE)
    artefact = deploy(model.folder, model.spec, tmp_path / "graph", precision, postprocess="graph", candidates=3840)
    deploy(model.folder, model.spec, tmp_path / "host", precision)
    spec = decoded_in_graph(model.spec, artefact)
    host, graph = (OnnxSession(tmp_path / place / "model.onnx") for place in ("host", "graph"))
    candidates = objects = 0
    for path in sorted((BCCD / "JPEGImages").glob("*.jpg"))[:4]:
        picture = cv2.imread(str(path))
        images, _ = make_input(picture, spec.input)
        rows = [
            head_of(kind).decode([map_[0] for map_ in session.run(images)], score_threshold=0.01)
            for session, kind in ((host, model.spec.decode), (graph, spec.decode))
        ]
        assert_same_rows(*rows)
        candidates += len(rows[0][1])
        found = [
            Detector(session, kind, Thresholds(score_threshold=0.01)).detect(picture)
            for session, kind in ((host, model.spec), (graph, spec))
        ]
        assert_same_rows(*[(d.boxes_xyxy, d.scores, d.class_ids) for d in found])
        objects += len(found[0].scores)
    assert candidates > 100
    assert objects > 10


def assert_same_rows(one: Rows, two: Rows) -> None:
    """Each (box, score, class) of either is in the other; the order among equal scores is free."""
    assert len(one[1]) == len(two[1])
    for (boxes, scores, ids), (other_boxes, other_scores, other_ids) in ((one, two), (two, one)):
        for box, score, class_id in zip(boxes, scores, ids, strict=True):
            near = (np.abs(other_boxes - box).max(axis=1) < 0.05) & (np.abs(other_scores - score) < 1e-5)
            assert class_id in other_ids[near]


def test_candidates_are_the_best(quantized_model: Any, tmp_path: Path) -> None:
    model = quantized_model("yolov7-nano", SIZE)
    artefact = deploy(model.folder, model.spec, tmp_path / "graph", "fp32", postprocess="graph", candidates=50)
    deploy(model.folder, model.spec, tmp_path / "host", "fp32")
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    images, _ = make_input(picture, model.spec.input)
    maps = [map_[0] for map_ in OnnxSession(tmp_path / "host/model.onnx").run(images)]
    boxes, scores, _ = head_of(model.spec.decode).decode(maps, score_threshold=0.0)
    found_boxes, found_scores, found_ids = OnnxSession(tmp_path / "graph/model.onnx").run(images)
    assert artefact.graph_candidates == 50
    assert found_ids.dtype == np.int32
    np.testing.assert_allclose(found_scores[0], np.sort(scores)[::-1][:50], atol=1e-6)
    best = np.argmax(scores)
    np.testing.assert_allclose(found_boxes[0, 0], boxes[best], atol=1e-3)


def test_a_deployed_bundle_tells_the_runtime_that_its_graph_decodes(quantized_model: Any, tmp_path: Path) -> None:
    from edgeyolo import verbs

    model = quantized_model("yolov7-nano", SIZE)
    manifest = verbs.deploy(model.folder, "jetson", tmp_path / "cells.eyb").manifest
    assert manifest.model.decode == GraphDecode(strides=model.spec.decode.strides, candidates=1000)
    assert manifest.model.output_count == 3
    assert msgspec.structs.replace(manifest.model, decode=model.spec.decode) == model.spec
