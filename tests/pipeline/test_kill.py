from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from whole_way import WholeWay

from edgeyolo.bundle import open_bundle
from edgeyolo.spec.qparams import load_qparams


def kill_after(command: list[str], seconds: float, place: Path) -> bool:
    """Run a command in `place`, kill it after some time; whether it had finished before."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeyolo", *command], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(seconds)
    finished = process.poll() is not None
    process.kill()
    process.wait()
    return finished


@pytest.mark.parametrize("verb", ["quantize", "deploy"])
def test_kill_leaves_a_whole_output_or_none(whole_way: WholeWay, tmp_path: Path, verb: str) -> None:
    """Killed at several moments, the last of them when the output has just appeared."""
    out = tmp_path / ("out" if verb == "quantize" else "out.eyb")
    command = {
        "quantize": ["quantize", str(whole_way.run), "--data", str(whole_way.data), "--out", str(out)],
        "deploy": ["deploy", str(whole_way.quantized), "--target", "host-cpu", "--out", str(out)],
    }[verb]
    for seconds in (0.4, 1.0, 2.0, 4.0, 6.0):
        kill_after(command, seconds, tmp_path)
        if not out.exists():
            continue
        if verb == "quantize":
            assert load_qparams(out / "qparams.json").layers
            assert (out / "model.onnx").exists() and (out / "model.json").exists()
        else:
            with open_bundle(out) as bundle:
                assert bundle.manifest.artefact.engine == "ncnn"
    subprocess.run([sys.executable, "-m", "edgeyolo", *command], check=True, capture_output=True)
    assert out.exists()
