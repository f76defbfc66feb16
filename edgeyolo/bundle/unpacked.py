"""Where the files of archives are while engines use them: in the cache, on disk, for a temporary folder may be memory.

There is one folder for each content, named by its digest. All processes that use it share it, and it is kept for the
next one. What was not used for longest goes when there is too much, but nothing that is in use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from edgeyolo.spec.atomic import make_folder_once
from edgeyolo.spec.cache import cache_folder
from edgeyolo.spec.errors import OutputError
from edgeyolo.spec.lock import locked, remove_if_free

logger = logging.getLogger(__name__)

MOST_FOLDERS, MOST_BYTES = 8, 2 << 30  # kept, those that were used last
_LEFT_BEHIND_S = 24 * 3600.0  # age of a half-filled folder that no process is filling any more


def keep_unpacked(
    digests: Mapping[str, str], fill: Callable[[Path], None], is_whole: Callable[[Path], bool]
) -> tuple[Path, contextlib.ExitStack]:
    """The folder with these files, and what has to be closed when it is used no more.

    Args:
        digests: file name -> sha256.
        fill: writes the files into a folder; not called where they are there already.
        is_whole: whether the files in a folder are what they should be.

    Raises:
        OutputError: the cache cannot be written. Whatever `fill` raises; nothing is kept then.
    """
    folder = _folder_of(digests)
    using = contextlib.ExitStack()
    try:
        using.callback(_forget_if_empty, folder)
        _hold(folder, using)
        if folder.is_dir() and not is_whole(folder):
            logger.warning("%s: its files were altered, and are unpacked again", folder)
            shutil.rmtree(folder, ignore_errors=True)
        make_folder_once(folder, fill, doing="unpacking this bundle")
        with contextlib.suppress(OSError):
            os.utime(folder)  # is used now
        _prune(folder.parent)
    except BaseException:
        using.close()
        raise
    return folder, using


def _folder_of(digests: Mapping[str, str]) -> Path:
    if sys.platform == "win32":  # which cannot tell whether a folder is in use, and has its temporary folder on disk
        raise OutputError("bundles are not kept on Windows")
    try:
        cache = cache_folder("bundles")
    except RuntimeError as error:
        raise OutputError(f"there is no folder for a cache ({error})") from None
    return cache / hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()[:32]


def _hold(folder: Path, using: contextlib.ExitStack) -> None:
    """Let nobody remove the folder until `using` is closed."""
    try:
        using.enter_context(locked(_mark_of(folder), waiting_for="removing this bundle", shared=True))
    except OSError as error:
        raise OutputError(f"the cache cannot be written ({error.strerror})", where=folder) from None


def _mark_of(folder: Path) -> Path:
    """The file whose lock all who use the folder hold together."""
    return Path(f"{folder}.use")


def _forget_if_empty(folder: Path) -> None:
    """Leave no mark of a folder that was never filled."""
    if not folder.is_dir():
        remove_if_free(_mark_of(folder))


def _prune(cache: Path) -> None:
    """Remove what is beyond the limits and not in use, and what killed processes have left half filled."""
    used: dict[Path, tuple[float, int]] = {}
    for folder in cache.iterdir():
        with contextlib.suppress(OSError):  # another process removes it at this moment
            if folder.is_dir():
                used[folder] = (folder.stat().st_mtime, sum(path.stat().st_size for path in folder.iterdir()))
    kept = kept_bytes = 0
    for folder, (moment, size) in sorted(used.items(), key=lambda item: item[1], reverse=True):
        if folder.suffix:
            if time.time() - moment > _LEFT_BEHIND_S:
                shutil.rmtree(folder, ignore_errors=True)
        elif kept and (kept >= MOST_FOLDERS or kept_bytes + size > MOST_BYTES):
            remove_if_free(_mark_of(folder), guarded=folder)
        else:
            kept, kept_bytes = kept + 1, kept_bytes + size
