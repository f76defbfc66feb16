"""Every kind of head says the same to the board (numpy), inside a graph (ONNX) and in training (torch)."""

from __future__ import annotations

import sys
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgeyolo import heads
from edgeyolo.graph.postprocess import append_postprocess, append_rows
from edgeyolo.heads import head_of, kind_of, maps_head_of, raw_head_of
from edgeyolo.spec.errors import BackendError, UnknownNameError
from edgeyolo.spec.model import (
    AnchorDecode,
    BoxesDecode,
    Decode,
    DflDecode,
    GraphDecode,
    GridDecode,
    PointDecode,
    RowsDecode,
)
from edgeyolo.spec.tensor import INPUT_NAME, ROW_NAMES

ANCHOR = AnchorDecode(strides=(8, 16), anchors_wh=(((10.0, 13.0), (16.0, 30.0)), ((30.0, 61.0),)))  # uneven on purpose
GROWN = AnchorDecode(strides=(8, 16), anchors_wh=ANCHOR.anchors_wh, size="exp", reach=(1.05, 2.0))
DFL = DflDecode(strides=(8, 16, 32), bins=7)
CORNER = DflDecode(strides=(8, 16, 32), bins=8, offset=0.0)
POINT = PointDecode(strides=(8, 16, 32), box="centre", objectness=True)
SIDES = PointDecode(strides=(8, 16, 32), box="sides", objectness=False)
AWARE = AnchorDecode(strides=(8, 16), anchors_wh=ANCHOR.anchors_wh, size="exp", reach=(1.05, 1.05), iou_power=0.5)
SOFT = AnchorDecode(strides=(16,), anchors_wh=ANCHOR.anchors_wh[:1], size="exp", reach=(1.0,), classes="softmax")
GRID = GridDecode(strides=(16,), boxes=2)
CENTRES = BoxesDecode(strides=(1,), rows=50, objectness=True)
CORNERS = BoxesDecode(strides=(1,), rows=50, box="xyxy")
GRAPH = GraphDecode(strides=(8,), candidates=5)
ROWS = RowsDecode(strides=(8,), layout="best-class", predictions=5)
Layout = Literal["class-scores", "best-class"]
RAW_KINDS = {"anchor": ANCHOR, "anchor-exp": GROWN, "dfl": DFL, "corner": CORNER, "point": POINT, "sides": SIDES}
RAW_KINDS |= {"grid": GRID, "aware": AWARE, "softmax": SOFT}
MAPS_KINDS = RAW_KINDS | {"centres": CENTRES, "corners": CORNERS}
ALL = list(MAPS_KINDS.values())
RAW = pytest.mark.parametrize("spec", RAW_KINDS.values(), ids=RAW_KINDS)
MAPS = pytest.mark.parametrize("spec", MAPS_KINDS.values(), ids=MAPS_KINDS)
IMAGE_HW = (64, 96)
NUM_CLASSES = 3


def random_maps(spec: Decode) -> list[np.ndarray]:
    """(1, C, h, w) each."""
    rng = np.random.default_rng(0)
    if isinstance(spec, BoxesDecode | GridDecode):  # whose scores are shares
        return [rng.random((1, *s), np.float32) for s in head_of(spec).map_shapes(NUM_CLASSES, IMAGE_HW)]
    return [rng.normal(-0.5, 2, (1, *s)).astype(np.float32) for s in head_of(spec).map_shapes(NUM_CLASSES, IMAGE_HW)]


