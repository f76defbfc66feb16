"""COCO: one JSON per split beside its pictures.

Layouts: `annotations/instances_<split>*.json` with folders of pictures, or `person_keypoints_<split>*.json` where there
is no other; `<split>/_annotations.coco.json` among its pictures, JSON files named after their split in the folder
itself, or one JSON file. Category ids have gaps: class ids are their positions in the order of the ids. Crowds
(`iscrowd`) are ignored regions, not objects to train on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from edgeyolo.data.assembly import RawPictures, assemble, in_parts, without_repeats
from edgeyolo.data.coco_files import find_folder, list_files
from edgeyolo.data.coco_index import CocoIndex, Id, read_index
from edgeyolo.data.columns import Texts
from edgeyolo.data.dataset import Dataset
from edgeyolo.data.image_file import is_file, read_image_hw
from edgeyolo.data.report import ProblemLog
from edgeyolo.spec.errors import DataError, ImageError

LOOKS_LIKE = "COCO: a JSON file, or a folder with annotations/instances_*.json or <split>/_annotations.coco.json"

_PLAIN_NAME = re.compile(r"\w[\w.-]*")
_PROBED_PICTURES = 32


def is_recognised(path: Path) -> bool:
    """A JSON file, or a folder in one of the layouts."""
    return bool(list_files(path))


def list_splits(path: Path) -> list[str]:
    """Names of the splits, "all" for one file that is not named after a split."""
    return list(list_files(path))


def read_split(path: Path, split: str) -> Dataset:
    """Read one split.

    Raises:
        DataError: its JSON is broken or not COCO, or none of its pictures is found.
    """
    index_path = list_files(path)[split]
    coco = read_index(index_path)
    if not len(coco.image_numbers):
        raise DataError("lists no pictures", where=index_path)
    categories = sorted(coco.categories, key=lambda category: (isinstance(category.id, str), category.id))
    class_names = tuple(category.name for category in categories)
    if not class_names or len({category.id for category in categories}) != len(categories):
        raise DataError("has no categories, or two with one id", where=index_path)
    if len(set(class_names)) != len(class_names):
        raise DataError("has a category name more than once", where=index_path)
    log = ProblemLog()
    file_names = coco.file_names.finish()
    folder = find_folder(index_path, split, file_names[:_PROBED_PICTURES])
    rows = _first_of_each_id(coco, index_path, log)
    objects = _Objects(coco, rows, {category.id: i for i, category in enumerate(categories)}, index_path, log)
    image_paths = Texts.of(_place(folder, file_names[row]) for row in rows)
    chosen = [rows[at] for at in without_repeats(image_paths, lambda _: index_path, log)]
    blocks = _make_blocks(in_parts(chosen), coco, objects, folder, index_path, log)
    return assemble(path, split, class_names, blocks, log)


def _first_of_each_id(coco: CocoIndex, index_path: Path, log: ProblemLog) -> list[int]:
    """Rows of the images, without those whose id another image has before."""
    numbers = coco.image_numbers.finish()
    _, first = np.unique(numbers, return_index=True)
    ids = list(coco.known_images) if len(first) < len(numbers) else []
    for row in np.setdiff1d(np.arange(len(numbers)), first).tolist():
        log.add("repeated picture", index_path, f"image id {ids[numbers[row]]} is listed more than once")
    rows: list[int] = np.sort(first).tolist()
    return rows


class _Objects:
    """The annotations that can be used, sorted by their image; the others are written to the log.

    Args:
        rows: of the images that annotations may belong to.
        class_ids: by the id of the category.
    """

    def __init__(
        self, coco: CocoIndex, rows: list[int], class_ids: dict[Id, int], index_path: Path, log: ProblemLog
    ) -> None:
        row_of = np.full(len(coco.known_images), -1, np.int32)
        row_of[coco.image_numbers.finish()[rows]] = rows
        class_of = np.array([class_ids.get(each, -1) for each in coco.known_categories], np.int32)
        of_image, of_category = coco.of_image.finish(), coco.of_category.finish()
        of_row, self._class_ids = row_of[of_image], class_of[of_category]
        is_sound = (of_row >= 0) & (self._class_ids >= 0)
        is_sound[list(coco.odd_boxes)] = False
        image_ids, category_ids = (
            (list(coco.known_images), list(coco.known_categories)) if not is_sound.all() else ([], [])
        )
        for number in np.flatnonzero(~is_sound).tolist():
            where = f"annotation {number} of image {image_ids[of_image[number]]}"
            if of_row[number] < 0:
                log.add("missing picture", index_path, f"{where}: no image of this id")
            elif number in coco.odd_boxes:
                log.add("bad label", index_path, f"{where}: bbox is {coco.odd_boxes[number]}, four numbers wanted")
            else:
                log.add("unknown class", index_path, f"{where}: category {category_ids[of_category[number]]}")
        sound = np.flatnonzero(is_sound)
        self._sorted = sound[np.argsort(of_row[sound], kind="stable")]
        self._starts = np.searchsorted(of_row[self._sorted], np.arange(len(coco.image_numbers) + 1))
        self._boxes_xywh, self._is_crowd = coco.boxes_xywh.finish(), coco.is_crowd.finish()

    def add_to(self, block: RawPictures, rows: list[int]) -> None:
        """Give the images of a block their objects."""
        parts = [self._sorted[self._starts[row] : self._starts[row + 1]] for row in rows]
        block.counts = [len(part) for part in parts]
        numbers = np.concatenate([np.zeros(0, np.int64), *parts])
        boxes_xywh = self._boxes_xywh[numbers]
        block.boxes_xyxy = np.hstack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]])
        block.class_ids, block.is_ignored = self._class_ids[numbers], self._is_crowd[numbers]


def _make_blocks(
    rows: Iterable[Sequence[int]], coco: CocoIndex, objects: _Objects, folder: Path, index_path: Path, log: ProblemLog
) -> Iterator[RawPictures]:
    """The images of these rows, so many in each block, but for those that cannot be used."""
    file_names, sizes_hw = coco.file_names.finish(), coco.sizes_hw.finish()
    folders = _Folders()
    for part in rows:
        block, used = RawPictures(), []
        for row, image_hw in zip(part, sizes_hw[part].tolist(), strict=True):
            file_name = file_names[row]
            image_path = _place(folder, file_name)
            if not folders.has(image_path):
                log.add("missing picture", index_path, image_path)
                continue
            try:
                height, width = image_hw if min(image_hw) > 0 else read_image_hw(Path(image_path))
            except ImageError as error:
                log.add("unreadable picture", image_path, error.what)
                continue
            block.add_picture(image_path, file_name, (height, width), str(index_path))
            used.append(row)
        objects.add_to(block, used)
        yield block


def _place(folder: Path, file_name: str) -> str:
    """Where a picture is; a million paths are made, most of them of plain names."""
    return f"{folder}{os.sep}{file_name}" if _PLAIN_NAME.fullmatch(file_name) else str(folder / file_name)


class _Folders:
    """Which files there are; a folder is listed once, however many are asked for."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def has(self, place: str) -> bool:
        """Whether there is a file at this place."""
        folder, _, name = place.rpartition(os.sep)
        if folder not in self._names:
            try:
                with os.scandir(folder or ".") as entries:
                    self._names[folder] = {entry.name for entry in entries if entry.is_file()}
            except (OSError, ValueError):  # no folder, or no name that the system takes
                self._names[folder] = set()
        return name in self._names[folder] or is_file(Path(place))  # as where A.JPG and a.jpg are one name
