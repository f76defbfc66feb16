from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeyolo.spec.atomic import check_replaceable, make_folder_once, replacing_file, replacing_folder, write_file
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


MAKER = """
import os, sys, time
from pathlib import Path
from edgeyolo.spec.atomic import make_folder_once

def fill(folder):
    with open("made", "a") as log:
        log.write(f"{os.getpid()}\\n")
    (folder / "a.txt").write_text("whole")
    time.sleep(0.5)

Path(f"ready-{os.getpid()}").touch()
while not Path("go").exists():
    time.sleep(0.001)
folder = make_folder_once(Path("cache/x"), fill, doing="filling")
print((folder / "a.txt").read_text(), folder.stat().st_ino)
"""


def test_of_several_processes_one_makes_a_folder_and_the_others_wait(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKER]
    makers = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    while len(list(tmp_path.glob("ready-*"))) < len(makers):
        time.sleep(0.01)
    (tmp_path / "go").touch()
    said = {maker.communicate()[0] for maker in makers}
    assert said == {f"whole {(tmp_path / 'cache/x').stat().st_ino}\n"}
    assert len((tmp_path / "made").read_text().splitlines()) == 1
    assert not list(tmp_path.glob("cache/*.tmp-*"))


def test_a_folder_that_is_there_is_kept_where_locks_do_nothing(tmp_path: Path) -> None:
    """Somebody else finishes while we fill ours; they may be reading it already."""
    path = tmp_path / "x"

    def fill(folder: Path) -> None:
        (folder / "a.txt").write_text("ours")
        path.mkdir()
        (path / "a.txt").write_text("theirs")

    assert make_folder_once(path, fill, doing="filling") == path
    assert (path / "a.txt").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_could_not_be_filled_is_not_there(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "a.txt").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        make_folder_once(tmp_path / "x", fail, doing="filling")
    assert not list(tmp_path.iterdir())
