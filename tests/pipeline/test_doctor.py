"""The calibration doctor through `quantize`: a refusal, going on all the same, and looking only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner
from whole_way import WholeWay

from edgeyolo.cli.app import make_app
from edgeyolo.spec.qparams import load_qparams


@pytest.fixture(scope="module")
def leaking(whole_way: WholeWay, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data with its validation pictures among those to train on, too."""
    data = tmp_path_factory.mktemp("leaking") / "data"
    shutil.copytree(whole_way.data, data)
    for path in (data / "images/val").iterdir():
        shutil.copy(path, data / "images/train" / f"also-{path.name}")
    return data


def quantize(whole_way: WholeWay, data: Path, *arguments: object) -> tuple[int, str, str]:
    words = ["quantize", whole_way.run, "--data", data, "--no-evaluate", "--recipe", "int8-max", *arguments]
    done = CliRunner().invoke(make_app(), [*map(str, words)])
    return done.exit_code, done.stdout, done.output


def test_what_would_spoil_scores_is_refused_unless_it_is_accepted(
    whole_way: WholeWay, leaking: Path, tmp_path: Path
) -> None:
    code, _, said = quantize(whole_way, leaking, "--out", tmp_path / "refused")
    assert code == 4 and "held-out: " in said and "--accept held-out" in said
    assert not (tmp_path / "refused").exists()
    code, told, _ = quantize(whole_way, leaking, "--out", tmp_path / "int8", "--accept", "held-out", "--json")
    assert code == 0
    (found,) = json.loads(told)["findings"]
    assert (found["fault"], found["verdict"]) == ("held-out", "accepted") and found["value"] > found["limit"]
    (kept,) = load_qparams(tmp_path / "int8" / "qparams.json").calibration.findings
    assert kept.fault == "held-out" and kept.value == found["value"]
    code, _, said = quantize(whole_way, leaking, "--out", tmp_path / "unseen", "--no-doctor")
    assert code == 0 and "held-out" not in said
    assert load_qparams(tmp_path / "unseen" / "qparams.json").calibration.findings == ()
    code, _, said = quantize(whole_way, leaking, "--out", tmp_path / "typo", "--accept", "heldout")
    assert code == 2 and "Did you mean 'held-out'?" in said


def test_it_can_look_only(whole_way: WholeWay, leaking: Path) -> None:
    before = {*Path().iterdir()}
    code, told, _ = quantize(whole_way, leaking, "--check-only", "--json")
    assert code == 4 and [found["fault"] for found in json.loads(told)["findings"]] == ["held-out"]
    code, _, said = quantize(whole_way, leaking, "--check-only", "--accept", "held-out")
    assert code == 0 and "Calibrate on the training split alone" in said
    code, _, said = quantize(whole_way, whole_way.data, "--check-only")
    assert code == 0 and "Nothing is wrong" in said
    assert {*Path().iterdir()} == before
    code, _, said = quantize(whole_way, whole_way.data)
    assert code == 2 and "Give --out, or --check-only" in said
