"""Rockchip's toolkit. EDGEYOLO_REQUIRE_RKNN=1 makes its absence a failure instead of a skip."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from one_layer import QuantizedModel, make_quantized
from shared import make_once

from edgeyolo import verbs
from edgeyolo.backends.rknn.process import ToolkitProcess
from edgeyolo.backends.rknn.toolkit import FOLDER_VARIABLE, INSTALL, toolkit_folder
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.strict import load_json

WHERE = toolkit_folder()  # before a test run gets a cache of its own
TARGET = "rockchip-rk3588-npu"
SIZE = 64


@pytest.fixture(scope="session")
def toolkit_here() -> Path:
    """The folder of the toolkit."""
    if not (WHERE / "rknn").is_dir():
        reason = f"Rockchip's toolkit is not in {WHERE}: {INSTALL}"
        (pytest.fail if os.environ.get("EDGEYOLO_REQUIRE_RKNN") else pytest.skip)(reason)
    return WHERE


@pytest.fixture
def toolkit(toolkit_here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, and edgeyolo finds it."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(toolkit_here))
    return toolkit_here


@pytest.fixture
def no_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer without it."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "nothing"))


@pytest.fixture
def process(toolkit: Path) -> Iterator[ToolkitProcess]:
    """A running toolkit."""
    started = ToolkitProcess(toolkit)
    yield started
    started.close()


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> QuantizedModel:
    """yolov7-nano with random weights and as many classes as drawn pictures have, quantized."""
    folder = make_once(
        tmp_path_factory, "rknn-nano", lambda folder: make_quantized("yolov7-nano", SIZE, folder, classes=6)
    )
    return QuantizedModel(folder, load_json(folder / "model.json", ModelRecord).model)


@pytest.fixture
def npu_bundle(toolkit: Path, nano: QuantizedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of that network, for the RK3588; nobody may change it."""

    def deploy(folder: Path) -> None:
        folder.mkdir()
        verbs.deploy(nano.folder, TARGET, folder / "nano.eyb")

    return make_once(tmp_path_factory, "rknn-bundle", deploy) / "nano.eyb"
