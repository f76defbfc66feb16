"""A detector that others exported goes the whole way: import, quantize, evaluate, deploy to several engines, detect."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_detectors import SIDE, DflStyle, PointStyle, export_foreign, make_foreign
from shared import make_once
from typer.testing import CliRunner, Result

from edgeyolo import verbs
from edgeyolo.cli.app import make_app
from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.drawn import draw_dataset, draw_picture
from edgeyolo.geometry.network_input import make_input
from edgeyolo.runtime import Detector
from edgeyolo.spec.errors import QuantizationError, UsageError
from edgeyolo.spec.importing import ImportOptions
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.qparams import QParams, load_qparams
from edgeyolo.spec.strict import load_json


def run(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a drawn data set, two imported graphs and their int8 forms."""

    def fill(folder: Path) -> None:
        data = draw_dataset(folder / "data", {"train": 6, "val": 3}, image_hw=(SIDE, SIDE))
        names = folder / "names.txt"
        names.write_text("\n".join(open_dataset(data, "train").class_names))
        for name, kind, opset, head in (("raw", PointStyle, 11, None), ("boxes", DflStyle, 17, "boxes")):
            export_foreign(make_foreign(kind), folder / f"{name}.onnx", opset=opset)
            told = ImportOptions(names=names, head=head)  # type: ignore[arg-type]
            verbs.import_graph(folder / f"{name}.onnx", folder / name, told)
            options = verbs.QuantizeOptions(report=False, evaluate=False)
            verbs.quantize(folder / name, data, folder / f"{name}-int8", recipe="int8-max", options=options)

    return make_once(tmp_path_factory, "foreign", fill)


@pytest.mark.parametrize("name", ["raw", "boxes"])
def test_scales_are_the_largest_magnitudes_of_the_pictures(name: str, foreign: Path) -> None:
    """int8-max, counted again with a graph that gives every tensor."""
    spec = load_json(foreign / f"{name}-int8" / "model.json", ModelRecord).model
    qparams: QParams = load_qparams(foreign / f"{name}-int8" / "qparams.json")
    model = onnx.load(foreign / name / "model.onnx")
    tensors = sorted({tensor for group in qparams.groups.values() for tensor in group.tensors} - {"images"})
    for tensor in tensors:
        model.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    dataset = open_dataset(foreign / "data", "train")
    largest = dict.fromkeys([*tensors, "images"], 0.0)
    for index in range(len(dataset)):
        images, _ = make_input(dataset[index].image, spec.input)
        for tensor, values in zip(
            [*tensors, "images"], [*session.run(tensors, {"images": images}), images], strict=True
        ):
            largest[tensor] = max(largest[tensor], float(np.abs(values).max()))
    for group in qparams.groups.values():
        assert group.scale == pytest.approx(max(largest[tensor] for tensor in group.tensors) / 127, rel=1e-6)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for weight, scales in qparams.weights.items():
        wanted = np.abs(weights[weight]).reshape(len(weights[weight]), -1).max(axis=1) / 127
        np.testing.assert_allclose(scales.scales, wanted, rtol=1e-6)
    assert qparams.calibration.count == 6
    floats = [path for path, layer in qparams.layers.items() if layer.precision == "float"]
    outputs = [path for path in floats if qparams.layers[path].why == "head output"]
    assert len(outputs) == len(floats) == {"raw": 9, "boxes": 7}[name]  # of boxes, what sums the distribution too


@pytest.mark.parametrize("name", ["raw", "boxes"])
def test_engines_agree_and_boxes_stay_near_those_of_the_float_graph(name: str, foreign: Path, tmp_path: Path) -> None:
    picture = draw_picture(np.random.default_rng(5), (SIDE, SIDE)).image
    found = {}
    for target, source, precision in (
        ("host-onnx", name, "fp32"),
        ("host-onnx", f"{name}-int8", "int8"),
        ("host-ncnn", f"{name}-int8", "int8"),
        ("host-openvino", f"{name}-int8", "int8"),
    ):
        bundle = tmp_path / f"{target}-{precision}.eyb"
        verbs.deploy(foreign / source, target, bundle, precision=precision)
        with Detector.load(bundle, score_threshold=0.0, iou_threshold=1.0, max_detections=2000) as detector:
            found[target, precision] = detector.detect(picture)
    exact, ours = found["host-onnx", "fp32"], found["host-onnx", "int8"]
    assert len(exact.scores) > 20
    for detections in found.values():
        assert abs(float(detections.scores.max() - exact.scores.max())) < 0.05
    for target in ("host-ncnn", "host-openvino"):
        other = found[target, "int8"]
        np.testing.assert_allclose(np.sort(other.scores)[-20:], np.sort(ours.scores)[-20:], atol=0.02)


