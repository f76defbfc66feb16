"""What a user does wrong: the message names it and suggests, the exit code fits, and there is no traceback."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeyolo.data.drawn import draw_dataset

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("drawn") / "data", {"train": 4, "val": 2, "test": 2}, image_hw=(64, 64))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--model", "yolov7-tny", "--data", "{data}", "--out", "{out}"], "Did you mean 'yolov7-tiny'?"),
        (["train", "--model", "yolov7-nano", "--data", "{data}", "--out", "{out}", "--set", "epocs=1"], "'epochs'"),
        (["train", "--model", "yolov7-nano", "--data", "{data}", "--out", "{out}", "--set", "epochs"], "KEY=VALUE"),
        (["train", "--model", "yolov7-nano", "--data", "{data}", "--out", "{out}", "--optimizer", "adam"], "adamw"),
        (
            ["train", "--model", "yolov7-nano", "--data", "{data}", "--out", "{out}", "--image-size", "33x64"],
            "works: 32x64",
        ),
        (["train", "--model", "yolov7-nano", "--data", "{data}"], "--out"),
        (["quantize", "{out}", "--data", "{data}", "--out", "{out}", "--recipe", "int8-mze"], "'int8-mse'"),
        (["deploy", "{out}", "--target", "rasberry-pi-5", "--out", "{out}"], "Did you mean 'raspberry-pi-5'?"),
        (["estimate", "{out}", "--board", "raspbery-pi-5"], "Did you mean 'raspberry-pi-5'?"),
        (["models", "--target", "jetson-cpu"], "Name one of them: jetson-agx-orin-cpu"),
        (["traim"], "train"),
        (["bench", "x.eyb", "--runs", "many"], "--runs"),
        (["bench", "x.eyb", "y.eyb"], "--fleet"),
        (["bench", "x.eyb", "--host", "pi", "--tune", "--image", "x.png"], "not for boards over ssh"),
        (["bench", "x.eyb", "--host=-oProxyCommand=x"], "is no host"),
        (["deploy", "{out}", "--out", "{out}"], "no --target is given"),
        (["deploy", "x.eyb", "--rollback"], "--host user@board"),
    ],
)
def test_wrong_usage_exits_2(run: Run, arguments: list[str], expected: str, data: Path, tmp_path: Path) -> None:
    done = run(*(argument.format(data=data, out=tmp_path / "out") for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--model", "yolov7-nano", "--data", "nowhere", "--out", "out"],
        ["quantize", "nowhere", "--data", "nowhere", "--out", "out"],
        ["deploy", "nowhere", "--target", "host-onnx", "--out", "out.eyb"],
        ["evaluate", "nowhere.eyb", "--data", "nowhere"],
        ["detect", "nowhere.eyb", "nowhere.jpg"],
        ["bench", "nowhere.eyb"],
        ["estimate", "nowhere.eyb", "--all"],
        ["inspect", "nowhere.eyb"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_is_not_there_exits_1_and_is_named(run: Run, arguments: list[str], tmp_path: Path) -> None:
    done = run(*arguments, "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    error = json.loads(done.stdout)["error"]
    assert "nowhere" in error["where"]
    assert error["what"]
    assert list(tmp_path.iterdir()) == []


def test_broken_bundle_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cells.eyb").write_bytes(b"PK\x03\x04 not a bundle")
    done = run("inspect", "cells.eyb", cwd=tmp_path)
    assert done.returncode == 1
    assert "cells.eyb" in done.stderr
    assert "Traceback" not in done.stderr


def test_demo_leaves_a_folder_of_others_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("dear")
    done = run("demo", "--out", "letters", cwd=tmp_path)
    assert done.returncode == 1
    assert "not a demo" in done.stderr
    assert (tmp_path / "letters" / "love.txt").read_text() == "dear"


def test_traceback_is_there_for_who_asks(run: Run) -> None:
    done = run("inspect", "nowhere.eyb", EDGEYOLO_TRACEBACK="1")
    assert "Traceback" in done.stderr
