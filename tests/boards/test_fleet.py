"""Several boards at once: one that dies does not hold up the other, and a table goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeyolo import verbs
from edgeyolo.boards.fleet import load_fleet
from edgeyolo.boards.pictures import pack_split
from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.spec.errors import FormatError, UnknownNameError, UsageError

# A board's own Python has every package, so that wheels with nothing in them will do; `./python` is in its home.
PYTHON = """\
#!/bin/sh
case "$*" in *" bench "*) echo >> benched; {then};; esac
exec {python} "$@"
"""


@pytest.fixture
def bundle(model_folder: Path, tmp_path: Path) -> Path:
    """For ONNX Runtime."""
    return verbs.deploy(model_folder, "host-onnx", tmp_path / "cells.eyb").bundle


@pytest.fixture
def boards(make_board: Callable) -> tuple:
    """Two boards; `ssh_config` of the first knows both."""
    both = (make_board("left"), make_board("right"))
    with both[0].ssh_config.open("a") as config:
        config.write(both[1].ssh_config.read_text())
    for each in both:
        write_python(each, "true")
    return both


def write_python(board, then: str) -> None:
    (board.home / "python").write_text(PYTHON.format(then=then, python=sys.executable))
    (board.home / "python").chmod(0o755)


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgeyolo", *map(str, arguments), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


def at_left(ssh_config: Path, wheelhouse: Path) -> list[object]:
    reached = ["--ssh-config", ssh_config, "--board-python", "./python"]
    return ["--host", "left", *reached, "--wheelhouse", wheelhouse]


def test_two_boards_at_once_and_one_dies(boards: tuple, bundle: Path, wheelhouse: Path, tmp_path: Path) -> None:
    left, right = boards
    write_python(right, "sleep 100")
    hosts = ["--host", "left", "--host", "right", "--ssh-config", left.ssh_config, "--board-python", "./python"]
    running = start(
        "bench",
        bundle,
        *hosts,
        "--wheelhouse",
        wheelhouse,
        "--reconnect",
        "1",
        "--runs",
        "2",
        "--csv",
        tmp_path / "csv",
    )
    while not (right.home / "benched").exists() and running.poll() is None:
        time.sleep(0.05)
    right.stop()
    told, errors = running.communicate(timeout=120)
    assert running.returncode == 1, errors
    record, failure = json.loads(told)["boards"]
    assert record["host"] == "left" and record["spread"]["total"]["median_ms"] > 0
    assert failure["host"] == "right" and failure["error"]["kind"] == "AwayError"
    assert "right: is away" in errors and "Traceback" not in errors
    assert [line.split(",")[0] for line in (tmp_path / "csv").read_text().splitlines()] == ["host", "left"]


def test_a_gate_holds_on_boards_and_nothing_is_left_there(boards: tuple, bundle: Path, wheelhouse: Path) -> None:
    left, _ = boards
    hosts = at_left(left.ssh_config, wheelhouse)
    running = start("bench", bundle, *hosts, "--runs", "2", "--max-ms", "0.001", "--layers", "--clean")
    told, errors = running.communicate(timeout=120)
    assert running.returncode == 4, errors
    (record,) = json.loads(told)["boards"]
    assert record["runs"] == 2 and sum(record["layers"]["counts"].values()) == len(record["layers"]["rows"]) > 0
    assert "of the time" in errors and "power" in record
    assert [path.name for path in (left.home / ".cache/edgeyolo/boards").iterdir()] == ["lock"]


def test_accuracy_on_a_board_is_that_of_here(
    boards: tuple, model_folder: Path, wheelhouse: Path, tmp_path: Path
) -> None:
    """Boxes, classes and ignored objects arrive there as they are read here."""
    left, _ = boards
    draw_dataset(tmp_path / "drawn", {"val": 3}, image_hw=(64, 96))
    drawn = open_dataset(tmp_path / "drawn", "val")
    records = [dataclasses.replace(record, class_ids=record.class_ids % 2) for record in drawn.records]
    pack_split(dataclasses.replace(drawn, class_names=("disc", "ring"), records=records), tmp_path / "shapes.zip")
    with zipfile.ZipFile(tmp_path / "shapes.zip") as archive:
        archive.extractall(tmp_path / "shapes")
    bundle = verbs.deploy(model_folder, "host-onnx", tmp_path / "shapes.eyb").bundle
    here = verbs.evaluate(bundle, tmp_path / "shapes")
    hosts = at_left(left.ssh_config, wheelhouse)
    running = start("evaluate", bundle, "--data", tmp_path / "shapes", *hosts)
    told, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    (there,) = json.loads(told)["boards"]
    assert (there["data"], there["split"], there["images"], there["boxes"]) == ("shapes", "val", 3, here.boxes)
    assert there["ap50"] == pytest.approx(here.ap50) and there["per_class"].keys() == here.per_class.keys()


def test_a_packed_split_reads_as_it_was(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "shapes", {"test": 3}, image_hw=(64, 96))
    given = open_dataset(tmp_path / "shapes", "test")
    crowd = dataclasses.replace(
        given.records[0],
        ignored_boxes_xyxy=np.array([[1.5, 2, 30.25, 40]], np.float32),
        ignored_class_ids=np.array([1]),
    )
    given = dataclasses.replace(given, records=[crowd, *given.records[1:]])
    pack_split(given, tmp_path / "packed.zip")
    with zipfile.ZipFile(tmp_path / "packed.zip") as archive:
        archive.extractall(tmp_path / "packed")
    read = open_dataset(tmp_path / "packed", "val")
    assert read.class_names == given.class_names
    for mine, theirs in zip(given.records, read.records, strict=True):
        assert mine.image_path.read_bytes() == theirs.image_path.read_bytes()
        for name in ("boxes_xyxy", "class_ids", "ignored_boxes_xyxy", "ignored_class_ids"):
            np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-6)


def test_a_fleet_goes_on_where_it_stopped(boards: tuple, bundle: Path, wheelhouse: Path, tmp_path: Path) -> None:
    left, right = boards
    fleet = tmp_path / "boards.toml"
    section = '[{0}]\nhost = "{0}"\ntarget = "host-onnx"\nssh_config = "left/ssh_config"\npython = "./python"\n'
    section += 'wheelhouse = "wheelhouse"\n'
    fleet.write_text(section.format("left") + section.format("right"))
    right.stop()

    def run() -> tuple[int, dict, str]:
        running = start("bench", "--fleet", fleet, bundle, "--runs", "2")
        told, errors = running.communicate(timeout=120)
        return running.returncode, json.loads(told), errors

    code, told, errors = run()
    assert code == 5, errors
    assert "away or failed: right" in errors and list(told["failed"]) == ["right"]
    (first,) = told["rows"]
    assert (first["board"], first["model"]) == ("left", str(bundle))
    right.start()
    code, told, errors = run()
    assert code == 0, errors
    assert [row["board"] for row in told["rows"]] == ["left", "right"] and told["rows"][0] == first
    assert (left.home / "benched").read_text().count("\n") == 1, "what is in the table is not measured again"
    left.stop()
    right.stop()
    assert run()[0] == 0, "there is nothing left to do"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", UsageError, "lists no board"),
        ('[a]\nhost = "a"\ntarget = "raspberry-pi-55"', UnknownNameError, "Did you mean 'raspberry-pi-5"),
        ('[a]\nhost = "a"\ntarget = "rk3588"\nhots = 1', FormatError, "Did you mean 'host'"),
    ],
)
def test_a_fleet_file_that_is_wrong(tmp_path: Path, text: str, kind: type[Exception], message: str) -> None:
    (tmp_path / "boards.toml").write_text(text)
    with pytest.raises(kind, match=message):
        load_fleet(tmp_path / "boards.toml")