def test_it_goes_by_the_command_line_with_scores(foreign: Path, tmp_path: Path) -> None:
    data = foreign / "data"
    done = run("quantize", foreign / "boxes", "--data", data, "--recipe", "int8-mse", "--explain", "--out",
               tmp_path / "int8", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    scores = json.loads(done.stdout)["scores"]
    assert [score["artefact"] for score in scores] == ["onnxruntime fp32", "onnxruntime int8"]
    assert (tmp_path / "int8" / "graph.dot").is_file() and "scale groups" in done.stderr
    for folder, score in ((foreign / "boxes", scores[0]), (tmp_path / "int8", scores[1])):
        again = run("evaluate", folder, "--data", data, "--json")
        assert again.exit_code == 0, again.output
        assert json.loads(again.stdout)["ap"] == score["ap"]
    refused = run("deploy", tmp_path / "int8", "--target", "host-onnx", "--out", tmp_path / "x.eyb",
                  "--require-licence", "permissive")  # fmt: skip
    assert refused.exit_code == 4 and "unknown" in refused.output


def test_what_needs_torch_or_cannot_be_quantized_is_said(foreign: Path, tmp_path: Path) -> None:
    data, out = foreign / "data", tmp_path / "int8"
    for flags in ({"qat": True}, {"max_drop": 1.0}, {"sensitivity": True}):
        with pytest.raises(UsageError, match="needs a network that torch computes"):
            verbs.quantize(foreign / "raw", data, out, options=verbs.QuantizeOptions(**flags))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="for 64 pixels"):
        verbs.quantize(foreign / "raw", data, out, options=verbs.QuantizeOptions(image_size=128))
    for name, asked in (("int8-output", "float_error and observer 'output'"), ("int8-depthwise", "float_error")):
        with pytest.raises(UsageError, match=rf"asks for {asked}: that needs a network of torch.*without that"):
            verbs.quantize(foreign / "raw", data, out, recipe=name)
    recipe = tmp_path / "none.toml"
    recipe.write_text('title = "none"\nobserver = "max"\nfloat_layers = ["*"]\n')
    with pytest.raises(QuantizationError, match=r"no layer of it can be quantized \(\d+ float"):
        verbs.quantize(foreign / "raw", data, out, recipe=str(recipe), options=verbs.QuantizeOptions(evaluate=False))
    assert not out.exists()


def test_an_onnx_file_and_what_was_made_of_it_are_shown(foreign: Path, tmp_path: Path) -> None:
    file = export_foreign(make_foreign(PointStyle), tmp_path / "detector.onnx", opset=11)
    unnamed = json.loads(run("inspect", file, "--json").stdout)
    assert (
        unnamed["opset"] == 11 and unnamed["outputs"] == {"output0": [1, 84, 11]} and unnamed["operators"]["Conv"] > 9
    )
    assert unnamed["model"] is None and "--names" in unnamed["refusal"]
    model = onnx.load(file)
    model.metadata_props.add(key="names", value=str(dict(enumerate("abcdef"))))
    model.metadata_props.add(key="license", value="AGPL-3.0 License (https://example.org)")
    file.write_bytes(model.SerializeToString())
    named = json.loads(run("inspect", file, "--json").stdout)
    assert named["model"]["class_names"] == list("abcdef") and named["model"]["origin"]["licence"] == "AGPL-3.0"
    assert named["model"]["decode"]["kind"] == "point" and not named["refusal"]
    shown = run("inspect", foreign / "boxes-int8", "--json")
    assert json.loads(shown.stdout)["model"]["decode"]["kind"] == "boxes" and "with scales" in shown.stderr
