"""Tar shards, as WebDataset lays them out: a picture and its labels under one key, one after the other.

A folder holds `train-0000.tar`, `train-0001.tar`, `val-0000.tar` ... (any number after the split's name, or none) and
`classes.txt`, one class on each line. In a shard, `KEY.jpg` (or another picture) goes with `KEY.txt`, lines as in the
YOLO format, or with `KEY.json`: `{"boxes_xyxy": [[x1, y1, x2, y2], ...], "class_ids": [0, ...]}` in pixels. A picture
with neither has no objects.

Nothing is unpacked: labels are read when a split is opened, and a picture from its place in the shard.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeyolo.data.assembly import SPLIT_ALIASES, RawPictures, assemble, in_parts
from edgeyolo.data.dataset import Dataset
from edgeyolo.data.image_file import SUFFIXES, path_in_tar, read_image_hw
from edgeyolo.data.report import ProblemLog
from edgeyolo.data.yolo_labels import Labelled, make_block, read_ahead
from edgeyolo.geometry.boxes import cxcywh_from_xyxy
from edgeyolo.spec.errors import DataError, ImageError

LOOKS_LIKE = "tar shards: a folder with train-0000.tar ... and classes.txt"

_CLASSES = "classes.txt"
_NAME = re.compile(r"(?P<split>[A-Za-z]+)(?:[-_]?\d+)?\.tar")
_WANTED = {*SUFFIXES, ".txt", ".json"}
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
    """Read the labels of one split's shards, and where its pictures are in them.

    Raises:
        DataError: a shard is broken, compressed or unsafe, or none has a picture; labels that cannot be understood.
    """
    shards = _shards(path)[split]
    classes = (path / _CLASSES).read_text(encoding="utf-8").split("\n")
    names = [name.strip() for name in classes if name.strip()]
    log = ProblemLog()
    dataset = assemble(path, split, names, _blocks(shards, names, log), log)
    if not len(dataset) and not log.counts:
        raise DataError(f"split '{split}' has no pictures in {len(shards)} shards", where=path)
    return dataset


def _shards(path: Path) -> dict[str, list[Path]]:
    """Split -> its shards, in the order of their names."""
    found: dict[str, list[Path]] = {}
    for shard in sorted(path.glob("*.tar")):
        match = _NAME.fullmatch(shard.name)
        if match:
            name = match["split"].lower()
            found.setdefault(SPLIT_ALIASES.get(name, name), []).append(shard)
    return found


def _blocks(shards: list[Path], names: list[str], log: ProblemLog) -> Iterator[RawPictures]:
    for pictures in read_ahead(_read_shard, shards):
        for part in in_parts(pictures):
            yield make_block(part, names, log)


def _read_shard(shard: Path) -> list[Labelled]:
    """Its pictures, in their order, with their labels.

    Only plain files of known kinds count.
    """
    pictures: dict[str, Path] = {}
    texts: dict[str, bytes] = {}
    described: dict[str, bytes] = {}
    try:
        with tarfile.open(shard, "r:") as archive, shard.open("rb") as stream:
            for key, suffix, start, size in _members(archive, shard):
                if suffix in SUFFIXES:
                    if key in pictures:
                        raise DataError(f"has two pictures under the key '{key}'", where=shard)
                    pictures[key] = path_in_tar(shard, f"{key}{suffix}", start, size)
                else:
                    stream.seek(start)
                    (texts if suffix == ".txt" else described)[key] = stream.read(size)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"cannot be read ({error})", where=shard, hint="It is broken, or compressed; make it again, as a plain tar"
        ) from None
    return [_with_labels(path, key, shard, texts.get(key, b""), described.get(key)) for key, path in pictures.items()]


def _with_labels(path: Path, key: str, shard: Path, text: bytes, described: bytes | None) -> Labelled:
    image_id = f"{shard.name}/{path.name.rpartition('@')[0]}"
    label_path = f"{shard}, {key}.txt"
    try:
        image_hw = read_image_hw(path)
    except ImageError as error:
        return Labelled(str(path), image_id, error, label_path, b"")
    if described is not None:
        label_path = f"{shard}, {key}.json"
        text = _as_yolo(described, image_hw, label_path).encode()
    return Labelled(str(path), image_id, image_hw, label_path, text)


def _members(archive: tarfile.TarFile, shard: Path) -> Iterator[tuple[str, str, int, int]]:
    """(key, suffix, first byte, bytes) of those that count; keys without folders.

    Raises:
        DataError: a name that leads out of the archive, or labels that are too large to be any.
    """
    for member in archive:
        name: str = member.name
        if name.startswith("/") or "\\" in name or (".." in name and ".." in name.split("/")):
            raise DataError(f"has a member that leads out of it: {name}", where=shard, hint="Do not use it")
        stem, dot, kind = name.rpartition(".")
        suffix = dot + kind.lower()
        is_hidden = name.rpartition("/")[2].startswith(".")
        if is_hidden or suffix not in _WANTED or not member.isreg() or member.issparse():
            continue
        if suffix not in SUFFIXES and member.size > _LARGEST_LABELS:
            raise DataError(f"labels of {member.size} bytes", where=f"{shard}, {name}")
        yield stem.removeprefix("./").replace("/", "_"), suffix, member.offset_data, member.size


def _as_yolo(raw: bytes, image_hw: tuple[int, int], where: str) -> str:
    """Lines of the YOLO format for `{"boxes_xyxy": ..., "class_ids": ...}`."""
    try:
        objects: Any = json.loads(raw)
        boxes = [[float(value) for value in box] for box in objects["boxes_xyxy"]]
        pairs = list(zip(map(int, objects["class_ids"]), boxes, strict=True))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"labels cannot be understood ({error})", where=where, hint="Wanted: boxes_xyxy and class_ids, equally many"
        ) from None
    if any(len(box) != 4 for box in boxes):
        raise DataError("a box has not four corners", where=where, hint="Wanted: x1, y1, x2, y2 in pixels")
    height, width = image_hw
    places = cxcywh_from_xyxy(np.array(boxes, np.float64).reshape(-1, 4)) / (width, height, width, height)
    return "".join(
        " ".join([str(class_id), *map(repr, place)]) + "\n"
        for (class_id, _), place in zip(pairs, places.tolist(), strict=True)
    )
