"""Archives are unpacked into the cache: once for each content, for all who use it, and not for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from any_spec import any_spec

from edgeyolo.bundle import open_bundle, rewrite_manifest, unpacked, write_bundle
from edgeyolo.spec.errors import BundleError
from edgeyolo.spec.manifest import Artefact, Manifest

FILES = {"param": "net.param", "bin": "net.bin"}
MANIFEST = Manifest(
    model=any_spec((64, 64)),
    target="host-cpu",
    artefact=Artefact(engine="ncnn", engine_version="1", precision="int8", files=FILES),
    sha256={},
    created="2025-01-01T00:00:00+00:00",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where bundles are unpacked; the temporary folder of this process is `tmp_path / "memory"`."""
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "memory"))
    monkeypatch.setenv("EDGEYOLO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bundles"


def make(tmp_path: Path, content: int, size: int = 1000) -> Path:
    folder = tmp_path / "artefact"
    folder.mkdir(exist_ok=True)
    for name in FILES.values():
        (folder / name).write_bytes(bytes([content]) * size)
    write_bundle(tmp_path / f"{content}.eyb", MANIFEST, folder)
    return tmp_path / f"{content}.eyb"


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_nothing_is_in_the_temporary_folder_and_the_second_opening_finds_the_first(tmp_path: Path, cache: Path) -> None:
    path = make(tmp_path, 1)
    with open_bundle(path) as first:
        assert list((tmp_path / "memory").iterdir()) == []
        written = (first.folder / "net.bin").stat()
        with open_bundle(path) as second:
            assert second.folder == first.folder and first.folder.parent == cache
    rewrite_manifest(path, msgspec.structs.replace(MANIFEST, threads=3))
    with open_bundle(path) as third:
        found = (third.folder / "net.bin").stat()
        assert (found.st_ino, found.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
        assert third.manifest.threads == 3


def test_an_archive_that_is_altered_later_is_refused_although_its_files_are_there(tmp_path: Path) -> None:
    path = make(tmp_path, 1)
    open_bundle(path).close()
    path.write_bytes(path.read_bytes().replace(b"\1" * 1000, b"\1" * 999 + b"\2"))
    with pytest.raises(BundleError, match="altered"):
        open_bundle(path)


def test_files_that_were_altered_in_the_cache_are_unpacked_again(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make(tmp_path, 1)
    open_bundle(path).close()
    (folder,) = folders(cache)
    (folder / "net.bin").write_bytes(b"\1" * 999)
    with open_bundle(path) as opened:
        assert (opened.folder / "net.bin").read_bytes() == b"\1" * 1000
    assert "altered" in caplog.text


@pytest.mark.parametrize("limit", [{"MOST_FOLDERS": 2}, {"MOST_BYTES": 4500}])
def test_what_was_not_used_for_longest_goes_unless_it_is_in_use(
    limit: dict[str, int], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limit.items():
        monkeypatch.setattr(unpacked, name, value)
    paths = [make(tmp_path, content) for content in range(5)]
    with open_bundle(paths[0]) as used:
        now = time.time()
        for age, path in enumerate(paths[1:4]):
            open_bundle(path).close()
            for folder in folders(cache):
                os.utime(folder, (now - 100 + age, now - 100 + age))
        open_bundle(paths[4]).close()
        assert used.folder in folders(cache) and len(folders(cache)) == 3
        assert {(used.folder / name).read_bytes() for name in FILES.values()} == {b"\0" * 1000}
    open_bundle(paths[3]).close()
    assert {(folder / "net.bin").read_bytes()[0] for folder in folders(cache)} == {3, 4}
    assert len(list(cache.iterdir())) == 4  # each with its mark


def test_what_a_killed_process_left_half_filled_goes_after_a_day(tmp_path: Path, cache: Path) -> None:
    left, fresh = cache / "0123.tmp-old", cache / "0123.tmp-new"
    for folder in (left, fresh):
        folder.mkdir(parents=True)
    os.utime(left, (1e9, 1e9))
    open_bundle(make(tmp_path, 1)).close()
    assert not left.exists() and fresh.exists()


def test_where_the_cache_cannot_be_written_a_temporary_folder_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path, 1)
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEYOLO_CACHE", str(tmp_path / "file"))
    with open_bundle(path) as opened:
        assert opened.folder.parent == tmp_path / "memory"
        assert (opened.folder / "net.bin").read_bytes() == b"\1" * 1000
    assert list((tmp_path / "memory").iterdir()) == []


def test_processes_that_open_it_at_once_all_find_it_whole(tmp_path: Path, cache: Path) -> None:
    path = make(tmp_path, 1, size=300_000)
    code = (
        "import sys; from pathlib import Path; from edgeyolo.bundle import open_bundle\n"
        "for _ in range(20):\n"
        "    with open_bundle(Path(sys.argv[1])) as opened:\n"
        "        assert (opened.folder / 'net.bin').read_bytes() == bytes([1]) * 300_000"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(4)]
    assert [child.wait(60) for child in children] == [0] * 4
    assert len(folders(cache)) == 1
