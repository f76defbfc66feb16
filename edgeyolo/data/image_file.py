"""Pictures from disk: decoding that notices a cut-off file, and sizes from the header alone.

A picture is a file, or bytes of a tar file: `train-0001.tar/cell.jpg@1536+84320` is 84,320 of them from byte 1,536 on.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import cv2
import numpy as np

from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import ImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

MOST_PIXELS = 120_000_000  # of a picture, 360 MB when decoded; a header may ask for any number

_HEADER_BYTES = 1 << 16
_MEMBER = re.compile(r"(?P<tar>.+)[/\\](?P<name>[^/\\]+)@(?P<start>\d+)\+(?P<size>\d+)")
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_TIFF = {b"II*\0": "<", b"MM\0*": ">"}  # and the order of bytes
_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN_MARKER, _EXIF_MARKER = 0xDA, 0xE1
_EXIF_ORIENTATION = 0x0112


def read_image(path: Path) -> Image:
    """Decode a picture: (H, W, 3) uint8, blue green red.

    Grey is repeated, alpha is dropped, 16 bits are scaled to 8, and the EXIF orientation is applied, as
    `cv2.imread` does.

    Raises:
        ImageError: it cannot be read, is empty, is cut off, is larger than `MOST_PIXELS`, or is not a picture.
    """
    return decode_image(read_bytes(path), path)


def decode_image(raw: bytes, where: object) -> Image:
    """As `read_image`, from its bytes.

    Args:
        where: what they are called in messages.
    """
    _check_whole(raw, where)
    _check_size(raw, where)
    try:
        image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"cannot be decoded ({error.err or error})", where=where) from None
    if image is None:
        raise ImageError("is not a picture that OpenCV can decode, or is damaged", where=where, hint="Replace the file")
    return np.asarray(image, np.uint8)


def read_image_hw(path: Path) -> tuple[int, int]:
    """Height and width that `read_image` will give, from the header where the format is JPEG, PNG, BMP or WebP.

    Raises:
        ImageError: as in `read_image`; damage behind the header is not seen.
    """
    head = read_bytes(path, _HEADER_BYTES)
    image_hw = _header_hw(head)
    if image_hw is None and head.startswith(_JPEG) and len(head) == _HEADER_BYTES:
        image_hw = _header_hw(read_bytes(path))  # large metadata before the size
    if image_hw is None or min(image_hw) < 1:
        height, width = read_image(path).shape[:2]
        return height, width
    return image_hw


def path_in_tar(tar: Path, name: str, start: int, size: int) -> Path:
    """Of the bytes `start` to `start + size` of a tar file, for the functions of this module; `name` has no folder."""
    return tar / f"{name}@{start}+{size}"


def read_bytes(path: Path, count: int = -1) -> bytes:
    """The bytes of a picture as they are stored, or the first `count` of them.

    Raises:
        ImageError: they cannot be read, or there are none.
    """
    member = _MEMBER.fullmatch(str(path)) if "@" in path.name else None
    try:
        if member:
            with FileIO(member["tar"]) as stream:
                stream.seek(int(member["start"]))
                size = int(member["size"])
                raw = stream.read(size if count < 0 else min(count, size))
        else:
            with FileIO(path) as stream:
                raw = stream.read(count)
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})", where=path) from None
    if not raw:
        raise ImageError("is an empty file", where=path, hint="Replace the file")
    return raw


def is_file(path: Path) -> bool:
    """Whether there is a file of this name; a name that the system does not take, for its length say, is no file's."""
    try:
        return path.is_file()
    except OSError:
        return False


def _check_whole(raw: bytes, where: object) -> None:
    """Some versions of OpenCV give the upper part of a cut-off file without a word."""
    whole = True
    if raw.startswith(_JPEG):
        scans = [start for marker, start, _ in _jpeg_segments(raw) if marker == _SCAN_MARKER]
        whole = bool(scans) and raw.find(b"\xff\xd9", scans[0]) >= 0
    elif raw.startswith(_PNG):
        whole = _has_png_end(raw)
    elif raw.startswith(b"RIFF") and len(raw) >= 12:
        whole = len(raw) >= struct.unpack_from("<I", raw, 4)[0] + 8
    if not whole:
        raise ImageError("is cut off", where=where, hint="Copy or download the file again")


