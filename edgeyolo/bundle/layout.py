"""What a bundle may look like: file names, sizes, and a manifest that agrees with its files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import msgspec

from edgeyolo.heads import head_of
from edgeyolo.spec.errors import BundleError, FormatError
from edgeyolo.spec.manifest import FORMAT_VERSION, Manifest
from edgeyolo.spec.sizes import MOST_BATCH
from edgeyolo.spec.strict import decode_json

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20
MAX_TOTAL_BYTES = 4 << 30
REBUILD = "Build it again with `edgeyolo deploy`, or copy it again from where it was built"
_MAX_THREADS, _MAX_CLASSES, _MAX_SIDE, _MAX_AREA, _LARGE = 1024, 100_000, 1 << 14, 1 << 24, 1_000_000

# One flat folder of plain names: no separator, drive, leading dot or control character can name another place.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


class _Version(msgspec.Struct):
    """The only key of a manifest that every version of the format has."""

    format_version: int = 1


def check_name(name: str, *, where: object) -> None:
    """Raise BundleError unless `name` is a plain file name of a flat folder."""
    if not _PLAIN_NAME.fullmatch(name):
        raise BundleError(
            f"holds a file named {name!r}, which is not a plain file name (letters, digits, '.', '_', '-')",
            where=where,
            hint="Do not use a bundle from a source you do not trust",
        )


def check_names(names: list[str], *, where: object) -> None:
    """Raise BundleError for a name that is not plain, or that occurs twice (also in another case)."""
    seen: set[str] = set()
    for name in names:
        check_name(name, where=where)
        if name.casefold() in seen:
            raise BundleError(f"holds '{name}' twice", where=where, hint=REBUILD)
        seen.add(name.casefold())


def parse_manifest(raw: bytes, *, where: object) -> Manifest:
    """Read the bytes of `manifest.json` and check that it agrees with itself.

    Raises:
        BundleError: newer format, not valid, or an artefact file without a digest; names `where`.
    """
    try:
        version = decode_json(raw, _Version, where=where).format_version
        if version != FORMAT_VERSION:
            raise BundleError(
                f"format version {version} is not {FORMAT_VERSION}, the one this edgeyolo reads",
                where=where,
                hint="Update edgeyolo" if version > FORMAT_VERSION else REBUILD,
            )
        manifest = decode_json(raw, Manifest, where=where)
    except FormatError as error:
        raise BundleError(error.what, where=where, hint=error.hint or REBUILD) from None
    check_manifest(manifest, where=where)
    return manifest


def check_manifest(manifest: Manifest, *, where: object) -> None:
    """Raise BundleError unless its numbers can be used and those that have a digest are the artefact's files.

    That they are the right digests is for the reader to see.
    """
    for name, fits in _list_checks(manifest):
        if not fits:
            raise BundleError(f"{name} is out of its range", where=where, hint=REBUILD)
    check_names([MANIFEST_NAME, *manifest.sha256], where=where)
    for role, name in manifest.artefact.files.items():
        if name not in manifest.sha256:
            raise BundleError(f"artefact file '{name}' ({role}) has no sha256", where=where, hint=REBUILD)
    for name in manifest.sha256:
        if name not in manifest.artefact.files.values():
            raise BundleError(f"'{name}' has a sha256 but is no file of the artefact", where=where, hint=REBUILD)


def _list_checks(manifest: Manifest) -> Iterator[tuple[str, bool]]:
    """Every number that the runtime computes with: its name, and whether it can.

    JSON has no numbers that are not finite, so only ranges are left to look at.
    """
    model = manifest.model
    picture, decode = model.input, model.decode
    yield "threads", 0 <= manifest.threads <= _MAX_THREADS
    yield "model.class_names", 0 < len(model.class_names) <= _MAX_CLASSES
    yield "model.input.image_hw", all(0 < side <= _MAX_SIDE for side in picture.image_hw)
    yield "model.input.image_hw", math.prod(picture.image_hw) <= _MAX_AREA
    yield "model.input.mean", all(abs(mean) <= _LARGE for mean in picture.mean)
    yield "model.input.std", all(1 / _LARGE <= std <= _LARGE for std in picture.std)
    yield "model.input.letterbox_value", 0 <= picture.letterbox_value <= 255
    yield "model.input.batch", picture.batch[0] in (1, picture.batch[1]) and 1 <= picture.batch[1] <= MOST_BATCH
    yield "model.decode.strides", len(decode.strides) > 0 and all(0 < s <= _MAX_SIDE for s in decode.strides)
    yield from ((f"model.decode.{name}", fits) for name, fits in head_of(decode).list_checks())
