"""Where this machine keeps what is costly to make again and may be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER_VARIABLE = "EDGEYOLO_CACHE"


def cache_folder(kind: str) -> Path:
    """Folder of one kind of things, in `$EDGEYOLO_CACHE` or in `edgeyolo` under the user's cache folder."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen) / kind
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeyolo" / kind
