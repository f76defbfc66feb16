"""The command, and a bundle from random weights (`tests/cases/random_model.py`)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run(quick_python: list[str]) -> Run:
    """The command in a process of its own, as a user runs it."""

    def run_command(*arguments: object, cwd: Path | None = None, **environment: str) -> object:
        command = [*quick_python, "-m", "edgeyolo", *map(str, arguments)]
        variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=variables, check=False, timeout=300)

    return run_command


@pytest.fixture(scope="session")
def bundle(run: Run, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float bundle for ONNX Runtime, made by the command itself."""
    path = tmp_path_factory.mktemp("bundle") / "random.eyb"
    done = run("deploy", model_folder, "--target", "host-onnx", "--out", path)
    assert done.returncode == 0, done.stderr
    assert "Next:" in done.stdout
    return path
