"""A split of a data set, and the door to all formats."""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np

import edgeyolo.data
from edgeyolo.data.image_file import read_image
from edgeyolo.data.records import Record, Records
from edgeyolo.data.remote import local_path
from edgeyolo.data.report import Problem, ProblemLog, Report
from edgeyolo.data.sample import Sample
from edgeyolo.spec.detections import Image, Int64
from edgeyolo.spec.errors import DataError, ImageError, UnknownNameError

_CHECKED_AT_ONCE = 4096


@dataclass(frozen=True)
class Dataset:
    """One split, checked: every record can be trained on once its picture has been read.

    Attributes:
        name: of the folder or file that was opened.
        class_names: K names; class id is the position.
        records: of any records, columns are made.
        report: what was found when it was opened.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    records: Records
    report: Report

    def __post_init__(self) -> None:
        object.__setattr__(self, "records", Records.of(self.records))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Read one picture.

        Raises:
            ImageError: it is unreadable, or not of the size that its annotation gives.
        """
        record = self.records[index]
        image = read_image(record.image_path)
        if image.shape[:2] != record.image_hw:
            raise ImageError(
                _size_difference(image, record),
                where=record.image_path,
                hint="The annotation belongs to another version of the picture (resized, or turned by its EXIF tag)",
            )
        return Sample(image, record.boxes_xyxy, record.class_ids, record.image_id)

    def of_rows(self, rows: Int64, split: str) -> Dataset:
        """Some of its pictures, in the order given, as a split of another name; what was found when it was opened is
        not told again."""
        records = self.records[rows]
        report = make_report(self.name, split, self.class_names, records, ProblemLog())
        return Dataset(self.name, split, self.class_names, records, report)

    def digest(self) -> str:
        """Hex sha256 of ids, sizes and labels, in order; the pictures themselves are not read."""
        digest = hashlib.sha256(repr((self.name, self.split, self.class_names)).encode())
        for record in self.records:
            digest.update(repr((record.image_id, record.image_hw)).encode())
            for labels in (record.boxes_xyxy, record.class_ids, record.ignored_boxes_xyxy, record.ignored_class_ids):
                digest.update(repr(labels.shape).encode() + labels.tobytes())
        return digest.hexdigest()


class Reader(Protocol):
    """What a module of this folder has to offer to be a format."""

    LOOKS_LIKE: str

    def is_recognised(self, path: Path) -> bool:
        """Whether `path` is of this format; cheap, raises nothing."""

    def list_splits(self, path: Path) -> list[str]:
        """Names of the splits, in the order of the format."""

    def read_split(self, path: Path, split: str) -> Dataset:
        """Read one of `list_splits`."""


def open_dataset(path: Path | str, split: str) -> Dataset:
    """Open one split of a YOLO, COCO or VOC data set; no picture is decoded.

    Args:
        path: a `data.yaml`, a COCO JSON, or the folder of a data set; or the URL of one of them.
        split: one of `list_splits`.

    Raises:
        DataError: no known format, a broken index file, or a split without pictures or without any object.
        UnknownNameError: no such split.
    """
    path = local_path(path)
    dataset = read_dataset(path, split)
    if not dataset.report.boxes:
        found = ", ".join(f"{kind} {count}" for kind, count in dataset.report.problems.items()) or "no problems"
        raise DataError(
            f"split '{split}' has {len(dataset)} usable pictures and no usable object in any of them ({found})",
            where=path,
            hint="Labels are needed: check that label files stand where the format wants them",
        )
    return dataset


def list_splits(path: Path | str) -> list[str]:
    """Names of the splits of a data set.

    Raises:
        DataError: no known format, or a broken index file.
    """
    path = local_path(path)
    return _find_reader(path).list_splits(path)


def check_dataset(path: Path | str) -> dict[str, Report]:
    """Read every split and decode every picture; reports also what would stop `open_dataset`.

    Raises:
        DataError: no known format, or an index file so broken that a split cannot be read at all.
    """
    path = local_path(path)
    datasets = {split: read_dataset(path, split) for split in list_splits(path)}
    names = next((dataset.class_names for dataset in datasets.values()), ())
    return {split: _check_pictures(dataset, names) for split, dataset in datasets.items()}


def make_report(
    name: str, split: str, class_names: Sequence[str], records: Sequence[Record], log: ProblemLog
) -> Report:
    """Count what is in `records`, beside what `log` has found."""
    records = Records.of(records)
    counts = np.bincount(records.objects.class_ids, minlength=len(class_names)).tolist()
    return Report(
        data=name,
        split=split,
        pictures=len(records),
        backgrounds=int((records.objects.counts == 0).sum()),
        boxes=len(records.objects.class_ids),
        ignored_boxes=len(records.ignored.class_ids),
        classes=dict(zip(class_names, counts, strict=True)),
        problems=log.counts,
        examples=log.examples,
    )


def _check_pictures(dataset: Dataset, expected_names: tuple[str, ...]) -> Report:
    log = ProblemLog(dataset.report)
    if dataset.class_names != expected_names:
        log.add("class names differ", dataset.name, f"{dataset.class_names} here, {expected_names} in the first split")

    readable = np.ones(len(dataset), np.bool_)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for first in range(0, len(dataset), _CHECKED_AT_ONCE):
            part = dataset.records[first : first + _CHECKED_AT_ONCE]
            for row, finding in enumerate(pool.map(_find_problem, part), start=first):
                if finding:
                    log.add(finding.kind, finding.where, finding.what)
                    readable[row] = False
    records = dataset.records[np.flatnonzero(readable)]
    return make_report(dataset.name, dataset.split, dataset.class_names, records, log)


def _find_problem(record: Record) -> Problem | None:
    try:
        image = read_image(record.image_path)
    except ImageError as error:
        return Problem("unreadable picture", error.where, error.what)
    if image.shape[:2] != record.image_hw:
        return Problem("wrong picture size", str(record.image_path), _size_difference(image, record))
    return None


def _size_difference(image: Image, record: Record) -> str:
    return "is {1}x{0} and its annotation is for {3}x{2}".format(*image.shape[:2], *record.image_hw)


def read_dataset(path: Path, split: str) -> Dataset:
    """Open a split whatever is in it, also without any object; errors as of `open_dataset`."""
    reader = _find_reader(path)
    splits = reader.list_splits(path)
    if split not in splits:
        raise UnknownNameError("split", split, splits, where=path)
    return reader.read_split(path, split)


def _readers() -> list[Reader]:
    """Every module of this folder that reads a format."""
    modules = [
        importlib.import_module(f"{edgeyolo.data.__name__}.{found.name}")
        for found in pkgutil.iter_modules(edgeyolo.data.__path__)
    ]
    return [cast(Reader, module) for module in modules if hasattr(module, "read_split")]


def _find_reader(path: Path) -> Reader:
    if not path.exists():
        raise DataError("does not exist", where=path, hint="Give the folder or the index file of a data set")
    readers = _readers()
    found = [reader for reader in readers if reader.is_recognised(path)]
    if len(found) == 1:
        return found[0]
    looked_for = "; ".join(reader.LOOKS_LIKE for reader in found or readers)
    if found:
        raise DataError(f"is of more than one format ({looked_for})", where=path, hint="Give the index file itself")
    raise DataError("is no data set of a known format", where=path, hint=f"Looked for: {looked_for}")
