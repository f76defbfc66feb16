"""COCO: one JSON per split beside its pictures.

Layouts: `annotations/instances_<split>*.json` with folders of pictures, `<split>/_annotations.coco.json` among its
pictures, JSON files named after their split in the folder itself, or one JSON file. Category ids have gaps: class ids
are their positions in the order of the ids. Crowds (`iscrowd`) are ignored regions, not objects to train on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from edgeyolo.data.assembly import SPLIT_ALIASES, RawRecord, assemble
from edgeyolo.data.dataset import Dataset
from edgeyolo.data.image_file import is_file, read_image_hw
from edgeyolo.data.report import ProblemLog
from edgeyolo.spec.errors import DataError, ImageError

LOOKS_LIKE = "COCO: a JSON file, or a folder with annotations/instances_*.json or <split>/_annotations.coco.json"

_EXPORTED_NAME = "_annotations.coco.json"
_SPLIT_NAME = re.compile(r"(?:instances_)?(?P<split>train|val|valid|validation|test)(?:[-_]?\d{4})?")
_PROBED_PICTURES = 32

Id = int | str


class _Category(msgspec.Struct):
    id: Id
    name: str


class _Image(msgspec.Struct):
    id: Id
    file_name: str
    width: int | float | None = None
    height: int | float | None = None


class _Annotation(msgspec.Struct):
    image_id: Id
    category_id: Id
    bbox: Any = None
    iscrowd: int | bool | None = 0


class _Coco(msgspec.Struct):
    """The parts of the file that matter; all others are skipped without being built."""

    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation] = []


def is_recognised(path: Path) -> bool:
    """A JSON file, or a folder in one of the layouts."""
    return bool(_split_files(path))


def list_splits(path: Path) -> list[str]:
    """Names of the splits, "all" for one file that is not named after a split."""
    return list(_split_files(path))


def read_split(path: Path, split: str) -> Dataset:
    """Read one split.

    Raises:
        DataError: its JSON is broken or not COCO, or none of its pictures is found.
    """
    index_path = _split_files(path)[split]
    coco = _load(index_path)
    if not coco.images:
        raise DataError("lists no pictures", where=index_path)
    categories = sorted(coco.categories, key=lambda category: (isinstance(category.id, str), category.id))
    class_names = tuple(category.name for category in categories)
    if not class_names or len({category.id for category in categories}) != len(categories):
        raise DataError("has no categories, or two with one id", where=index_path)
    if len(set(class_names)) != len(class_names):
        raise DataError("has a category name more than once", where=index_path)
    log = ProblemLog()
    by_id = _read_images(coco.images, _find_folder(index_path, split, coco.images), index_path, log)
    _add_annotations(coco, by_id, {category.id: i for i, category in enumerate(categories)}, index_path, log)
    return assemble(path, split, class_names, [raw for raw in by_id.values() if raw], log)


def _split_files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {_split_name(path) or "all": path} if path.suffix.lower() == ".json" else {}
    files = [
        *(path / "annotations").glob("instances_*.json"),
        *(file for file in (path / "annotations").glob("*.json") if not file.name.startswith("instances_")),
        *path.glob(f"*/{_EXPORTED_NAME}"),
        *path.glob("*.json"),
    ]
    found: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: (not file.name.startswith("instances_"), file.as_posix())):
        split = _split_name(file)
        if split in found and file.stem != found[split].stem:
            split = file.stem.removeprefix("instances_")  # two years of one split
        if split:
            found.setdefault(split, file)
    order = {"train": 0, "val": 1, "test": 2}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], 3), item[0])))


def _split_name(path: Path) -> str:
    """Split that a file is named after, "" for none."""
    if path.name == _EXPORTED_NAME:
        return SPLIT_ALIASES.get(path.parent.name, path.parent.name)
    match = _SPLIT_NAME.fullmatch(path.stem)
    if match:
        return SPLIT_ALIASES.get(match["split"], match["split"])
    return path.stem.removeprefix("instances_") if path.stem.startswith("instances_") else ""


def _load(path: Path) -> _Coco:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from None
    try:
        try:
            return msgspec.json.decode(raw, type=_Coco)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return msgspec.convert(json.loads(raw), _Coco)  # slower, but takes NaN, which some tools write
    except (ValueError, RecursionError) as error:  # msgspec's, json's and unicode's errors are ValueErrors
        hint = "A COCO file has `images`, `annotations` and `categories`"
        raise DataError(f"is not a COCO file ({error})", where=path, hint=hint) from None


def _find_folder(index_path: Path, split: str, images: list[_Image]) -> Path:
    """The folder, of those that the layouts use, in which most of the first pictures are."""
    near, root = index_path.parent, index_path.parent.parent
    year_name = index_path.stem.removeprefix("instances_")
    names = dict.fromkeys([year_name, split, *(k for k, v in SPLIT_ALIASES.items() if v == split)])
    candidates = [near, near / "images", near / "JPEGImages", root / "images", root / "JPEGImages", root]
    for base in (near, near / "images", root, root / "images"):
        candidates += [base / name for name in names]
    candidates += [root / name / "images" for name in names]
    probed = images[:_PROBED_PICTURES]

    def hits(folder: Path) -> int:
        return sum(is_file(folder / image.file_name) for image in probed)

    best = max(candidates, key=hits)
    if not hits(best):
        raise DataError(
            f"none of its first {len(probed)} pictures is found, such as '{probed[0].file_name}'",
            where=index_path,
            hint=f"Looked in: {', '.join(sorted({str(folder) for folder in candidates if folder.is_dir()}))}",
        )
    return best


def _read_images(
    images: Iterable[_Image], folder: Path, index_path: Path, log: ProblemLog
) -> dict[Id, RawRecord | None]:
    """Image id -> its record, None for one that cannot be used."""
    by_id: dict[Id, RawRecord | None] = {}
    for image in images:
        image_path = folder / image.file_name
        if image.id in by_id:
            log.add("repeated picture", index_path, f"image id {image.id} is listed more than once")
            continue
        by_id[image.id] = None
        if not is_file(image_path):
            log.add("missing picture", index_path, str(image_path))
            continue
        image_hw = (int(image.height or 0), int(image.width or 0))
        try:
            image_hw = image_hw if min(image_hw) > 0 else read_image_hw(image_path)
        except ImageError as error:
            log.add("unreadable picture", image_path, error.what)
            continue
        by_id[image.id] = RawRecord(image_path, image.file_name, image_hw, index_path)
    return by_id


def _add_annotations(
    coco: _Coco, by_id: dict[Id, RawRecord | None], class_ids: dict[Id, int], index_path: Path, log: ProblemLog
) -> None:
    for number, annotation in enumerate(coco.annotations):
        where = f"annotation {number} of image {annotation.image_id}"
        box = annotation.bbox
        is_box = isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)
        if annotation.image_id not in by_id:
            log.add("missing picture", index_path, f"{where}: no image of this id")
        elif not is_box:
            log.add("bad label", index_path, f"{where}: bbox is {str(box)[:60]}, four numbers wanted")
        elif annotation.category_id not in class_ids:
            log.add("unknown class", index_path, f"{where}: category {annotation.category_id}")
        elif raw := by_id[annotation.image_id]:
            x, y, width, height = map(float, box)
            class_id = class_ids[annotation.category_id]
            raw.add((x, y, x + width, y + height), class_id, is_ignored=bool(annotation.iscrowd))
