"""Every verb that runs a bundle asks first whether this computer can, and `deploy` writes it all the same."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeyolo import verbs
from edgeyolo.bundle import rewrite_manifest
from edgeyolo.bundle.reader import read_manifest
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.runtime import Detector, processor
from edgeyolo.runtime.tuner import tune
from edgeyolo.spec.errors import BackendError, DataError, EngineCrashError

PICTURE = np.full((64, 64, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("drawn") / "data", {"train": 4, "val": 2, "test": 2}, image_hw=(64, 64))


@pytest.fixture
def demanding(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that needs what this processor lacks."""
    path = tmp_path / "demanding.eyb"
    path.write_bytes(bundle.read_bytes())
    manifest = msgspec.structs.replace(read_manifest(path), machine="aarch64", cpu_features=("asimddp",))
    rewrite_manifest(path, manifest)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(processor, "list_cpu_features", lambda: frozenset({"asimd"}))
    return path


RUNS: dict[str, Callable[[Path, Path], Any]] = {
    "detect": lambda bundle, data: Detector.load(bundle),
    "evaluate": lambda bundle, data: verbs.evaluate(bundle, data),
    "tune": lambda bundle, data: tune(bundle, [PICTURE]),
}


@pytest.mark.parametrize("verb", RUNS)
def test_a_processor_that_lacks_what_is_needed_is_named(verb: str, demanding: Path, data: Path) -> None:
    with pytest.raises(BackendError, match="needs a processor with asimddp"):
        RUNS[verb](demanding, data)


@pytest.mark.parametrize("verb", RUNS)
def test_an_engine_that_dies_takes_no_verb_along(
    verb: str, bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEYOLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(processor, "_run_child", lambda folder, manifest: -4)
    with pytest.raises(EngineCrashError, match="'onnxruntime' dies on this computer"):
        RUNS[verb](bundle, data)


def test_deploy_writes_a_bundle_that_cannot_be_measured_here(
    model_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A board's engine that is installed and finds no GPU here, say."""

    def open_nothing(*args: object, **options: object) -> None:
        raise BackendError("no CUDA device was found")

    monkeypatch.setattr("edgeyolo.backends.open_artefact", open_nothing)
    out = tmp_path / "a.eyb"
    with caplog.at_level(logging.WARNING):
        result = verbs.deploy(model_folder, "host-onnx", out, data=data)
    assert out.is_file() and result.manifest.scores == read_manifest(out).scores == ()
    assert "was not measured here: no CUDA device was found" in caplog.text


def test_deploy_finds_out_about_data_before_it_builds(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        verbs.deploy(model_folder, "host-onnx", tmp_path / "a.eyb", data=tmp_path / "nowhere")
    assert not (tmp_path / "a.eyb").exists()
