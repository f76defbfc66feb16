"""One page for tests that only ask, with two sources; a bundle and videos for those that start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from live_page import Client, serving, wait_until, write_blocks_bundle, write_video
from shared import make_once

from edgeyolo.live import Live
from edgeyolo.live.server import Limits
from edgeyolo.spec.serving import ServeOptions


def make_all(folder: Path) -> None:
    folder.mkdir()
    write_blocks_bundle(folder)
    write_video(folder / "yard.avi", seed=1)
    write_video(folder / "gate.avi", seed=2)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `blocks.eyb`, `yard.avi` and `gate.avi`."""
    return make_once(tmp_path_factory, "live", make_all)


@pytest.fixture(scope="session")
def bundle(made: Path) -> Path:
    return made / "blocks.eyb"


@pytest.fixture(scope="module")
def page(made: Path) -> Iterator[tuple[Live, Client]]:
    """Two sources, no token, deadlines of a second, places for 40 connections."""
    limits = Limits(connections=40, head_s=1.0, body_s=1.0, write_s=1.0)
    options = ServeOptions(port=0, detect_rate=1000, max_clients=8, max_upload_mib=0.25, max_megapixels=1.0)
    sources = [str(made / "yard.avi"), str(made / "gate.avi")]
    with serving(made / "blocks.eyb", sources, options, limits=limits) as (live, client):
        wait_until(lambda: all(each["phase"] == "live" for each in client.status()["sources"]))
        yield live, client


@pytest.fixture
def client(page: tuple[Live, Client]) -> Client:
    return page[1]
