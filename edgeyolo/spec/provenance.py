"""How an artefact was made: digests of files and versions of packages."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from pathlib import Path

from edgeyolo.spec.packages import Package

_PACKAGES = ("torch", "onnx", "onnxslim", "nvidia-modelopt", "numpy", "opencv-python-headless")


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tool_versions(engines: Iterable[Package]) -> dict[str, str]:
    """Versions of edgeyolo, Python and every package that makes numbers and is installed; none of them is imported.

    Args:
        engines: packages of the engines, as `edgeyolo.backends.list_packages` gives them.
    """
    import importlib.metadata

    from edgeyolo import __version__

    versions = {"edgeyolo": __version__, "python": platform.python_version()}
    for package in (*_PACKAGES, *(package.distribution for package in engines)):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
