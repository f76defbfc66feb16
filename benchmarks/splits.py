"""Splits of a data set that benchmarks measure on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgeyolo.data.dataset import Dataset, open_dataset


def join_splits(data: Path) -> Dataset:
    """Val and test as one split."""
    val, test = (open_dataset(data, split) for split in ("val", "test"))
    return dataclasses.replace(val, split="val+test", records=[*val.records, *test.records])
