from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from whole_way import PICTURES, TARGETS, WholeWay

from edgeyolo import verbs
from edgeyolo.bundle import open_bundle
from edgeyolo.runtime import Detector
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.strict import load_json


def test_the_quantized_folder_records_how_it_was_made(whole_way: WholeWay) -> None:
    record = load_json(whole_way.quantized / "model.json", ModelRecord)
    assert [score.artefact for score in record.scores] == ["float torch", "fake-quant torch"]
    assert record.tools["torch"]
    qparams = load_qparams(whole_way.quantized / "qparams.json")
    assert qparams.onnx_sha256 == record.onnx_sha256
    assert len(qparams.calibration.pictures) == 48
    floats = [name for name, layer in qparams.layers.items() if layer.precision == "float"]
    assert len(floats) == 3 and all(name.startswith("head") for name in floats)


@pytest.mark.parametrize("target", TARGETS)
def test_every_bundle_detects_the_same_objects_as_the_float_model(whole_way: WholeWay, target: str) -> None:
    """AP of an int8 bundle stays near the float one's, although the model was trained for seconds only."""
    deployed = verbs.evaluate(whole_way.bundles[target], whole_way.data, split="val")
    floating = verbs.evaluate(whole_way.run, whole_way.data, split="val")
    assert deployed.images == PICTURES["val"] and deployed.artefact.endswith("int8")
    assert abs(deployed.ap - floating.ap) < 2.0
    picture = next((whole_way.data).rglob("*.jpg"), None) or next(whole_way.data.rglob("*.png"))
    with Detector.load(whole_way.bundles[target], score_threshold=0.01) as detector:
        detections = detector.detect(cv2.imread(str(picture)))
    assert detections.boxes_xyxy.shape == (len(detections), 4)


def test_a_float_bundle_comes_straight_from_a_checkpoint(whole_way: WholeWay, tmp_path: Path) -> None:
    result = verbs.deploy(whole_way.run, "host-cpu", tmp_path / "float.eyb")
    assert result.manifest.artefact.precision == "fp32"
    deployed = verbs.evaluate(tmp_path / "float.eyb", whole_way.data, split="val")
    assert abs(deployed.ap - verbs.evaluate(whole_way.run, whole_way.data, split="val").ap) < 0.3
    with pytest.raises(UsageError, match=r"int8 needs qparams\.json"):
        verbs.deploy(whole_way.run, "host-cpu", tmp_path / "int8.eyb", precision="int8")
    assert not (tmp_path / "int8.eyb").exists()


def test_a_measured_score_is_recorded_in_the_bundle(whole_way: WholeWay, tmp_path: Path) -> None:
    verbs.deploy(whole_way.quantized, "host-onnx", tmp_path / "a.eyb", data=whole_way.data, split="test")
    score = verbs.evaluate(tmp_path / "a.eyb", whole_way.data, split="test", record=True)
    with open_bundle(tmp_path / "a.eyb") as bundle:
        assert bundle.manifest.scores[-1] == score
        assert [s.artefact for s in bundle.manifest.scores] == ["float torch", "fake-quant torch", "onnxruntime int8"]


def test_the_same_input_gives_the_same_bundle(whole_way: WholeWay, tmp_path: Path) -> None:
    again = verbs.deploy(whole_way.quantized, "host-cpu", tmp_path / "again.eyb")
    with open_bundle(whole_way.bundles["host-cpu"]) as bundle:
        assert bundle.manifest.sha256 == again.manifest.sha256


def test_other_classes_are_refused(whole_way: WholeWay, tmp_path: Path) -> None:
    other = tmp_path / "data.yaml"
    text = (whole_way.data / "data.yaml").read_text()
    first = load_json(whole_way.quantized / "model.json", ModelRecord).model.class_names[0]
    other.write_text(text.replace(first, "renamed", 1).replace("path: .", f"path: {whole_way.data}"))
    with pytest.raises(UsageError, match="renamed"):
        verbs.evaluate(whole_way.bundles["host-onnx"], other, split="val")
