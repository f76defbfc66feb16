"""`quantize` with everything it can be asked for, on the model of the whole way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner
from whole_way import WholeWay

from edgeyolo import verbs
from edgeyolo.cli.app import make_app
from edgeyolo.data.dataset import open_dataset
from edgeyolo.spec.errors import OutputError, UnknownNameError, UsageError
from edgeyolo.spec.progress import SILENT
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.verbs import QuantizeOptions
from edgeyolo.verbs._quantize import Findings, find_sensitivity, open_job


def write_recipe(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def read_report(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


def test_the_report_has_a_row_for_every_engine(whole_way: WholeWay, tmp_path: Path) -> None:
    out = tmp_path / "int8"
    options = QuantizeOptions(report=True, sensitivity=True, sensitivity_groups=1, explain=True)
    result = verbs.quantize(whole_way.run, whole_way.data, out, recipe="int8-mse", options=options)
    report = read_report(out)
    names = [row["score"]["artefact"] for row in report["rows"]]
    assert names[:2] == ["float torch", "fake-quant torch"]
    also = ["openvino int8"] if find_spec("openvino") else []
    assert sorted(names[2:]) == ["ncnn fp16", "ncnn int8", "onnxruntime int8", *also]
    assert [score.artefact for score in result.scores] == names
    by_name = {row["score"]["artefact"]: row for row in report["rows"]}
    ncnn = by_name["ncnn int8"]
    deployed = verbs.evaluate(whole_way.bundles["host-ncnn"], whole_way.data, split="val")
    assert ncnn["score"]["ap"] == pytest.approx(deployed.ap, abs=0.05)
    assert ncnn["drop"] == pytest.approx(report["rows"][0]["score"]["ap"] - ncnn["score"]["ap"], abs=1e-3)
    assert 0 < ncnn["size_bytes"] < by_name["ncnn fp16"]["size_bytes"]  # int8 weights are half of float16 ones
    assert ncnn["latency"]["total_ms_median"] > 0
    assert all(found["maps"][0]["relative_rms"] < 0.1 for found in report["parity"])
    differing = {found["artefact"]: found["integers_differing"] for found in report["parity"]}
    assert 0 <= differing["onnxruntime int8"] < 0.2  # planted differences are counted in tests/export
    assert differing["ncnn int8"] is None
    fields = report["receptive_fields"]
    assert [field["stride"] for field in fields] == [8, 16, 32]
    assert all(field["stride"] < field["effective_px"] < field["theoretical_hw"][0] for field in fields)
    assert len(report["object_sides_px"]) == 3
    layers = load_qparams(out / "qparams.json").layers
    assert [row["path"] for row in report["signal"]] == list(layers)
    rows = report["sensitivity"]["rows"]
    assert len(rows) == report["groups"] and rows[0]["map_float"] is not None and rows[1]["map_float"] is None
    assert {row["artefact"] for row in report["transfers"]} == {name for name in names[2:] if name.endswith("int8")}
    for row in report["transfers"]:
        assert row["overall"]["float_model"]["right"] > 0 and set(row["maps"]) == set(report["model"]["class_names"])
    html = (out / "report.html").read_text()
    assert 'id="thresholds"' in html and "F1 of float and int8" in html
    assert all(name in html for name in names) and "http" not in html.replace("http://www.w3.org", "")
    assert "scale groups" in result.explanation and "head output" in result.explanation
    assert (out / "graph.dot").read_text().startswith("digraph") and (out / "sensitivity.png").stat().st_size > 1000
    assert not Path(f"{out}.work").exists()


def test_a_budget_keeps_layers_float_until_the_artefact_holds_it(whole_way: WholeWay, tmp_path: Path) -> None:
    """Weights of two bits ruin the model; half of its accuracy is asked back."""
    recipe = write_recipe(tmp_path / "two-bits.toml", "title = 'two bits'\nweight_bits = 2\nweight_bits_3x3 = 2\n")
    float_ap = verbs.evaluate(whole_way.run, whole_way.data, split="val").ap
    assert float_ap > 20, "the model of the whole way has learnt too little to lose anything"
    out, allowed = tmp_path / "mixed", float_ap / 2
    options = QuantizeOptions(report=True, max_drop=allowed, target="host-onnx")
    result = verbs.quantize(whole_way.run, whole_way.data, out, recipe=recipe, options=options)
    trail = read_report(out)["budget"]
    assert trail["is_met"] and trail["steps"][0]["groups"] == [] and trail["steps"][0]["drop"] > allowed
    shipped = next(score for score in result.scores if score.artefact == "onnxruntime int8")
    assert float_ap - shipped.ap <= allowed + 0.01
    assert result.layers["float"] > 3 and result.layers["int8"] > 0
    whys = {layer.why for layer in load_qparams(out / "qparams.json").layers.values()}
    assert "floated: to meet the accuracy budget" in whys


def test_a_budget_that_cannot_be_met_exits_with_four(whole_way: WholeWay, tmp_path: Path) -> None:
    """Only one scale group may be int8, of two bits at the picture itself; one group always stays."""
    lines = ["title = 'two bits at the picture'", "weight_bits = 2", "weight_bits_3x3 = 2"]
    others = ["backbone.stages.*", "neck.*", "head.*"]
    recipe = write_recipe(tmp_path / "stem.toml", "\n".join([*lines, f"float_layers = {others}"]))
    out = tmp_path / "out"
    arguments = ["quantize", str(whole_way.run), "--data", str(whole_way.data), "--out", str(out), "--no-report"]
    done = CliRunner().invoke(make_app(), [*arguments, "--recipe", recipe, "--max-drop", "2", "--target", "host-onnx"])
    assert done.exit_code == 4, done.output
    assert "AP at best, over the 2.0 allowed" in done.output
    assert (out / "model.onnx").is_file()
    int8 = [path for path, layer in load_qparams(out / "qparams.json").layers.items() if layer.precision == "int8"]
    assert int8 and all(path.startswith("backbone.stem.0") for path in int8)


def test_training_on_leaves_a_model_that_is_never_worse(whole_way: WholeWay, tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path / "short.toml",
        "title = 'short'\nweight_bits = 3\nweight_bits_3x3 = 3\n[qat]\nepochs = 2\nlearning_rate = 1e-3\n",
    )
    out = tmp_path / "qat"
    options = QuantizeOptions(report=True, qat=True)
    result = verbs.quantize(whole_way.run, whole_way.data, out, recipe=recipe, options=options)
    history = read_report(out)["qat"]
    assert len(history["epochs"]) == 2
    fake = next(score for score in result.scores if score.artefact == "fake-quant torch")
    assert fake.ap >= history["start_ap"] - 1e-6
    assert load_qparams(out / "qparams.json").calibration.method == ("qat" if history["best_epoch"] else "ptq")
    assert not Path(f"{out}.work").exists()


def test_two_processes_train_and_one_of_them_writes_and_speaks(whole_way: WholeWay, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "short.toml", "title = 'short'\ncount = 4\n[qat]\nepochs = 1\n")
    out = tmp_path / "qat"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "edgeyolo"]
    what = ["quantize", str(whole_way.run), "--data", str(whole_way.data), "--out", str(out), "--recipe", str(recipe)]
    done = subprocess.run(
        [*launch, *what, "--qat", "--no-report", "--json"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["folder"] == str(out) and len(said["scores"]) == 2
    assert load_qparams(out / "qparams.json").calibration.count == 4
    assert done.stderr.count("Next: edgeyolo deploy") == 1
    assert not Path(f"{out}.work").exists()


def test_a_folder_with_other_things_is_left_as_it_is(whole_way: WholeWay, tmp_path: Path) -> None:
    """The obvious slip: the folder of the training instead of one beside it."""
    run = tmp_path / "cells"
    shutil.copytree(whole_way.run, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for source, out in ((run, run), (run / "best.safetensors", run), (whole_way.run, run), (run, tmp_path)):
        with pytest.raises(OutputError, match=r"which is read|would be lost"):
            verbs.quantize(source, whole_way.data, out, options=QuantizeOptions(evaluate=False))
    arguments = ["quantize", str(run / "best.safetensors"), "--data", str(whole_way.data), "--out", str(run)]
    assert CliRunner().invoke(make_app(), arguments).exit_code == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    work = tmp_path / "int8.work"
    work.mkdir()
    (work / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match=r"letter\.txt"):
        verbs.quantize(run, whole_way.data, tmp_path / "int8", options=QuantizeOptions(evaluate=False))
    assert (work / "letter.txt").exists() and not (tmp_path / "int8").exists()


def test_choices_are_not_made_on_the_split_that_is_reported(
    whole_way: WholeWay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of QAT and layers of the budget go by val; the scores are of test."""
    import edgeyolo.quantization.recover.qat as qat
    from edgeyolo.verbs import _artefacts

    seen = set()
    real_train, real_measure = qat.train_quantized, _artefacts.measure_built

    def train_quantized(start: Any, *args: Any, **kwargs: Any) -> Any:
        seen.add(("qat", start.val_data.split))
        return real_train(start, *args, **kwargs)

    def measure_built(folder: Path, target: str, precision: Any, dataset: Any, **kwargs: Any) -> Any:
        seen.add(("budget", dataset.split))
        return real_measure(folder, target, precision, dataset, **kwargs)

    monkeypatch.setattr(qat, "train_quantized", train_quantized)
    monkeypatch.setattr(_artefacts, "measure_built", measure_built)
    recipe = write_recipe(tmp_path / "short.toml", "title = 'short'\n[qat]\nepochs = 1\n")
    options = QuantizeOptions(qat=True, max_drop=100, target="host-onnx", split="test")
    result = verbs.quantize(whole_way.run, whole_way.data, tmp_path / "out", recipe=recipe, options=options)
    assert seen == {("qat", "val"), ("budget", "val")}
    assert {score.split for score in result.scores} == {"test"}
    report = read_report(tmp_path / "out")
    assert report["chosen_on"] == "val"
    assert [row["score"]["split"] for row in report["rows"]] == ["test"] * len(result.scores) + ["val"]
    assert "Chosen on split val" in (tmp_path / "out" / "report.html").read_text()


