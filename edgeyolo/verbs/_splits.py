"""Which split of a data set a verb works on."""

from __future__ import annotations

from pathlib import Path

from edgeyolo.spec.errors import DataError


def validation_split(data: Path) -> str:
    """The split that scores are taken on: `val`, or `test` where there is none.

    Raises:
        DataError: the data set has neither.
    """
    from edgeyolo.data.dataset import list_splits

    splits = list_splits(data)
    for name in ("val", "test"):
        if name in splits:
            return name
    raise DataError(f"has no val split, only {', '.join(splits)}", where=data, hint="Set some pictures aside as val")
