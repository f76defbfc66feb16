"""Open a bundle: verify everything first, then give its files in a folder, as engines want them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import stat
import struct
import sys
import tempfile
import weakref
import zipfile
from collections.abc import Iterator
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
from edgeyolo.spec.errors import BundleError
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.provenance import sha256_of

# What zipfile raises for archives that are cut short, altered or use features it does not know.
_BROKEN = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error)
_ENCRYPTED = 0x1
_COPY_BYTES = 1 << 20
_MAX_DIRECTORY_BYTES = 1 << 17  # of a zip archive; a bundle has a handful of files


class Bundle:
    """A verified bundle; a context manager.

    Attributes:
        manifest: its manifest.
        folder: where its files are until `close`: the bundle itself if it is a folder, else a temporary one.
    """

    def __init__(self, manifest: Manifest, folder: Path, *, temporary: bool) -> None:
        self.manifest = manifest
        self.folder = folder
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True) if temporary else None

    def close(self) -> None:
        """Remove the temporary folder; closing twice is harmless."""
        if self._remove:
            self._remove()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_bundle(path: Path) -> Bundle:
    """Open a `.eyb` archive, or a folder with the same files in it, and verify every file.

    Args:
        path: an archive is unpacked into a temporary folder, which is removed on `close`.

    Raises:
        BundleError: not there, truncated, altered, unsafe, or of a newer version; names the file and the reason.
    """
    if path.is_dir():
        manifest = _manifest_of_folder(path)
        _check_folder(path, manifest)
        return Bundle(manifest, path, temporary=False)
    with _opened(path) as archive:
        manifest = _manifest_of_archive(archive, path)
        with _explaining(path):
            folder = Path(tempfile.mkdtemp(prefix="edgeyolo-"))
        bundle = Bundle(manifest, folder, temporary=True)
        try:
            for name, digest in manifest.sha256.items():
                _unpack(archive, name, folder, digest, where=path)
        except BaseException:
            bundle.close()
            raise
        return bundle


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


def _unpack(archive: zipfile.ZipFile, name: str, folder: Path, expected: str, *, where: Path) -> None:
    """Copy one file out of the archive, hashing on the way; the end of the copy also checks the zip's CRC."""
    digest = hashlib.sha256()
    with archive.open(name) as source, (folder / name).open("xb") as sink:
        while block := source.read(_COPY_BYTES):
            digest.update(block)
            sink.write(block)
    _check_digest(digest.hexdigest(), expected, where=f"{where}/{name}")


def _check_digest(found: str, expected: str, *, where: object) -> None:
    if found != expected:
        raise BundleError(
            f"was altered: its sha256 is {found[:12]}..., the manifest says {expected[:12]}...",
            where=where,
            hint=REBUILD,
        )
