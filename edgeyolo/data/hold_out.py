"""Part of a split set aside, for choices that must not be made on the pictures that are trained on or reported on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from edgeyolo.data.dataset import Dataset, Record, make_report
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
    labelled = sorted((record for record in dataset.records if len(record.class_ids)), key=_lot)
    if len(labelled) < 2:
        raise DataError("has no val split and too few pictures to set some aside", where=dataset.name)
    chosen = {record.image_id for record in labelled[: max(1, round(part * len(labelled)))]}
    stay = [record for record in dataset.records if record.image_id not in chosen]
    held = [record for record in dataset.records if record.image_id in chosen]
    return _with_records(dataset, dataset.split, stay), _with_records(dataset, HELD_OUT, held)


def _lot(record: Record) -> bytes:
    return hashlib.sha256(record.image_id.encode()).digest()


def _with_records(dataset: Dataset, split: str, records: Sequence[Record]) -> Dataset:
    report = make_report(dataset.name, split, dataset.class_names, records, ProblemLog())
    return Dataset(dataset.name, split, dataset.class_names, list(records), report)
