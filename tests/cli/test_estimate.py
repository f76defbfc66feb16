"""`edgeyolo estimate` and `models --target`: what they say, what they rest on, and what they refuse."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeyolo import backends, models, verbs
from edgeyolo.backends.engine import Ruler
from edgeyolo.cli.console import Console
from edgeyolo.cli.models import models as list_models
from edgeyolo.latency import list_boards
from edgeyolo.spec.errors import MissingPackageError, UsageError
from edgeyolo.spec.latency import EstimateOptions, ModelsOptions

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytest.importorskip("ncnn", reason="the network is timed by ncnn")


def test_it_says_for_every_board_from_when_to_when(run: Run, model_folder: Path, tmp_path: Path) -> None:
    plot = tmp_path / "ranges.png"
    done = run("estimate", model_folder, "--all", "--plot", plot, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    on_processors = [one for one in said["estimates"] if one["method"] == "timed here"]
    left_out = {note.split()[0] for note in said["notes"] if " is left out: " in note}
    assert {one["board"] for one in said["estimates"]} | left_out == set(list_boards())
    assert left_out == {name for name in list_boards() if name.endswith("npu")}  # in fp16 nothing is published
    assert said["estimates"] == sorted(said["estimates"], key=lambda one: one["middle_ms"])
    for one in on_processors:
        assert one["rests_on"] == ["measured", "counted", "published"] and one["kind"] == "estimated"
        assert 0 < one["low_ms"] < one["middle_ms"] < one["high_ms"]
    assert said["here"]["here_ms"] > 0 and plot.read_bytes().startswith(b"\x89PNG")
    assert "Raspberry Pi 5" in done.stderr and "once you have the board" in done.stderr


def test_a_bundle_is_for_its_own_board(model_folder: Path, tmp_path: Path) -> None:
    """What a bundle computes is what the folder that it was built from does."""
    verbs.deploy(model_folder, "raspberry-pi-4", tmp_path / "cells.eyb")
    found = verbs.estimate(tmp_path / "cells.eyb", EstimateOptions(measure=False))
    same = verbs.estimate(model_folder, EstimateOptions(board=("raspberry-pi-4",), measure=False))
    assert found.estimates == same.estimates and found.gflops == same.gflops > 0
    (one,) = found.estimates
    assert (one.board, one.precision, one.method, found.here) == ("raspberry-pi-4", "fp16", "by layers", None)
    with pytest.raises(UsageError, match="the bundle is in fp16, not in int8"):
        verbs.estimate(tmp_path / "cells.eyb", EstimateOptions(precision="int8"))


def test_what_cannot_run_here_is_estimated_by_its_layers(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(engine: object) -> dict[str, Ruler]:
        raise MissingPackageError("ncnn", needed_for="timing", install="pip install ncnn")

    monkeypatch.setattr(type(backends.load_engine("ncnn")), "open_rulers", refuse)
    found = verbs.estimate(model_folder, EstimateOptions(board=("raspberry-pi-5",)))
    assert found.here is None and found.estimates[0].method == "by layers"
    assert "It was not timed here" in found.notes[0] and "'ncnn' is needed" in found.notes[0]


def test_what_says_too_little_is_refused(model_folder: Path, bundle: Path) -> None:
    with pytest.raises(UsageError, match="an artefact of onnxruntime does not say what it computes") as error:
        verbs.estimate(bundle, EstimateOptions(board=("raspberry-pi-5",)))
    assert error.value.where == str(bundle) and "quantize" in error.value.hint
    with pytest.raises(UsageError, match=r"no board is given.*raspberry-pi-5"):
        verbs.estimate(model_folder)
    with pytest.raises(UsageError, match=r"int8 needs qparams\.json"):
        verbs.estimate(model_folder, EstimateOptions(board=("raspberry-pi-5",), precision="int8"))
    with pytest.raises(UsageError, match="too little is published"):
        verbs.estimate(model_folder, EstimateOptions(board=("rockchip-rk3588-npu",)))


def test_a_model_by_its_name_is_one_of_the_list() -> None:
    found = verbs.estimate(Path("yolox-nano"), EstimateOptions(board=("raspberry-pi-5", "rockchip-rk3588-npu")))
    assert {one.board: (one.method, one.precision) for one in found.estimates} == {
        "raspberry-pi-5": ("by layers", "int8"),
        "rockchip-rk3588-npu": ("interpolated", "int8"),
    }
    assert found.here is None and found.gflops == pytest.approx(
        1.08, rel=0.05
    )  # its authors count more than convolutions


def test_models_are_sorted_by_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    known = ["yolov8n", "yolov7-nano", "yolox-nano"]
    infos = [models.measure_model(name) for name in known]
    monkeypatch.setattr(models, "list_models", lambda: infos)
    list_models(Console(json=True), ModelsOptions(target="raspberry-pi-5"))
    said = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in said] == ["yolox-nano", "yolov7-nano", "yolov8n"]
    assert all(one["estimate"]["low_ms"] < one["estimate"]["high_ms"] for one in said)
    list_models(Console(json=True), ModelsOptions())
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == known
