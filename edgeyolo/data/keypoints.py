"""COCO keypoints: persons with a box and their joints, from `annotations/person_keypoints_<split>*.json`, or any COCO
file in which a category names its joints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeyolo.data.coco_files import PEOPLE_PREFIX, find_folder, list_files, split_of_name
from edgeyolo.data.coco_index import Id, decode_rows, side_px
from edgeyolo.data.columns import Texts
from edgeyolo.data.dataset import make_report
from edgeyolo.data.image_file import is_file, read_image_hw
from edgeyolo.data.json_stream import list_pieces
from edgeyolo.data.person_crops import People, PersonCrops, make_records
from edgeyolo.data.remote import local_path
from edgeyolo.data.report import ProblemLog
from edgeyolo.spec.errors import DataError, ImageError, UnknownNameError

_MARGIN = 1.25
_PROBED_PICTURES = 32
_LARGEST_PX = 1 << 20  # of a coordinate that anybody means
_HINT = "A COCO file with keypoints has `images`, `annotations` and a category that lists its `keypoints`"


class _Category(msgspec.Struct):
    id: Id
    name: str = ""
    keypoints: list[str] = []
    skeleton: list[tuple[int, int]] = []


class _Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    width: int | float | None = None
    height: int | float | None = None


class _Person(msgspec.Struct):
    image_id: Id
    category_id: Id
    bbox: Any = None
    keypoints: Any = None
    area: Any = None
    iscrowd: int | bool | None = 0


def list_people_splits(path: Path | str) -> list[str]:
    """Names of the splits.

    Raises:
        DataError: no COCO data set.
    """
    return list(_split_files(local_path(path)))


def open_people(path: Path | str, split: str, input_hw: tuple[int, int]) -> PersonCrops:
    """Open a split: every person with at least one labelled joint, cut out at the size of a network's input.

    Raises:
        DataError: no COCO data set, no joints in it, or no person with any; a broken file.
        UnknownNameError: no such split.
    """
    path = local_path(path)
    files = _split_files(path)
    if split not in files:
        raise UnknownNameError("split", split, files, where=path)
    index_path = files[split]
    categories, images, persons = _read(index_path)
    category = _category_with_joints(categories, index_path)
    log = ProblemLog()
    found = _Found(category, log, index_path)
    by_image: dict[Id, list[tuple[int, _Person]]] = {}
    for number, person in enumerate(persons):
        by_image.setdefault(person.image_id, []).append((number, person))
    folder = find_folder(index_path, split, [image.file_name for image in images[:_PROBED_PICTURES]])
    for image in images:
        found.add_picture(folder / image.file_name, image, by_image.pop(image.id, []))
    for image_id in by_image:
        log.add("missing picture", index_path, f"annotations of image {image_id}: no image of this id")
    return found.finish(path.name or path.resolve().name, split, input_hw)


class _Found:
    """Persons that can be used, as they are found, and what is wrong with the others."""

    def __init__(self, category: _Category, log: ProblemLog, index_path: Path) -> None:
        self._category, self._log, self._index_path = category, log, index_path
        self._pictures = 0
        self._paths: list[str] = []
        self._ids: list[str] = []
        self._rows: tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]] = ([], [])  # persons, others

    def add_picture(self, image_path: Path, image: _Image, persons: Sequence[tuple[int, _Person]]) -> None:
        """The persons of one picture; those that cannot be used are written to the log."""
        if not persons:
            return
        if not is_file(image_path):
            self._log.add("missing picture", self._index_path, str(image_path))
            return
        image_hw = side_px(image.height), side_px(image.width)
        try:
            image_hw = image_hw if min(image_hw) > 0 else read_image_hw(image_path)
        except ImageError as error:
            self._log.add("unreadable picture", str(image_path), error.what)
            return
        for number, person in persons:
            if person.category_id == self._category.id:
                self._add(number, person, image_path, image, image_hw)
        self._pictures += 1

    def _add(self, number: int, person: _Person, image_path: Path, image: _Image, image_hw: tuple[int, int]) -> None:
        where = f"annotation {number} of image {image.id}"
        box, joints = numbers_of(person.bbox, 4), numbers_of(person.keypoints, 3 * len(self._category.keypoints))
        if box is None or (joints is None and person.keypoints):
            what = "keypoints" if box is not None else "bbox"
            self._log.add("bad label", self._index_path, f"{where}: {what} is {str(getattr(person, what))[:60]}")
            return
        left, top = max(0.0, box[0]), max(0.0, box[1])
        right, bottom = min(float(image_hw[1]), box[0] + box[2]), min(float(image_hw[0]), box[1] + box[3])
        if right <= left or bottom <= top:
            self._log.add("degenerate box", self._index_path, f"{where}: xywh {box} in {image_hw[1]}x{image_hw[0]}")
            return
        places = np.zeros((len(self._category.keypoints), 3)) if joints is None else np.reshape(joints, (-1, 3))
        if not np.isin(places[:, 2], (0, 1, 2)).all():
            self._log.add("bad label", self._index_path, f"{where}: a visibility that is not 0, 1 or 2")
            return
        area = numbers_of([person.area], 1)
        is_used = not person.iscrowd and places[:, 2].any()
        self._rows[0 if is_used else 1].append(
            (
                self._pictures,
                image_hw,
                (left, top, right, bottom),
                area[0] if area and area[0] > 0 else (right - left) * (bottom - top),
                places,
            )
        )
        if is_used:
            self._paths.append(str(image_path))
            self._ids.append(f"{image.file_name}#{number}")

    def finish(self, name: str, split: str, input_hw: tuple[int, int]) -> PersonCrops:
        """The split; raises DataError where there is nobody in it."""
        count = len(self._category.keypoints)
        if not self._rows[0]:
            problems = ", ".join(f"{kind} {many}" for kind, many in self._log.counts.items()) or "no problems"
            raise DataError(f"has no person with a labelled joint ({problems})", where=self._index_path, hint=_HINT)
        people, others = (_people_of(rows, count) for rows in self._rows)
        class_names = tuple(self._category.keypoints)
        records = make_records(people, Texts.of(self._paths), Texts.of(self._ids), input_hw, _MARGIN)
        return PersonCrops(
            name=name,
            split=split,
            class_names=class_names,
            records=records,
            report=make_report(name, split, class_names, records, self._log),
            people=people,
            others=others,
            input_hw=input_hw,
            margin=_MARGIN,
            skeleton=tuple((first - 1, second - 1) for first, second in self._category.skeleton),
        )


def numbers_of(value: object, count: int) -> list[float] | None:
    """A list of so many numbers of ordinary size; None for anything else."""
    if not isinstance(value, list) or len(value) != count:
        return None
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in value):
        return None
    if not all(abs(each) < _LARGEST_PX * _LARGEST_PX and math.isfinite(each) for each in value):
        return None
    return [float(each) for each in value]


def _people_of(rows: Sequence[tuple[Any, ...]], joints: int) -> People:
    pictures, sizes_hw, boxes, areas, places = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return People(
        picture=np.array(pictures, np.int64),
        picture_hw=np.array(sizes_hw, np.int64).reshape(-1, 2),
        boxes_xyxy=np.array(boxes, np.float64).reshape(-1, 4),
        areas=np.array(areas, np.float64),
        joints=np.array(places, np.float64).reshape(-1, joints, 3),
    )


def _split_files(path: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted((path / "annotations").glob(f"{PEOPLE_PREFIX}*.json")) if path.is_dir() else ():
        name = file.stem.removeprefix(PEOPLE_PREFIX)
        found.setdefault(split_of_name(name) or name, file)
    found = found or list_files(path)
    if not found:
        hint = f"Looked for: annotations/{PEOPLE_PREFIX}<split>.json, or another COCO file"
        raise DataError("is no COCO data set, which keypoints are read from", where=path, hint=hint)
    return found


def _category_with_joints(categories: Sequence[_Category], index_path: Path) -> _Category:
    named = [category for category in categories if category.keypoints]
    if len(named) != 1:
        which = ", ".join(category.name for category in named)
        what = f"several categories have keypoints ({which})" if named else "no category has keypoints"
        raise DataError(f"{what}: a model of joints learns those of one", where=index_path, hint=_HINT)
    category = named[0]
    count = len(category.keypoints)
    if len(set(category.keypoints)) != count:
        raise DataError("two keypoints have one name", where=index_path)
    if not all(0 < joint <= count for edge in category.skeleton for joint in edge):
        raise DataError("its skeleton names a keypoint that there is not", where=index_path, hint="They count from 1")
    return category


def _read(path: Path) -> tuple[list[_Category], list[_Image], list[_Person]]:
    categories: list[_Category] = []
    images: list[_Image] = []
    persons: list[_Person] = []
    key = ""
    try:
        for key, piece in list_pieces(path):
            if key == "categories":
                categories += decode_rows(piece, _Category)
            elif key == "images":
                images += decode_rows(piece, _Image)
            elif key == "annotations":
                persons += decode_rows(piece, _Person)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from None
    except (ValueError, RecursionError) as error:  # msgspec's, json's and unicode's errors are ValueErrors
        raise DataError(f"is not a COCO file ({key}: {error})", where=path, hint=_HINT) from None
    if not images:
        raise DataError("lists no pictures", where=path, hint=_HINT)
    return categories, images, persons
