"""`bench --tune` on the bundle of the whole way: what it tries is really run, and what it writes is really used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner
from whole_way import WholeWay

from edgeyolo import verbs
from edgeyolo.backends import Session, load_engine, open_artefact
from edgeyolo.backends.ncnn.files import parse_param
from edgeyolo.backends.ncnn.mixed import int8_layer_names
from edgeyolo.bundle import open_bundle, rewrite_manifest
from edgeyolo.bundle.reader import read_manifest
from edgeyolo.bundle.tuned import as_deployed
from edgeyolo.cli.app import make_app
from edgeyolo.runtime import Detector
from edgeyolo.runtime.race import Verdict
from edgeyolo.runtime.tuner import tune
from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.machine import machine_here
from edgeyolo.spec.tuning import Choice, Setup

PICTURE = np.random.default_rng(0).integers(0, 256, (160, 160, 3)).astype(np.uint8)


@pytest.fixture
def bundle(whole_way: WholeWay, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole_way.bundles["host-ncnn"], tmp_path / "tuned.eyb"))


def let_every_challenger_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the clock out: every choice runs, and every one is 10 % faster."""

    def won(holder: object, challenger: object, **_: object) -> Verdict:
        for run in (holder, challenger):
            assert callable(run)
            run()
        return Verdict(0.9, 0.89, 0.91, 8, 10.0, 9.0, is_faster=True)

    for name in ("race", "measure"):
        monkeypatch.setattr(f"edgeyolo.runtime.tuner.{name}", won)


