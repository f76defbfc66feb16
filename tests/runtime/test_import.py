"""Importing the board side stays light."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_runtime_pulls_in_nothing_heavy() -> None:
    code = "import sys, edgeyolo.runtime; print(*sorted(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "edgeyolo.runtime.detector" in loaded
    heavy = {"torch", "onnx", "onnxruntime", "ncnn", "tensorrt", "rich", "typer", "pycocotools", "edgeyolo.bundle"}
    assert not heavy & loaded
