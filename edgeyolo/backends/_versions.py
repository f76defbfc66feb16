"""Whether an engine's package is of a version that a target accepts."""

from __future__ import annotations

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from edgeyolo.spec.errors import BackendError, FormatError
from edgeyolo.spec.target import Target


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
