"""A model folder and bundles from random weights: a command line needs no trained model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run() -> Run:
    """The command in a process of its own, as a user runs it."""

    def run_command(*arguments: object, cwd: Path | None = None, **environment: str) -> object:
        command = [sys.executable, "-m", "edgeyolo", *map(str, arguments)]
        variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=variables, check=False, timeout=300)

    return run_command


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.onnx` and `model.json` of yolov7-nano with random weights, two classes, 64 pixels."""
    import torch

    from edgeyolo import models
    from edgeyolo.export import export_model
    from edgeyolo.nn.fold import fold_model
    from edgeyolo.spec.model import ModelSpec

    torch.manual_seed(0)
    model = models.create("yolov7-nano", 2)
    spec = ModelSpec(
        name="yolov7-nano",
        activation="silu",
        class_names=("disc", "ring"),
        input=model.make_input_spec((64, 64)),
        decode=model.decode,
    )
    folder = tmp_path_factory.mktemp("model") / "float"
    export_model(fold_model(model.eval()), spec, folder)
    return folder


@pytest.fixture(scope="session")
def bundle(run: Run, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float bundle for ONNX Runtime, made by the command itself."""
    path = tmp_path_factory.mktemp("bundle") / "random.eyb"
    done = run("deploy", model_folder, "--target", "host-onnx", "--out", path)
    assert done.returncode == 0, done.stderr
    assert "Next:" in done.stdout
    return path
