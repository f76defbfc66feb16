"""A model for every kind of board of a fleet: built once, kept in the cache."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from edgeyolo import __version__
from edgeyolo.spec.cache import cache_folder
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.verbs._deploy import deploy


def bundle_for(model: Path, target: str, *, progress: Progress = SILENT) -> Path:
    """The bundle of a quantized folder or a checkpoint for a target, as `deploy` builds it.

    Raises:
        UsageError: there is no such model. Whatever `deploy` raises.
    """
    files = sorted(model.iterdir()) if model.is_dir() else [model]
    digests = [sha256_of(path) for path in files if path.is_file()]
    if not digests:
        raise UsageError("does not exist, or is empty", where=model, hint="Give a bundle, or what `deploy` takes")
    key = hashlib.sha256(json.dumps([digests, target, __version__]).encode()).hexdigest()[:16]
    bundle = cache_folder("fleet") / key / f"{model.stem}-{target}.eyb"
    if not bundle.is_file():
        deploy(model, target, bundle, progress=progress)
    return bundle
