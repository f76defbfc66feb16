"""Pictures of every kind, whole and broken, and their sizes from the header."""

from __future__ import annotations

import resource
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeyolo.data.image_file import read_image, read_image_hw
from edgeyolo.spec.errors import ImageError

SUFFIXES = (".jpg", ".png", ".bmp", ".webp", ".tif")


@pytest.fixture
def picture() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.resize(noise, (160, 120), interpolation=cv2.INTER_CUBIC)


def write(path: Path, image: np.ndarray, *options: int) -> Path:
    assert cv2.imwrite(str(path), image, list(options))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whole_pictures(picture: np.ndarray, suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"p{suffix}", picture)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.shape == (120, 160, 3)
    assert (image == cv2.imread(str(path))).all()
    assert read_image_hw(path) == (120, 160)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_pictures_that_are_cut_off(picture: np.ndarray, suffix: str, part: float, tmp_path: Path) -> None:
    path = write(tmp_path / f"p{suffix}", picture)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * part)])
    with pytest.raises(ImageError):
        read_image(path)


def test_a_cut_jpeg_with_a_whole_thumbnail_inside(picture: np.ndarray, tmp_path: Path) -> None:
    raw = write(tmp_path / "p.jpg", picture).read_bytes()
    thumbnail = cv2.imencode(".jpg", picture[:16, :16])[1].tobytes()
    segment = b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\0" + thumbnail
    path = tmp_path / "t.jpg"
    path.write_bytes(raw[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + raw[2:])
    assert read_image(path).shape == (120, 160, 3)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match="cut off"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation(picture: np.ndarray, orientation: int, order: str, tmp_path: Path) -> None:
    raw = write(tmp_path / "p.jpg", picture).read_bytes()
    tiff = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, 1)
    tiff += struct.pack(order + "HHIHHI", 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    path = tmp_path / "turned.jpg"
    path.write_bytes(raw[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + raw[2:])
    image = read_image(path)
    assert (image == cv2.imread(str(path))).all()
    assert read_image_hw(path) == image.shape[:2] == ((120, 160) if orientation < 5 else (160, 120))


def test_grey_alpha_and_16_bits_become_three_bytes(tmp_path: Path) -> None:
    grey = np.full((5, 7), 77, np.uint8)
    deep = np.full((5, 7, 3), 77 * 257, np.uint16)
    alpha = np.dstack([np.full((5, 7, 3), 77, np.uint8), np.zeros((5, 7), np.uint8)])
    for name, image in {"grey": grey, "deep": deep, "deep-grey": deep[..., 0], "alpha": alpha}.items():
        path = write(tmp_path / f"{name}.png", image)
        found = read_image(path)
        assert found.shape == (5, 7, 3) and found.dtype == np.uint8
        assert np.abs(found.astype(int) - 77).max() <= 1
        assert read_image_hw(path) == (5, 7)


def test_progressive_and_lossless_variants_and_single_pixels(picture: np.ndarray, tmp_path: Path) -> None:
    progressive = write(tmp_path / "p.jpg", picture, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    lossless = write(tmp_path / "l.webp", picture, cv2.IMWRITE_WEBP_QUALITY, 101)
    for path in (progressive, lossless):
        assert read_image_hw(path) == read_image(path).shape[:2] == (120, 160)
    for suffix in SUFFIXES:
        path = write(tmp_path / f"one{suffix}", np.zeros((1, 1, 3), np.uint8))
        assert read_image_hw(path) == read_image(path).shape[:2] == (1, 1)


def test_the_size_behind_large_metadata(picture: np.ndarray, tmp_path: Path) -> None:
    raw = write(tmp_path / "p.jpg", picture).read_bytes()
    profile = b"\xff\xe2" + struct.pack(">H", 60002) + bytes(60000)
    path = tmp_path / "big.jpg"
    path.write_bytes(raw[:2] + profile * 3 + raw[2:])
    assert read_image_hw(path) == (120, 160)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"text",
        b"\xff\xd8",
        b"\xff\xd8\xff\xe1\x00",
        b"\x89PNG\r\n\x1a\n\0",
        b"BM",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"\0" * 99,
    ],
)
def test_what_is_no_picture(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p.jpg"
    path.write_bytes(raw)
    for read in (read_image, read_image_hw):
        with pytest.raises(ImageError, match=r"p\.jpg"):
            read(path)


def test_absent_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(ImageError, match="cannot be read"):
            read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_a_size_beyond_all_memory_is_refused_before_it_is_decoded(
    picture: np.ndarray, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = bytearray(write(tmp_path / f"p{suffix}", picture).read_bytes())
    if suffix == ".png":
        raw[16:24] = struct.pack(">II", 30_000, 30_000)
    elif suffix == ".jpg":
        at = raw.find(b"\xff\xc0") + 5
        raw[at : at + 4] = struct.pack(">HH", 30_000, 30_000)
    elif suffix == ".bmp":
        raw[18:26] = struct.pack("<ii", 30_000, -30_000)
    else:
        table = struct.unpack_from("<I", raw, 4)[0] + 2
        for at in (table, table + 12):
            assert struct.unpack_from("<H", raw, at)[0] in (256, 257)
            raw[at + 2 : at + 12] = struct.pack("<HII", 4, 1, 30_000)
    path = tmp_path / f"huge{suffix}"
    path.write_bytes(raw)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(ImageError, match=r"is 30000x30000, and .* are the most"):
        read_image(path)


def test_a_chunk_that_claims_gigabytes_takes_no_memory(picture: np.ndarray, tmp_path: Path) -> None:
    """The decoder would make room for it before it finds that the file is shorter."""
    path = write(tmp_path / "p.png", picture)
    raw = path.read_bytes()
    at = raw.index(b"IDAT") - 4
    path.write_bytes(raw[:at] + struct.pack(">I", 0x7FFFFF00) + raw[at + 4 :])
    assert b"IEND" in path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="cut off"):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
