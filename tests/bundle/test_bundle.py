"""Writing, opening and attacking bundles."""

from __future__ import annotations

import os
import signal
import stat
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeyolo.bundle import layout, open_bundle, read_manifest, rewrite_manifest, write_bundle
from edgeyolo.spec.errors import BundleError, OutputError
from edgeyolo.spec.manifest import Artefact, Manifest
from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelSpec, Score
from edgeyolo.spec.strict import encode_json

FILES = {"net.param": b"7767517\n" * 40, "net.bin": np.random.default_rng(0).bytes(70_000)}
SPEC = ModelSpec(
    name="yolov7-tiny",
    activation="leaky_relu",
    class_names=("cat", "dog"),
    input=InputSpec(image_hw=(64, 64)),
    decode=AnchorDecode(strides=(8,), anchors_wh=(((10.0, 13.0),),)),
)
MANIFEST = Manifest(
    model=SPEC,
    target="host-cpu",
    artefact=Artefact(
        engine="ncnn", engine_version="1", precision="int8", files={"param": "net.param", "bin": "net.bin"}
    ),
    sha256={},
    created="2025-01-01T00:00:00+00:00",
)
SCORE = Score(
    artefact="ncnn int8",
    data="d",
    split="val",
    images=1,
    boxes=1,
    ap=1.0,
    ap50=2.0,
    ap75=3.0,
    ap_small=-1.0,
    ap_medium=-1.0,
    ap_large=1.0,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "artefact"
    made.mkdir()
    for name, raw in FILES.items():
        (made / name).write_bytes(raw)
    (made / "build.log").write_text("stays out")
    return made


@pytest.fixture
def bundle(tmp_path: Path, folder: Path) -> Path:
    write_bundle(tmp_path / "net.eyb", MANIFEST, folder)
    return tmp_path / "net.eyb"


def forge(path: Path, entries: list[tuple[zipfile.ZipInfo | str, bytes]]) -> Path:
    """Write a zip by hand."""
    with zipfile.ZipFile(path, "w") as archive:
        for entry, raw in entries:
            archive.writestr(entry, raw)
    return path


def good_entries(bundle: Path) -> list[tuple[zipfile.ZipInfo | str, bytes]]:
    with zipfile.ZipFile(bundle) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def edited_manifest(bundle: Path, edit: dict[str, object]) -> bytes:
    return msgspec.json.encode({**msgspec.json.decode(encode_json(read_manifest(bundle))), **edit})


def test_round_trip_is_a_plain_stored_zip(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        assert archive.namelist() == ["manifest.json", "net.bin", "net.param"]
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    with open_bundle(bundle) as opened:
        assert {path.name: path.read_bytes() for path in opened.folder.iterdir()} == FILES
        assert msgspec.structs.replace(opened.manifest, sha256={}) == MANIFEST
        assert set(opened.manifest.sha256) == set(FILES)


def test_same_input_gives_the_same_bytes(bundle: Path, folder: Path, tmp_path: Path) -> None:
    for name in FILES:
        os.utime(folder / name, (1e9, 1e9))
    write_bundle(tmp_path / "again.eyb", MANIFEST, folder)
    assert (tmp_path / "again.eyb").read_bytes() == bundle.read_bytes()


def test_a_folder_opens_too_and_is_kept(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "open")
    with open_bundle(tmp_path / "open") as opened:
        assert opened.folder == tmp_path / "open"
    assert (tmp_path / "open" / "net.bin").exists()
    (tmp_path / "open" / "net.bin").write_bytes(FILES["net.bin"][:-1] + b"\0")
    with pytest.raises(BundleError, match=r"net\.bin.*altered"):
        open_bundle(tmp_path / "open")
    (tmp_path / "open" / "net.bin").unlink()
    with pytest.raises(BundleError, match=r"'net\.bin' of the manifest is missing"):
        open_bundle(tmp_path / "open")
    (tmp_path / "secret").write_bytes(FILES["net.bin"])
    (tmp_path / "open" / "net.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        open_bundle(tmp_path / "open")


@pytest.mark.parametrize("as_folder", [False, True])
def test_rewriting_the_manifest_keeps_the_files(bundle: Path, tmp_path: Path, as_folder: bool) -> None:
    if as_folder:
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(tmp_path / "open")
        bundle = tmp_path / "open"
    scored = msgspec.structs.replace(MANIFEST, scores=(SCORE,))
    rewrite_manifest(bundle, scored)
    with open_bundle(bundle) as opened:
        assert opened.manifest.scores == (SCORE,)
        assert {name: (opened.folder / name).read_bytes() for name in FILES} == FILES
    other = msgspec.structs.replace(MANIFEST.artefact, files={"onnx": "other.onnx"})
    with pytest.raises(BundleError, match=r"other\.onnx"):
        rewrite_manifest(bundle, msgspec.structs.replace(MANIFEST, artefact=other))


def test_writing_says_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    def with_file(name: str) -> Manifest:
        return msgspec.structs.replace(MANIFEST, artefact=msgspec.structs.replace(MANIFEST.artefact, files={"f": name}))

    with pytest.raises(BundleError, match=r"'gone\.bin' of the artefact is missing"):
        write_bundle(tmp_path / "x.eyb", with_file("gone.bin"), folder)
    for name in ("../net.bin", "/net.bin", "manifest.json", "a/b", ""):
        with pytest.raises(BundleError):
            write_bundle(tmp_path / "x.eyb", with_file(name), folder)
    (tmp_path / "taken").write_text("a file where a folder is needed")
    with pytest.raises(OutputError):
        write_bundle(tmp_path / "taken" / "x.eyb", MANIFEST, folder)
    assert not (tmp_path / "x.eyb").exists()


def test_every_truncation_is_refused(bundle: Path, tmp_path: Path) -> None:
    raw = bundle.read_bytes()
    cut = tmp_path / "cut.eyb"
    for length in [0, 1, 3, 22, 100, *range(1000, len(raw), 4001), len(raw) - 22, len(raw) - 1]:
        cut.write_bytes(raw[:length])
        with pytest.raises(BundleError, match=r"cut\.eyb.*truncated"):
            open_bundle(cut)


def test_every_altered_byte_is_refused_or_harmless(bundle: Path, tmp_path: Path) -> None:
    raw = bundle.read_bytes()
    rng = np.random.default_rng(1)
    places = [*range(60), *range(len(raw) - 260, len(raw)), *rng.integers(0, len(raw), 300).tolist()]
    refused = 0
    for place in places:
        altered = bytearray(raw)
        altered[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "bad.eyb").write_bytes(altered)
        try:
            with open_bundle(tmp_path / "bad.eyb") as opened:  # a flipped timestamp, say, changes nothing of ours
                assert {name: (opened.folder / name).read_bytes() for name in FILES} == FILES
                assert msgspec.structs.replace(opened.manifest, sha256={}) == MANIFEST
        except BundleError as error:
            assert "bad.eyb" in str(error) and error.hint
            refused += 1
    assert refused > 300


def test_an_altered_file_with_a_right_crc_is_refused_by_its_digest(bundle: Path, tmp_path: Path) -> None:
    entries = [(n, b"evil" if n == "net.param" else raw) for n, raw in good_entries(bundle)]
    with pytest.raises(BundleError, match=r"net\.param: was altered"):
        open_bundle(forge(tmp_path / "x.eyb", entries))


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        "a/../../evil",
        "..\\evil",
        "C:evil",
        "C:\\evil",
        "sub/evil",
        ".hidden",
        "..",
        "a\nb",
        "x/",
    ],
)
def test_names_that_lead_elsewhere_are_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="not a plain file name"):
        open_bundle(forge(tmp_path / "x.eyb", [*good_entries(bundle), (name, b"evil")]))
    digests = {**read_manifest(bundle).sha256, name: "0" * 64}
    raw = edited_manifest(bundle, {"sha256": digests})
    entries = [(n, raw if n == "manifest.json" else r) for n, r in good_entries(bundle)]
    with pytest.raises(BundleError, match="not a plain file name"):
        open_bundle(forge(tmp_path / "x.eyb", entries))
    assert not (tmp_path / "evil").exists()


