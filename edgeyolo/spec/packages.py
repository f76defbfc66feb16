"""Vendor packages that may be missing: imported where they are used, and how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from edgeyolo.spec.errors import BackendError, MissingPackageError


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
    """The command that installs an extra of this package."""
    return f'pip install "edgeyolo[{extra}]"'
