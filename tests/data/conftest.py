"""The data set of `every_format`, as fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest
from every_format import TRUTH, WRITERS, Picture, write_coco, write_voc, write_yolo


@pytest.fixture(params=WRITERS)
def any_format(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return WRITERS[request.param](tmp_path / "set")


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    return write_yolo(tmp_path / "yolo")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return write_voc(tmp_path / "voc")


@pytest.fixture
def truth() -> dict[str, tuple[Picture, ...]]:
    return TRUTH
