"""Without the toolkit, on another computer or with a wrong target, every path says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from any_spec import any_spec
from one_layer import OneLayer
from typer.testing import CliRunner

from edgeyolo import backends
from edgeyolo.backends.rknn import toolkit
from edgeyolo.bundle import write_bundle
from edgeyolo.cli.app import make_app
from edgeyolo.runtime import Detector
from edgeyolo.spec.errors import BackendError, MissingPackageError, UnknownNameError, UsageError
from edgeyolo.spec.manifest import Artefact, Manifest
from edgeyolo.spec.target import Target, load_target

INSTALL = "Install it: edgeyolo doctor --install rknn"
NPU = load_target("rockchip-rk3588-npu")


@pytest.fixture
def any_bundle(tmp_path: Path) -> Path:
    """With the files of an NPU's, whatever is in them."""
    for name in ("model.rknn", "model.onnx"):
        (tmp_path / name).write_bytes(b"of an NPU")
    files = {"rknn": "model.rknn", "onnx": "model.onnx"}
    artefact = Artefact(
        engine="rknn", engine_version="2.5.0", precision="int8", files=files, options={"chip": "rk3588"}
    )
    manifest = Manifest(
        model=any_spec((16, 16)), target="rockchip-rk3588-npu", machine="aarch64", artefact=artefact, sha256={}
    )
    write_bundle(tmp_path / "npu.eyb", manifest, tmp_path)
    return tmp_path / "npu.eyb"


def build(target: Target, tmp_path: Path, precision: str = "int8") -> Artefact:
    onnx_path, qparams = OneLayer().write(tmp_path)
    return backends.build(onnx_path, any_spec((12, 20)), qparams, target, tmp_path / "out", precision=precision)


def test_building_without_it(no_toolkit: None, tmp_path: Path) -> None:
    with pytest.raises(MissingPackageError) as caught:
        build(NPU, tmp_path)
    assert caught.value.hint == INSTALL and caught.value.exit_code == 3
    assert [INSTALL in problem for problem in backends.probe(NPU)] == [True]
    assert not any(runnable.target == "rockchip-rk3588-npu" for runnable in backends.list_runnable())


def test_opening_a_bundle_without_it(no_toolkit: None, any_bundle: Path) -> None:
    with pytest.raises(MissingPackageError, match="simulating the Rockchip NPU that this bundle is for") as caught:
        Detector.load(any_bundle)
    assert caught.value.hint == INSTALL


def test_doctor_says_how(no_toolkit: None) -> None:
    shown = CliRunner().invoke(make_app(), ["doctor"], env={"COLUMNS": "300"})
    assert shown.exit_code == 0 and "To deploy for Rockchip's NPUs: edgeyolo doctor --install rknn" in shown.output


def test_bench_has_no_times_of_a_simulator(any_bundle: Path) -> None:
    shown = CliRunner().invoke(make_app(), ["bench", str(any_bundle)])
    assert shown.exit_code == UsageError.exit_code and "a simulator of it has no times" in shown.output
    assert "Run bench on the board" in shown.output


@pytest.mark.parametrize(
    ("platform", "machine", "version", "text"),
    [
        ("linux", "aarch64", (3, 11), "runs on Linux on x86-64, and this is linux on aarch64"),
        ("darwin", "x86_64", (3, 11), "and this is darwin on x86_64"),
        ("linux", "x86_64", (3, 13), "with Python 3.10 to 3.12, and this is 3.13"),
    ],
)
def test_a_computer_that_has_no_toolkit(
    platform: str, machine: str, version: tuple[int, int], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkit, "machine_here", lambda: machine)
    monkeypatch.setattr(toolkit.sys, "platform", platform)
    monkeypatch.setattr(toolkit.sys, "version_info", (*version, 0, "final", 0))
    with pytest.raises(BackendError, match=text):
        toolkit.check_computer()
    assert text in backends.probe(NPU)[0]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, UnknownNameError, "unknown Rockchip chip ''"),
        ({"chip": "rk3589"}, UnknownNameError, "Did you mean 'rk3588'"),
        ({"chip": "rk3588", "cores": "3"}, UnknownNameError, "choice of NPU cores"),
        ({"chip": "rk3588", "cores": 1}, UsageError, "Give a str"),
        ({"chip": "rk3588", "core_mask": "0"}, UnknownNameError, "rknn option 'core_mask'"),
        ({"chip": "rk3588", "cores": "all", "single_core": True}, UsageError, "single_core leaves out"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, object], error: type, text: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=text):
        build(Target(title="t", engine="rknn", precisions=("int8",), engine_options=options), tmp_path)


def test_a_precision_that_npus_do_not_have(tmp_path: Path) -> None:
    target = Target(title="t", engine="rknn", precisions=("fp32",), engine_options={"chip": "rk3588"})
    with pytest.raises(UsageError, match="int8 or fp16, not fp32"):
        build(target, tmp_path, "fp32")


def test_a_version_that_the_target_does_not_accept(toolkit: Path, tmp_path: Path) -> None:
    newer = {"engine_versions": ">=9", "engine_options": {"chip": "rk3588"}}
    with pytest.raises(BackendError, match="rknn-toolkit2>=9"):
        build(Target(title="t", engine="rknn", precisions=("int8",), **newer), tmp_path)


def test_installing_asks_first(no_toolkit: None, tmp_path: Path) -> None:
    shown = CliRunner().invoke(make_app(), ["doctor", "--install", "rknn"], input="n\n")
    assert shown.exit_code == 1
    assert "licence of Rockchip's SDK" in shown.output and str(tmp_path / "nothing") in shown.output
    assert not (tmp_path / "nothing").exists()


def test_an_engine_that_needs_nothing_of_its_own() -> None:
    shown = CliRunner().invoke(make_app(), ["doctor", "--install", "ncnn", "--yes"])
    assert shown.exit_code == UsageError.exit_code and 'pip install "edgeyolo[ncnn]"' in shown.output


def test_an_installation_that_fails_leaves_nothing(
    no_toolkit: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip finds nothing; what a killed installation left before goes as well."""
    (tmp_path / "nothing.tmp-abc" / "half").mkdir(parents=True)
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BackendError, match="No matching distribution found for rknn-toolkit2"):
        toolkit.install_toolkit()
    assert not list(tmp_path.iterdir())


def test_packages_that_are_no_toolkit_are_refused(tmp_path: Path) -> None:
    """As a folder is tried before it gets its name."""
    with pytest.raises(BackendError, match="No module named"):
        toolkit.ToolkitProcess(tmp_path)


def test_what_is_there_is_not_installed_again(toolkit: Path) -> None:
    command = [sys.executable, "-m", "edgeyolo", "doctor", "--install", "rknn", "--yes"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and f"It is in {toolkit}" in done.stdout
