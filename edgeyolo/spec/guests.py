"""Guests of a room: a module or package of its folder each, and the folder is the registry."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from edgeyolo.spec.errors import UnknownNameError


def list_guests(room: str, host: str) -> list[str]:
    """Their names, sorted, without modules of the room's own: `host`, and what begins with an underscore.

    Args:
        room: such as "edgeyolo.backends".
    """
    found = (module.name for module in pkgutil.iter_modules(importlib.import_module(room).__path__))
    return sorted(name for name in found if name != host and not name.startswith("_"))


def load_guest(room: str, host: str, name: str) -> Any:
    """What a guest says it is: the constant of its module that is called as the room's own, in capitals.

    Raises:
        UnknownNameError: no such guest.
    """
    known = list_guests(room, host)
    if name not in known:
        raise UnknownNameError(host, name, known)
    return getattr(importlib.import_module(f"{room}.{name}"), host.upper())
