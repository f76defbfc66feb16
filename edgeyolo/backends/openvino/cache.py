"""Networks compiled on this machine, one file each: opening a bundle again skips most of what compiling takes.

A file is the sha256 of what follows, then the network as OpenVINO exports it. It is written under another name and
renamed, and one that is not what its digest says is compiled anew. What was not used for longest goes when there is
too much.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.cache import cache_folder
from edgeyolo.spec.errors import OutputError
from edgeyolo.spec.machine import list_cpu_features
from edgeyolo.spec.target import Option

logger = logging.getLogger(__name__)

# Kept on this machine, those that were used last; one has about the size of its bundle.
MOST_NETWORKS, MOST_BYTES = 16, 1 << 30
_DIGEST_BYTES = hashlib.sha256().digest_size


def compiled_folder() -> Path:
    """Where compiled networks are kept on this machine."""
    return cache_folder("openvino")


def compile_cached(
    core: Any, raw: bytes, read: Callable[[bytes], Any], device: str, properties: Mapping[str, Option], *, version: str
) -> Any:
    """A compiled network: from the cache, or compiled and kept there, if it can be written.

    Args:
        raw: an ONNX file.
        read: makes OpenVINO's model of it.
        version: of OpenVINO.

    Raises:
        Whatever OpenVINO raises while it reads and compiles.
    """
    told = (version, str(core.get_property(device, "FULL_DEVICE_NAME")), sorted(list_cpu_features()), device)
    key = hashlib.sha256(raw + repr((told, sorted(properties.items()))).encode()).hexdigest()[:32]
    path = compiled_folder() / f"{key}.blob"
    if (blob := _read(path)) is not None:
        try:
            return core.import_model(io.BytesIO(blob), device, dict(properties))
        except RuntimeError as error:
            logger.warning("the compiled network %s is refused and compiled anew (%s)", path, error)
    compiled = core.compile_model(read(raw), device, dict(properties))
    exported = io.BytesIO()
    compiled.export_model(exported)
    blob = exported if isinstance(exported, bytes) else exported.getvalue()  # bytes in early versions
    try:
        write_file(path, hashlib.sha256(blob).digest() + blob)
    except OutputError as error:
        logger.debug("the compiled network is not kept: %s", error)
    _prune()
    return compiled


def kept_networks() -> tuple[int, int]:
    """How many compiled networks are kept, and their bytes."""
    sizes = [path.stat().st_size for path in compiled_folder().glob("*.blob")]
    return len(sizes), sum(sizes)


def _read(path: Path) -> bytes | None:
    """The network, if the file is whole."""
    try:
        kept = path.read_bytes()
        os.utime(path)  # was used now
    except OSError:
        return None
    digest, blob = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
    if hashlib.sha256(blob).digest() == digest:
        return blob
    logger.warning("the compiled network %s is not what its digest says and is compiled anew", path)
    return None


def _prune() -> None:
    """Remove networks beyond what is to be kept, those that were not used for longest first."""
    kept = 0
    found = {}
    for path in compiled_folder().glob("*.blob"):
        with contextlib.suppress(OSError):  # another process removes it at this moment
            found[path] = path.stat()
    for place, path in enumerate(sorted(found, key=lambda path: found[path].st_mtime_ns, reverse=True)):
        kept += found[path].st_size
        if place and (place >= MOST_NETWORKS or kept > MOST_BYTES):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
