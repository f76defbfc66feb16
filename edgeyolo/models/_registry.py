"""Which families there are, and what a model's own config says of it. The folder is the registry."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType
from typing import Any

from edgeyolo.spec.errors import UnknownNameError
from edgeyolo.weights.pretrained import Published

_FOLDER = __name__.rpartition(".")[0]


def family_module(name: str) -> ModuleType:
    """The module that a model is defined in.

    Raises:
        UnknownNameError: no such model.
    """
    known = families()
    if name not in known:
        raise UnknownNameError("model", name, known)
    return importlib.import_module(f"{_FOLDER}.{known[name]}")


@functools.cache
def families() -> dict[str, str]:
    """Model name -> name of the module it is defined in, family by family."""
    folders = importlib.import_module(_FOLDER).__path__
    modules = sorted(m.name for m in pkgutil.iter_modules(folders) if not m.name.startswith("_"))
    return {name: module for module in modules for name in importlib.import_module(f"{_FOLDER}.{module}").VARIANTS}


def task_of(name: str) -> str:
    """What a model is for: detection or keypoints.

    Raises:
        UnknownNameError: no such model.
    """
    return str(family_module(name).Network.task)


def image_hw_of_model(name: str) -> tuple[int, int]:
    """Height and width of the input that a model is meant for, pixels.

    Raises:
        UnknownNameError: no such model.
    """
    config: Any = family_module(name).VARIANTS[name]
    height, width = getattr(config, "image_hw", (config.image_size, config.image_size))
    return height, width


def is_published(name: str) -> bool:
    """Whether the authors of a model publish weights, and in a form that is read here.

    Raises:
        UnknownNameError: no such model.
    """
    published: Published | None = getattr(family_module(name), "PUBLISHED", None)
    return published is not None and name in published.variants
