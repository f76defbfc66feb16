"""Part of a split set aside, for choices that must not be made on the pictures that are trained on or reported on."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from edgeyolo.data.dataset import Dataset, make_report
from edgeyolo.data.report import ProblemLog
from edgeyolo.spec.errors import DataError

HELD_OUT = "held out of train"  # how scores call the split


def hold_out(dataset: Dataset, part: float = 0.1) -> tuple[Dataset, Dataset]:
    """A split without some of its pictures, and those; chosen by their ids, so that they are the same each time.

    Args:
        part: of the pictures with objects, in (0, 1); at least one of them is held out. The others all stay.

    Raises:
        DataError: fewer than two pictures with objects.
    """
    has_objects = np.flatnonzero(dataset.records.objects.counts)
    if len(has_objects) < 2:
        raise DataError("has no val split and too few pictures to set some aside", where=dataset.name)
    ids = dataset.records.image_ids
    drawn = sorted(has_objects.tolist(), key=lambda row: hashlib.sha256(ids[row].encode()).digest())
    is_held = np.zeros(len(dataset), np.bool_)
    is_held[drawn[: max(1, round(part * len(drawn)))]] = True
    return _with_rows(dataset, dataset.split, ~is_held), _with_rows(dataset, HELD_OUT, is_held)


def _with_rows(dataset: Dataset, split: str, is_wanted: npt.NDArray[np.bool_]) -> Dataset:
    records = dataset.records[np.flatnonzero(is_wanted)]
    report = make_report(dataset.name, split, dataset.class_names, records, ProblemLog())
    return Dataset(dataset.name, split, dataset.class_names, records, report)
