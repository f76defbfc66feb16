"""A `.pt` of torch.save: a zip of `data.pkl`, which is a checkpoint, a whole module or named tensors, and the storages.

Source: the layout of torch.save since 1.6; all entries are stored uncompressed.
"""

from __future__ import annotations

import math
import mmap
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeyolo.spec.errors import CheckpointError
from edgeyolo.weights.pickled import ForeignObject, Vocabulary, read_pickle

_ZIP_START = b"PK\x03\x04"
_ZIP_ENTRY = b"PK\x01\x02"  # of the directory at the end
_OLD_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_MOST_ENTRIES = 50_000
_LONGEST_PICKLE = 16 << 20  # bytes; the tensors are outside of it
_MOST_DIMENSIONS = 8
_MOST_NAMES = 100_000  # of parameters, buffers and modules; the largest network published has 10,000
_LONGEST_NAME = 300
_BROKEN_ZIP = (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)
_AGAIN = "Download or copy it again"
_FOREIGN = (
    *(
        "models.",
        "utils.",
        "ultralytics.",
        "yolov6.",
        "torch.nn.modules.",
        "torch.nn.parameter.",
        "torch.device",
        "torch.Size",
    ),
    *("builtins.set", "__builtin__.set", "_codecs.encode"),
    *("numpy.core.multiarray.", "numpy._core.multiarray.", "numpy.dtype", "numpy.ndarray"),
)


def recognises(start: bytes) -> bool:
    """Whether torch.save wrote a file that begins so."""
    return start.startswith((_ZIP_START, _OLD_START))


def read(path: Path) -> dict[str, Tensor]:
    """Official name -> tensor, averaged weights where the file has them.

    Raises:
        CheckpointError: broken, too large inside, or it asks for more than tensors and containers.
    """
    try:
        _check_start(path)
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive, path)
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise CheckpointError("is a zip, but not one of torch", where=path, hint="Give a .pt file")
            storages = _Storages(archive, pickles[0].removesuffix("data.pkl"))
            vocabulary = Vocabulary(_KNOWN, _FOREIGN, storages.load)
            return _tensors_in(read_pickle(archive.read(pickles[0]), vocabulary, where=path), path)
    except _BROKEN_ZIP as error:
        raise CheckpointError(f"cannot be read ({error})", where=path, hint=_AGAIN) from None


def _check_start(path: Path) -> None:
    """The format is the one of today, and the zip's directory, which is read as a whole, is of a sane length."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[: len(_OLD_START)] == _OLD_START:
            raise CheckpointError(
                "was written in the format of torch before 1.6", where=path, hint="Save it again with a newer torch"
            )
        at = -1
        for _ in range(_MOST_ENTRIES + 1):
            at = content.find(_ZIP_ENTRY, at + 1)
            if at < 0:
                return
    raise CheckpointError(f"has more than {_MOST_ENTRIES} entries", where=path, hint="It is no detector")


def _check_entries(archive: zipfile.ZipFile, path: Path) -> None:
    """Entries are stored as they are and fit into the file, so that reading them takes no more memory than it."""
    entries = archive.infolist()
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CheckpointError(f"has compressed entries ({packed[0]})", where=path, hint="torch.save stores them plain")
    if sum(max(entry.file_size, entry.compress_size) for entry in entries) > path.stat().st_size:
        raise CheckpointError("has entries that are larger than the file itself", where=path, hint=_AGAIN)
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise CheckpointError("has two entries of one name", where=path, hint=_AGAIN)
    for entry in entries:
        if entry.filename.endswith("/data.pkl") and entry.file_size > _LONGEST_PICKLE:
            raise CheckpointError(f"has a pickle of {entry.file_size} bytes", where=path, hint="It is no detector")
        if entry.filename.endswith("/byteorder") and archive.read(entry) != b"little":
            raise CheckpointError("was written by a big-endian computer", where=path, hint="Save it again elsewhere")


@dataclass(frozen=True)
class _Storage:
    """One flat run of numbers."""

    values: Tensor


class _Storages:
    """The storages of an archive, each read once."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self.archive = archive
        self.folder = folder
        self.raw: dict[str, Tensor] = {}

    def load(self, identity: object) -> _Storage:
        """("storage", type, key, device, count of numbers) -> the storage."""
        if not (isinstance(identity, tuple) and len(identity) == 5 and identity[0] == "storage"):
            raise ValueError("an unknown kind of external data")
        _, dtype, key, _, count = identity
        if not (isinstance(dtype, torch.dtype) and isinstance(key, str) and type(count) is int):
            raise ValueError("an unknown kind of storage")
        if key not in self.raw:
            raw = bytearray(self.archive.read(f"{self.folder}data/{key}"))
            self.raw[key] = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
        if len(self.raw[key]) != count * dtype.itemsize:
            raise ValueError(f"storage {key} has {len(self.raw[key])} bytes where it should have {count} numbers")
        return _Storage(self.raw[key].view(dtype))


def _make_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_rest: object) -> Tensor:
    """A view of a storage that stays inside of it and has no more elements than it."""
    if not (isinstance(storage, _Storage) and isinstance(size, tuple) and isinstance(stride, tuple)):
        raise TypeError("a tensor without storage")
    if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)) or len(size) != len(stride):
        raise ValueError("a tensor of negative size")
    if len(size) > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {len(size)} dimensions")
    available = len(storage.values)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > available or (0 not in size and last >= available):
        raise ValueError("a tensor that reaches beyond its storage")
    return torch.as_strided(storage.values, size, stride, offset)


def _make_parameter(data: Any, *_rest: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise TypeError("a parameter without tensor")
    return data


_STORAGE_TYPES = {
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float": torch.float32,
    "Double": torch.float64,
    "Bool": torch.bool,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
}
_KNOWN: dict[str, object] = {
    "torch._utils._rebuild_tensor_v2": _make_tensor,
    "torch._utils._rebuild_parameter": _make_parameter,
    **{f"torch.{name}Storage": dtype for name, dtype in _STORAGE_TYPES.items()},
}


def _tensors_in(root: object, path: Path) -> dict[str, Tensor]:
    """Of what torch.save was given: a checkpoint dictionary, a module, or named tensors; averaged weights first."""
    if isinstance(root, dict):
        root = next((root[key] for key in ("ema", "model", "state_dict") if root.get(key)), root)
    if isinstance(root, ForeignObject):
        return _tensors_of_module(root, path)
    items = root.items() if isinstance(root, dict) else ()
    named = {str(name): value for name, value in items if isinstance(value, Tensor)}
    if not named:
        raise CheckpointError("holds no model", where=path, hint="Give a checkpoint of the official repository")
    return named


def _tensors_of_module(root: ForeignObject, path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of a module tree under the names that its `state_dict` would give them."""
    tensors: dict[str, Tensor] = {}
    pending = [("", root)]
    names = 0
    while pending:
        prefix, module = pending.pop()
        for kind in ("_parameters", "_buffers", "_modules"):
            entries = module.attributes.get(kind)
            for name, value in entries.items() if isinstance(entries, dict) else ():
                names += 1
                full_name = f"{prefix}{name}"
                if names > _MOST_NAMES or len(full_name) > _LONGEST_NAME:
                    raise CheckpointError("holds a module tree without end", where=path, hint="It is no detector")
                if kind == "_modules" and isinstance(value, ForeignObject):
                    pending.append((f"{full_name}.", value))
                elif kind != "_modules" and isinstance(value, Tensor):
                    tensors[full_name] = value
    return tensors
