"""What an artefact is made of, checked before an engine sees it: its files and its options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeyolo.spec.errors import BackendError, UnknownNameError
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.target import Option


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


def read_artefact(path: Path) -> bytes:
    """The bytes of one of the artefact's files.

    Raises:
        BackendError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BackendError(f"cannot be read ({error.strerror})", where=path) from None
