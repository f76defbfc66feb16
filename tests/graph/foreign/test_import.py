"""Graphs that others have exported: what is made of them gives their own boxes, and what cannot be carried is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from foreign_detectors import (
    CLASSES,
    SIDE,
    AnchorStyle,
    DflStyle,
    PairStyle,
    PointStyle,
    export_foreign,
    make_foreign,
)
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgeyolo import verbs
from edgeyolo.backends import open_artefact
from edgeyolo.bundle import open_bundle
from edgeyolo.heads import head_of
from edgeyolo.spec.errors import BackendError, FormatError, OutputError, UnknownNameError, UsageError
from edgeyolo.spec.importing import ImportOptions
from edgeyolo.spec.model import AnchorDecode, BoxesDecode, DflDecode, ModelSpec, PointDecode

NAMES = ("one", "two", "three", "four", "five", "six")


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES))
    return path


def picture() -> np.ndarray:
    return np.random.default_rng(3).random((1, 3, SIDE, SIDE)).astype(np.float32)


def decoded(folder: Path, spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and best scores of every prediction of an imported graph, in its own order."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    maps = session.run(None, {"images": picture()})
    boxes, scores, _ = head_of(spec.decode).decode([found[0] for found in maps], score_threshold=0.0)
    return boxes, scores


def as_authors_read(network: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """The same from the torch network, by what its authors document of its rows."""
    with torch.no_grad():
        found = network(torch.from_numpy(picture()))
    if isinstance(network, PairStyle):
        boxes, logits = (part[0].numpy() for part in found)
        return boxes * SIDE, (1 / (1 + np.exp(-logits))).max(axis=1)
    rows = found[0].numpy()
    if isinstance(network, DflStyle):
        rows = np.insert(rows.T, 4, 1.0, axis=1)
    if isinstance(network, PointStyle):
        sides = [SIDE // stride for stride in (8, 16, 32)]
        cells = [np.stack(np.meshgrid(range(n), range(n)), 2).reshape(-1, 2) for n in sides]
        strides = np.repeat((8, 16, 32), [n * n for n in sides])[:, None]
        rows = np.concatenate(
            [(rows[:, :2] + np.concatenate(cells)) * strides, np.exp(rows[:, 2:4]) * strides, rows[:, 4:]], 1
        )
    centre, half = rows[:, :2], rows[:, 2:4] / 2
    return np.concatenate([centre - half, centre + half], 1), (rows[:, 5:] * rows[:, 4:5]).max(axis=1)


CASES = {
    "dfl": (DflStyle, 17, None, DflDecode(strides=(8, 16, 32), bins=8)),
    "point": (PointStyle, 11, None, PointDecode(strides=(8, 16, 32), box="centre", objectness=True)),
    "anchor": (AnchorStyle, 12, None, AnchorDecode(strides=(8, 16, 32), anchors_wh=AnchorStyle.anchors)),
    "pair": (PairStyle, 13, None, BoxesDecode(strides=(8, 16, 32), rows=84, box="xyxy")),
    "decoded": (DflStyle, 17, "boxes", BoxesDecode(strides=(8, 16, 32), rows=84)),
    "objectness": (AnchorStyle, 11, "boxes", BoxesDecode(strides=(8, 16, 32), rows=168, objectness=True)),
}


@pytest.mark.parametrize("case", CASES)
def test_its_boxes_are_those_of_the_network_that_was_exported(case: str, tmp_path: Path, names: Path) -> None:
    kind, opset, head, decode = CASES[case]
    network = make_foreign(kind)
    file = export_foreign(network, tmp_path / "detector.onnx", opset=opset)
    result = verbs.import_graph(file, tmp_path / "run", ImportOptions(names=names, head=head))  # type: ignore[arg-type]
    assert result.model.decode == decode
    assert result.model.class_names == NAMES and result.model.input.image_hw == (SIDE, SIDE)
    wanted_boxes, wanted_scores = as_authors_read(network)
    boxes, scores = decoded(tmp_path / "run", result.model)
    np.testing.assert_allclose(boxes, wanted_boxes, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(scores, wanted_scores, rtol=1e-4, atol=1e-5)
    told = {guess.what for guess in result.guesses}
    assert "head" not in told if head else "head" in told
    assert result.model.origin is not None and not result.model.origin.is_permissive  # nobody says whose it is
    with pytest.raises(OutputError, match="already"):
        verbs.import_graph(file, tmp_path / "run", ImportOptions(names=names))


@pytest.mark.parametrize("case", ["decoded", "pair", "objectness"])
def test_ncnn_computes_a_decode_that_stays_in_the_graph(case: str, tmp_path: Path, names: Path) -> None:
    """Engines get the same rows of one: (1, 4 + K, N), through Permute, Softmax, and constants that are read twice."""
    kind, opset, head, _ = CASES[case]
    file = export_foreign(make_foreign(kind), tmp_path / "detector.onnx", opset=opset)
    spec = verbs.import_graph(file, tmp_path / "run", ImportOptions(names=names, head=head)).model  # type: ignore[arg-type]
    verbs.deploy(tmp_path / "run", "host-ncnn", tmp_path / "n.eyb", precision="fp32")
    with open_bundle(tmp_path / "n.eyb") as bundle:
        session = open_artefact(bundle.folder, bundle.manifest.artefact, bundle.manifest.model)
        found = session.run(picture())
        session.close()
    wanted = onnxruntime.InferenceSession(str(tmp_path / "run" / "model.onnx")).run(None, {"images": picture()})
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-3, atol=1e-3)
    assert head_of(spec.decode).map_shapes(CLASSES, (SIDE, SIDE)) == [found[0].shape[1:]]


def test_what_is_told_goes_before_what_is_guessed(tmp_path: Path, names: Path) -> None:
    file = export_foreign(make_foreign(PointStyle), tmp_path / "detector.onnx", opset=17)
    told = tmp_path / "detector.toml"
    told.write_text(
        'class_names = ["a", "b", "c", "d", "e", "f"]\nlicence = "MIT"\nsource = "somebody"\n'
        '[input]\nrange = "0-255"\nmean = [123.675, 116.28, 103.53]\nstd = [58.395, 57.12, 57.375]\n'
        'colour_order = "rgb"\nletterbox_alignment = "center"\nletterbox_value = 0\n'
    )
    result = verbs.import_graph(file, tmp_path / "run", ImportOptions(describe=told))
    spec = result.model
    assert spec.class_names == tuple("abcdef") and spec.input.colour_order == "rgb" and spec.input.letterbox_value == 0
    np.testing.assert_allclose(spec.input.mean, (0.485, 0.456, 0.406), atol=1e-6)
    np.testing.assert_allclose(spec.input.std, (0.229, 0.224, 0.225), atol=1e-6)
    assert spec.origin is not None and spec.origin.is_permissive and spec.origin.source == "somebody"
    assert {guess.what for guess in result.guesses} == {"head", "outputs", "strides", "box", "objectness"}
    told.write_text("hed = 1\n")
    with pytest.raises(FormatError, match="Did you mean 'head'"):
        verbs.import_graph(file, tmp_path / "other", ImportOptions(describe=told))
    told.write_text('head = "point"\noutputs = ["nowhere"]\n')
    with pytest.raises(UnknownNameError, match="nowhere"):
        verbs.import_graph(file, tmp_path / "other", ImportOptions(describe=told, names=names))
    with pytest.raises(BackendError, match=r"no dfl head.*4 channels, stride 8"):
        verbs.import_graph(file, tmp_path / "other", ImportOptions(head="dfl", names=names))
    with pytest.raises(BackendError, match="raw maps"):
        verbs.import_graph(file, tmp_path / "other", ImportOptions(head="boxes", names=names))


def test_an_open_size_is_fixed_by_the_one_that_is_asked_for(tmp_path: Path, names: Path) -> None:
    network = make_foreign(PointStyle)
    file = export_foreign(network, tmp_path / "detector.onnx", opset=12, open_size=True)
    with pytest.raises(BackendError, match="--image-size"):
        verbs.import_graph(file, tmp_path / "run", ImportOptions(names=names))
    spec = verbs.import_graph(file, tmp_path / "run", ImportOptions(names=names, image_size=SIDE)).model
    boxes, _ = decoded(tmp_path / "run", spec)
    np.testing.assert_allclose(boxes, as_authors_read(network)[0], rtol=1e-4, atol=1e-3)
    fixed = export_foreign(network, tmp_path / "fixed.onnx", opset=12)
    with pytest.raises(BackendError, match="is for pictures of 64 x 64"):
        verbs.import_graph(fixed, tmp_path / "other", ImportOptions(names=names, image_size=128))


def test_tensors_that_are_called_like_ours_keep_out_of_the_way(tmp_path: Path, names: Path) -> None:
    """A weight, a tensor inside, and two maps in the other order."""
    network = make_foreign(PointStyle)
    file = export_foreign(network, tmp_path / "detector.onnx", opset=17)
    model = onnx.load(file)
    maps = [node.output[0] for node in model.graph.node if node.op_type == "Conv"][-3:]
    called = dict(zip(reversed(maps), ("map_0", "map_1", "map_2"), strict=True))
    called |= {model.graph.node[0].output[0]: "map_3", model.graph.initializer[0].name: "map_4"}
    for node in model.graph.node:
        node.input[:] = [called.get(name, name) for name in node.input]
        node.output[:] = [called.get(name, name) for name in node.output]
    model.graph.initializer[0].name = "map_4"
    file.write_bytes(model.SerializeToString())
    spec = verbs.import_graph(file, tmp_path / "run", ImportOptions(names=names)).model
    boxes, _ = decoded(tmp_path / "run", spec)
    np.testing.assert_allclose(boxes, as_authors_read(network)[0], rtol=1e-4, atol=1e-3)


def _one_node(operator: str, domain: str = "", **attributes: object) -> Callable[[onnx.ModelProto], None]:
    """Puts a node between the picture and the first convolution."""

    def change(model: onnx.ModelProto) -> None:
        node = helper.make_node(operator, ["input.1"], ["changed"], "the_node", domain=domain, **attributes)
        model.graph.node.insert(0, node)
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return change


def _loop(model: onnx.ModelProto) -> None:
    kinds = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "on": TensorProto.BOOL, "x": TensorProto.BOOL}
    i, go, on, x = (helper.make_tensor_value_info(name, kind, []) for name, kind in kinds.items())
    y = helper.make_tensor_value_info("y", TensorProto.BOOL, [])
    nodes = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])]
    body = helper.make_graph(nodes, "body", [i, go, x], [on, y])
    model.graph.initializer.append(numpy_helper.from_array(np.array(2), "count"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    model.graph.node.append(helper.make_node("Loop", ["count", "always", "always"], ["end"], "the_loop", body=body))


def _suppression(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("NonMaxSuppression", ["b", "s"], ["chosen"], "the_nms"))
    for name, shape in (("b", (1, 4, 4)), ("s", (1, 1, 4))):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))


def _quantized(model: onnx.ModelProto) -> None:
    for name, value in (("scale", np.float32(1)), ("zero", np.int8(0))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["input.1", "scale", "zero"], ["q"], "the_q"))


def _half(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float16), "a_weight"))


def _huge(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 40]), "many"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["many"], ["zeros"], "the_huge"))


def _second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("scale_factor", TensorProto.FLOAT, [1, 2]))


def _channels_last(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_one_node("Fancy", "com.somebody"), r"Fancy 'the_node' is no operator of ONNX 17 \(domain 'com.somebody'\)"),
        (_loop, r"Loop 'the_loop' is control flow"),
        (_suppression, r"NonMaxSuppression 'the_nms' chooses boxes.*Export without NMS"),
        (_quantized, r"QuantizeLinear 'the_q': the graph is quantized already"),
        (_half, r"weight 'a_weight' is float16.*Export in float32"),
        (_huge, r"ConstantOfShape 'the_huge' would hold \[1099511627776\] values"),
        (_second_input, r"has 2 inputs \('input.1', 'scale_factor'\)"),
        (_channels_last, r"not \(B, 3, H, W\) float32"),
        (_external, r"kept in another file"),
    ],
)
def test_what_cannot_be_carried_is_named(
    change: Callable[[onnx.ModelProto], None], said: str, tmp_path: Path, names: Path
) -> None:
    file = export_foreign(make_foreign(DflStyle), tmp_path / "detector.onnx", opset=17)
    model = onnx.load(file)
    change(model)
    file.write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match=said):
        verbs.import_graph(file, tmp_path / "run", ImportOptions(names=names))
    assert not (tmp_path / "run").exists()


def test_a_broken_file_or_a_wrong_number_of_names_is_said(tmp_path: Path, names: Path) -> None:
    file = export_foreign(make_foreign(DflStyle), tmp_path / "detector.onnx", opset=17)
    with pytest.raises(UsageError, match="6 classes, and no different names"):
        verbs.import_graph(file, tmp_path / "run", ImportOptions())
    with pytest.raises(UsageError, match="--model"):
        verbs.import_graph(file, tmp_path / "run", ImportOptions(model="yolov8n"))
    names.write_text("\n".join(map(str, range(80))))  # as many as no reading of the file has
    other = export_foreign(make_foreign(PointStyle), tmp_path / "other.onnx", opset=17)
    for path in (file, other):
        with pytest.raises(UsageError, match="6 classes, and 80 different names"):
            verbs.import_graph(path, tmp_path / "run", ImportOptions(names=names))
    raw = file.read_bytes()
    for end in (0, 100, len(raw) // 2, len(raw) - 3):
        file.write_bytes(raw[:end])
        with pytest.raises(BackendError):
            verbs.import_graph(file, tmp_path / "run", ImportOptions(names=names))
    with pytest.raises(BackendError, match="cannot be read"):
        verbs.import_graph(tmp_path / "none.onnx", tmp_path / "run", ImportOptions(names=names))
