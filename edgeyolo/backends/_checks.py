"""What every engine module does in the same way: find its package, check its version, check what it is given."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from edgeyolo.spec.errors import BackendError, FormatError, UnknownNameError
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.target import Option, Target

logger = logging.getLogger(__name__)


def list_version_problems(package: str, version: str, target: Target) -> list[str]:
    """Empty if `version` of the engine's package is one that the target accepts.

    Raises:
        FormatError: `target.engine_versions` is not a PEP 440 specifier.
    """
    if is_accepted_version(version, target.engine_versions, where=target.title):
        return []
    wanted = f"{package}{target.engine_versions}"
    return [f'{package} {version} is installed and {target.title} needs {wanted}. Install it: pip install "{wanted}"']


def is_accepted_version(version: str, accepted: str, *, where: str) -> bool:
    """Whether a version is in the range `accepted`, a PEP 440 specifier; "" accepts all.

    Raises:
        FormatError: `accepted` is not a specifier; names `where` it stands.
    """
    try:
        specifiers = SpecifierSet(accepted)
    except InvalidSpecifier:
        raise FormatError(
            f"engine_versions '{accepted}' is not a version range", where=where, hint="Write >=1.0"
        ) from None
    if not accepted:
        return True
    try:
        return specifiers.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def check_version(package: str, version: str, target: Target) -> None:
    """Raise BackendError if the target does not accept this version."""
    for problem in list_version_problems(package, version, target):
        raise BackendError(problem)


def check_option_names(options: Mapping[str, Option], known: list[str], *, engine: str) -> None:
    """Raise UnknownNameError, naming the nearest, for an option that the engine does not have."""
    for name in options:
        if name not in known:
            raise UnknownNameError(f"{engine} option", name, known)


def artefact_file(folder: Path, artefact: Artefact, role: str) -> Path:
    """Path of one of the artefact's files.

    Raises:
        BackendError: the artefact has no such role, or the file is not there, or it is outside `folder`.
    """
    name = artefact.files.get(role, "")
    path = folder / name
    if not name or Path(name).name != name or not path.is_file():
        raise BackendError(
            f"the artefact's {role} file '{name}' is not there", where=folder, hint="Deploy again: edgeyolo deploy"
        )
    return path


def check_images(images: npt.NDArray[np.float32], image_hw: tuple[int, int]) -> None:
    """Raise BackendError unless `images` is (B, 3, H, W) float32 of that height and width."""
    if images.ndim != 4 or images.shape[1:] != (3, *image_hw) or images.dtype != np.float32:
        raise BackendError(
            f"images are {images.shape} {images.dtype}, and the artefact takes (B, 3, {image_hw[0]}, {image_hw[1]}) "
            "float32"
        )
