"""Outputs are written beside and renamed: a crash leaves the old file or the new one, never half."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from edgeyolo.spec.errors import OutputError
from edgeyolo.spec.lock import locked, remove_if_free


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full. `path` is then as it was.
    """
    temporary = Path(f"{path}.tmp-{os.getpid()}")
    with _explaining(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_file(path: Path, raw: bytes) -> None:
    """Write `raw` to `path` atomically; errors as in `replacing_file`."""
    with replacing_file(path) as temporary, _explaining(path):
        temporary.write_bytes(raw)


def check_replaceable(path: Path, names: Collection[str], *, sources: Iterable[Path] = ()) -> None:
    """Raise OutputError unless the folder `path` is absent, empty, or holds nothing but what is to be written anew.

    Args:
        names: of the files and folders that are written there.
        sources: files and folders that are read, and so must not lie in `path`.
    """
    if path.exists() and not path.is_dir():
        raise OutputError("is a file, and a folder is to be written there", where=path, hint="Choose another --out")
    for source in sources:
        if source.resolve().is_relative_to(path.resolve()):
            raise OutputError(f"holds {source}, which is read", where=path, hint="Choose another --out")
    others = sorted(found.name for found in path.iterdir() if found.name not in names) if path.exists() else []
    if others:
        shown = ", ".join(others[:3]) + (" and more" if len(others) > 3 else "")
        raise OutputError(
            f"holds {shown}, which would be lost", where=path, hint="Choose another --out, or empty the folder yourself"
        )


@contextlib.contextmanager
def replacing_folder(path: Path, *, names: Collection[str] | None = None) -> Iterator[Path]:
    """Give a temporary folder beside `path`; rename it to `path` when the block ends well.

    An existing folder is moved aside first and removed last, so a crash leaves one whole version on disk.

    Args:
        names: of all that is written there; a folder that holds anything else is left as it is. None for a folder of
            our own cache, which is replaced whatever it holds.

    Raises:
        OutputError: as in `replacing_file` and `check_replaceable`.
    """
    with _explaining(path):
        _check(path, names)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{path.name}.tmp-", dir=path.parent))
        temporary.chmod(0o755)
        try:
            yield temporary
            old = Path(f"{temporary}.old")
            _check(path, names)
            if path.exists():
                path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def make_folder_once(path: Path, fill: Callable[[Path], None], *, doing: str) -> Path:
    """Let `fill` fill a folder beside `path` and rename it to `path`, unless that is there.

    Of processes that want the same folder one makes it and the others wait. What is there is never replaced: somebody
    may be reading it.

    Args:
        doing: what `fill` does, for people who wait: "unpacking these shards".

    Raises:
        OutputError: as in `replacing_file`.
    """
    if path.is_dir():
        return path
    lock = Path(f"{path}.lock")
    try:
        with _explaining(path), locked(lock, waiting_for=doing):
            if not path.is_dir():
                _make_folder(path, fill)
    finally:
        remove_if_free(lock)
    return path


def _make_folder(path: Path, fill: Callable[[Path], None]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f"{path.name}.tmp-", dir=path.parent))
    temporary.chmod(0o755)
    try:
        fill(temporary)
        _rename_if_free(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename_if_free(temporary: Path, path: Path) -> None:
    """Where locks do nothing, as on some network file systems, somebody else may have been faster."""
    try:
        temporary.rename(path)
    except OSError:
        if not path.is_dir():
            raise


def _check(path: Path, names: Collection[str] | None) -> None:
    if names is not None:
        check_replaceable(path, names)
    elif path.exists() and not path.is_dir():
        raise OutputError("is a file, and a folder is to be written there", where=path, hint="Remove it")


@contextlib.contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot be written ({reason})", where=path, hint="Check the path, its permissions and the free space"
        ) from None
