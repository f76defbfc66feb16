"""Rows that users send: every one in benchmarks/boards is read, and what is wrong with one is said."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from edgeyolo.spec.errors import FormatError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ROWS = sorted(path for path in (BENCHMARKS / "boards").glob("*.json") if path.name != "schema.json")


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("board_rows")


@pytest.fixture
def told() -> dict[str, Any]:
    """What `bench --json` gives, of a bundle in somebody's folder."""
    record = json.loads(ROWS[0].read_text())["record"]
    return record | {"bundle": "/home/someone/cells.eyb"}


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_every_row_is_as_it_should_be(path: Path, boards: ModuleType) -> None:
    row = boards.load_row(path)
    assert "/home" not in path.read_text() and row.record.model in path.stem


def test_there_are_rows(boards: ModuleType) -> None:
    assert boards.list_rows() == ROWS != []


def test_the_schema_is_that_of_the_structs(boards: ModuleType) -> None:
    assert boards.SCHEMA.read_bytes() == boards.schema(), "run: python benchmarks/board_rows.py schema"
    fields = json.loads(boards.schema())["$defs"]["BenchRecord"]["properties"]
    assert {"interval_ms", "layers", "power", "throttled"} <= set(fields)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_row_is_made_of_what_bench_tells(
    boards: ModuleType, told: dict[str, Any], tmp_path: Path, wrapped: bool
) -> None:
    """From here or from a host, whose name is nobody's business."""
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"boards": [{"host": "pi@garden", **told}]} if wrapped else told))
    (written,) = boards.add_rows(path, "Raspberry Pi 5, 8 GB", "active cooler", folder=tmp_path)
    assert written.name.startswith(f"raspberry-pi-5-8-gb-{told['model']}-")
    row, text = boards.load_row(written), written.read_text()
    assert row.record.bundle == "cells.eyb" and "someone" not in text and "garden" not in text
    assert msgspec.to_builtins(row.record)["spread"] == told["spread"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runs": 3}, "fewer than 30 runs"),
        ({"target": "toaster"}, "no target 'toaster'"),
        ({"bundle_sha256": ""}, "does not say which bundle"),
        ({"model": ""}, "does not say which model"),
        ({"interval_ms": {"total": [0.1, 0.2]}}, "not in its interval"),
        ({"interval_ms": {}}, "not in its interval"),
        ({"percentiles_ms": {"total": [2.0, 1.0]}}, "do not rise"),
        ({"slices": []}, "calls of the slices"),
        ({"speed": 11}, "no output of `edgeyolo bench --json`.*speed"),
    ],
)
def test_what_is_wrong_is_said(
    boards: ModuleType, told: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "times.json"
    path.write_text(json.dumps(told | change))
    with pytest.raises(FormatError, match=words):
        boards.add_rows(path, "a board", folder=tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_in_a_row_is_refused(boards: ModuleType, told: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text(json.dumps({"board": "a board", "record": told}))
    with pytest.raises(FormatError, match="a path is in it"):
        boards.load_row(path)
    path.write_text("{")
    with pytest.raises(FormatError):
        boards.load_row(path)
    with pytest.raises(FormatError, match="cannot be read"):
        boards.add_rows(path, "a board", folder=tmp_path)
