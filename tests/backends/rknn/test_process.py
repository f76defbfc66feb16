"""A toolkit that refuses, dies, hangs or is left alone: what comes back is an error of ours, and no process stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from any_spec import any_spec
from onnx import TensorProto, helper

from edgeyolo import backends
from edgeyolo.backends.rknn import simulator
from edgeyolo.backends.rknn.options import Options
from edgeyolo.backends.rknn.process import ToolkitProcess
from edgeyolo.backends.rknn.simulator import SimulatorSession
from edgeyolo.bundle import open_bundle
from edgeyolo.spec.errors import BackendError, EngineCrashError
from edgeyolo.spec.target import load_target


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_that_is_killed_is_named(npu_bundle: Path) -> None:
    with open_bundle(npu_bundle) as bundle:
        model = bundle.manifest.model
        session = backends.open_artefact(bundle.folder, bundle.manifest.artefact, model)
        assert isinstance(session, SimulatorSession)
        os.kill(session.process.pid, signal.SIGKILL)
        grey = np.full((1, 3, *model.input.image_hw), 0.5, np.float32)
        with pytest.raises(EngineCrashError, match="toolkit died in 'run' \\(SIGKILL\\)") as caught:
            session.run(grey)
        assert caught.value.exit_code == 3
        with pytest.raises(BackendError, match="closed"):
            session.run(grey)
        session.close()


def test_one_that_hangs_is_stopped(process: ToolkitProcess) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(BackendError, match=r"did not end 'hello' within 0\.5 s and was stopped"):
        process.ask("hello", limit_s=0.5)
    assert time.monotonic() - started < 30
    assert not is_running(process.pid)


def test_one_that_hangs_while_a_bundle_is_opened(npu_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator, "BUILD_LIMIT_S", 0.05)
    with open_bundle(npu_bundle) as bundle, pytest.raises(BackendError, match=r"did not end 'open' within 0\.05 s"):
        backends.open_artefact(bundle.folder, bundle.manifest.artefact, bundle.manifest.model)


def test_an_operator_that_the_npu_lacks(toolkit: Path, tmp_path: Path) -> None:
    """The toolkit compiles it all the same, and says so by the way."""
    graph = helper.make_graph(
        [helper.make_node("Det", ["images"], ["map_0"])],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("map_0", TensorProto.FLOAT, [1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.save(model, str(tmp_path / "model.onnx"))
    target = load_target("rockchip-rk3588-npu")
    with pytest.raises(BackendError, match=r"the NPU has no layer for Det \(layer 'map_0'\)"):
        backends.build(tmp_path / "model.onnx", any_spec((16, 16)), None, target, tmp_path / "out", precision="fp16")


def test_a_graph_that_is_broken(toolkit: Path, tmp_path: Path) -> None:
    """What the toolkit says of it is told, without its colours and tracebacks."""
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07 no graph at all")
    with pytest.raises(BackendError, match="Rockchip's toolkit") as caught:
        SimulatorSession(toolkit, tmp_path / "model.onnx", Options("rk3588"), any_spec((16, 16)))
    assert "DecodeError" in caught.value.what or "parse" in caught.value.what.lower()
    assert not set(caught.value.what) & {"\x1b", "\r"} and "Traceback" not in caught.value.what


def test_it_leaves_with_the_process_that_started_it(toolkit: Path) -> None:
    """Also where that is killed, and had no time to say goodbye."""
    code = (
        "import sys, time; from pathlib import Path; from edgeyolo.backends.rknn.process import ToolkitProcess; "
        "started = ToolkitProcess(Path(sys.argv[1])); print(started.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(toolkit)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, signal.SIGCONT)  # it is there
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(pid)


def test_nothing_is_read_from_where_it_is_started(
    toolkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the current folder nor the variables of Python lead it to other packages."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('of somebody else')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ToolkitProcess(toolkit).close()
