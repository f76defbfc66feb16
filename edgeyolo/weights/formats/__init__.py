"""In: a file of weights. Out: official name -> tensor. Verb: `read_tensors`.

The folder is the registry: a module here reads one format. It has `recognises(start)`, told the first bytes of a file,
and `read(path)`, which gives the tensors and raises CheckpointError for a file that is broken or asks for more.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from torch import Tensor

from edgeyolo.spec.errors import CheckpointError

_LONGEST_START = 16  # bytes


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Official name -> tensor, of any file that the authors of a family publish. Nothing in it is run.

    Raises:
        CheckpointError: unreadable, of a format that is not known, or it asks for more than tensors and containers.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_LONGEST_START)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error})", where=path, hint="Download or copy it again") from None
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    for name in names:
        reader = importlib.import_module(f"{__name__}.{name}")
        if reader.recognises(start):
            tensors: dict[str, Tensor] = reader.read(path)
            return tensors
    raise CheckpointError(
        "cannot be read: it begins like no file of weights that is known", where=path, hint=f"Known: {', '.join(names)}"
    )
