"""A bundle and the processor it meets: refused with a message, tried in a child first, never an illegal instruction."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeyolo import backends
from edgeyolo.bundle import open_bundle, write_bundle
from edgeyolo.runtime import Detector, processor
from edgeyolo.spec import machine
from edgeyolo.spec.errors import BackendError, EngineCrashError
from edgeyolo.spec.manifest import Artefact, Manifest
from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelSpec
from edgeyolo.spec.strict import decode_json, encode_json
from edgeyolo.spec.target import load_target

SPEC = ModelSpec(
    name="small",
    activation="relu",
    class_names=("a",),
    input=InputSpec(image_hw=(32, 32)),
    decode=AnchorDecode(strides=(8,), anchors_wh=(((8.0, 8.0),),)),
)
ARTEFACT = Artefact(
    engine="ncnn", engine_version="1", precision="fp32", files={"param": "model.ncnn.param", "bin": "model.ncnn.bin"}
)
PARAM = """7767517
2 2
Input in0 0 1 in0 0=32 1=32 2=3
Convolution conv 1 1 in0 out0 0=6 1=8 3=8 5=1 6=1152
"""


def make_bundle(folder: Path, **changes: object) -> Path:
    """A bundle of one convolution."""
    (folder / "model.ncnn.param").write_text(PARAM)
    (folder / "model.ncnn.bin").write_bytes(bytes(4 + 1152 * 4 + 6 * 4))
    manifest = Manifest(model=SPEC, target="my-board", artefact=ARTEFACT, sha256={}, threads=1)
    path = folder / "net.eyb"
    write_bundle(path, msgspec.structs.replace(manifest, **changes), folder)
    return path


def pretend(monkeypatch: pytest.MonkeyPatch, name: str, *features: str) -> None:
    """Stand on another processor."""
    monkeypatch.setattr("platform.machine", lambda: name)
    monkeypatch.setattr(processor, "list_cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(processor, "processor_name", lambda: "Cortex-A72")


def test_a_feature_that_is_needed_and_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_bundle(tmp_path, machine="aarch64", cpu_features=("asimddp",), target="raspberry-pi-5")
    pretend(monkeypatch, "aarch64", "fp", "asimd")
    with pytest.raises(BackendError, match="raspberry-pi-5, needs a processor with asimddp, and Cortex-A72") as caught:
        Detector.load(path)
    assert "raspberry-pi-4" in caught.value.hint and "raspberry-pi-5" not in caught.value.hint
    pretend(monkeypatch, "arm64", "asimd", "asimddp", "asimdhp")
    Detector.load(path).close()
    pretend(monkeypatch, "aarch64")  # features that nobody knows are not held against it
    Detector.load(path).close()


def test_another_architecture_works_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_bundle(tmp_path, machine="riscv64", cpu_features=("zvfh",))
    with caplog.at_level(logging.WARNING), Detector.load(path) as detector:
        found = detector.detect(np.zeros((9, 9, 3), np.uint8))
    # weights of zero give logits of zero: each of the 4 x 4 cells scores 0.5 x 0.5 with a box of its own size
    assert found.scores.tolist() == [0.25] * 16
    assert {tuple(box) for box in (found.boxes_xyxy / (9 / 4)).tolist()} == {
        (x, y, x + 1, y + 1) for x in range(4) for y in range(4)
    }
    assert "riscv64" in caplog.text and "my-board" in caplog.text
    caplog.clear()
    pretend(monkeypatch, "AMD64")
    with caplog.at_level(logging.WARNING):
        Detector.load(make_bundle(tmp_path, machine="x86_64")).close()
    assert not caplog.text


def test_manifests_from_before_the_fields_still_load(tmp_path: Path) -> None:
    with open_bundle(make_bundle(tmp_path)) as bundle:
        fields = json.loads(encode_json(bundle.manifest))
    del fields["machine"], fields["cpu_features"]
    old = decode_json(json.dumps(fields).encode(), Manifest, where="old")
    assert (old.machine, old.cpu_features) == ("", ())


@pytest.mark.parametrize(
    ("target", "precision", "guard", "expected"),
    [
        ("raspberry-pi-5", "int8", False, ()),
        ("raspberry-pi-5", "int8", True, ("asimddp",)),
        ("raspberry-pi-5", "fp16", True, ()),
        ("host-ncnn", "int8", True, ()),
    ],
)
def test_only_what_is_needed_is_recorded(target: str, precision: str, guard: bool, expected: tuple[str, ...]) -> None:
    artefact = msgspec.structs.replace(
        ARTEFACT, precision=precision, options={"use_winograd43_convolution": guard, "use_fp16_arithmetic": True}
    )
    assert backends.load_engine("ncnn").needed_features(artefact, load_target(target)) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/cpuinfo is Linux's")
def test_features_come_from_the_kernel() -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = set(next(line for line in lines if line.startswith(("flags", "Features"))).partition(":")[2].split())
    is_arm = os.uname().machine == "aarch64"
    assert machine.list_cpu_features() == (named & set(machine._ARM_FEATURES) if is_arm else named) != set()


def load_in_child(path: Path, cache: Path, packages: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeyolo", "detect", str(path), str(path.with_name("a.png")), "--json"]
    variables = os.environ | {"EDGEYOLO_CACHE": str(cache), "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=120)


def test_an_engine_that_dies_gives_a_message_and_exit_code_3(tmp_path: Path) -> None:
    path, packages = make_bundle(tmp_path), tmp_path / "packages"
    import cv2

    assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    (packages / "ncnn").mkdir(parents=True)
    package = packages / "ncnn" / "__init__.py"
    package.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    done = load_in_child(path, tmp_path / "cache", packages)
    assert done.returncode == 3, done.stderr
    error = json.loads(done.stdout)["error"]
    assert "'ncnn' dies on this computer (SIGILL, an instruction" in error["what"] and "ncnn" in error["hint"]
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "cache" / "engines").iterdir()) == []  # asked again after it was installed anew
    done = load_in_child(path, tmp_path / "cache", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "cache" / "engines").iterdir())) == 1


def test_a_child_is_started_once_per_package_and_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEYOLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "ncnn", raising=False)
    started: list[int] = []
    monkeypatch.setattr(processor, "_run_child", lambda folder, manifest: started.append(1) or -11)
    with open_bundle(make_bundle(tmp_path)) as bundle:
        with pytest.raises(EngineCrashError, match="SIGSEGV"):
            processor.check_engine(bundle.folder, bundle.manifest)
        monkeypatch.setattr(processor, "_run_child", lambda folder, manifest: started.append(1) or 0)
        for _ in range(3):
            processor.check_engine(bundle.folder, bundle.manifest)
        assert len(started) == 2
        monkeypatch.setattr(processor, "processor_name", lambda: "another")
        processor.check_engine(bundle.folder, bundle.manifest)
        assert len(started) == 3
        monkeypatch.setenv("EDGEYOLO_CACHE", "/proc/none")  # nowhere to remember it: not asked on every start
        processor.check_engine(bundle.folder, bundle.manifest)
        assert len(started) == 3


def test_the_child_runs_the_bundle(tmp_path: Path) -> None:
    with open_bundle(make_bundle(tmp_path)) as bundle:
        assert processor._run_child(bundle.folder, bundle.manifest) == 0
        broken = msgspec.structs.replace(bundle.manifest, artefact=msgspec.structs.replace(ARTEFACT, files={}))
        assert processor._run_child(bundle.folder, broken) > 0  # no verdict on the processor
