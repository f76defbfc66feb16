"""Vendor packages that may be missing: imported where they are used, and how to get them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from types import ModuleType

from edgeyolo.spec.errors import BackendError, MissingPackageError


@dataclass(frozen=True)
class Package:
    """A package that is used where it is installed.

    Attributes:
        distribution: its name on the package index.
        module: its name in Python.
        purpose: what it is for, such as "deploy to ncnn".
        extra: the extra of edgeyolo that brings it, "" where every install does.
    """

    distribution: str
    module: str
    purpose: str
    extra: str = ""

    @property
    def install(self) -> str:
        """The command that installs it."""
        return install_command(self.extra)

    def installed_version(self) -> str | None:
        """From its metadata, without importing it; "unknown" under another distribution's name, None if absent."""
        if importlib.util.find_spec(self.module) is None:
            return None
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"


def import_package(package: str, *, needed_for: str, extra: str) -> ModuleType:
    """Import a vendor package.

    Raises:
        MissingPackageError: not installed. BackendError: installed, and does not import.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise BackendError(f"'{package}' does not import ({error})", hint="Reinstall it") from None
        raise MissingPackageError(package, needed_for=needed_for, install=install_command(extra)) from None
    except ImportError as error:
        raise BackendError(f"'{package}' does not import ({error})", hint="Reinstall it") from None


def install_command(extra: str) -> str:
    """The command that installs an extra of this package; the package itself where `extra` is ""."""
    return f'pip install "edgeyolo[{extra}]"' if extra else "pip install edgeyolo"
