"""Frames from a picture, a folder, a pattern, a video or a camera, all as (name, picture) pairs."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

from edgeyolo.runtime.capture import FrameReader, Source, make_source
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import DataError, ImageError

logger = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def open_stream(source: str | Path | int) -> Iterator[tuple[str, Image]]:
    """Open a source of frames.

    Args:
        source: a picture; a folder, whose pictures come sorted by name; a pattern such as "shots/*.jpg"; a video;
            or a camera, by its number (also as text, "0"); or an address, such as "rtsp://..."; or a pipeline, such as
            "csi://0" (see `gstreamer.parse_pipeline`).

    Returns:
        (name, (H, W, 3) uint8 BGR) pairs. A picture's name is its file name; frames of a video or camera are
        "<stem>-000000", "<stem>-000001" ... Of several pictures, one that cannot be read is logged and left out.

    Raises:
        DataError: nothing there that can be read; a camera goes away. ImageError: the only picture cannot be read.
    """
    captured = make_source(str(source))
    if captured is not None:
        return _frames(captured)
    path = Path(str(source))
    if path.is_file():
        return iter([_picture(path)])
    if path.is_dir() or _is_pattern(str(path)):
        return _several_pictures(path, list_pictures(path))
    raise DataError("does not exist", where=path, hint="Give a picture, folder, pattern, video or camera number")


def list_pictures(place: Path) -> list[Path]:
    """The pictures that a folder holds or a pattern matches, sorted by name; none for anything else."""
    if place.is_dir():
        found: Iterator[Path] = place.iterdir()
    elif _is_pattern(str(place)) and not place.is_file():
        found = _expand(place)
    else:
        return []
    return sorted(path for path in found if path.suffix.lower() in PICTURE_SUFFIXES)


def _is_pattern(part: str) -> bool:
    return any(character in part for character in "*?[")


def _expand(pattern: Path) -> Iterator[Path]:
    """The paths that a pattern matches, below its last part that is a plain name."""
    plain = list(itertools.takewhile(lambda part: not _is_pattern(part), pattern.parts))
    return Path(*plain).glob(str(Path(*pattern.parts[len(plain) :])))


def _picture(path: Path) -> tuple[str, Image]:
    from edgeyolo.data.image_file import read_image

    return path.name, read_image(path)


def _several_pictures(where: Path, paths: list[Path]) -> Iterator[tuple[str, Image]]:
    if not paths:
        raise DataError("has no pictures", where=where, hint=f"Pictures end in {', '.join(sorted(PICTURE_SUFFIXES))}")
    return _readable_pictures(where, paths)


def _readable_pictures(where: Path, paths: list[Path]) -> Iterator[tuple[str, Image]]:
    unreadable = 0
    for path in paths:
        try:
            frame = _picture(path)
        except ImageError as error:
            logger.warning("left out: %s", error)
            unreadable += 1
        else:
            yield frame
    if unreadable == len(paths):
        raise DataError(f"none of its {len(paths)} pictures can be read", where=where, hint="Look at the files")


def _frames(source: Source) -> Iterator[tuple[str, Image]]:
    """The first frame is read at once, so that a bad source fails where it is opened."""
    reader = FrameReader(source)
    return ((reader.name(index), frame) for index, frame in reader)
