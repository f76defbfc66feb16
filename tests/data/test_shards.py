from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeyolo.data.dataset import list_splits, open_dataset
from edgeyolo.data.remote import local_path
from edgeyolo.spec.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEYOLO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(value: int) -> bytes:
    return cv2.imencode(".png", np.full((40, 80, 3), value, np.uint8))[1].tobytes()


def write_shard(path: Path, members: dict[str, bytes], **change: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            for field, value in change.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(raw))


def make_set(folder: Path) -> Path:
    objects = json.dumps({"boxes_xyxy": [[8, 4, 40, 36]], "class_ids": [1]}).encode()
    write_shard(folder / "train-0000.tar", {"a.txt": b"0 0.5 0.5 0.25 0.5\n", "a.png": png(1), "b.png": png(2)})
    write_shard(folder / "train-0001.tar", {"images/a.png": png(3), "images/a.json": objects, "notes.md": b"no"})
    write_shard(folder / "valid.tar", {"c.png": png(4), "c.txt": b"1 0.5 0.5 1 1\n"})
    (folder / "classes.txt").write_text("cell\nblob\n")
    return folder


def test_shards_are_read_like_a_folder(tmp_path: Path, cache: Path) -> None:
    folder = make_set(tmp_path / "set")
    assert list_splits(folder) == ["train", "val"]
    data = open_dataset(folder, "train")
    assert data.class_names == ("cell", "blob") and len(data) == 3
    found = {int(sample.image[0, 0, 0]): (sample.class_ids.tolist(), sample.boxes_xyxy.tolist()) for sample in data}
    assert found[1] == ([0], [[30, 10, 50, 30]])
    assert found[2] == ([], [])
    assert found[3] == ([1], [[8, 4, 40, 36]])
    assert len(open_dataset(folder, "val")) == 1
    assert len(list((cache / "shards").iterdir())) == 2
    open_dataset(folder, "train")
    assert len(list((cache / "shards").iterdir())) == 2


@pytest.mark.parametrize("name", ["../out.png", "/abs.png", "a/../../b.txt"])
def test_a_member_that_leads_out_is_refused(name: str, tmp_path: Path, cache: Path) -> None:
    folder = make_set(tmp_path / "set")
    write_shard(folder / "train-0002.tar", {"d.png": png(5), name: png(6)})
    with pytest.raises(DataError, match="leads out"):
        open_dataset(folder, "train")
    assert not list((cache / "shards").iterdir())
    assert not (tmp_path / "out.png").exists()


def test_links_and_devices_are_not_followed(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    write_shard(folder / "train-0002.tar", {"e.png": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    assert len(open_dataset(folder, "train")) == 3


def test_broken_shards_and_labels_are_explained(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    (folder / "train-0002.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="cannot be unpacked"):
        open_dataset(folder, "train")
    for labels in (b"{", b"{}", b'{"boxes_xyxy": [[1]], "class_ids": [0]}', b'{"boxes_xyxy": [], "class_ids": [0]}'):
        write_shard(folder / "train-0002.tar", {"f.png": png(7), "f.json": labels})
        with pytest.raises(DataError, match=r"f\.json"):
            open_dataset(folder, "train")


def test_data_behind_a_url_is_copied_once(tmp_path: Path, cache: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    system = fsspec.filesystem("memory")
    system.store.clear()
    for path in make_set(tmp_path / "set").iterdir():
        system.pipe(f"/bucket/set/{path.name}", path.read_bytes())
    for url in ("memory://bucket/set", Path("memory://bucket/set")):
        data = open_dataset(url, "train")
        assert len(data) == 3
    assert len(list((cache / "remote").iterdir())) == 1
    system.pipe("/bucket/set/classes.txt", b"cell\nother\nthird\n")
    assert open_dataset("memory://bucket/set", "train").class_names == ("cell", "other", "third")


def test_a_url_of_nothing_and_of_an_unknown_kind(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    fsspec.filesystem("memory").store.clear()
    with pytest.raises(DataError):
        local_path("memory://nothing/here")
    with pytest.raises(DataError, match="cannot be opened"):
        local_path("nosuchscheme://a/b")
    assert local_path(tmp_path) == tmp_path


OPENER = """
import sys, time
from pathlib import Path
from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.remote import local_path
number, place = sys.argv[1:]
Path(f"ready-{number}").touch()
while not Path("go").exists():
    time.sleep(0.001)
path = open_dataset(local_path(place), "train").records[0].image_path
print(path.parent.parent.stat().st_ino, len(path.read_bytes()))
"""


@pytest.mark.parametrize("kind", ["shards", "url"])
def test_processes_that_open_it_together_read_one_copy(kind: str, tmp_path: Path, cache: Path) -> None:
    """None replaces the folder that another one reads already."""
    folder = make_set(tmp_path / "set")
    write_shard(folder / "train-0002.tar", {f"{i}.png": png(i % 256) for i in range(500)})  # so that it takes a while
    place = str(folder)
    if kind == "url":
        pytest.importorskip("fsspec", reason="fsspec is not installed")
        place = "local://set"
    command = [sys.executable, "-c", OPENER]
    openers = [
        subprocess.Popen([*command, str(i), place], cwd=tmp_path, stdout=subprocess.PIPE, text=True) for i in range(3)
    ]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready-*"))) < len(openers) and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    said = {opener.communicate()[0] for opener in openers}
    assert len(said) == 1 and said != {""}
    assert len(list((cache / "shards").glob("*"))) == 1
