"""OpenVINO beyond what holds for every engine: devices, options, refusals, the cache of compiled networks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from any_spec import any_spec
from onnx import TensorProto, helper, numpy_helper

from edgeyolo import backends
from edgeyolo.backends.openvino import cache
from edgeyolo.spec import machine
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.target import list_targets, load_target

pytest.importorskip("openvino", reason="the engine is not installed")

SIDE = 32
SPEC = any_spec((SIDE, SIDE), 1)


def save_model(path: Path, operator: str = "Conv", domain: str = "") -> Path:
    weight = np.random.default_rng(0).normal(0, 0.3, (4, 3, 8, 8)).astype(np.float32)
    strides = {"strides": [8, 8]} if operator == "Conv" else {}
    graph = helper.make_graph(
        [helper.make_node(operator, ["images", "w"], ["map_0"], domain=domain, **strides)],
        "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("map_0", TensorProto.FLOAT, [1, 4, SIDE // 8, SIDE // 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("my.own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def build(tmp_path: Path, target: str = "host-openvino", precision: Any = "fp32", **options: Any) -> Any:
    board = load_target(target)
    board = type(board)(**{**{f: getattr(board, f) for f in board.__struct_fields__}, **options})
    return backends.build(save_model(tmp_path / "m.onnx"), SPEC, None, board, tmp_path / "o", precision=precision)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).random((1, 3, SIDE, SIDE), dtype=np.float32)


@pytest.mark.parametrize(("target", "device"), [("intel-igpu", "GPU"), ("intel-npu", "NPU")])
def test_a_device_that_is_not_here_is_named_when_it_is_opened(target: str, device: str, tmp_path: Path) -> None:
    """The bundle is written all the same: it is for another computer."""
    import openvino

    if any(found.startswith(device) for found in openvino.Core().available_devices):
        pytest.skip(f"this computer has a {device}")
    artefact = build(tmp_path, target, "fp16")
    assert artefact.options == {
        "device": device,
        "INFERENCE_PRECISION_HINT": "f16",
        "PERFORMANCE_HINT": "LATENCY",
    }
    with pytest.raises(BackendError, match=rf"no {device} on this computer; what it finds is CPU.*driver"):
        backends.open_artefact(tmp_path / "o", artefact, SPEC)
    lines = {finding.what: finding for finding in backends.load_engine("openvino").examine()}
    assert lines["device CPU"].found and not lines["device CPU"].hint
    assert lines[f"device {device}"].found == "none" and "driver" in lines[f"device {device}"].hint


def test_options_and_operators_that_it_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"device is 'TPU'.*CPU, GPU, NPU"):
        build(tmp_path, engine_options={"device": "TPU"})
    artefact = build(tmp_path, engine_options={"PERFORMANCE_HINT": "FAST"})
    with pytest.raises(BackendError, match=r"FAST.*Expected only"):
        backends.open_artefact(tmp_path / "o", artefact, SPEC)
    lacking = save_model(tmp_path / "lacking.onnx", "Magic", "my.own")
    with pytest.raises(BackendError, match=r"lacking\.onnx: OpenVINO refuses it.*my\.own\.Magic"):
        backends.build(lacking, SPEC, None, load_target("host-openvino"), tmp_path / "o", precision="fp32")


def test_options_reach_the_engine(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads, hints and precision, which the compiled network tells; a target's word goes before ours."""
    told: list[Any] = []
    kept = cache.compile_cached
    monkeypatch.setattr(
        "edgeyolo.backends.openvino.compile_cached", lambda *a, **k: told.append(kept(*a, **k)) or told[-1]
    )
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "ENABLE_CPU_PINNING": True}
    artefact = build(tmp_path, engine_options=options)
    session = backends.open_artefact(tmp_path / "o", artefact, SPEC, threads=1)
    assert isinstance(session, backends.CpuSession) and session.threads == 1
    session.use_threads(2)
    assert [compiled.get_property("INFERENCE_NUM_THREADS") for compiled in told] == [1, 2]
    assert "THROUGHPUT" in str(told[0].get_property("PERFORMANCE_HINT"))
    assert "float32" in str(told[0].get_property("INFERENCE_PRECISION_HINT"))
    assert told[0].get_property("ENABLE_CPU_PINNING") is True
    session.close()


