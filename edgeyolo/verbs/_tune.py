"""`tune`: pictures -> better settings for `train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.verbs._splits import validation_split

if TYPE_CHECKING:
    from edgeyolo.spec.training import TrainConfig
    from edgeyolo.training.search import Range, SearchResult


def tune(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    ranges: Sequence[Range] = (),
    trials: int = 30,
    storage: str | None = None,
    keep_all: bool = False,
    progress: Progress = SILENT,
) -> SearchResult:
    """Search settings on a data set's `train` and validation splits; see `edgeyolo.training.search.search`."""
    from edgeyolo.data.dataset import open_dataset
    from edgeyolo.training.search import search

    return search(
        config,
        open_dataset(data, "train"),
        open_dataset(data, validation_split(data)),
        out,
        ranges=ranges,
        trials=trials,
        storage=storage,
        keep_all=keep_all,
        progress=progress,
    )
