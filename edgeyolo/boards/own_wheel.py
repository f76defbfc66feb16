"""This very edgeyolo as a wheel, from the files that run here: installed, or a checkout with its changes."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import zipfile
from collections.abc import Iterator
from pathlib import Path

import edgeyolo
from edgeyolo.spec.atomic import replacing_file
from edgeyolo.spec.shelf import shelf_folder

_KINDS = (".py", ".toml", ".j2", ".typed")
_SHELVES = ("targets", "calib")
_WHEEL = b"Wheel-Version: 1.0\nGenerator: edgeyolo\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_DATE = (1980, 1, 1, 0, 0, 0)  # the same files are the same wheel


def write_own_wheel(folder: Path) -> Path:
    """Write the wheel and give its path; the same files give the same bytes.

    Raises:
        OutputError: the folder cannot be written.
    """
    path = folder / f"edgeyolo-{edgeyolo.__version__}-py3-none-any.whl"
    record = []
    with replacing_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in _list_files():
            digest = base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(raw)}\n")
            _add(archive, name, raw)
        name = f"{_metadata_folder()}/RECORD"
        _add(archive, name, "".join([*record, f"{name},,\n"]).encode())
    return path


def _list_files() -> Iterator[tuple[str, bytes]]:
    package = Path(edgeyolo.__file__).parent
    places = {package: "edgeyolo"} | {shelf_folder(shelf): f"edgeyolo/_{shelf}" for shelf in _SHELVES}
    for folder, name in places.items():
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(folder)
            is_shelf = folder == package and inner.parts[0] in {f"_{shelf}" for shelf in _SHELVES}
            if path.suffix in _KINDS and path.is_file() and not is_shelf:
                yield f"{name}/{inner.as_posix()}", path.read_bytes()
    metadata = importlib.metadata.distribution("edgeyolo")
    yield (
        f"{_metadata_folder()}/METADATA",
        (metadata.read_text("METADATA") or metadata.read_text("PKG-INFO") or "").encode(),
    )
    yield f"{_metadata_folder()}/WHEEL", _WHEEL


def _metadata_folder() -> str:
    return f"edgeyolo-{edgeyolo.__version__}.dist-info"


def _add(archive: zipfile.ZipFile, name: str, raw: bytes) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, raw)