def test_without_a_val_split_part_of_train_is_held_out(whole_way: WholeWay, tmp_path: Path) -> None:
    shutil.copytree(whole_way.data, tmp_path / "data")
    index = (tmp_path / "data" / "data.yaml").read_text()
    (tmp_path / "data" / "data.yaml").write_text(index.replace("val: images/val\n", ""))
    job = open_job(whole_way.run, tmp_path / "data", tmp_path / "out", "int8-mse", QuantizeOptions(), SILENT)
    trained, chosen = ({r.image_id for r in data.records} for data in (job.train_data, job.choice_data))
    assert chosen and not chosen & trained
    assert trained | chosen == {r.image_id for r in open_dataset(whole_way.data, "train").records}
    assert job.scored_data.split == "test"
    job = open_job(whole_way.run, whole_way.data, tmp_path / "out", "int8-mse", QuantizeOptions(), SILENT)
    assert job.scored_data is job.choice_data and job.choice_data.split == "val"


def test_what_was_measured_before_labels_changed_is_not_used(
    whole_way: WholeWay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted sensitivity analysis keeps its mAP in a file that knows its data by every label."""
    import edgeyolo.quantization.study.sensitivity as module

    seen: list[str] = []
    monkeypatch.setattr(module, "measure_sensitivity", lambda *_, by_map, **options: seen.append(by_map.data))
    shutil.copytree(whole_way.data, tmp_path / "data")
    label = next(path for path in sorted((tmp_path / "data/labels/val").iterdir()) if path.read_text())
    first = label.read_text()
    for text in (first, first, first + "0 0.5 0.5 0.1 0.1\n", first):
        label.write_text(text)
        job = open_job(
            whole_way.run, tmp_path / "data", tmp_path / "out", "int8-mse", QuantizeOptions(sensitivity=True), SILENT
        )
        quantized = SimpleNamespace(on=lambda _: None)
        find_sensitivity(job, Findings(quantized=quantized))  # type: ignore[arg-type]
    assert seen[0] == seen[1] == seen[3] != seen[2]


def test_options_that_cannot_be_used(whole_way: WholeWay, tmp_path: Path) -> None:
    for options, error, said in (
        (QuantizeOptions(max_drop=-1), UsageError, "max_drop is -1"),
        (QuantizeOptions(max_drop=1, target="jetson-nano"), UsageError, "no int8"),
        (QuantizeOptions(max_drop=1, target="host-cup"), UnknownNameError, "host-cpu"),
        (QuantizeOptions(sensitivity_groups=-1), UsageError, "at least 0"),
    ):
        with pytest.raises(error, match=said):
            verbs.quantize(whole_way.run, whole_way.data, tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()
