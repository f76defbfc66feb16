"""Open a bundle: verify everything first, then give its files in a folder, as engines want them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import shutil
import stat
import struct
import sys
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from edgeyolo.bundle.layout import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    MAX_TOTAL_BYTES,
    REBUILD,
    check_names,
    parse_manifest,
)
from edgeyolo.bundle.unpacked import keep_unpacked
from edgeyolo.spec.errors import BundleError, OutputError
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.provenance import sha256_of

logger = logging.getLogger(__name__)

# What zipfile raises for archives that are cut short, altered or use features it does not know.
_BROKEN = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error)
_ENCRYPTED = 0x1
_COPY_BYTES = 1 << 20
_MAX_DIRECTORY_BYTES = 1 << 17  # of a zip archive; a bundle has a handful of files


class Bundle:
    """A verified bundle; a context manager.

    Attributes:
        manifest: its manifest.
        folder: where its files are until `close`: the bundle itself if it is a folder, else one in the cache, which
            others use as well, or a temporary one.
    """

    def __init__(self, manifest: Manifest, folder: Path, using: contextlib.ExitStack | None = None) -> None:
        self.manifest = manifest
        self.folder = folder
        self._give_back = weakref.finalize(self, using.close) if using else None

    def close(self) -> None:
        """Give back the folder; closing twice is harmless."""
        if self._give_back:
            self._give_back()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_bundle(path: Path) -> Bundle:
    """Open a `.eyb` archive, or a folder with the same files in it, and verify every file.

    Args:
        path: an archive is unpacked into the cache, or into a temporary folder where that cannot be written.

    Raises:
        BundleError: not there, truncated, altered, unsafe, or of a newer version; names the file and the reason.
    """
    if path.is_dir():
        manifest = _manifest_of_folder(path)
        _check_folder(path, manifest)
        return Bundle(manifest, path)
    with _opened(path) as archive:
        manifest = _manifest_of_archive(archive, path)

        def read_into(folder: Path | None) -> None:
            for name, digest in manifest.sha256.items():
                _read(archive, name, digest, folder, where=path)

        try:
            return Bundle(manifest, *_unpack_into_cache(manifest, read_into))
        except OutputError as error:
            logger.info("the bundle is unpacked into a temporary folder (%s)", error)
        with contextlib.ExitStack() as using:
            folder = Path(tempfile.mkdtemp(prefix="edgeyolo-"))
            using.callback(shutil.rmtree, folder, ignore_errors=True)
            read_into(folder)
            return Bundle(manifest, folder, using.pop_all())


def _unpack_into_cache(
    manifest: Manifest, read_into: Callable[[Path | None], None]
) -> tuple[Path, contextlib.ExitStack]:
    """As `keep_unpacked`; the archive is verified also where its files are in the cache already."""
    was_read = False

    def fill(folder: Path) -> None:
        nonlocal was_read
        read_into(folder)
        was_read = True

    folder, using = keep_unpacked(manifest.sha256, fill, lambda folder: _is_whole(folder, manifest))
    try:
        if not was_read:
            read_into(None)
    except BaseException:
        using.close()
        raise
    return folder, using


def read_manifest(path: Path) -> Manifest:
    """The manifest of an archive or folder; the files themselves are not read. Errors as in `open_bundle`."""
    if path.is_dir():
        return _manifest_of_folder(path)
    with _opened(path) as archive:
        return _manifest_of_archive(archive, path)


def _manifest_of_folder(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise BundleError(f"is not a bundle: there is no {MANIFEST_NAME} in it", where=folder, hint=REBUILD)
    with _explaining(path):
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"is over {MAX_MANIFEST_BYTES >> 20} MiB", where=path, hint=REBUILD)
        raw = path.read_bytes()
    return parse_manifest(raw, where=path)


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    try:
        _check_folder(folder, manifest)
    except BundleError:
        return False
    return True


def _check_folder(folder: Path, manifest: Manifest) -> None:
    for name, digest in manifest.sha256.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"file '{name}' of the manifest is missing", where=folder, hint=REBUILD)
        with _explaining(path):
            if path.resolve().parent != folder.resolve():
                raise BundleError("is a link that leads out of the bundle", where=path, hint=REBUILD)
            _check_digest(sha256_of(path), digest, where=path)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.is_file():
        raise BundleError("does not exist or is no file", where=path, hint="Check the path of the bundle")
    with _explaining(path), _Watched(path) as file, zipfile.ZipFile(file) as archive:
        file.most_bytes = sys.maxsize
        yield archive


class _Watched(io.FileIO):
    """A file of which little can be read at once, while zipfile reads the archive's directory, all at once.

    Attributes:
        most_bytes: of one `read`.
    """

    most_bytes = _MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1) -> bytes:
        """As `io.FileIO.read`; BadZipFile for more than may be read."""
        wanted = size if size is not None and size >= 0 else os.fstat(self.fileno()).st_size - self.tell()
        if wanted > self.most_bytes:
            raise zipfile.BadZipFile(f"its directory is over {_MAX_DIRECTORY_BYTES >> 10} KiB")
        return super().read(wanted)


@contextlib.contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Turn what zipfile and the disk raise into a BundleError that names `path`."""
    try:
        yield
    except _BROKEN as error:
        raise BundleError(f"is truncated, altered or no bundle ({error})", where=path, hint=REBUILD) from None
    except OSError as error:
        hint = "Check its permissions, and the free space in the temporary folder (TMPDIR)"
        raise BundleError(f"cannot be read or unpacked ({error.strerror or error})", where=path, hint=hint) from None


