"""The whole way at a board with an emulated ARM core: an environment made once, figures back, a bundle in its place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeyolo import verbs
from edgeyolo.spec.benchmark import BenchRecord
from edgeyolo.spec.provenance import sha256_of

REQUIREMENTS = Path(__file__).parents[1] / "arm/requirements.txt"
SECONDS = 600


@pytest.fixture
def bundle(model_folder: Path, tmp_path: Path) -> Path:
    """For a Raspberry Pi 4, in float32."""
    return verbs.deploy(model_folder, "raspberry-pi-4", tmp_path / "cells.eyb", precision="fp32").bundle


def test_bench_and_deploy_on_an_emulated_arm_board(board, python_on_arm: Path, bundle: Path, tmp_path: Path) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("".join(line.split(" ")[0] + "\n" for line in REQUIREMENTS.read_text().splitlines()))

    def run(verb: str, *options: object, **environment: str) -> subprocess.CompletedProcess[str]:
        how = ["--host", board.name, "--ssh-config", board.ssh_config, "--board-python", python_on_arm, "--json"]
        command = [sys.executable, "-m", "edgeyolo", verb, bundle, *options, *how]
        variables = os.environ | {"PIP_CONSTRAINT": str(pins)} | environment
        return subprocess.run(
            [*map(str, command)], env=variables, capture_output=True, text=True, check=False, timeout=SECONDS
        )

    first = run("bench", "--runs", "2", "--warmup", "1")
    assert first.returncode == 0, first.stderr
    (record,) = json.loads(first.stdout)["boards"]
    assert (record["host"], record["machine"]["machine"], record["target"]) == ("board", "aarch64", "raspberry-pi-4")
    assert record["engine"].startswith("ncnn 1.") and record["bundle_sha256"] == sha256_of(bundle)
    assert record["spread"]["total"]["median_ms"] >= record["spread"]["network"]["median_ms"] > 0
    assert set(record) - {"host"} == set(BenchRecord.__struct_fields__)

    environment = board.home / ".cache/edgeyolo/boards/unpacked"
    made = {path: path.stat().st_ctime_ns for path in environment.iterdir()}
    assert len(made) > 10
    # The second time, neither is the index asked nor anything unpacked.
    second = run("deploy", PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_NO_INDEX="1")
    assert second.returncode == 0, second.stderr
    assert {path: path.stat().st_ctime_ns for path in environment.iterdir()} == made
    (installed,) = json.loads(second.stdout)["boards"]
    assert installed["path"] == str(board.home / "edgeyolo-bundles/cells.eyb")
    assert Path(installed["path"]).read_bytes() == bundle.read_bytes()
