from __future__ import annotations

import gzip
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
from edgeyolo.data.image_file import read_bytes, read_image_hw
from edgeyolo.data.remote import local_path
from edgeyolo.spec.errors import DataError, ImageError


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
    assert data.records.image_ids[2] == "train-0001.tar/images_a.png"
    assert not cache.exists()  # nothing is unpacked


def test_a_picture_is_read_from_its_place_in_the_shard(tmp_path: Path) -> None:
    """Its bytes are those that were packed, from the header's on; as Python's own reader of tar files gives them."""
    folder = make_set(tmp_path / "set")
    long_name = "folder/" * 30 + "picture.png"  # in a header of its own
    write_shard(folder / "train-0002.tar", {"d.txt": b"", long_name: png(9), "d.png": png(8)}, pax_headers={"a": "b"})
    paths = open_dataset(folder, "train").records[3:].image_paths
    with tarfile.open(folder / "train-0002.tar") as archive:
        for name, path in zip((long_name, "d.png"), paths, strict=True):
            stream = archive.extractfile(name)
            assert stream is not None and read_bytes(Path(path)) == stream.read()
    assert read_bytes(Path(paths[0]), 8) == png(9)[:8]
    assert read_image_hw(Path(paths[0])) == (40, 80)


def test_a_shard_that_is_gone_or_shorter_than_it_was(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    data = open_dataset(folder, "val")
    shard = folder / "valid.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(ImageError, match=r"cut off"):
        data[0]
    shard.write_bytes(b"")
    with pytest.raises(ImageError, match=r"c\.png.*empty"):
        data[0]
    shard.unlink()
    with pytest.raises(ImageError, match=r"c\.png.*No such file"):
        data[0]


def test_an_unreadable_picture_of_a_shard_is_reported(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    write_shard(folder / "train-0002.tar", {"d.png": b"no picture", "d.txt": b"0 0.5 0.5 1 1\n", "e.png": b""})
    data = open_dataset(folder, "train")
    assert len(data) == 3 and data.report.problems == {"unreadable picture": 2}
    assert "train-0002.tar" in data.report.examples[0].where


def test_shards_without_a_picture_and_compressed_ones(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    write_shard(folder / "test.tar", {"a.txt": b""})
    with pytest.raises(DataError, match="no pictures in 1 shards"):
        open_dataset(folder, "test")
    (folder / "test.tar").write_bytes(gzip.compress((folder / "valid.tar").read_bytes()))
    with pytest.raises(DataError, match="compressed"):
        open_dataset(folder, "test")


@pytest.mark.parametrize("name", ["../out.png", "/abs.png", "a/../../b.txt"])
def test_a_member_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    write_shard(folder / "train-0002.tar", {"d.png": png(5), name: png(6)})
    with pytest.raises(DataError, match="leads out"):
        open_dataset(folder, "train")
    assert not (tmp_path / "out.png").exists()


def test_links_and_devices_are_not_followed(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    write_shard(folder / "train-0002.tar", {"e.png": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    assert len(open_dataset(folder, "train")) == 3


def test_broken_shards_and_labels_are_explained(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    (folder / "train-0002.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="cannot be read"):
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
from edgeyolo.data.image_file import read_bytes
from edgeyolo.data.remote import local_path
number, place = sys.argv[1:]
Path(f"ready-{number}").touch()
while not Path("go").exists():
    time.sleep(0.001)
folder = local_path(place)
print(folder.stat().st_ino, len(read_bytes(open_dataset(folder, "train").records[0].image_path)))
"""


def test_processes_that_open_a_url_together_read_one_copy(tmp_path: Path, cache: Path) -> None:
    """None replaces the folder that another one reads already."""
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    folder = make_set(tmp_path / "set")
    write_shard(folder / "train-0002.tar", {f"{i}.png": png(i % 256) for i in range(500)})  # so that it takes a while
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(i), "local://set"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        for i in range(3)
    ]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready-*"))) < len(openers) and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    said = {opener.communicate()[0] for opener in openers}
    assert len(said) == 1 and said != {""}
    assert len(list((cache / "remote").glob("*"))) == 1
