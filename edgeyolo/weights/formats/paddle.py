"""A `.pdparams` of paddle.save: a pickled dictionary, name -> array, or name -> (the parameter's own name, array)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeyolo.spec.errors import CheckpointError
from edgeyolo.weights.pickled import Vocabulary, read_pickle

_PICKLE_START = b"\x80"
_TORCH_NUMBER = b"\x8a\x0a"  # what follows the protocol in a file of torch before 1.6
_MOST_DIMENSIONS = 8
_KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")
_AGAIN = "Download or copy it again"


def recognises(start: bytes) -> bool:
    """Whether paddle.save may have written a file that begins so."""
    return start.startswith(_PICKLE_START) and start[2:4] != _TORCH_NUMBER


def read(path: Path) -> dict[str, Tensor]:
    """Official name -> tensor.

    Raises:
        CheckpointError: broken, or it asks for more than arrays and containers.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error})", where=path, hint=_AGAIN) from None
    root = read_pickle(data, Vocabulary(_KNOWN, _FOREIGN), where=path)
    if not isinstance(root, dict):
        raise CheckpointError("holds no dictionary of arrays", where=path, hint="Give a .pt or .pdparams file")
    tensors: dict[str, Tensor] = {}
    left = len(data)
    for name, value in root.items():
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        if isinstance(array, _Array) and array.values is not None:
            left -= array.values.nbytes
            if left < 0:
                raise CheckpointError("unfolds to more than it holds", where=path, hint=_AGAIN)
            native = array.values.astype(array.values.dtype.newbyteorder("="))
            tensors[str(name)] = torch.from_numpy(np.ascontiguousarray(native))
    return tensors


class _NumberType:
    """A numpy dtype; its byte order comes after it was first named."""

    def __init__(self, code: object, *_flags: object) -> None:
        if code not in _KINDS:
            raise ValueError(f"arrays of {code[:20]!r}" if isinstance(code, str) else "arrays of no type")
        self.code, self.order = code, "="

    def set_state(self, state: Any) -> None:
        """(version, byte order, ...)."""
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError("no byte order")
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        """As numpy has it."""
        return np.dtype(f"{self.order}{self.code}")


class _Array:
    """A numpy array; its values come after it was first named."""

    def __init__(self, *_of_nothing: object) -> None:
        self.values: np.ndarray[Any, np.dtype[Any]] | None = None

    def set_state(self, state: Any) -> None:
        """(version, shape, type, whether columns are together, bytes): an array of exactly these bytes."""
        _, shape, kind, is_fortran, raw = state
        if not (isinstance(kind, _NumberType) and isinstance(raw, bytes) and isinstance(shape, tuple)):
            raise TypeError("an array that is not numbers")
        if len(shape) > _MOST_DIMENSIONS:
            raise ValueError(f"an array of {len(shape)} dimensions")
        if not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("an array of negative size")
        if math.prod(shape) * kind.dtype().itemsize != len(raw):
            raise ValueError(f"an array of shape {shape} in {len(raw)} bytes")
        self.values = np.frombuffer(raw, kind.dtype()).reshape(shape, order="F" if is_fortran else "C")


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes written as {encoding}")
    return text.encode("latin-1")


def _make_tuple(items: object) -> tuple[Any, ...]:
    """What paddle.save writes for a named array; of a tuple only, which is not copied."""
    if not isinstance(items, tuple):
        raise TypeError(f"a tuple of a {type(items).__name__}")
    return items


_KNOWN: dict[str, object] = {
    "builtins.tuple": _make_tuple,
    "__builtin__.tuple": _make_tuple,
    "_codecs.encode": _encode,
    "numpy.dtype": _NumberType,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
}
_NUMPY = ("numpy.ndarray", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_FOREIGN = (*_NUMPY, "builtins.set", "__builtin__.set")
