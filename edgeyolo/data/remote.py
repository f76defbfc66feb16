"""Data sets behind a URL, such as `s3://bucket/cells`: copied to the cache, then read there.

Any file system that fsspec knows will do. The copy is made again when the listing (names, sizes, dates) changes.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from edgeyolo.spec.atomic import make_folder_once
from edgeyolo.spec.cache import cache_folder
from edgeyolo.spec.errors import DataError, MissingPackageError

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?P<rest>[^/].*)")  # a Path makes one slash of two
_STATE = ("size", "mtime", "created", "LastModified", "ETag", "md5Hash", "sha256")


def local_path(place: Path | str) -> Path:
    """The path itself, or where the copy of a URL's folder or file lies.

    Raises:
        DataError: nothing is there, or it cannot be reached. MissingPackageError: fsspec or what the URL needs.
        OutputError: the cache cannot be written.
    """
    match = _URL.fullmatch(str(place))
    if match is None:
        return Path(place)
    url = f"{match['scheme']}://{match['rest']}"
    system, root = _open(url)
    try:
        files = system.find(root, detail=True)
    except Exception as error:  # every file system has its own
        raise DataError(
            f"cannot be listed ({error})", where=url, hint="Check the address and the access to it"
        ) from None
    if not files:
        raise DataError("does not exist, or is empty", where=url, hint="Give the folder or index file of a data set")
    names = {name: _place_of(name, root, url) for name in sorted(files)}
    state = [[str(names[name]), *(str(files[name].get(key, "")) for key in _STATE)] for name in names]
    digest = hashlib.sha256(json.dumps([url, state]).encode()).hexdigest()[:32]
    folder = make_folder_once(
        cache_folder("remote") / digest,
        lambda folder: _copy(system, {name: folder / place for name, place in names.items()}, url),
        doing=f"copying {url}",
    )
    is_file = list(names.values()) == [PurePosixPath(PurePosixPath(root).name)] and root.rstrip("/") in files
    return folder / PurePosixPath(root).name if is_file else folder


def _open(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]
    except ImportError:
        raise MissingPackageError("fsspec", needed_for="data behind a URL", install="pip install fsspec") from None
    try:
        system, root = url_to_fs(url)
    except ImportError as error:
        name = getattr(error, "name", None) or url.split(":", 1)[0]
        raise MissingPackageError(name, needed_for=f"data at {url}", install=str(error)) from None
    except ValueError as error:
        raise DataError(
            f"cannot be opened ({error})", where=url, hint="Known: what fsspec knows, such as s3, gs, https"
        ) from None
    return system, str(root)


def _place_of(name: str, root: str, url: str) -> PurePosixPath:
    """Where a remote file goes, below the cache's folder.

    Raises:
        DataError: its name would lead out of it.
    """
    inside = name[len(root) :].lstrip("/") if name.startswith(root) else PurePosixPath(name).name
    place = PurePosixPath(inside or PurePosixPath(name).name)
    if place.is_absolute() or ".." in place.parts or "\\" in str(place):
        raise DataError(f"has a file that leads out of it: {name}", where=url, hint="Do not use it")
    return place


def _copy(system: Any, targets: dict[str, Path], url: str) -> None:
    for target in targets.values():
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        system.get(list(targets), [str(target) for target in targets.values()])
    except OSError:
        raise
    except Exception as error:  # every file system has its own
        raise DataError(f"cannot be copied ({error})", where=url, hint="Check the access to it") from None
