"""How an artefact was made: digests of files and versions of packages."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

_PACKAGES = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxslim",
    "ncnn",
    "pnnx",
    "nvidia-modelopt",
    "numpy",
    "opencv-python-headless",
)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tool_versions() -> dict[str, str]:
    """Versions of edgeyolo, Python and every package of ours that is installed; nothing of theirs is imported."""
    import importlib.metadata

    from edgeyolo import __version__

    versions = {"edgeyolo": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
