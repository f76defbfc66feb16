"""`search`: pictures -> better settings for `train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.settings import check_settings
from edgeyolo.spec.training import SearchOptions
from edgeyolo.verbs._splits import open_training_data, opener_for

if TYPE_CHECKING:
    from edgeyolo.spec.training import TrainConfig
    from edgeyolo.training.search import SearchResult


def search(
    config: TrainConfig,
    data: Path,
    out: Path,
    options: SearchOptions | None = None,
    *,
    progress: Progress = SILENT,
) -> SearchResult:
    """Search settings on a data set's `train` and `val` splits; see `edgeyolo.training.search.search`."""
    from edgeyolo.training.search import search as search_settings

    options = options or SearchOptions()
    check_settings(options)
    return search_settings(config, open_training_data(data, opener_for(config)), out, options, progress=progress)
