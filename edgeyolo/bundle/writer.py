"""Write a `.eyb` archive, or a folder of the same files: the same manifest and files always give the same bytes."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import msgspec

from edgeyolo.bundle.layout import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    MAX_TOTAL_BYTES,
    check_manifest,
    check_names,
)
from edgeyolo.bundle.reader import open_bundle
from edgeyolo.spec.atomic import replacing_file, replacing_folder, write_file
from edgeyolo.spec.errors import BundleError
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.strict import encode_json

_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold; `Manifest.created` says the real one
_UNIX = 3


def write_bundle(path: Path, manifest: Manifest, folder: Path) -> Manifest:
    """Pack `manifest` and the artefact files it names from `folder` into the archive `path`.

    The archive is written beside and renamed, so a crash never leaves half a bundle. Other files of the
    folder stay out.

    Args:
        manifest: its `sha256` is replaced by the digests of the files as they are now.

    Returns:
        The manifest that was written.

    Raises:
        BundleError: a file is missing, has a name a bundle cannot hold, or all together are over 4 GiB.
        OutputError: `path` cannot be written.
    """
    written = _with_digests(manifest, folder)
    names, raw = written.sha256, _encode(written, where=path)
    with replacing_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry(MANIFEST_NAME, len(raw)), raw)
        for name in names:
            entry = _entry(name, (folder / name).stat().st_size)
            with (folder / name).open("rb") as source, archive.open(entry, "w") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    return written


def write_folder(path: Path, manifest: Manifest, folder: Path) -> Manifest:
    """As `write_bundle`, as a folder, for programs that read the files themselves.

    Files that the artefact does not name, such as settings that people edit, are copied too, and nobody vouches for
    them. A folder that is there already is replaced, unless it holds something else.
    """
    written = _with_digests(manifest, folder)
    raw, names = _encode(written, where=path), [found.name for found in folder.iterdir()]
    with replacing_folder(path, names={MANIFEST_NAME, *names}) as temporary:
        for name in names:
            shutil.copy(folder / name, temporary / name)
        (temporary / MANIFEST_NAME).write_bytes(raw)
    return written


def rewrite_manifest(path: Path, manifest: Manifest) -> Manifest:
    """Replace the manifest of a bundle, archive or folder, and keep its files; used to record scores.

    Args:
        manifest: must name the artefact files that the bundle holds; their digests are taken from the bundle.

    Returns:
        The manifest that was written.

    Raises:
        BundleError: the bundle is broken, or `manifest` names other files. OutputError: it cannot be written.
    """
    with open_bundle(path) as bundle:
        if not path.is_dir():
            return write_bundle(path, manifest, bundle.folder)
        written = msgspec.structs.replace(manifest, sha256=bundle.manifest.sha256)
        check_manifest(written, where=path)
        write_file(path / MANIFEST_NAME, _encode(written, where=path))
        return written


def _with_digests(manifest: Manifest, folder: Path) -> Manifest:
    """The manifest with the digests of the artefact's files; errors as in `write_bundle`."""
    names = sorted(set(manifest.artefact.files.values()))
    check_names([MANIFEST_NAME, *names], where=folder)
    for name in names:
        if not (folder / name).is_file():
            raise BundleError(
                f"file '{name}' of the artefact is missing", where=folder, hint="Build the artefact again"
            )
    if sum((folder / name).stat().st_size for name in names) > MAX_TOTAL_BYTES - MAX_MANIFEST_BYTES:
        raise BundleError(f"the artefact is over {MAX_TOTAL_BYTES >> 30} GiB", where=folder, hint="Use a smaller model")
    return msgspec.structs.replace(manifest, sha256={name: sha256_of(folder / name) for name in names})


def _encode(manifest: Manifest, *, where: Path) -> bytes:
    raw = encode_json(manifest)
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleError(f"the manifest is over {MAX_MANIFEST_BYTES >> 20} MiB", where=where, hint="Shorten it")
    return raw


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIMESTAMP)
    entry.create_system = _UNIX
    entry.external_attr = 0o100644 << 16
    entry.file_size = size  # tells zipfile beforehand whether the entry needs 64-bit sizes
    return entry
