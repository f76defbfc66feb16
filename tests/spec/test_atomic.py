from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeyolo.spec.atomic import check_replaceable, replacing_file, replacing_folder, write_file
from edgeyolo.spec.errors import OutputError


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_file(path, b"old")
    with pytest.raises(RuntimeError), replacing_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for text in ("first", "second"):
        with replacing_folder(path) as temporary:
            (temporary / "a.txt").write_text(text)
    with pytest.raises(RuntimeError), replacing_folder(path) as temporary:
        (temporary / "a.txt").write_text("third")
        raise RuntimeError
    assert (path / "a.txt").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("writer", ["replacing_file", "replacing_folder"])
def test_kill_leaves_no_half_output(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "out"
    code = f"""
import os, signal
from pathlib import Path
from edgeyolo.spec.atomic import {writer}
with {writer}(Path({str(path)!r})) as temporary:
    target = temporary / "part" if temporary.is_dir() else temporary
    target.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not path.exists()


def test_disk_full_is_an_output_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    path = tmp_path / "a.txt"
    write_file(path, b"old")
    with pytest.raises(OutputError, match="No space left"), replacing_file(path), Path("/dev/full").open("wb") as full:
        full.write(b"x" * 100_000)
    assert path.read_bytes() == b"old"


def test_a_folder_of_others_is_left_as_it_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.safetensors").write_text("sixty epochs")
    for name in ("model.json", "a.txt"):
        (run / name).write_text("old")
    with (
        pytest.raises(OutputError, match=r"holds a\.txt, best\.safetensors"),
        replacing_folder(run, names={"model.json"}),
    ):
        pytest.fail("the block must not be entered")
    assert sorted(path.name for path in run.iterdir()) == ["a.txt", "best.safetensors", "model.json"]


def test_a_folder_of_ones_own_is_replaced_and_one_that_fills_up_meanwhile_is_not(tmp_path: Path) -> None:
    out, ours = tmp_path / "out", {"model.json"}
    for text in ("first", "second"):
        with replacing_folder(out, names=ours) as temporary:
            (temporary / "model.json").write_text(text)
    assert (out / "model.json").read_text() == "second"
    with pytest.raises(OutputError, match="letter"), replacing_folder(out, names=ours) as temporary:
        (temporary / "model.json").write_text("third")
        (out / "letter").write_text("dear")
    assert (out / "letter").read_text() == "dear" and (out / "model.json").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_source_inside_the_folder_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "out" / "model.json"
    source.parent.mkdir()
    source.write_text("read")
    for inside in (source, source.parent, tmp_path / "out" / ".." / "out"):
        with pytest.raises(OutputError, match="which is read"):
            check_replaceable(tmp_path / "out", {"model.json"}, sources=[inside])
    check_replaceable(tmp_path / "out", {"model.json"}, sources=[tmp_path])


def test_unwritable_place_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_file(tmp_path / "file" / "below.txt", b"x")
    with pytest.raises(OutputError, match="is a file"), replacing_folder(tmp_path / "file"):
        pass
