"""Tar shards, as WebDataset lays them out: a picture and its labels under one key, one after the other.

A folder holds `train-0000.tar`, `train-0001.tar`, `val-0000.tar` ... (any number after the split's name, or none) and
`classes.txt`, one class on each line. In a shard, `KEY.jpg` (or another picture) goes with `KEY.txt`, lines as in the
YOLO format, or with `KEY.json`: `{"boxes_xyxy": [[x1, y1, x2, y2], ...], "class_ids": [0, ...]}` in pixels. A picture
with neither has no objects.

Shards are unpacked once, to the user's cache (`$EDGEYOLO_CACHE`), and read from there as YOLO.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from edgeyolo.data.assembly import SPLIT_ALIASES
from edgeyolo.data.dataset import Dataset, read_dataset
from edgeyolo.data.image_file import SUFFIXES, read_image_hw
from edgeyolo.geometry.boxes import cxcywh_from_xyxy
from edgeyolo.spec.atomic import make_folder_once
from edgeyolo.spec.cache import cache_folder
from edgeyolo.spec.errors import DataError, ImageError

LOOKS_LIKE = "tar shards: a folder with train-0000.tar ... and classes.txt"

_CLASSES = "classes.txt"
_NAME = re.compile(r"(?P<split>[A-Za-z]+)(?:[-_]?\d+)?\.tar")
_LARGEST_LABELS = 1 << 24  # bytes


def is_recognised(path: Path) -> bool:
    """A folder with `classes.txt` and at least one shard."""
    return path.is_dir() and (path / _CLASSES).is_file() and bool(_shards(path))


def list_splits(path: Path) -> list[str]:
    """Those that the shards are named after; `valid` and the like count as `val`.

    Raises:
        DataError: the folder cannot be read.
    """
    return list(_shards(path))


def read_split(path: Path, split: str) -> Dataset:
    """Unpack one split's shards, unless that has been done, and read it.

    Raises:
        DataError: a shard is broken or unsafe, or has no picture; labels that cannot be understood.
        OutputError: the cache cannot be written.
    """
    shards = _shards(path)[split]
    classes = (path / _CLASSES).read_text(encoding="utf-8").split("\n")
    names = [name.strip() for name in classes if name.strip()]
    digest = hashlib.sha256(json.dumps([names, split]).encode())
    for shard in shards:
        state = shard.stat()
        digest.update(f"{shard.resolve()}\n{state.st_size}\n{state.st_mtime_ns}\n".encode())

    def unpack(folder: Path) -> None:
        if not sum(_unpack(shard, folder, f"{split}/{i:05d}") for i, shard in enumerate(shards)):
            raise DataError(f"split '{split}' has no pictures in {len(shards)} shards", where=path)
        index = {"names": names, split: f"images/{split}"}
        (folder / "data.yaml").write_text(yaml.safe_dump(index), encoding="utf-8")

    folder = cache_folder("shards") / digest.hexdigest()[:32]
    return read_dataset(make_folder_once(folder, unpack, doing=f"unpacking {path}"), split)


def _shards(path: Path) -> dict[str, list[Path]]:
    """Split -> its shards, in the order of their names."""
    found: dict[str, list[Path]] = {}
    for shard in sorted(path.glob("*.tar")):
        match = _NAME.fullmatch(shard.name)
        if match:
            name = match["split"].lower()
            found.setdefault(SPLIT_ALIASES.get(name, name), []).append(shard)
    return found


def _unpack(shard: Path, folder: Path, place: str) -> int:
    """Write a shard's pictures and labels to `images/PLACE` and `labels/PLACE`; returns how many pictures.

    Only plain files of known kinds are taken, under names that are checked before anything is written.
    """
    images, labels = folder / "images" / place, folder / "labels" / place
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    described: dict[str, bytes] = {}
    found: dict[str, Path] = {}
    try:
        with tarfile.open(shard) as archive:
            for key, suffix, raw in _members(archive, shard):
                if suffix in SUFFIXES:
                    if key in found:
                        raise DataError(f"has two pictures under the key '{key}'", where=shard)
                    found[key] = images / f"{key}{suffix}"
                    found[key].write_bytes(raw)
                elif suffix == ".txt":
                    (labels / f"{key}.txt").write_bytes(raw)
                else:
                    described[key] = raw
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"cannot be unpacked ({error})", where=shard, hint="The shard is broken; make it again"
        ) from None
    for key, raw in described.items():
        if key in found:
            (labels / f"{key}.txt").write_text(_as_yolo(raw, found[key], f"{shard}, {key}.json"), encoding="utf-8")
    return len(found)


def _members(archive: tarfile.TarFile, shard: Path) -> Iterator[tuple[str, str, bytes]]:
    """(key, suffix, content) of the members that count; keys without folders.

    Raises:
        DataError: a name that leads out of the archive, or labels that are too large to be any.
    """
    for member in archive:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts or "\\" in member.name:
            raise DataError(f"has a member that leads out of it: {member.name}", where=shard, hint="Do not use it")
        suffix = name.suffix.lower()
        if not member.isfile() or name.name.startswith(".") or suffix not in {*SUFFIXES, ".txt", ".json"}:
            continue
        if suffix not in SUFFIXES and member.size > _LARGEST_LABELS:
            raise DataError(f"labels of {member.size} bytes", where=f"{shard}, {member.name}")
        stream = archive.extractfile(member)
        assert stream is not None
        yield "_".join(name.with_suffix("").parts), suffix, stream.read()


def _as_yolo(raw: bytes, picture: Path, where: str) -> str:
    """Lines of the YOLO format for `{"boxes_xyxy": ..., "class_ids": ...}`."""
    try:
        objects: Any = json.loads(raw)
        boxes = [[float(value) for value in box] for box in objects["boxes_xyxy"]]
        pairs = list(zip(map(int, objects["class_ids"]), boxes, strict=True))
        height, width = read_image_hw(picture)
    except ImageError:
        return ""  # the reader meets the picture, and reports it
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"labels cannot be understood ({error})", where=where, hint="Wanted: boxes_xyxy and class_ids, equally many"
        ) from None
    if any(len(box) != 4 for box in boxes):
        raise DataError("a box has not four corners", where=where, hint="Wanted: x1, y1, x2, y2 in pixels")
    places = cxcywh_from_xyxy(np.array(boxes, np.float64).reshape(-1, 4)) / (width, height, width, height)
    return "".join(
        " ".join([str(class_id), *map(repr, place)]) + "\n"
        for (class_id, _), place in zip(pairs, places.tolist(), strict=True)
    )