def _manifest_of_archive(archive: zipfile.ZipFile, path: Path) -> Manifest:
    """Check the directory of the archive, then read its manifest and compare the two."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    check_names(names, where=path)
    for entry in entries:
        _check_entry(entry, where=path)
    if sum(entry.file_size for entry in entries) > min(MAX_TOTAL_BYTES, path.stat().st_size):
        raise BundleError("its files are larger than a bundle can be", where=path, hint=REBUILD)
    if MANIFEST_NAME not in names:
        raise BundleError(f"is not a bundle: there is no {MANIFEST_NAME} in it", where=path, hint=REBUILD)
    if archive.getinfo(MANIFEST_NAME).file_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"its {MANIFEST_NAME} is over {MAX_MANIFEST_BYTES >> 20} MiB", where=path, hint=REBUILD)
    manifest = parse_manifest(archive.read(MANIFEST_NAME), where=f"{path}/{MANIFEST_NAME}")
    for name in manifest.sha256:
        if name not in names:
            raise BundleError(f"file '{name}' of the manifest is missing", where=path, hint=REBUILD)
    for name in names:
        if name != MANIFEST_NAME and name not in manifest.sha256:
            raise BundleError(f"holds '{name}', which the manifest does not name", where=path, hint=REBUILD)
    return manifest


def _check_entry(entry: zipfile.ZipInfo, *, where: Path) -> None:
    """A bundle holds plain stored files: no links, no compression (so no bomb), no encryption."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        problem = "is a link or a special file"
    elif entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        problem = "is compressed, which a bundle never is"
    elif entry.flag_bits & _ENCRYPTED:
        problem = "is encrypted"
    else:
        return
    raise BundleError(f"its file '{entry.filename}' {problem}", where=where, hint=REBUILD)


def _read(archive: zipfile.ZipFile, name: str, expected: str, folder: Path | None, *, where: Path) -> None:
    """Verify one file of the archive, and copy it to a folder, if one is given; its end also checks the zip's CRC."""
    digest = hashlib.sha256()
    with contextlib.ExitStack() as opened:
        source = opened.enter_context(archive.open(name))
        sink = opened.enter_context((folder / name).open("xb")) if folder else None
        while block := source.read(_COPY_BYTES):
            digest.update(block)
            if sink:
                sink.write(block)
    _check_digest(digest.hexdigest(), expected, where=f"{where}/{name}")


def _check_digest(found: str, expected: str, *, where: object) -> None:
    if found != expected:
        raise BundleError(
            f"was altered: its sha256 is {found[:12]}..., the manifest says {expected[:12]}...",
            where=where,
            hint=REBUILD,
        )