def test_where_bytes_saturate_int8_is_computed_in_float(
    one_layer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With weights and pixels that saturate sums of pairs: the integers are the same, and no int8 kernel runs."""
    layer = one_layer(activation="Relu", opset=19)
    path, qparams = layer.write(tmp_path)
    told: list[Any] = []
    kept = cache.compile_cached
    monkeypatch.setattr(
        "edgeyolo.backends.openvino.compile_cached", lambda *a, **k: told.append(kept(*a, **k)) or told[-1]
    )
    images = layer.images(1)
    spec = any_spec(images.shape[2:], 1)
    board = load_target("host-openvino")
    artefact = backends.build(path, spec, qparams, board, tmp_path / "o", precision="int8")
    for saturates in (False, True):
        monkeypatch.setattr("edgeyolo.backends.openvino.saturates_bytes", lambda s=saturates: s)
        with caplog.at_level(logging.WARNING):
            session = backends.open_artefact(tmp_path / "o", artefact, spec, threads=1)
        np.testing.assert_allclose(session.run(images)[0], layer.expected(images), atol=1e-4)
    kinds = [
        {str(node.get_rt_info()["runtimePrecision"].value) for node in c.get_runtime_model().get_ops()} for c in told
    ]
    assert kinds[0] & {"u8", "i8"} and not kinds[1] & {"u8", "i8"}
    assert "has no VNNI" in caplog.text


def test_a_network_is_compiled_once(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second opening takes it from the cache; a file that was altered is compiled anew, and the oldest go."""
    monkeypatch.setenv("EDGEYOLO_CACHE", str(tmp_path / "cache"))
    artefact = build(tmp_path)
    maps = run_once(tmp_path, artefact, images)
    (blob,) = cache.compiled_folder().iterdir()
    written = blob.stat().st_ino
    np.testing.assert_array_equal(run_once(tmp_path, artefact, images), maps)
    assert [path.stat().st_ino for path in cache.compiled_folder().iterdir()] == [written]
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(run_once(tmp_path, artefact, images), maps)
    assert "not what its digest says" in caplog.text
    assert cache.kept_networks()[0] == 1
    monkeypatch.setattr(cache, "MOST_NETWORKS", 2)
    for threads in (2, 3):
        run_once(tmp_path, artefact, images, threads)
    assert cache.kept_networks()[0] == 2
    assert not blob.exists()


def test_without_a_place_for_the_cache_it_runs(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("EDGEYOLO_CACHE", str(tmp_path / "file"))
    assert np.isfinite(run_once(tmp_path, build(tmp_path), images)).all()


def run_once(tmp_path: Path, artefact: Any, images: np.ndarray, threads: int = 1) -> np.ndarray:
    session = backends.open_artefact(tmp_path / "o", artefact, SPEC, threads=threads)
    (map_,) = session.run(images)
    session.close()
    return map_


@pytest.mark.parametrize(("here", "first"), [("x86_64", "host-openvino"), ("aarch64", "host-ncnn")])
def test_host_cpu_is_the_fastest_engine_that_is_installed(
    here: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ncnn", reason="the engine that ARM boards take is not installed")
    monkeypatch.setattr(backends, "machine_here", lambda: here)
    assert backends.choose_target("host-cpu") == first
    choices = load_target("host-cpu").first_of[here]
    monkeypatch.setattr(type(backends.load_engine(load_target(first).engine)), "probe", lambda self, target: ["no"])
    assert backends.choose_target("host-cpu") == choices[1]


def test_other_targets_stand_for_themselves() -> None:
    assert machine.machine_here() in load_target("host-cpu").first_of
    for name in list_targets():
        assert backends.choose_target(name) == name or load_target(name).first_of