def test_links_bombs_and_locked_entries_are_refused(bundle: Path, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("net.param")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    others = [entry for entry in good_entries(bundle) if entry[0] != "net.param"]
    with pytest.raises(BundleError, match=r"net\.param.*link"):
        open_bundle(forge(tmp_path / "link.eyb", [*others, (link, b"/etc/passwd")]))
    bomb = zipfile.ZipInfo("net.param")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    with pytest.raises(BundleError, match=r"net\.param.*compressed"):
        open_bundle(forge(tmp_path / "bomb.eyb", [*others, (bomb, bytes(50_000_000))]))
    locked = bytearray(bundle.read_bytes())
    locked[locked.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.eyb").write_bytes(locked)
    with pytest.raises(BundleError, match="encrypted"):
        open_bundle(tmp_path / "locked.eyb")


def test_sizes_that_cannot_be_true_are_refused(bundle: Path, tmp_path: Path) -> None:
    raw = bytearray(bundle.read_bytes())
    struct.pack_into("<II", raw, raw.rindex(b"PK\x01\x02") + 20, 0xF0000000, 0xF0000000)
    (tmp_path / "huge.eyb").write_bytes(raw)
    with pytest.raises(BundleError, match="larger than a bundle can be"):
        open_bundle(tmp_path / "huge.eyb")


def test_limits_hold(bundle: Path, folder: Path, tmp_path: Path) -> None:
    padded = b" " * (layout.MAX_MANIFEST_BYTES + 1)
    entries = [(n, padded if n == "manifest.json" else r) for n, r in good_entries(bundle)]
    with pytest.raises(BundleError, match="over 16 MiB"):
        open_bundle(forge(tmp_path / "x.eyb", entries))
    with (folder / "net.bin").open("wb") as stream:
        stream.truncate(layout.MAX_TOTAL_BYTES)  # sparse
    with pytest.raises(BundleError, match="over 4 GiB"):
        write_bundle(tmp_path / "y.eyb", MANIFEST, folder)


def test_duplicate_missing_and_extra_files_are_refused(bundle: Path, tmp_path: Path) -> None:
    good = good_entries(bundle)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = forge(tmp_path / "twice.eyb", [*good, good[1]])
    with pytest.raises(BundleError, match=r"holds 'net\.bin' twice"):
        open_bundle(twice)
    with pytest.raises(BundleError, match=r"holds 'NET\.bin' twice"):
        open_bundle(forge(tmp_path / "case.eyb", [*good, ("NET.bin", b"")]))
    with pytest.raises(BundleError, match=r"'net\.param' of the manifest is missing"):
        open_bundle(forge(tmp_path / "less.eyb", good[:-1]))
    with pytest.raises(BundleError, match=r"'more\.bin', which the manifest does not name"):
        open_bundle(forge(tmp_path / "more.eyb", [*good, ("more.bin", b"1")]))
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        open_bundle(forge(tmp_path / "none.eyb", good[1:]))


def test_manifests_that_cannot_be_used_are_refused(bundle: Path, tmp_path: Path) -> None:
    def opening(raw: bytes) -> None:
        entries = [(n, raw if n == "manifest.json" else r) for n, r in good_entries(bundle)]
        open_bundle(forge(tmp_path / "x.eyb", entries))

    with pytest.raises(BundleError, match="Update edgeyolo"):
        opening(edited_manifest(bundle, {"format_version": 2, "what_is_this": 1}))
    with pytest.raises(BundleError, match="format version 0"):
        opening(edited_manifest(bundle, {"format_version": 0}))
    with pytest.raises(BundleError, match=r"manifest\.json.*`treads`.*'threads'"):
        opening(edited_manifest(bundle, {"treads": 4}))
    with pytest.raises(BundleError, match=r"manifest\.json"):
        opening(b"\xff\xfe")
    with pytest.raises(BundleError, match=r"'net\.bin' \(bin\) has no sha256"):
        opening(edited_manifest(bundle, {"sha256": {"net.param": read_manifest(bundle).sha256["net.param"]}}))


def test_what_is_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        open_bundle(tmp_path / "none.eyb")
    (tmp_path / "text.eyb").write_text("hello")
    with pytest.raises(BundleError, match=r"text\.eyb.*no bundle"):
        open_bundle(tmp_path / "text.eyb")
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("cache", ["cache", "none/that/can/be"])
def test_a_failed_opening_leaves_nothing(
    cache: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "none").touch()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setenv("EDGEYOLO_CACHE", str(tmp_path / cache))
    entries = [(n, b"evil" if n == "net.param" else raw) for n, raw in good_entries(bundle)]
    with pytest.raises(BundleError):
        open_bundle(forge(tmp_path / "x.eyb", entries))
    assert list(scratch.iterdir()) == []
    assert [path.name for path in (tmp_path / "cache").rglob("*")] == ["bundles"] * (cache == "cache")


def test_killed_while_writing_leaves_the_old_bundle_whole(bundle: Path, folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(encode_json(MANIFEST))
    code = (
        "import sys; from pathlib import Path; from edgeyolo.bundle import write_bundle;"
        "from edgeyolo.spec.manifest import Manifest; from edgeyolo.spec.strict import load_json;"
        "path, folder, manifest = map(Path, sys.argv[1:]); m = load_json(manifest, Manifest)\n"
        "print('go', flush=True)\n"
        "while True: write_bundle(path, m, folder)"
    )
    for delay_s in (0.0, 0.003, 0.011, 0.02):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(bundle), str(folder), str(manifest)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None and child.stdout.readline() == b"go\n"
        time.sleep(delay_s)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with open_bundle(bundle) as opened:
            assert (opened.folder / "net.bin").read_bytes() == FILES["net.bin"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("threads", -1),
        ("threads", 10**9),
        ("model.class_names", []),
        ("model.input.image_hw", [0, 64]),
        ("model.input.image_hw", [64, 1 << 31]),
        ("model.input.batch", [0, 0]),
        ("model.input.batch", [2, 8]),
        ("model.input.batch", [1, 1 << 20]),
        ("model.input.mean", [0.0, 1e300, 0.0]),
        ("model.input.std", [1.0, 0.0, 1.0]),
        ("model.input.std", [1.0, 1e-40, 1.0]),
        ("model.input.letterbox_value", 256),
        ("model.input.letterbox_value", -1),
        ("model.decode.strides", [0]),
        ("model.decode.strides", []),
        ("model.decode.anchors_wh", []),
        ("model.decode.anchors_wh", [[]]),
        ("model.decode.anchors_wh", [[[8.0, -1.0]]]),
        ("model.decode", {"kind": "dfl", "strides": [8], "bins": 0}),
        ("model.decode", {"kind": "graph", "strides": [8], "candidates": 0}),
    ],
)
def test_numbers_that_nobody_can_compute_with_are_refused(path: str, value: object) -> None:
    tree = msgspec.to_builtins(MANIFEST)
    tree["sha256"] = dict.fromkeys(FILES, "0" * 64)
    layout.parse_manifest(msgspec.json.encode(tree), where="m")
    *parents, key = path.split(".")
    node = tree
    for parent in parents:
        node = node[parent]
    node[key] = value
    with pytest.raises(BundleError, match="out of its range"):
        layout.parse_manifest(msgspec.json.encode(tree), where="m")