def every_prediction(spec: Decode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores and class ids as the board decodes them, best score first."""
    found = head_of(spec).decode([raw[0] for raw in random_maps(spec)], score_threshold=0.0)
    order = np.argsort(-found[1], kind="stable")
    return found[0][order], found[1][order], found[2][order]


def pass_through(spec: Decode) -> onnx.ModelProto:
    """A network whose inputs, beside the picture, are its maps."""
    head, kind = head_of(spec), onnx.TensorProto.FLOAT
    shapes = [(1, *shape) for shape in head.map_shapes(NUM_CLASSES, IMAGE_HW)]
    entries = [onnx.helper.make_tensor_value_info(INPUT_NAME, kind, (1, 3, *IMAGE_HW))]
    entries += [onnx.helper.make_tensor_value_info(f"given_{i}", kind, shape) for i, shape in enumerate(shapes)]
    nodes = [onnx.helper.make_node("Identity", [f"given_{i}"], [name]) for i, name in enumerate(head.output_names())]
    named = zip(head.output_names(), shapes, strict=True)
    outputs = [onnx.helper.make_tensor_value_info(name, kind, shape) for name, shape in named]
    graph = onnx.helper.make_graph(nodes, "maps", entries, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


@MAPS
def test_the_graph_decodes_as_the_board_does(spec: Decode) -> None:
    boxes, scores, class_ids = every_prediction(spec)
    model, kept = append_postprocess(pass_through(spec), spec, num_classes=NUM_CLASSES, candidates=3840)
    assert kept == len(scores)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {f"given_{i}": raw for i, raw in enumerate(random_maps(spec))}
    found = session.run(list(ROW_NAMES), {INPUT_NAME: np.zeros((1, 3, *IMAGE_HW), np.float32), **feeds})
    rows = head_of(GraphDecode(strides=spec.strides, candidates=kept)).decode([a[0] for a in found], score_threshold=0)
    np.testing.assert_allclose(rows[1], scores, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(rows[0], boxes, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(rows[2], class_ids)


@MAPS
@pytest.mark.parametrize("layout", ["class-scores", "best-class"])
def test_rows_for_other_programs_are_what_the_board_decodes(spec: Decode, layout: Layout) -> None:
    model, decode = append_rows(pass_through(spec), spec, layout, num_classes=NUM_CLASSES)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {f"given_{i}": raw for i, raw in enumerate(random_maps(spec))}
    found = session.run(None, {INPUT_NAME: np.zeros((1, 3, *IMAGE_HW), np.float32), **feeds})
    head = head_of(decode)
    assert [part.shape for part in found] == [(1, *shape) for shape in head.map_shapes(NUM_CLASSES, IMAGE_HW)]
    for multi_label in (False, True) if layout == "class-scores" else (False,):
        wanted = head_of(spec).decode(
            [raw[0] for raw in random_maps(spec)], score_threshold=0.3, multi_label=multi_label
        )
        rows = head.decode([found[0][0]], score_threshold=0.3, multi_label=multi_label)
        order, other = np.lexsort(wanted[2:0:-1]), np.lexsort(rows[2:0:-1])
        assert len(order) == len(other) > 10
        np.testing.assert_allclose(rows[1][other], wanted[1][order], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(rows[0][other], wanted[0][order], rtol=1e-5, atol=1e-3)
        np.testing.assert_array_equal(rows[2][other], wanted[2][order])


@RAW
def test_training_reads_what_the_board_does(spec: Decode) -> None:
    boxes, scores, class_ids = every_prediction(spec)
    head, maps = raw_head_of(spec), random_maps(spec)
    levels = head.predictions([torch.from_numpy(raw) for raw in maps])
    parts = [level.classes.sigmoid() for level in levels]
    if levels[0].objectness is not None:
        parts = [part * level.objectness.sigmoid()[..., None] for part, level in zip(parts, levels, strict=True)]
    best, ids = torch.cat(parts, dim=1)[0].max(dim=1)
    order = torch.argsort(best, descending=True, stable=True)
    values = torch.cat([level.boxes for level in levels], dim=1)
    places = torch.from_numpy(head.make_places(IMAGE_HW))
    np.testing.assert_allclose(best[order], scores, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(ids[order], class_ids)
    np.testing.assert_allclose(head.boxes_xyxy(values, places, torch)[0][order], boxes, rtol=1e-5, atol=1e-3)


@RAW
def test_predictions_are_sorted_alike_in_numpy_and_torch(spec: Decode) -> None:
    head, maps = raw_head_of(spec), random_maps(spec)
    pairs = zip(head.predictions(maps), head.predictions([torch.from_numpy(raw) for raw in maps]), strict=True)
    for ours, theirs in pairs:
        for name in ("objectness", "classes", "boxes"):
            mine, other = getattr(ours, name), getattr(theirs, name)
            assert (mine is None) == (other is None)
            if mine is not None:
                np.testing.assert_allclose(mine, other.numpy(), rtol=1e-5, atol=1e-6)  # some are logarithms


def test_what_the_graph_has_decoded_is_not_decoded_again() -> None:
    cases = ((raw_head_of, GRAPH), (raw_head_of, ROWS), (raw_head_of, CENTRES), (maps_head_of, GRAPH))
    for head_for, spec in cases:
        with pytest.raises(BackendError, match="inside its graph already"):
            head_for(spec)


@pytest.mark.parametrize("spec", [ANCHOR, DFL, POINT, GRID, CENTRES, GRAPH, ROWS], ids=lambda s: kind_of(type(s)))
def test_a_kind_without_its_file_is_named_and_the_others_work(spec: Decode, monkeypatch: pytest.MonkeyPatch) -> None:
    module = head_of(spec).__class__.__module__.rpartition(".")[2]
    listed = list(heads.pkgutil.iter_modules(heads.__path__))
    monkeypatch.setattr(heads.pkgutil, "iter_modules", lambda _: [found for found in listed if found.name != module])
    monkeypatch.setitem(sys.modules, f"edgeyolo.heads.{module}", None)
    heads._heads.cache_clear()
    try:
        with pytest.raises(UnknownNameError, match=f"unknown kind of head '{kind_of(type(spec))}'"):
            head_of(spec)
        others = [other for other in ALL if type(other) is not type(spec)]
        assert all(len(every_prediction(other)[1]) for other in others)
    finally:
        heads._heads.cache_clear()