def _has_png_end(raw: bytes) -> bool:
    """Whether chunk after chunk leads to the last one; a decoder takes the memory that a chunk's length asks for."""
    at: int = len(_PNG)
    while at + 12 <= len(raw):
        length, kind = struct.unpack_from(">I4s", raw, at)
        at += 12 + length
        if kind == b"IEND":
            return bool(at <= len(raw))
    return False


def _check_size(raw: bytes, where: object) -> None:
    """Before memory is taken for it."""
    height, width = stated_hw(raw) or (0, 0)
    if height * width > MOST_PIXELS:
        raise ImageError(
            f"is {width}x{height}, and {MOST_PIXELS:,} pixels are the most that is read",
            where=where,
            hint="Cut it into tiles",
        )


def stated_hw(raw: bytes) -> tuple[int, int] | None:
    """Height and width as a header has them, which may be turned afterwards; None where they are not found."""
    try:
        if raw.startswith(_PNG):
            width, height = struct.unpack_from(">II", raw, 16)
            return height, width
        if (order := _TIFF.get(raw[:4])) is not None:
            return _tiff_hw(raw, order)
        if raw[8:16] == b"WEBPVP8X" and len(raw) >= 30:
            return _webp_canvas_hw(raw)
    except struct.error:
        return None
    return _header_hw(raw)


def _tiff_hw(raw: bytes, order: str) -> tuple[int, int]:
    """From the first table: its entries are tag, type, count and value, 12 bytes."""
    (start,) = struct.unpack_from(f"{order}I", raw, 4)
    (count,) = struct.unpack_from(f"{order}H", raw, start)
    values = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", raw, at)
        (values[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), raw, at + 8)
    return values.get(257, 0), values.get(256, 0)


def _header_hw(head: bytes) -> tuple[int, int] | None:
    """Size from the first bytes; None where a full decode is needed to know."""
    try:
        if head.startswith(_JPEG):
            return _jpeg_hw(head)
        if head.startswith(_PNG) and b"eXIf" not in head:
            width, height = struct.unpack_from(">II", head, 16)
            return height, width
        if head.startswith(b"BM") and struct.unpack_from("<I", head, 14)[0] >= 40:
            width, height = struct.unpack_from("<ii", head, 18)
            return abs(height), width
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return _webp_hw(head)
    except struct.error:
        pass  # a header shorter than its format: the decoder says what is wrong
    return None


def _jpeg_segments(raw: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start of content, end of content) of each segment up to the first scan."""
    at = 2
    while at + 4 <= len(raw) and raw[at] == 0xFF:
        marker = raw[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
        yield marker, at + 4, end
        if marker == _SCAN_MARKER:
            return
        at = end


def _jpeg_hw(raw: bytes) -> tuple[int, int] | None:
    is_turned = False
    for marker, start, end in _jpeg_segments(raw):
        if marker == _EXIF_MARKER and raw[start : start + 6] == b"Exif\0\0":
            is_turned = _exif_orientation(raw[start + 6 : end]) >= 5
        elif marker in _SIZE_MARKERS:
            height, width = struct.unpack_from(">HH", raw, start + 1)
            return (width, height) if is_turned else (height, width)
    return None


def _exif_orientation(tiff: bytes) -> int:
    """1-8, 1 where there is none. Source: Exif 2.32, section 4.6.2 (IFD) and tag 0x0112."""
    order = "<" if tiff[:2] == b"II" else ">"
    at = struct.unpack_from(order + "I", tiff, 4)[0]
    for i in range(struct.unpack_from(order + "H", tiff, at)[0]):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, at + 2 + 12 * i)
        if tag == _EXIF_ORIENTATION and kind == 3 and 1 <= value <= 8:
            return int(value)
    return 1


def _webp_hw(head: bytes) -> tuple[int, int] | None:
    """Source: RFC 9649, sections 2.5 to 2.7."""
    chunk = head[12:16]
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return height & 0x3FFF, width & 0x3FFF
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", head, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    has_exif = len(head) > 20 and head[20] & 0x08
    if chunk == b"VP8X" and not has_exif and len(head) >= 30:
        return _webp_canvas_hw(head)
    return None


def _webp_canvas_hw(head: bytes) -> tuple[int, int]:
    return int.from_bytes(head[27:30], "little") + 1, int.from_bytes(head[24:27], "little") + 1
