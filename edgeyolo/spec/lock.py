"""A lock between processes, which ends with the process that holds it, also where it is killed."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

_PAUSE_S = 0.2


@contextlib.contextmanager
def locked(path: Path, *, waiting_for: str, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a file, which is made; waits for whoever holds it, and says so.

    Args:
        waiting_for: what the holder does, for people: "building this plan".
        shared: hold it together with others who do so; not on Windows.

    Raises:
        OSError: the file cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    said = False
    while True:
        with path.open("ab") as stream:
            if _try_to_lock(stream.fileno(), shared=shared):
                if _is_still(stream.fileno(), path):
                    yield
                    return
                continue  # whoever held it removed the file: it locks nothing any more
        if not said:
            logger.warning("another process is %s; waiting for it", waiting_for)
            said = True
        time.sleep(_PAUSE_S)


def remove_if_free(path: Path, *, guarded: Path | None = None) -> None:
    """Remove the file of a lock that nobody holds, and before it the folder that it guards."""
    with contextlib.suppress(OSError), path.open("ab") as stream:
        if _try_to_lock(stream.fileno()):
            if guarded is not None:
                shutil.rmtree(guarded)
            path.unlink()


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _try_to_lock(descriptor: int, *, shared: bool = False) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
