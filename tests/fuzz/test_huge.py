"""What asks for more memory than a network needs is refused before it is taken."""

from __future__ import annotations

import importlib.util
import json
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from edgeyolo.runtime import Detector
from edgeyolo.spec.errors import BackendError, BundleError
from edgeyolo.spec.provenance import sha256_of

FUZZ = Path(__file__).parents[2] / "benchmarks/fuzz.py"
MOST_MIB = 8


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edgeyolo_fuzz", FUZZ)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "edgeyolo_fuzz", module)
        patch.syspath_prepend(FUZZ.parent)
        spec.loader.exec_module(module)
    return module


def write_folder(fuzz: ModuleType, folder: Path, old: str, new: str) -> None:
    """The bundle of every layer kind, with one edit of its .param."""
    base = fuzz.make_base()
    assert old in fuzz.PARAM
    manifest = json.loads(base.manifest)
    files = {"net.param": fuzz.PARAM.replace(old, new, 1).encode(), "net.bin": base.files["bin"]}
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
        manifest["sha256"][name] = sha256_of(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0=8 1=3 3=2 4=1 5=1 6=216", f"0={2**40} 1=3 3=2 4=1 5=1 6=216"),
        ("0=8 1=3 3=2 4=1 5=1 6=216", f"0={2**30} 1=3 3=2 4=1 5=1 6={2**31 - 1}"),
        ("0=8 1=1 2=64", f"0={2**30} 1=1 2={2**31 - 1}"),
        ("0=1 1=1 2=8", f"0={2**31 - 1} 1={2**31 - 1} 2={2**31 - 1}"),
        ("0=1 1=2.0 2=2.0", "0=1 3=65536 4=65536"),
        ("0=1 1=2.0 2=2.0", "0=1 3=1100 4=1100"),  # 39 MB for a picture of 37 x 45
        ("0=8 1=2 3=2 5=1 6=256", "0=8 1=2 3=255 5=1 6=256 18=1000000"),
        ("37 45", f"{2**31 - 1} {2**31 - 1}"),
        ("-23300=2,4,-233", f"-23300={2**31 - 1},4,-233"),
        ("sl 1 2", "sl 1 99999"),
    ],
)
def test_layers_that_ask_for_the_world(fuzz: ModuleType, old: str, new: str, tmp_path: Path) -> None:
    write_folder(fuzz, tmp_path, old, new)
    tracemalloc.start()
    try:
        with pytest.raises(BackendError):
            Detector.load(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MIB << 20
    finally:
        tracemalloc.stop()


def test_a_zip_bomb_is_refused_unread(fuzz: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "bomb.eyb"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", fuzz.make_base().manifest, zipfile.ZIP_STORED)
        with archive.open("net.param", "w") as sink:
            for _ in range(64):
                sink.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="compressed"):
            Detector.load(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MIB << 20
    finally:
        tracemalloc.stop()


def test_a_directory_of_many_files_is_refused_unread(tmp_path: Path) -> None:
    """300,000 entries in 16 MB; zipfile reads the directory, which the zip64 record describes, before anything else."""
    names = [b"%06x" % i for i in range(300_000)]
    fields = struct.Struct("<IHHHHHHIIIHHHHHII")
    entry = (0x02014B50, 20, 20, 0, 0, 0, 33, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0)
    directory = b"".join(fields.pack(*entry) + name for name in names)
    end_64 = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, len(names), len(names), len(directory), 0)
    locator = struct.pack("<IIQI", 0x07064B50, 0, len(directory), 1)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)
    path = tmp_path / "many.eyb"
    path.write_bytes(directory + end_64 + locator + end)
    del names, directory
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="directory"):
            Detector.load(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MIB << 20
    finally:
        tracemalloc.stop()


def test_a_picture_larger_than_any_is_refused(fuzz: ModuleType, tmp_path: Path) -> None:
    write_folder(fuzz, tmp_path, "37 45", "37 45")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["model"]["input"]["image_hw"] = [16384, 16384]  # 3 GiB
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="image_hw is out of its range"):
        Detector.load(tmp_path)


def test_the_base_itself_runs(fuzz: ModuleType, tmp_path: Path) -> None:
    write_folder(fuzz, tmp_path, "37 45", "37 45")
    with Detector.load(tmp_path) as detector:
        assert len(detector.detect(fuzz.PICTURE)) > 0