def test_tuning_on_data_holds_the_budget_and_keeps_the_files(whole_way: WholeWay, bundle: Path) -> None:
    deployed = read_manifest(bundle)
    before = verbs.evaluate(bundle, whole_way.data, split="val").ap
    arguments = ["bench", str(bundle), "--tune", "--data", str(whole_way.data), "--max-drop", "1", "--runs", "3"]
    done = CliRunner().invoke(make_app(), [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    tuning = json.loads(done.stdout)["tuning"]
    manifest = read_manifest(bundle)
    assert manifest.tuning is not None and len(manifest.tuning.rows) == len(tuning["rows"]) > 15
    assert tuning["default_ap"] == pytest.approx(before, abs=0.01)
    after = verbs.evaluate(bundle, whole_way.data, split="val").ap
    assert tuning["tuned_ap"] == pytest.approx(after, abs=0.01) and before - after <= 1.0
    assert manifest.sha256 == deployed.sha256 and as_deployed(manifest) == deployed
    assert any(row["kept"] for row in tuning["rows"]) or tuning["ratio"] == tuning["ratio_high"] == 1.0
    shown = CliRunner().invoke(make_app(), ["inspect", str(bundle)])
    assert shown.exit_code == 0 and "tuned" in shown.output


def test_everything_that_can_be_chosen_runs_and_detects_the_same(
    whole_way: WholeWay, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All choices at once: threads, every option turned, every layer in float."""
    let_every_challenger_win(monkeypatch)
    tune(bundle, [PICTURE], score=lambda session: 50.0)
    manifest = read_manifest(bundle)
    assert manifest.tuning is not None and all(row.kept for row in manifest.tuning.rows)
    assert all(row.map_difference < 0.2 for row in manifest.tuning.rows)
    with open_bundle(bundle) as opened:
        param = opened.folder / manifest.artefact.files["param"]
        int8 = int8_layer_names(parse_param(param.read_text(), where=param))
    assert set(manifest.artefact.float_layers) == set(int8) and manifest.threads == 1
    deployed = verbs.evaluate(whole_way.bundles["host-ncnn"], whole_way.data, split="val").ap
    assert verbs.evaluate(bundle, whole_way.data, split="val").ap == pytest.approx(deployed, abs=3)
    with Detector.load(bundle) as detector:
        detector.detect(cv2.imread(str(next(whole_way.data.rglob("*.jpg")))))


def test_a_mixed_bundle_is_tuned_from_what_its_costs_chose(
    whole_way: WholeWay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that run in float for their cost stay so; every other one may follow them."""
    board, mixed = tmp_path / "board.toml", tmp_path / "mixed.eyb"
    board.write_text('title = "x"\nengine = "ncnn"\nprecisions = ["mixed"]\ncore = "cortex-a72"\n')
    verbs.deploy(whole_way.quantized, str(board), mixed)
    deployed = read_manifest(mixed)
    assert deployed.artefact.choice is not None
    runs = {name: cost.runs for name, cost in deployed.artefact.choice.layers.items()}
    assert {"int8", "fp32"} <= set(runs.values())
    let_every_challenger_win(monkeypatch)
    tuned = tune(mixed, [PICTURE], score=lambda session: 50.0)
    still_int8 = {name for name, precision in runs.items() if precision == "int8"}
    assert still_int8 <= set(tuned.artefact.float_layers) and as_deployed(tuned) == deployed
    assert not set(tuned.artefact.float_layers) & {name for name in runs if name not in still_int8}
    with open_bundle(mixed) as opened:
        artefact = msgspec.structs.replace(tuned.artefact, float_layers=())
        sessions = [open_artefact(opened.folder, one, tuned.model, threads=1) for one in (artefact, tuned.artefact)]
        before, after = (session.run(np.full((1, 3, 128, 128), 0.5, np.float32)) for session in sessions)
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_budget_that_nothing_meets_leaves_the_bundle_as_deployed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_every_challenger_win(monkeypatch)
    scores = iter([50.0])  # the first is of the bundle as deployed

    def score(session: Session) -> float:
        return next(scores, 40.0)

    before = read_manifest(bundle)
    tuned = tune(bundle, [PICTURE], score=score, max_drop=0.5)
    assert as_deployed(tuned) == before and tuned.artefact == before.artefact and tuned.threads == before.threads
    assert tuned.tuning is not None and tuned.tuning.ratio == 1.0 and tuned.tuning.tuned_ap == 50.0
    assert all("taken back: 10.00 AP" in row.why and not row.kept for row in tuned.tuning.rows)


def test_a_choice_that_loses_the_last_race_is_taken_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_every_challenger_win(monkeypatch)
    lost = Verdict(1.0, 0.89, 1.01, 24, 10.0, 9.0, is_faster=False)
    monkeypatch.setattr("edgeyolo.runtime.tuner.measure", lambda holder, challenger: lost)
    before = read_manifest(bundle)
    tuned = tune(bundle, [PICTURE], score=lambda session: 50.0)
    assert tuned.artefact == before.artefact and tuned.threads == before.threads
    assert tuned.scores == before.scores and tuned.latency == before.latency
    assert tuned.tuning is not None and tuned.tuning.ratio == 1.0
    assert not any(row.kept for row in tuned.tuning.rows)
    assert "in the last race" in tuned.tuning.rows[0].why


def test_other_numbers_are_not_taken_without_data(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_every_challenger_win(monkeypatch)
    monkeypatch.setattr("edgeyolo.runtime.tuner.MAX_DIFFERENCE", 1e-9)
    tuned = tune(bundle, [PICTURE])
    assert tuned.tuning is not None
    for row in tuned.tuning.rows:
        assert row.kept == (row.map_difference <= 1e-9) and ("give data" in row.why) == (not row.kept)
    assert any(row.kept for row in tuned.tuning.rows) and any(not row.kept for row in tuned.tuning.rows)


def test_int8_is_never_offered_the_winograd_that_overflows(bundle: Path) -> None:
    with open_bundle(bundle) as opened:
        choices = load_engine("ncnn").tuning_choices(opened.folder, opened.manifest.artefact)
    assert choices and all(dict(choice.options).get("use_winograd43_convolution") is not True for choice in choices)


def test_what_cannot_be_tuned(whole_way: WholeWay, bundle: Path) -> None:
    with pytest.raises(UsageError, match="nothing to tune for engine onnxruntime"):
        tune(whole_way.bundles["host-onnx"], [PICTURE])
    with pytest.raises(UsageError, match="no picture"):
        tune(bundle, [])
    with pytest.raises(UsageError, match="max_drop is -1"):
        tune(bundle, [PICTURE], max_drop=-1)
    done = CliRunner().invoke(make_app(), ["bench", str(bundle), "--data", str(whole_way.data)])
    assert done.exit_code == 2 and "--data is for --tune" in done.output
    done = CliRunner().invoke(make_app(), ["bench", str(bundle), "--tune"])
    assert done.exit_code == 2 and "Give --data" in done.output, "noise is no picture to compare numbers on"


def test_a_bundle_for_another_kind_of_computer_is_not_tuned_here(whole_way: WholeWay, tmp_path: Path) -> None:
    board = Path(shutil.copy(whole_way.bundles["raspberry-pi-5"], tmp_path / "board.eyb"))
    before = read_manifest(board)
    if before.machine == machine_here():
        pytest.skip("this computer is of the board's kind")
    with pytest.raises(UsageError, match=r"raspberry-pi-5 \(aarch64\).*on the board"):
        tune(board, [PICTURE])
    assert read_manifest(board) == before


def test_another_device_runs_a_tuned_bundle_as_it_was_deployed(
    whole_way: WholeWay, bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    verbs.evaluate(bundle, whole_way.data, split="val", record=True)
    deployed = read_manifest(bundle)
    let_every_challenger_win(monkeypatch)
    tuned = tune(bundle, [PICTURE], score=lambda session: 50.0)
    with Detector.load(bundle) as detector:
        assert detector.manifest == tuned
    own = [score for score in deployed.scores if score.artefact == "ncnn int8"]
    assert own and not [score for score in tuned.scores if score.artefact == "ncnn int8"]
    assert tuned.tuning is not None and list(tuned.tuning.default_scores) == own

    monkeypatch.setattr("edgeyolo.bundle.tuned.processor_name", lambda: "another processor")
    with Detector.load(bundle) as detector:
        assert detector.manifest == as_deployed(tuned) == deployed
    assert "it runs as it was deployed" in caplog.text
    score = verbs.evaluate(bundle, whole_way.data, split="test", record=True)
    recorded = read_manifest(bundle)
    assert recorded.scores == tuned.scores and recorded.artefact == tuned.artefact
    assert recorded.tuning is not None and recorded.tuning.default_scores[-1] == score


def test_a_manifest_that_names_a_layer_which_is_not_there(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    artefact = msgspec.structs.replace(manifest.artefact, float_layers=("nowhere",))
    rewrite_manifest(bundle, msgspec.structs.replace(manifest, artefact=artefact))
    with pytest.raises(UnknownNameError, match="nowhere"):
        Detector.load(bundle)


def test_a_choice_changes_only_what_it_says() -> None:
    setup = Setup({"a": True, "b": 1}, threads=4, float_layers=("x",))
    assert Choice("t", threads=2).change(setup) == Setup({"a": True, "b": 1}, 2, ("x",))
    assert Choice("o", (("a", False),)).change(setup) == Setup({"a": False, "b": 1}, 4, ("x",))
    assert Choice("l", float_layers=("x", "y")).change(setup) == Setup({"a": True, "b": 1}, 4, ("x", "y"))
