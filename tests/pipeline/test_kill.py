"""A process that is killed leaves its output whole or not there, at whichever moment it dies."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from whole_way import WholeWay

from edgeyolo.bundle import open_bundle
from edgeyolo.spec.qparams import load_qparams

# Runs the command line and kills its own process at a moment of the writing of OUT, as `kill -9` would:
# "half": the second file since something beside OUT was begun is about to be opened; "written": all is there but the
# rename; "renamed": whatever comes first after it.
KILLED = """
import os, signal, sys
out, moment, sys.argv[1:] = sys.argv[1], sys.argv[2], sys.argv[3:]
opened, now = 0, ""
def watch(event, args):
    global opened, now
    if event == "os.kill":
        return
    names = [os.fspath(name) for name in args[:2] if isinstance(name, (str, os.PathLike))] or [""]
    is_rename = event == "os.rename" and names[-1] == out
    if now == moment or (is_rename and moment == "written"):
        os.kill(os.getpid(), signal.SIGKILL)
    if is_rename:
        now = "renamed"
    elif event in ("open", "os.mkdir") and (opened or names[0].startswith(out + ".tmp-")):
        opened += 1
        now = "half" if opened == 2 else now
sys.addaudithook(watch)
from edgeyolo.cli.app import main
main()
"""


def run_until(moment: str, out: Path, command: list[str]) -> int:
    """Exit code of the command, which kills itself at `moment`; "never" lets it end."""
    arguments = [sys.executable, "-c", KILLED, str(out), moment, *command]
    return subprocess.run(arguments, cwd=out.parent, capture_output=True, check=False).returncode


def check_whole(out: Path) -> None:
    if out.is_dir():
        assert load_qparams(out / "qparams.json").layers
        assert (out / "model.onnx").exists() and (out / "model.json").exists()
    else:
        with open_bundle(out) as bundle:
            assert bundle.manifest.artefact.engine == "ncnn"


@pytest.mark.parametrize("verb", ["quantize", "deploy"])
def test_kill_leaves_a_whole_output_or_none(whole_way: WholeWay, tmp_path: Path, verb: str) -> None:
    out = tmp_path / ("out" if verb == "quantize" else "out.eyb")
    quick = ["--no-report", "--no-evaluate"]
    command = {
        "quantize": ["quantize", str(whole_way.run), "--data", str(whole_way.data), "--out", str(out), *quick],
        "deploy": ["deploy", str(whole_way.quantized), "--target", "host-ncnn", "--out", str(out)],
    }[verb]
    for moment in ("half", "written"):
        assert run_until(moment, out, command) == -signal.SIGKILL
        assert not out.exists() and list(tmp_path.glob("out*.tmp-*")), moment
    assert run_until("renamed", out, command) == -signal.SIGKILL
    check_whole(out)
    assert run_until("half", out, command) == -signal.SIGKILL  # what was there stays until the new one is whole
    check_whole(out)
    assert run_until("never", out, command) == 0
    check_whole(out)
