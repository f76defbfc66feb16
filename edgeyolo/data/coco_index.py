"""A COCO file as columns: ten million annotations are read without ever being as many objects."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec
import numpy as np

from edgeyolo.data.columns import Column, TextColumn
from edgeyolo.data.json_stream import list_pieces
from edgeyolo.spec.errors import DataError

Id: TypeAlias = int | str

_LEAST_ABSURD = 1 << 31  # side in pixels
_ELEMENT = re.compile(r"`\$\[(\d+)\]")
_Row = TypeVar("_Row")


class Category(msgspec.Struct):
    """A class."""

    id: Id
    name: str


class _Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    width: int | float | None = None
    height: int | float | None = None


class _Annotation(msgspec.Struct):
    image_id: Id
    category_id: Id
    bbox: Any = None
    iscrowd: int | bool | None = 0


class _SoundAnnotation(msgspec.Struct, gc=False):
    """As nearly all are."""

    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    iscrowd: int | bool | None = 0


class CocoIndex:
    """The parts of the file that matter; all others are skipped without being built.

    Ids, which are numbers or texts, stand in the columns as their places in `known_images` and `known_categories`.

    Attributes:
        categories: in the order of the file.
        image_numbers, file_names, sizes_hw: of each image; (0, 0) where the size is not given.
        known_images, known_categories: every id that an image, an annotation or a category has, and its number.
        of_image, of_category, boxes_xywh, is_crowd: of each annotation.
        odd_boxes: what stands where a box should, of the annotations that have none; by their position.
    """

    def __init__(self) -> None:
        self.categories: list[Category] = []
        self.known_images: dict[Id, int] = {}
        self.known_categories: dict[Id, int] = {}
        self.odd_boxes: dict[int, str] = {}
        self.image_numbers, self.file_names, self.sizes_hw = Column(np.int32), TextColumn(), Column(np.int64, 2)
        self.of_image, self.of_category = Column(np.int32), Column(np.int32)
        self.boxes_xywh, self.is_crowd = Column(np.float64, 4), Column(np.bool_)

    def add_categories(self, piece: bytes) -> None:
        """Take a list of categories, as JSON; errors as of `read_index`."""
        self.categories += decode_rows(piece, Category)
        _numbers([category.id for category in self.categories], self.known_categories)

    def add_images(self, piece: bytes) -> None:
        """Take a list of images."""
        images = decode_rows(piece, _Image)
        self.image_numbers.add(_numbers([image.id for image in images], self.known_images))
        self.file_names.add(image.file_name for image in images)
        self.sizes_hw.add([(side_px(image.height), side_px(image.width)) for image in images])

    def add_annotations(self, piece: bytes) -> None:
        """Take a list of annotations."""
        rows: list[_Annotation] | list[_SoundAnnotation]
        try:
            rows = msgspec.json.decode(piece, type=list[_SoundAnnotation])
        except msgspec.DecodeError:
            rows = decode_rows(piece, _Annotation)
            for number, row in enumerate(rows, start=len(self.is_crowd)):
                row.bbox = self._sound_box(number, row.bbox)
        self.of_image.add(_numbers([row.image_id for row in rows], self.known_images))
        self.of_category.add(_numbers([row.category_id for row in rows], self.known_categories))
        self.boxes_xywh.add([row.bbox for row in rows])
        self.is_crowd.add([bool(row.iscrowd) for row in rows])

    def _sound_box(self, number: int, box: Any) -> tuple[float, ...]:
        try:
            if isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box):
                return tuple(map(float, box))
        except OverflowError:
            pass  # a whole number that no float can be
        self.odd_boxes[number] = str(box)[:60]
        return (0.0, 0.0, 0.0, 0.0)


def read_index(path: Path) -> CocoIndex:
    """Read a COCO file.

    Raises:
        DataError: it cannot be read, or is not one.
    """
    index = CocoIndex()
    takers = {"images": index.add_images, "categories": index.add_categories, "annotations": index.add_annotations}
    taken = dict.fromkeys(takers, 0)
    key = ""
    try:
        for key, piece in list_pieces(path):
            if key in takers:
                takers[key](piece)
                taken[key] += 1
        key = ""
        for wanted in ("images", "categories"):
            if not taken[wanted]:
                raise ValueError(f"it has no list `{wanted}`")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from None
    except (ValueError, RecursionError) as error:  # msgspec's, json's and unicode's errors are ValueErrors
        hint = "A COCO file has `images`, `annotations` and `categories`"
        done = {"images": len(index.image_numbers), "annotations": len(index.is_crowd)}.get(key, 0)
        reason = _ELEMENT.sub(lambda match: f"`$.{key}[{int(match[1]) + done}]", str(error))
        raise DataError(f"is not a COCO file ({reason})", where=path, hint=hint) from None
    return index


def decode_rows(piece: bytes, kind: type[_Row]) -> list[_Row]:
    """A list of a COCO file, as JSON; raises ValueError where it is of something else."""
    try:
        return msgspec.json.decode(piece, type=list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(piece), list[kind])  # type: ignore[valid-type]  # slower, but takes NaN


def _numbers(ids: list[Id], known: dict[Id, int]) -> list[int]:
    return [known.setdefault(each, len(known)) for each in ids]


def side_px(value: float | None) -> int:
    """A side as a whole number of pixels; 0 where it is not given, or absurd."""
    return int(value) if value and 0 < value < _LEAST_ABSURD else 0
