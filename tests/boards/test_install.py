"""A bundle in its place on a board: one rename switches to it, whatever happens meanwhile, and one leads back."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeyolo.boards.wire import Address, Wire, at_board
from edgeyolo.boards.work import roll_back, send_version, switch_to
from edgeyolo.spec.errors import AwayError, BoardError, OutputError

OLD, NEW, THIRD = (bytes([letter]) * (600 << 10) for letter in b"ont")  # three pieces each

# Python runs this before the agent: it ends, as with a power cut, at the N-th thing it is about to do to the disk.
CUT = """\
import os, signal, sys
left = int(os.environ["CUT_AT"])
CHANGES = {"os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "shutil.rmtree"}
def hook(event, args):
    global left
    if event in CHANGES or event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    """A file of these contents, always under the same name."""

    def write_file(raw: bytes) -> Path:
        path = tmp_path / raw[:1].decode() / "cells.eyb"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw)
        return path

    return write_file


def deploy(board, path: Path, python: str = sys.executable) -> dict:
    with Wire(board.address(python)) as wire:
        return switch_to(wire, send_version(wire, path))


def test_one_place_whatever_the_version(board, write) -> None:
    place = board.home / "edgeyolo-bundles/cells.eyb"
    first = deploy(board, write(OLD))
    assert (first["changed"], first["previous"], first["path"]) == (True, "", str(place))
    assert place.read_bytes() == OLD
    assert deploy(board, write(NEW))["previous"] == first["version"]
    assert place.read_bytes() == NEW
    assert deploy(board, write(NEW))["changed"] is False
    deploy(board, write(THIRD))
    kept = sorted(path.read_bytes()[:1] for path in board.home.glob("edgeyolo-bundles/.versions/cells.eyb/*/cells.eyb"))
    assert kept == [b"n", b"t"], "the one before is kept, older ones are not"


def test_back_and_forth(board, write) -> None:
    place = board.home / "edgeyolo-bundles/cells.eyb"
    with Wire(board.address()) as wire:
        with pytest.raises(BoardError, match="has installed nothing there"):
            roll_back(wire, "cells.eyb")
        switch_to(wire, send_version(wire, write(OLD)))
        with pytest.raises(BoardError, match="no version before"):
            roll_back(wire, "cells.eyb")
        switch_to(wire, send_version(wire, write(NEW)))
        roll_back(wire, "cells.eyb")
        assert place.read_bytes() == OLD
        switch_to(wire, send_version(wire, write(NEW)))
        assert place.read_bytes() == NEW
        roll_back(wire, "cells.eyb")
        assert place.read_bytes() == OLD


def test_what_somebody_else_put_there_stays(board, write) -> None:
    place = board.home / "edgeyolo-bundles/cells.eyb"
    place.parent.mkdir()
    place.write_bytes(b"mine")
    with pytest.raises(BoardError, match="has not installed what is there"):
        deploy(board, write(NEW))
    assert place.read_bytes() == b"mine"


class OnThisComputer(Address):
    """The agent, started without ssh, which has no part in what it does to a disk."""

    def command(self) -> list[str]:
        return ["sh", "-c", super().command()[-1]]


def test_killed_at_any_point_the_old_version_serves(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each thing that a deployment does to the disk; the same command then goes on, and back leads to the old."""
    home, python = tmp_path / "home", tmp_path / "python"
    (tmp_path / "sitecustomize.py").write_text(CUT)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("HOME", str(home))
    place = home / "edgeyolo-bundles/cells.eyb"
    old, new = write(OLD), write(NEW * 4)
    with Wire(OnThisComputer("here", python=sys.executable)) as wire:
        switch_to(wire, send_version(wire, old))
    before = shutil.copytree(home, tmp_path / "before", symlinks=True)
    versions = []
    for point in itertools.count(1):
        monkeypatch.setenv("CUT_AT", str(point))
        try:
            with Wire(OnThisComputer("here", python=str(python))) as wire:
                switch_to(wire, send_version(wire, new))
        except AwayError:
            versions.append(place.read_bytes())
        else:
            break
        with Wire(OnThisComputer("here", python=sys.executable)) as wire:
            switch_to(wire, send_version(wire, new))
            assert place.read_bytes() == NEW * 4
            roll_back(wire, "cells.eyb")
            assert place.read_bytes() == OLD
        shutil.rmtree(home)
        shutil.copytree(before, home, symlinks=True)
    switched = versions.index(NEW * 4) if NEW * 4 in versions else len(versions)
    assert switched >= 20 and versions[:switched] == [OLD] * switched
    assert versions[switched:] == [NEW * 4] * (len(versions) - switched)


def test_a_board_that_reboots_in_the_middle(board, write) -> None:
    deploy(board, write(OLD))
    reboots = iter([True])

    class Reboot:
        def step(self, stage: str, done: int, total: int, text: str = "") -> None:
            if done and next(reboots, False):
                board.stop()
                assert (board.home / "edgeyolo-bundles/cells.eyb").read_bytes() == OLD
                board.start()

    path = write(NEW)
    at_board(board.address(), lambda wire: switch_to(wire, send_version(wire, path)), reconnect_s=20, progress=Reboot())
    assert (board.home / "edgeyolo-bundles/cells.eyb").read_bytes() == NEW


@pytest.mark.parametrize("limit", ["size=20m", "nr_inodes=24"])
def test_a_full_disk(make_board, write, tmp_path: Path, limit: str) -> None:
    """A file system of its own, too small in bytes, which is seen before, or in files, which is not."""
    prefix = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    mount = f'mount -t tmpfs -o {limit} none {tmp_path}/small/home && exec "$@"'
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let tests mount a file system of their own (unshare --mount)")
    small = make_board("small", prefix=(*prefix, "sh", "-c", mount, "sh"))
    deploy(small, write(OLD))
    with Wire(small.address()) as wire:
        fill = "for i in $(seq 30); do : > $HOME/$i; done 2> /dev/null"
        wire.ask("run", words=["sh", "-c", fill], environment={})
        path = write(NEW * 12)
        with pytest.raises(OutputError, match=r"small.*the board's disk is full.*what was installed is as it was"):
            switch_to(wire, send_version(wire, path))
        serves = wire.ask("run", words=["head", "-c1", f"{small.home}/edgeyolo-bundles/cells.eyb"], environment={})
        assert serves["out"] == OLD[:1].decode()
        wire.ask("run", words=["sh", "-c", "rm -f $HOME/[0-9]*"], environment={})
