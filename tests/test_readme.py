"""Every command and every Python snippet of the documents is run, top to bottom, in one folder per document.

Blocks marked `bash` and `python` are run; `console` blocks are for another machine or for installing.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import darknet_by_hand
import numpy as np
import pytest
from foreign_detectors import DflStyle, export_foreign, make_foreign
from official_files import write_official
from shared import make_once

from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.drawn import draw_dataset, draw_picture

ROOT = Path(__file__).parents[1]
RunBlock = Callable[[str, str, Path], None]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?P<language>bash|python)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as place:
        return place.getsockname()[1]


# What is made smaller here, and nothing else: less training on fewer and smaller pictures, fewer timed runs.
SUBSTITUTIONS = {
    "edgeyolo demo\n": "edgeyolo demo --epochs 1 --pictures 16\n",
    "--epochs 60": "--epochs 1",
    "--image-size 320": "--image-size 64 --batch 4 --set workers=0",
    "--image-size 384x640": "--image-size 64x96",
    "--image-size 128x96": "--image-size 64 --batch 4 --set workers=0",
    "--model yolov7-tiny": "--model yolov7-nano",
    "--runs 200": "--runs 5",
    "8080": str(find_port()),
}
# Documents that start from what the README trains.
TRAINED = "edgeyolo train --model yolov7-nano --data cells --epochs 60 --image-size 320 --out runs/cells\n"
START_TRAINED = (
    *("formats.md", "hand-offs.md", "intel.md", "latency.md", "live.md", "quantization.md", "scoreboard.md"),
    *("sizes.md", "tracking.md"),
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with what the documents say a user has: a data set, a photo, a recipe and a board of their own."""
    draw_cells(tmp_path)
    photo = draw_picture(np.random.default_rng(1), (120, 160)).image
    assert cv2.imwrite(str(tmp_path / "photo.jpg"), photo)
    (tmp_path / "my-recipe.toml").write_text((ROOT / "calib/int8-max.toml").read_text())
    (tmp_path / "my-board.toml").write_text((ROOT / "targets/host-onnx.toml").read_text())
    return tmp_path


def draw_cells(folder: Path) -> None:
    draw_dataset(folder / "cells", {"train": 8, "val": 4, "test": 4}, image_hw=(96, 96))


@pytest.fixture(scope="session")
def run_block(quick_python: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunBlock:
    """Runs the code of a block, which has to end well, in a folder; `edgeyolo` is on its path."""
    commands = tmp_path_factory.mktemp("commands")
    (commands / "edgeyolo").write_text(f'#!/bin/sh\nexec {shlex.join(quick_python)} -m edgeyolo "$@"\n')
    (commands / "edgeyolo").chmod(0o755)
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])

    def run(language: str, code: str, folder: Path) -> None:
        script = shrink(code) if language == "bash" else code
        command = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [*quick_python, "-c"]
        environment = os.environ | {"PATH": path}
        done = subprocess.run(
            [*command, script], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"

    return run


@pytest.fixture(scope="session")
def trained(run_block: RunBlock, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README trains, made once in a run."""

    def train(folder: Path) -> None:
        draw_cells(folder)
        run_block("bash", TRAINED, folder)

    return make_once(tmp_path_factory, "trained", train)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_runs(
    document: Path,
    workspace: Path,
    run_block: RunBlock,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if document.name in START_TRAINED:
        shutil.copytree(request.getfixturevalue("trained") / "runs", workspace / "runs")
    if document.name == "official-weights.md":
        write_official("yolox-nano", workspace / "yolox_nano.pth", monkeypatch, is_fresh=True)
        (workspace / "yolov4-tiny-blood.cfg").write_text(darknet_by_hand.v4_tiny(3))
        (workspace / "blood.names").write_text("RBC\nWBC\nPlatelets\n")
        darknet_by_hand.write_weights(darknet_by_hand.v4_tiny(3), workspace / "yolov4-tiny-blood_best.weights")
    if document.name == "foreign-onnx.md":
        export_foreign(make_foreign(DflStyle), workspace / "detector.onnx", opset=17)
        names = open_dataset(workspace / "cells", "train").class_names
        (workspace / "names.txt").write_text("\n".join(names))
    for language, code in BLOCK.findall(document.read_text()):
        run_block(language, code, workspace)
    if document.name == "README.md":
        page = (workspace / "demo/index.html").read_text()
        links = re.findall(r'(?:href|src)="([^"]+)"', page)
        assert len(links) > 10 and all((workspace / "demo" / link).is_file() for link in links)
        assert len(list((workspace / "boxes").iterdir())) == len(list((workspace / "demo/data/images/test").iterdir()))


def test_every_substitution_is_used() -> None:
    text = "".join(code for document in DOCUMENTS for _, code in BLOCK.findall(document.read_text()))
    assert not [old for old in SUBSTITUTIONS if old not in text]


def test_links_lead_somewhere() -> None:
    for document in [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"


def shrink(code: str) -> str:
    """The same commands on less work."""
    for old, new in SUBSTITUTIONS.items():
        code = code.replace(old, new)
    return code
