from __future__ import annotations

from pathlib import Path

import pytest
from whole_way import PICTURES, TARGETS, WholeWay

from edgeyolo import verbs
from edgeyolo.bundle import open_bundle
from edgeyolo.data.dataset import open_dataset
from edgeyolo.evaluation import measure_drift
from edgeyolo.nn.fold import fold_model
from edgeyolo.runtime import Detector
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.strict import load_json
from edgeyolo.training.checkpoint import load_checkpoint
from edgeyolo.training.torch_session import TorchSession

LEAST_AP = 35.0  # of the float model, so that what quantization loses could show


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
    """AP of an int8 or mixed bundle stays near the float one's, and so do the objects that both report."""
    deployed = verbs.evaluate(whole_way.bundles[target], whole_way.data, split="val")
    floating = verbs.evaluate(whole_way.run, whole_way.data, split="val")
    precision = "mixed" if target == "raspberry-pi-5" else "int8"
    assert deployed.images == PICTURES["val"] and deployed.artefact.endswith(precision)
    assert floating.ap > LEAST_AP
    assert abs(deployed.ap - floating.ap) < 2.0
    loaded = load_checkpoint(whole_way.run)
    data = open_dataset(whole_way.data, "val")
    pictures = [(sample.image_id, sample.image) for sample in (data[i] for i in range(len(data)))]
    with (
        Detector(TorchSession(fold_model(loaded.model)), loaded.record.model) as reference,
        Detector.load(whole_way.bundles[target]) as shipped,
    ):
        drift = measure_drift(reference.detect, shipped.detect, pictures)
    assert drift.matched > sum(len(record.class_ids) for record in data.records) / 2
    assert drift.only_reference + drift.only_candidate <= 0.1 * drift.matched
    assert drift.mean_iou > 0.9


def test_a_float_bundle_comes_straight_from_a_checkpoint(whole_way: WholeWay, tmp_path: Path) -> None:
    result = verbs.deploy(whole_way.run, "host-ncnn", tmp_path / "float.eyb")
    assert result.manifest.artefact.precision == "fp32"
    deployed = verbs.evaluate(tmp_path / "float.eyb", whole_way.data, split="val")
    assert abs(deployed.ap - verbs.evaluate(whole_way.run, whole_way.data, split="val").ap) < 0.3
    with pytest.raises(UsageError, match=r"int8 needs qparams\.json"):
        verbs.deploy(whole_way.run, "host-ncnn", tmp_path / "int8.eyb", precision="int8")
    assert not (tmp_path / "int8.eyb").exists()


def test_a_measured_score_is_recorded_in_the_bundle(whole_way: WholeWay, tmp_path: Path) -> None:
    verbs.deploy(whole_way.quantized, "host-onnx", tmp_path / "a.eyb", data=whole_way.data, split="test")
    score = verbs.evaluate(tmp_path / "a.eyb", whole_way.data, split="test", record=True)
    with open_bundle(tmp_path / "a.eyb") as bundle:
        assert bundle.manifest.scores[-1] == score
        assert [s.artefact for s in bundle.manifest.scores] == ["float torch", "fake-quant torch", "onnxruntime int8"]


def test_the_same_input_gives_the_same_bundle(whole_way: WholeWay, tmp_path: Path) -> None:
    again = verbs.deploy(whole_way.quantized, "host-ncnn", tmp_path / "again.eyb")
    with open_bundle(whole_way.bundles["host-ncnn"]) as bundle:
        assert bundle.manifest.sha256 == again.manifest.sha256


def test_other_classes_are_refused(whole_way: WholeWay, tmp_path: Path) -> None:
    other = tmp_path / "data.yaml"
    text = (whole_way.data / "data.yaml").read_text()
    first = load_json(whole_way.quantized / "model.json", ModelRecord).model.class_names[0]
    other.write_text(text.replace(first, "renamed", 1).replace("path: .", f"path: {whole_way.data}"))
    with pytest.raises(UsageError, match="renamed"):
        verbs.evaluate(whole_way.bundles["host-onnx"], other, split="val")
