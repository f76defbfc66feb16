"""What a simulator gave is called simulated wherever it is shown, and its time is shown nowhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from edgeyolo import models, verbs
from edgeyolo.bundle import rewrite_manifest
from edgeyolo.bundle.reader import read_manifest
from edgeyolo.cli.app import make_app
from edgeyolo.cli.demo import _list_bundles
from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.report.quantization import QuantizationReport
from edgeyolo.spec.figure import ScoreboardRow
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.checkpoint import CheckpointRecord, save_checkpoint

NAME = "rknn int8 (simulated)"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("drawn") / "data", {"train": 3, "val": 2, "test": 1}, image_hw=(64, 64))


def test_scores_and_inspect(npu_bundle: Path, data: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copy(npu_bundle, tmp_path))
    manifest = read_manifest(bundle)
    named = msgspec.structs.replace(manifest.model, class_names=open_dataset(data, "val").class_names)
    rewrite_manifest(bundle, msgspec.structs.replace(manifest, model=named))
    score = verbs.evaluate(bundle, data, record=True)
    assert (score.artefact, score.kind) == (NAME, "simulated")
    assert read_manifest(bundle).scores[-1] == score
    shown = CliRunner().invoke(make_app(), ["inspect", str(bundle)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0 and NAME in shown.output and f"{score.ap:.2f} (simulated)" in shown.output
    told = CliRunner().invoke(make_app(), ["inspect", str(bundle), "--json"])
    (row,) = msgspec.convert(json.loads(told.stdout)["scoreboard"], list[ScoreboardRow])
    assert row.engine.split()[0] == "rknn" and row.target == "rockchip-rk3588-npu"
    assert (row.ap.kind, row.ap.value, row.size.kind, row.costs) == ("simulated", score.ap, "measured", ())


def test_report_and_demo(toolkit: Path, data: Path, tmp_path: Path) -> None:
    class_names = open_dataset(data, "val").class_names
    model = models.create("yolov7-nano", len(class_names))
    spec = ModelSpec(
        name="yolov7-nano",
        activation=model.config.activation,
        class_names=class_names,
        input=model.make_input_spec((64, 64)),
        decode=model.decode,
    )
    record = CheckpointRecord(model=spec, config=TrainConfig(model=spec.name), data="none", epoch=1)
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_checkpoint(tmp_path / "random.safetensors", weights, record)
    verbs.quantize(tmp_path / "random.safetensors", data, tmp_path / "int8", recipe="int8-max")
    rows = {row.score.artefact: row for row in load_json(tmp_path / "int8" / "report.json", QuantizationReport).rows}
    assert rows[NAME].score.kind == "simulated" and rows[NAME].latency is None and rows[NAME].size_bytes
    assert rows["onnxruntime int8"].score.kind == "measured" and rows["onnxruntime int8"].latency
    hosts, bundles = _list_bundles()
    assert bundles["rockchip-rk3588-npu int8 (simulated)"] == ("rockchip-rk3588-npu", "int8")
    assert "rockchip-rk3588-npu" not in hosts
