"""The shelves: `targets/` and `calib/`, folders of TOML files that are the registry themselves.

They stand at the top of a checkout, and inside the package in an installed wheel.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from edgeyolo.spec.errors import FormatError, UnknownNameError
from edgeyolo.spec.strict import decode_toml

S = TypeVar("S")

_PACKAGE = Path(__file__).resolve().parent.parent


def shelf_folder(shelf: str) -> Path:
    """The folder of one shelf, `targets` or `calib`."""
    installed = _PACKAGE / f"_{shelf}"
    return installed if installed.is_dir() else _PACKAGE.parent / shelf


def list_shelf(shelf: str) -> list[str]:
    """Names on a shelf, sorted."""
    return sorted(path.stem for path in shelf_folder(shelf).glob("*.toml"))


def load_from_shelf(shelf: str, noun: str, name: str, kind: type[S]) -> S:
    """Read `name` from a shelf, or from a file when `name` ends in `.toml`.

    Raises:
        UnknownNameError: no such name; suggests the nearest.
        FormatError: the file is not a valid `kind`.
    """
    path = Path(name) if name.endswith(".toml") else shelf_folder(shelf) / f"{name}.toml"
    if not name.endswith(".toml") and name not in list_shelf(shelf):
        raise UnknownNameError(noun, name, list_shelf(shelf))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise FormatError(f"cannot be read ({error.strerror})", where=path) from None
    return decode_toml(raw, kind, where=path)
