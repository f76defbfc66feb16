"""The newcomer's page is true: its picture is of today's imports, its paths exist, and following it gives an engine."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/architecture.md"
WRITTEN = ROOT / "tests/compat/written_by_0.1.0.tar.xz"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_house", ROOT / "docs/draw_house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_of_the_imports_of_today() -> None:
    script = load_script()
    found = script.BLOCK.search(PAGE.read_text())
    assert found is not None
    assert script.draw_house() in found[0], "run: python docs/draw_house.py"


def test_every_path_that_the_page_names_exists() -> None:
    named = re.findall(r"`((?:edgeyolo|tests|targets|calib|docs|benchmarks)/[\w./-]*)`", PAGE.read_text())
    assert named
    written_here = ("edgeyolo/backends/opencv_dnn.py", "targets/opencv-pc.toml")
    assert [path for path in named if not (ROOT / path).exists() and path not in written_here] == []


def test_following_the_page_gives_a_board_and_an_engine(tmp_path: Path) -> None:
    blocks = dict(re.findall(r"`([\w/.-]+)`:\n\n```(?:toml|python)\n(.*?)```", PAGE.read_text(), re.DOTALL))
    assert set(blocks) == {"targets/opencv-pc.toml", "edgeyolo/backends/opencv_dnn.py"}
    for folder in ("edgeyolo", "targets", "calib"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in blocks.items():
        (tmp_path / path).write_text(text)
    with tarfile.open(WRITTEN) as archive:
        archive.extractall(tmp_path / "written", filter="data")

    def run(*words: str) -> object:
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-m", "edgeyolo", *words, "--json"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert "opencv-pc" in [board["name"] for board in run("targets")]
    found = {}
    for target in ("opencv-pc", "host-onnx"):
        run("deploy", "written/quantized", "--target", target, "--precision", "fp32", "--out", f"{target}.eyb")
        found[target] = run("detect", f"{target}.eyb", "written/picture.png")["pictures"][0]["objects"]
    ours, reference = ([box["box_xyxy"] for box in found[target]] for target in ("opencv-pc", "host-onnx"))
    assert len(reference) > 20
    np.testing.assert_allclose(ours, reference, atol=0.02)
