"""Thresholds through deploy and evaluate, on an int8 model whose scores were made to move."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner
from whole_way import WholeWay

from edgeyolo import verbs
from edgeyolo.bundle import open_bundle
from edgeyolo.cli.app import make_app
from edgeyolo.data.dataset import open_dataset
from edgeyolo.runtime import Detector
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.strict import encode_json


@pytest.fixture(scope="module")
def moved(whole_way: WholeWay, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quantized folder with ranges of the head's last hidden tensors that clip: scores fall."""
    folder = tmp_path_factory.mktemp("moved") / "int8"
    folder.mkdir()
    for path in whole_way.quantized.iterdir():
        write_file(folder / path.name, path.read_bytes())
    qparams = load_qparams(folder / "qparams.json")
    clipped = {layer.group for path, layer in qparams.layers.items() if path.startswith("head.transforms")}
    groups = {
        name: msgspec.structs.replace(group, scale=float(np.float32(group.scale * (0.3 if name in clipped else 1))))
        for name, group in qparams.groups.items()
    }
    write_file(folder / "qparams.json", encode_json(msgspec.structs.replace(qparams, groups=groups)))
    return folder


def manifest_of(bundle: Path) -> Manifest:
    with open_bundle(bundle) as opened:
        return opened.manifest


def test_deploy_finds_thresholds_that_the_bundle_uses(moved: Path, whole_way: WholeWay, tmp_path: Path) -> None:
    bundle = tmp_path / "moved.eyb"
    arguments = ["deploy", str(moved), "--target", "host-onnx", "--out", str(bundle), "--data", str(whole_way.data)]
    done = CliRunner().invoke(make_app(), [*arguments, "--score-threshold", "0.5"])
    assert done.exit_code == 0, done.output
    assert "with the precision of the float model at 0.5" in done.output
    transfer = manifest_of(bundle).transfer
    assert transfer is not None and (transfer.artefact, transfer.split) == ("onnxruntime int8", "val")
    at_float, at_same, at_ours = (
        getattr(transfer.overall, name).detections for name in ("float_model", "untransferred", "transferred")
    )
    assert at_same < at_float and abs(at_ours - at_float) < abs(at_same - at_float)

    data = open_dataset(whole_way.data, "val")
    found = {}
    for name, transferred in (("transferred", True), ("untransferred", False)):
        with Detector.load(bundle, transfer=transferred) as detector:
            found[name] = sum(len(detector.detect(data[i].image)) for i in range(len(data)))
    assert found == {"transferred": at_ours, "untransferred": at_same}
    told = json.loads(CliRunner().invoke(make_app(), ["inspect", str(bundle), "--json"]).stdout)
    assert told["transfer"]["score_threshold"] == told["score_threshold"] == 0.5
    assert "0.5 of the float model" in CliRunner().invoke(make_app(), ["inspect", str(bundle)]).output


def test_evaluate_finds_them_later_and_ap_is_what_it_was(moved: Path, whole_way: WholeWay, tmp_path: Path) -> None:
    """The float model is given as a folder, a checkpoint and a bundle, with the same outcome."""
    bundle = verbs.deploy(moved, "host-onnx", tmp_path / "moved.eyb").bundle
    verbs.deploy(whole_way.run, "host-onnx", tmp_path / "float.eyb")
    before = verbs.evaluate(bundle, whole_way.data)
    found = []
    for reference in (moved, whole_way.run, tmp_path / "float.eyb"):
        score = verbs.evaluate(bundle, whole_way.data, record=True, reference=reference, match="recall")
        assert score == before
        found.append(manifest_of(bundle).transfer)
    assert found[0] is not None and found[0].match == "recall"
    for other in found[1:]:
        assert other is not None and other.overall == found[0].overall
    arguments = ["evaluate", str(bundle), "--data", str(whole_way.data)]
    assert "with the recall of the float model at 0.25" in CliRunner().invoke(make_app(), arguments).output
    assert verbs.evaluate(bundle, whole_way.data) == before


def test_thresholds_that_cannot_be_transferred(whole_way: WholeWay, tmp_path: Path) -> None:
    int8, data = whole_way.bundles["host-onnx"], whole_way.data
    with pytest.raises(UsageError, match="--record too"):
        verbs.evaluate(int8, data, reference=whole_way.quantized)
    with pytest.raises(UsageError, match="need the float model"):
        verbs.evaluate(int8, data, record=True, match="f1")
    plain = verbs.deploy(whole_way.run, "host-onnx", tmp_path / "float.eyb", data=data, score_threshold=0.4)
    assert plain.manifest.transfer is None and plain.manifest.score_threshold == 0.4
    with pytest.raises(UsageError, match="is not int8"):
        verbs.evaluate(plain.bundle, data, record=True, reference=whole_way.quantized)
