"""Part of a split set aside, for choices that must not be made on the pictures that are trained on or reported on."""

from __future__ import annotations

import hashlib

import numpy as np

from edgeyolo.data.dataset import Dataset
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
    held = {dataset.records.image_paths[row] for row in drawn[: max(1, round(part * len(drawn)))]}
    is_held = np.array([path in held for path in dataset.records.image_paths])  # persons of one picture stay together
    stays = dataset.of_rows(np.flatnonzero(~is_held), dataset.split)
    return stays, dataset.of_rows(np.flatnonzero(is_held), HELD_OUT)
